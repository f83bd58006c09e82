"""find_sw.sh and func_train.sh without Slurm, and the environment that scripts/venv.sh makes."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from both_scripts import FIND, TRAIN, Script, at_terminal, hide_modules
from swlottery.cli import main

Environment = dict[str, str]


def run(
    root: Path, *flags: str, env: Environment, cwd: Path | None = None, script: Script = FIND
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(root / script.file), *flags],
        cwd=cwd or root,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# --- the scripts around the real program


def test_a_search_of_a_tiny_model(
    script_root: Path, script_environment: Environment, find_flags: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """By the contract of the command line: flags in, record at --out, a log that is what was shown, exit code 0. What
    lies in the folder that it is started from is not imported, nor through PYTHONPATH's empty entry."""
    hide_modules(tmp_path)
    env = {**script_environment, "PYTHONPATH": f":{script_environment.get('PYTHONPATH', '')}:."}
    done = run(script_root, *find_flags(Path("tiny.json")), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (log,) = FIND.logs(script_root)
    assert re.fullmatch(r"checkmodel_\d{8}_\d{6}\.out", log.name)
    text = log.read_text()
    assert "Verdicts" in text
    assert "leader" in text  # nothing is super in a network that was never trained
    assert set(done.stdout.splitlines()) <= set(text.splitlines())
    assert text.splitlines()[-2:] == [f"find_sw: log {log}", "find_sw: exit code 0"]
    assert "\r" not in text  # no progress bar
    assert json.loads((tmp_path / "tiny.json").read_text())["schema"] == 2  # a relative path is the caller's


def called(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: str) -> str:
    """What the program says that the script calls: in this process, which has imported torch."""
    monkeypatch.setenv("SWLOTTERY_ROOT", str(root))
    monkeypatch.chdir(root)
    capsys.readouterr()
    assert main(list(given)) == 0
    return capsys.readouterr().out


def test_a_training_of_a_tiny_model(
    script_root: Path,
    script_environment: Environment,
    train_flags: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above; started again, the run is done; and `swlottery status` lists it."""
    hide_modules(tmp_path)
    done = run(script_root, *train_flags(), env=script_environment, cwd=tmp_path, script=TRAIN)
    assert done.returncode == 0, done.stderr
    (log,) = TRAIN.logs(script_root)
    assert re.fullmatch(r"lth_hf_out_\d{8}_\d{6}\.out", log.name)
    text = log.read_text()
    for part in (
        "2 rounds of train, prune, rewind",
        "Round 1 of 2: training under 100.00 % remaining",
        "Prune 2: removed",
        "sparsity 35.99 %, remaining 64.01 % (10,487 of 16,384)",
        "Final ticket: training under 64.01 % remaining",
        "What became of the tracked weights",
    ):
        assert part in text, part
    assert set(done.stdout.splitlines()) <= set(text.splitlines())
    assert text.splitlines()[-2:] == [f"func_train: log {log}", "func_train: exit code 0"]
    assert "\r" not in text  # no progress bar
    (folder,) = (script_root / "runs").iterdir()  # beside the script, wherever it was started from
    for name in ("settings.json", "rounds.csv", "watch.csv", "metrics.jsonl", "masks/round_2.safetensors", "final"):
        assert (folder / name).exists(), name
    assert (script_root / "plots" / folder.name / "magnitude.png").exists()
    assert f"{folder} is done" in called(script_root, capsys, monkeypatch, "train", *train_flags())
    said = called(script_root, capsys, monkeypatch, "status")
    assert re.search(rf"{folder.name} +finished +final \(2\)", said), said


def test_bad_input_is_exit_code_2_with_its_line_in_the_log(
    script: Script, script_root: Path, script_environment: Environment
) -> None:
    done = run(script_root, "--no-such-flag", env=script_environment, script=script)
    assert done.returncode == 2
    (log,) = script.logs(script_root)
    assert "--no-such-flag" in done.stderr
    assert done.stderr.strip().splitlines()[-1] in log.read_text()
    assert log.read_text().endswith(f"{script.name}: exit code 2\n")


def test_help_makes_no_log(script: Script, script_root: Path, script_environment: Environment) -> None:
    done = run(script_root, "--help", env=script_environment, script=script)
    assert done.returncode == 0
    assert script.flag in done.stdout
    assert script.logs(script_root) == []


# --- the scripts around a stub


def test_flags_pass_unchanged_and_paths_are_the_callers(
    script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    flags = ["--prompt", "a  b", "$HOME *", "", "ü\"'\\"]
    done = run(stub_root, *flags, env=script_environment, cwd=tmp_path, script=script)
    assert done.stdout.splitlines()[0] == f"flags {[script.command, *flags]} in {tmp_path}"


def test_the_script_may_be_reached_by_a_link(
    script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / script.file).symlink_to(stub_root / script.file)
    assert run(tmp_path, env=script_environment, script=script).returncode == 0
    assert len(script.logs(stub_root)) == 1


def test_a_copy_outside_of_a_repository_is_refused(
    script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    shutil.copy(stub_root / script.file, tmp_path)
    done = run(tmp_path, env=script_environment, cwd=stub_root, script=script)
    assert done.returncode == 2
    assert done.stderr == (
        f"{script.name}: {tmp_path} is not the root of the swlottery repository; submit with: "
        f"sbatch -D ROOT ROOT/{script.file}\n"
    )


@pytest.mark.parametrize("code", [1, 75])
def test_the_exit_code_is_the_programs(
    script: Script, stub_root: Path, script_environment: Environment, code: int
) -> None:
    done = run(stub_root, env={**script_environment, "STUB_EXIT": str(code)}, script=script)
    assert done.returncode == code
    assert script.logs(stub_root)[0].read_text().endswith(f"{script.name}: exit code {code}\n")


def test_streams_stay_apart_and_both_are_logged(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    done = run(stub_root, "--bad", env=script_environment, script=script)
    assert done.stderr == "swlottery: no flag --bad\n"
    assert "no flag" not in done.stdout
    log = script.logs(stub_root)[0].read_text().splitlines()
    assert sorted(log) == sorted((done.stdout + done.stderr).splitlines())


def test_runs_of_one_second_have_logs_of_their_own(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    running = [
        subprocess.Popen(
            ["bash", str(stub_root / script.file), f"--run={i}"], env=script_environment, stdout=subprocess.DEVNULL
        )
        for i in range(6)
    ]
    assert [each.wait(60) for each in running] == [0] * 6
    texts = [log.read_text() for log in script.logs(stub_root)]
    assert sorted(re.findall(r"--run=(\d)", "".join(texts))) == list("012345")
    assert all(text.count("exit code 0") == 1 for text in texts)


def test_a_log_folder_that_cannot_be_made(script: Script, stub_root: Path, script_environment: Environment) -> None:
    top = stub_root / Path(script.folder).parts[0]
    shutil.rmtree(top)
    top.write_text("in the way")
    done = run(stub_root, env=script_environment, script=script)
    assert done.returncode == 2
    assert done.stderr == f"{script.name}: cannot write the log in {stub_root}/{script.folder}\n"


def test_on_a_terminal_progress_bars_are_shown_and_not_logged(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    shown, code = at_terminal(["bash", str(stub_root / script.file)], script_environment)
    assert code == 0
    assert "a progress bar" in shown
    log = script.logs(stub_root)[0].read_text()
    assert "a progress bar" not in log
    assert log.startswith("flags")
    assert log.endswith(f"{script.name}: exit code 0\n")


def test_ctrl_c_lets_the_program_finish_and_its_last_words_are_logged(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    command = ["bash", str(stub_root / script.file), "--sleep"]
    shown, code = at_terminal(command, script_environment, interrupt_at="flags")
    assert code == 130
    assert "weights restored" in shown
    log = script.logs(stub_root)[0].read_text().splitlines()
    assert (log[-3], log[-1]) == ("weights restored", f"{script.name}: exit code 130")


def closed_terminal(command: list[str], env: Environment, log: Callable[[], str], *until: str) -> str:
    """Start a command on a terminal of its own, as the first of its session, and close the terminal when the first text
    is in the log. Returns the log, once it has the last."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, env)
    try:
        for text in until:
            end = time.monotonic() + 60
            while text not in log():
                assert time.monotonic() < end, log()
                time.sleep(0.02)
            if text == until[0]:
                os.close(terminal)
        return log()
    finally:
        os.waitpid(pid, 0)


def log_of(script: Script, root: Path) -> Callable[[], str]:
    return lambda: "".join(log.read_text() for log in script.logs(root))


def behind_a_closed_terminal(how: str, script: Script, flag: str, root: Path, env: Environment) -> str:
    """The log of a script that was started as ``how`` says, and whose terminal closed when the program had begun."""
    command = ["bash", "-c", how, "bash", str(root / script.file), flag, "--saves"]
    return closed_terminal(command, env, log_of(script, root), "flags", f"{script.name}: exit code")


@pytest.mark.parametrize(
    "how",
    [
        'exec bash "$@"',
        'bash "$@"; true',
        'bash "$@" 2>errors; true',
        'exec bash --norc -ic "bash ${*@Q}; true"',
        'bash "$@" | cat; true',
    ],
    ids=["first of its session", "behind another", "errors elsewhere", "of a user's shell", "in a pipe"],
)
def test_when_the_terminal_closes_the_program_saves_and_the_log_is_whole(
    how: str, script: Script, stub_root: Path, script_environment: Environment, here: Path
) -> None:
    text = behind_a_closed_terminal(how, script, "--sleep", stub_root, script_environment)
    assert text.splitlines()[1:] == ["saved", *text.splitlines()[-2:]]
    assert text.endswith(f"{script.name}: exit code 75\n")


@pytest.mark.parametrize(
    "how",
    [
        'exec nohup bash "$@"',
        'nohup bash "$@"; true',
        'setsid bash "$@"; true',
        "trap '' HUP; exec bash \"$@\"",
        'exec bash --norc -ic "bash ${*@Q} & disown; sleep 60"',
    ],
    ids=["nohup", "nohup behind another", "setsid", "ignored", "disown"],
)
def test_what_is_to_outlive_its_terminal_does(
    how: str, script: Script, stub_root: Path, script_environment: Environment, here: Path
) -> None:
    text = behind_a_closed_terminal(how, script, "--nap", stub_root, script_environment)
    assert "a line" in text and text.endswith(f"{script.name}: exit code 0\n")


def test_term_to_all_processes_of_a_script_leaves_a_whole_log(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    command = ["bash", str(stub_root / script.file), "--sleep", "--saves"]
    process = subprocess.Popen(command, env=script_environment, stdout=subprocess.DEVNULL, start_new_session=True)
    while "flags" not in log_of(script, stub_root)():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    assert log_of(script, stub_root)().splitlines()[1::2] == ["saved", f"{script.name}: exit code 75"]


def test_a_reader_that_goes_away_takes_nothing_from_the_log(
    script: Script, stub_root: Path, script_environment: Environment
) -> None:
    command = f"bash {stub_root / script.file} --nap | head -n 1"
    done = subprocess.run(["bash", "-c", command], env=script_environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("\n") == 1
    text = log_of(script, stub_root)()
    assert "a line" in text and "a warning" in text and text.endswith(f"{script.name}: exit code 0\n")


def test_a_training_whose_terminal_closes_goes_on_when_it_is_started_again(
    script_root: Path,
    script_environment: Environment,
    train_flags: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = train_flags(rounds=1, steps=200, eval_steps=50)
    command = ["bash", str(script_root / TRAIN.file), *flags]
    text = closed_terminal(command, script_environment, log_of(TRAIN, script_root), "   50  ", "func_train: exit code")
    assert "stopped after" in text and text.endswith("func_train: exit code 75\n")
    (folder,) = (script_root / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "stopped"
    said = called(script_root, capsys, monkeypatch, "train", *flags)
    assert f"going on from step {status['step']}" in said


def test_a_training_of_the_command_line_saves_though_it_can_tell_nobody(
    tiny_gpt2: Path, train_flags: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it prints after the terminal is closed is lost, and nothing else."""
    flags = train_flags(rounds=1, steps=400, eval_steps=20, runs=tmp_path / "runs", plots=tmp_path / "plots")
    status = lambda: "".join(path.read_text() for path in tmp_path.glob("runs/*/status.json"))  # noqa: E731
    command = [sys.executable, "-m", "swlottery.cli", "train", *flags]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "SWLOTTERY_CACHE": str(tmp_path / "cache")})
    shown = b""
    while b"   20  " not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert '"stopped"' in status()


# --- scripts/venv.sh, with a Python that keeps a journal in place of installing anything

FAKE_PYTHON = """\
#!/bin/bash
case "$*" in
"-c import sys; "*) exit 0 ;;
"-I -m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python3" && echo venv >>"$JOURNAL" ;;
*"-m pip"*"--version") exit 0 ;;
*"-m pip"*" install "*) echo "pip ${*: -1}" >>"$JOURNAL"; sleep "${SLOW:-0}"; exit "${PIP_EXIT:-0}" ;;
"-I -c import swlottery") exit 1 ;;
*) exec 'PYTHON' "$@" ;;
esac
"""


@pytest.fixture
def bare(stub_root: Path, tmp_path: Path) -> tuple[Path, Environment, Path]:
    """A root without an environment, variables to use it with (the only Python on PATH is the fake), the journal."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for tool in Path(folder).iterdir():
            if not tool.name.startswith("python") and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    python = tools / "python3"
    python.write_text(FAKE_PYTHON.replace("PYTHON'", f"{sys.executable}'"))
    python.chmod(0o755)
    journal = tmp_path / "journal"
    return stub_root, {"PATH": str(tools), "HOME": str(tmp_path), "JOURNAL": str(journal)}, journal


def entries(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def test_an_environment_is_made_once_and_then_found_at_once(bare: tuple[Path, Environment, Path]) -> None:
    root, env, journal = bare
    first = run(root, "--help", env=env)
    assert (first.returncode, first.stdout) == (0, "the flags of find\n")
    assert first.stderr.startswith(f"swlottery: setting up {root}/.venv")
    assert entries(journal) == ["venv", f"pip {root}/requirements.txt", f"pip {root}"]
    expected = hashlib.sha256((root / "requirements.txt").read_bytes() + (root / "pyproject.toml").read_bytes())
    assert (root / ".venv/.swlottery-stamp").read_text() == expected.hexdigest() + "\n"
    second = run(root, "--help", env=env)
    assert (second.returncode, second.stderr) == (0, "")
    assert len(entries(journal)) == 3


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_changed_file_is_installed_again(bare: tuple[Path, Environment, Path], name: str) -> None:
    root, env, journal = bare
    run(root, "--help", env=env)
    with (root / name).open("a") as file:
        file.write("# changed\n")
    assert "bringing" in run(root, "--help", env=env).stderr
    assert entries(journal).count(f"pip {root}/requirements.txt") == 2
    assert run(root, "--help", env=env).stderr == ""


def test_options_for_pip_are_handed_on_and_kept_and_others_make_it_anew(bare: tuple[Path, Environment, Path]) -> None:
    root, env, journal = bare
    options = {"SWLOTTERY_PIP": "--extra-index-url=there/cu126 --pre"}
    journal_of_pip = journal.with_name("options")
    python = Path(env["PATH"]) / "python3"
    python.write_text(
        python.read_text().replace('echo "pip ${*: -1}"', f'echo "$*" >>"{journal_of_pip}"; echo "pip ${{*: -1}}"')
    )
    run(root, "--help", env=env)
    assert "--pre" not in journal_of_pip.read_text()
    assert "setting up" in run(root, "--help", env={**env, **options}).stderr, "what is installed would stay"
    assert "install --extra-index-url=there/cu126 --pre -r" in journal_of_pip.read_text()
    for later in (env, {**env, **options}):
        assert run(root, "--help", env=later).stderr == ""
    assert "setting up" in run(root, "--help", env={**env, "SWLOTTERY_PIP": ""}).stderr


def without_flock(env: Environment) -> Environment:
    """As on a file system that cannot lock: flock is there and fails."""
    flock = Path(env["PATH"]) / "flock"
    flock.unlink()
    flock.write_text("#!/bin/sh\necho 'flock: No locks available' >&2\nexit 71\n")
    flock.chmod(0o755)
    return {**env, "SWLOTTERY_LOCK_POLL": "0.1"}


@pytest.mark.parametrize("flock", [True, False])
def test_two_at_once_build_it_once(bare: tuple[Path, Environment, Path], flock: bool) -> None:
    root, env, journal = bare
    if not flock:
        env = without_flock(env)
    command = ["bash", str(root / "find_sw.sh"), "--help"]
    both = [subprocess.Popen(command, env={**env, "SLOW": "0.5"}, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(each.communicate(timeout=60)[1] for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert said.count(f"setting up {root}/.venv (once") == 1
    assert said.count("waiting for another job") == 1
    assert len(entries(journal)) == 3
    assert not (root / ".venv.lock.d").exists()


def test_a_lock_left_by_a_killed_job_is_taken_over(bare: tuple[Path, Environment, Path]) -> None:
    root, env, journal = bare
    left = root / ".venv.lock.d"
    left.mkdir()
    os.utime(left, (time.time() - 600,) * 2)
    assert run(root, "--help", env=without_flock(env)).returncode == 0
    assert len(entries(journal)) == 3
    assert not left.exists()


@pytest.mark.parametrize("flock", [True, False])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_build_is_done_again(bare: tuple[Path, Environment, Path], how: int, flock: bool) -> None:
    root, env, journal = bare
    env = env if flock else without_flock(env)
    build = subprocess.Popen(
        ["bash", str(root / "find_sw.sh"), "--help"], env={**env, "SLOW": "30"}, start_new_session=True
    )
    while len(entries(journal)) < 2:  # pip is running
        time.sleep(0.05)
    os.killpg(build.pid, how)
    assert build.wait(10) != 0
    assert (root / ".venv/.swlottery-stamp").read_text() == "unfinished\n"
    if how == signal.SIGKILL and not flock:
        os.utime(root / ".venv.lock.d", (time.time() - 600,) * 2)
    assert run(root, "--help", env=env).returncode == 0
    assert entries(journal)[-2:] == [f"pip {root}/requirements.txt", f"pip {root}"]
    assert len((root / ".venv/.swlottery-stamp").read_text()) == 65


def test_an_environment_whose_python_is_gone_is_made_anew(bare: tuple[Path, Environment, Path]) -> None:
    root, env, journal = bare
    run(root, "--help", env=env)
    python = root / ".venv/bin/python3"
    python.unlink()
    python.symlink_to("/no/such/python")
    (root / ".venv/old").write_text("")
    assert run(root, "--help", env=env).returncode == 0
    assert entries(journal).count("venv") == 2
    assert not (root / ".venv/old").exists()


def test_a_failed_install_is_one_line_and_exit_code_2(bare: tuple[Path, Environment, Path]) -> None:
    root, env, _ = bare
    done = run(root, env={**env, "PIP_EXIT": "1"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"swlottery: pip could not fill {root}/.venv (its reason is above)")
    assert run(root, env=env).returncode == 0


def test_an_old_python_is_refused(bare: tuple[Path, Environment, Path]) -> None:
    root, env, _ = bare
    python = Path(env["PATH"]) / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    done = run(root, "--help", env=env)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Python 3.10 or newer is needed, and python3 here is: Python 3.9.2" in done.stderr
    assert not (root / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_taken(bare: tuple[Path, Environment, Path]) -> None:
    root, env, _ = bare
    python = Path(env["PATH"]) / "python3"
    python.rename(python.with_name("python3.12"))
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert run(root, "--help", env=env).returncode == 0


def test_a_folder_of_somebody_elses_is_not_touched(bare: tuple[Path, Environment, Path], tmp_path: Path) -> None:
    root, env, _ = bare
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    done = run(root, "--help", env={**env, "SWLOTTERY_VENV": str(other)})
    assert done.returncode == 2
    assert done.stderr.startswith(f"swlottery: {other} is in the way")
    assert [each.name for each in other.iterdir()] == ["thesis.tex"]


def test_the_environment_can_be_named(bare: tuple[Path, Environment, Path], tmp_path: Path) -> None:
    root, env, _ = bare
    assert run(root, "--help", env={**env, "SWLOTTERY_VENV": "named"}, cwd=tmp_path).returncode == 0
    assert (tmp_path / "named/.swlottery-stamp").exists()
    assert not (root / ".venv").exists()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used_only_if_it_has_swlottery(
    bare: tuple[Path, Environment, Path], script_environment: Environment, tmp_path: Path, variable: str
) -> None:
    root, env, journal = bare
    assert run(root, "--help", env={**env, variable: script_environment["SWLOTTERY_VENV"]}).returncode == 0
    assert entries(journal) == []
    empty = tmp_path / "empty/bin"
    empty.mkdir(parents=True)
    shutil.copy(Path(env["PATH"]) / "python3", empty)
    assert run(root, "--help", env={**env, variable: str(empty.parent)}).returncode == 0
    assert (root / ".venv").exists()
    assert not (empty.parent / ".swlottery-stamp").exists()


@pytest.mark.slow
def test_a_real_environment_from_nothing(stub_root: Path, tmp_path: Path) -> None:
    """With the real Python and pip, and one small package in requirements.txt. Needs a package registry."""
    (stub_root / "requirements.txt").write_text("iniconfig==2.3.1\n")
    (stub_root / "README.md").write_text("# stub\n")
    (stub_root / "LICENSE").write_text("stub\n")
    for name in ("__init__", "version"):
        (stub_root / f"src/swlottery/{name}.py").write_text('__version__ = "0"\n')
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SWLOTTERY_", "VIRTUAL_ENV", "CONDA_", "PYTHON"))}
    assert run(stub_root, env=env, cwd=tmp_path).returncode == 0
    python = stub_root / ".venv/bin/python3"
    found = subprocess.run(
        [python, "-I", "-c", "import iniconfig, swlottery; print(swlottery.__file__)"], capture_output=True, text=True
    )
    assert found.stdout.strip() == str(stub_root / "src/swlottery/__init__.py")
    began = time.monotonic()
    assert run(stub_root, "--help", env=env, cwd=tmp_path).stderr == ""
    assert time.monotonic() - began < 2
