"""The command line, run as users run it: with its exit code and its one line on stderr.

As a process of its own where that is the point, or where it ends before torch is imported; else in this one, or forked.
"""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from lottery.runs import flags, fork
from swlottery.cli import main
from swlottery.find import record as records


def swlottery(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "swlottery.cli", *map(str, arguments)], capture_output=True, text=True, **options
    )


def here(*arguments):
    """What `swlottery` gives, but in this process, which has imported torch.

    Progress bars of libraries that were loaded before the command could quiet them are left out."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stopped:
            code = stopped.code
    kept = [part for line in err.getvalue().splitlines() for part in line.split("\r") if part and "it/s]" not in part]
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), "\n".join(kept))


def refused(result, words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("swlottery: "), result.stderr
    assert re.search(words, lines[0]), lines[0]


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["--help"], 0, "sweep"),
        (["find", "--help"], 0, "--eval-tokens"),
        (["train", "--help"], 0, "[300 steps]"),
        (["train", "--step", "5"], 2, "did you mean --steps?"),
        (["train", "--steps", "0"], 2, "must be at least 1"),
        (["fnd"], 2, "invalid choice"),
    ],
)
def test_help_and_a_typo_do_not_wait_for_torch(given, code, words):
    script = f"import sys, swlottery.cli as c\ntry: code = c.main({given!r})\nexcept SystemExit as e: code = e.code\n"
    script += f"assert code == {code}, code\n"
    script += "assert not {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules), 'heavy'"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout + result.stderr


@pytest.mark.parametrize("given", [["--model", "./nowhere"], ["--eval-text", "/nowhere.txt"]])
def test_what_is_not_there_is_told_without_torch(given):
    code = f"import sys, swlottery.cli as c\nassert c.main({['find', *given]!r}) == 2\n"
    code += "assert not {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules), 'heavy'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_find_from_end_to_end(found_record, planted_gpt2):
    record = records.load(found_record)
    (weight,) = record["super_weights"]
    coordinate = planted_gpt2[1]
    assert (weight["layer"], weight["out"], weight["in"]) == tuple(coordinate)[:3]
    assert weight["module"] == "transformer.h.1.mlp.c_proj" and weight["rank"] >= 1
    token = weight["token"]
    if not token["bos"]:
        assert token["prompt"][token["position"]] == token["text"], "the tiny model's tokens are bytes"
    assert weight["verdict"] == "weak" and record["controls"] == [], "what cannot be critical is compared with nothing"
    assert [null["draws"] for null in record["nulls"]] == [19, 19]
    plots = found_record.parent / "plots"
    names = ["ablations.png", "activations.png", "contributions.png", "dose.png"]
    assert sorted(path.name for path in plots.iterdir()) == names


def quick_in(folder, model):
    """Flags of a search in seconds, whose record and figures go to a folder; more of them may follow."""
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))

    def arguments(*more):
        return (
            "find",
            "--model",
            model,
            "--out",
            folder / "r.json",
            "--plots",
            folder / "plots",
            "--eval-text",
            text,
            "--eval-tokens",
            "1000",
            "--controls",
            "2",
            "--null-draws",
            "3",
            "--device",
            "cpu",
            *more,
        )

    return arguments


@pytest.fixture
def quick(planted_gpt2, tmp_path):
    return quick_in(tmp_path, planted_gpt2[0])


Searched = namedtuple("Searched", "folder quick result record")


@pytest.fixture(scope="module")
def searched(planted_gpt2, tmp_path_factory):
    """A search by a process of its own: what it said, and its record."""
    folder = tmp_path_factory.mktemp("searched")
    quick = quick_in(folder, planted_gpt2[0])
    result = swlottery(*quick())
    assert result.returncode == 0, result.stderr
    return Searched(folder, quick, result, json.loads((folder / "r.json").read_text()))


def test_the_log_is_for_a_person_and_has_no_progress_bars(searched, planted_gpt2):
    assert searched.result.stderr == ""
    log = searched.result.stdout
    assert "\r" not in log and "%|" not in log
    layer, out, in_, _ = planted_gpt2[1]
    for words in (
        f"removal 1: ({layer}, {out}, {in_})",
        "permuted within each row",
        "cost: at most",
        f"\n({layer}, {out}, {in_})  ",
        "--super-weights",
        str(searched.folder / "r.json"),
        str(searched.folder / "plots" / "ablations.png"),
        "weights    sha256 " + searched.record["weights_sha256"],
    ):
        assert words in log, words


def test_the_log_compares_the_record_with_the_one_that_stood_there(searched, quick, planted_gpt2, tmp_path):
    layer, out, in_, _ = planted_gpt2[1]
    (tmp_path / "r.json").write_text(json.dumps(searched.record))
    again = here(*quick("--dtype", "bfloat16"))
    assert "The same 1 super weight as in the earlier record (dtype float32 → bfloat16)." in again.stdout
    other = here(*quick("--kappa", "1000"))
    assert f"gone: ({layer}, {out}, {in_})" in other.stdout and "kappa 40.0 → 1000.0" in other.stdout


def test_one_seed_gives_one_record(searched):
    """In two processes, in which Python orders sets otherwise: that of the search, and this one."""
    assert here(*searched.quick()).returncode == 0
    assert json.loads((searched.folder / "r.json").read_text()) == searched.record


def test_check_says_whether_a_record_belongs_to_a_model(found_record, planted_gpt2, tiny_gpt2, tmp_path):
    mine = here("find", "--model", planted_gpt2[0], "--check", found_record, "--device", "cpu")
    assert mine.returncode == 0 and "belongs to" in mine.stdout
    refused(
        here("find", "--model", tiny_gpt2, "--check", found_record, "--device", "cpu"),
        "a coordinate means nothing in another network",
    )
    old = json.loads(found_record.read_text()) | {"schema": 0}
    (tmp_path / "old.json").write_text(json.dumps(old))
    refused(here("find", "--model", planted_gpt2[0], "--check", tmp_path / "old.json"), "schema version 0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["find", "--modle", "x"], "unknown flag --modle: did you mean --model?"),
        (["find", "--evaltokens=5"], "did you mean --eval-tokens?"),
        (["find", "stray"], "unknown argument stray"),
        (["fnd"], "invalid choice: 'fnd'"),
        (["find", "--seed", "x"], "invalid int value"),
        (["find", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["find", "--kappa", "0"], "--kappa 0: must be at least 2"),
        (["find", "--kappa", "nan"], "--kappa nan"),
        (["find", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["find", "--out", "/"], "cannot write /: it is a folder"),
        (["find", "--model", "./nowhere"], "no such file or folder: ./nowhere"),
        (["find", "--model", "nowhere/"], "no such file or folder: nowhere/"),
        (["find", "--model", "-mine"], "expected one argument; one that begins with - is written --model=…"),
        (["find", "--out", f"{'o' * 252}.json"], f"cannot write {'o' * 252}.json"),
        (["find", "--prompt", ""], "empty prompt"),
        (["find", "--prompt-file", "/nowhere.txt"], "cannot read --prompt-file"),
        (["find", "--eval-text", "/nowhere.txt"], "no such file or folder"),
        (["find", "--check", "/nowhere.json"], "cannot read the record"),
        (["find", "--out", "/proc/none/r.json"], "cannot write /proc/none/r.json"),
    ],
)
def test_bad_input_gets_one_line(arguments, words, tmp_path):
    refused(swlottery(*arguments, cwd=tmp_path), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EIO, "Input/output error", "f.png"),
            "cannot use f.png \\(Input/output error\\): see to that, or",
        ),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle: see to that"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "f"), "cannot use f \\(No such file"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device")]), "No space left on device"),
    ],
)
def test_an_error_of_the_system_gets_one_line(error, words, tmp_path, monkeypatch):
    def status(folder):
        raise error

    monkeypatch.setattr("swlottery.commands.status.status", status)
    refused(here("status", tmp_path), words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompt", "Hi"], "medians over tokens need at least"),
        (["--eval-tokens", "64"], "--eval-tokens to 512 or more"),
        (["--eval-tokens", "100000000"], "but .* windows .* need"),
        (["--device", "cuda"], "no such CUDA device"),
        (["--start", "scratch"], "no config named"),
    ],
)
def test_bad_input_that_shows_only_with_the_model(quick, tmp_path, more, words):
    import torch

    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused(here(*quick(*more)), words)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_damaged_weights(planted_gpt2, tmp_path):
    folder = shutil.copytree(planted_gpt2[0], tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    refused(here("find", "--model", folder, "--device", "cpu"), "damaged")


@pytest.mark.parametrize(("number", "code", "last"), [("SIGINT", 130, "interrupted"), ("SIGHUP", 129, "removal 1")])
def test_ctrl_c_or_a_closed_terminal_in_the_middle_writes_nothing(number, code, last, quick, tmp_path):
    log = tmp_path.with_suffix(".log")
    log.touch()
    child = fork(list(map(str, quick("--null-draws", "100000"))), log)
    until = time.monotonic() + 120
    try:
        while "\nremoval 1" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(child, getattr(signal, number))
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            assert time.monotonic() < until, "it did not end"
            time.sleep(0.05)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert os.waitstatus_to_exitcode(done[1]) == code
    assert last in log.read_text() and "Traceback" not in log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_signal_behind_the_end_changes_no_exit_code(tiny_gpt2, tmp_path):
    """Slurm's warning may come when all is done, and the process is only taking itself down: here one after another."""
    text = tmp_path / "text.txt"
    text.write_text("A text that is long enough for a few batches of this. " * 60)
    code = "import atexit, os, signal, sys\nfrom swlottery.cli import main\n"
    code += "def late():\n    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):\n"
    code += "        os.kill(os.getpid(), number)\n        print('got', number.name)\n"
    code += "atexit.register(late)\nsys.exit(main())"
    given = flags(tiny_gpt2, text, tmp_path, rounds=1, super_weights="none")
    result = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "done after" in result.stdout and result.stdout.endswith("got SIGUSR1\ngot SIGTERM\ngot SIGHUP\n")


def test_a_long_value_is_not_repeated_whole(capsys):
    from swlottery.cli import main

    assert main(["find", "--model", "x" * 100_000, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("swlottery: ") and 1000 < len(line) < 2100
