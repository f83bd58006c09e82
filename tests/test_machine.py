"""Whole commands on machines that lack something: an encoding, a home, a place for temporary files; and any umask."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import odd
from swlottery import cli
from swlottery.runtime import checkpoint, files

NO_UTF_8 = os.fsdecode(b"caf\xe9 \xff")


def in_encoding(encoding: str, *arguments: str) -> tuple[int, str]:
    """A command whose standard output has this encoding, and what it wrote."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with contextlib.redirect_stdout(out):
        try:
            code = cli.main(list(arguments))
        except SystemExit as exit:
            code = int(exit.code or 0)
    out.flush()
    return code, out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_what_an_encoding_lacks_is_replaced(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASCII, which every other one contains."""
    encoding = "ascii"
    folder = odd.model(here / "model κ", "gpt2")
    found, trained = [], []
    monkeypatch.setattr(odd, "main", lambda arguments: found.append(arguments) or 0)
    odd.find(folder)
    odd.train(folder)
    for arguments in found:
        code, said = in_encoding(encoding, *arguments)
        assert code == 0, said
        trained.append(said)
    assert "a spike: ? = 40 times" in trained[0] and "record   super_weights/" in trained[0]
    assert "model ?" in trained[1] and "?_0" in trained[1] and "done after" in trained[1]
    for arguments in (["--help"], ["find", "--help"], ["train", "--help"], ["status"], ["report", "runs"]):
        code, said = in_encoding(encoding, *arguments)
        assert code == 0 and said, arguments
    assert "κ" in (here / "report.html").read_text(encoding="utf-8"), "files are UTF-8"


def test_a_log_that_a_sweep_writes_is_utf_8(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swlottery.runtime import provenance
    from swlottery.study import sweep

    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    log = here / "log"
    line = '{"label": "a", "settings": {"model": "nowhere-κ", "data": "t.txt"}}\n'
    (here / "points.jsonl").write_text(line, encoding="utf-8")
    assert sweep._train(f"{here / 'points.jsonl'}:0", log, here, lambda: False, provenance.PACKAGE) == 2
    assert "nowhere-κ" in log.read_text(encoding="utf-8")


def test_names_that_are_no_utf_8(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries open no such model and no such run. What others have called so is shown."""
    odd.refused(odd.find(tiny, "--out", f"{NO_UTF_8}.json"), "UTF-8", r"caf\udce9")
    odd.refused(odd.train(tiny, "--runs", NO_UTF_8), "UTF-8", r"caf\udce9")
    with monkeypatch.context() as patched:
        patched.setenv("SWLOTTERY_ROOT", NO_UTF_8)
        odd.refused(odd.train(tiny), "is no UTF-8", "--runs")
    assert odd.train(tiny).code == 0
    (run,) = Path("runs").iterdir()
    run.rename(run.with_name(NO_UTF_8))
    assert "caf? ?" in in_encoding("utf-8", "status")[1]
    page, second = f"{NO_UTF_8}.html", f"{NO_UTF_8} 2.html"
    Path(NO_UTF_8).touch()
    odd.refused(odd.run("report", "runs", "--out", page, "--markdown", f"{NO_UTF_8}.md"), "is not a folder")
    assert not Path(page).exists(), "the figures' folder would be called as a file is"
    assert odd.run("report", "runs", "--out", page, "--markdown", f"{NO_UTF_8} page.md").code == 0
    assert odd.run("report", f"{NO_UTF_8}_tables", "--out", second).code == 0
    for one in (page, second):
        assert r"caf\udce9" in Path(one).read_text(encoding="utf-8")


@pytest.fixture
def tiny(here: Path) -> Path:
    odd._text()
    return odd.model(here / "m")


@pytest.fixture(params=[0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The strictest and the most open one: no mode that a file gets by itself agrees with both."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_all_that_is_made_has_the_mode_of_the_umask(
    umask: int, here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "clear", lambda folder: None)
    monkeypatch.setenv("SWLOTTERY_CACHE", str(here / "cache"))
    assert odd.find(tiny).code == 0
    assert odd.train(tiny, "--rewind-step", "1", "--checkpoint-steps", "1").code == 0
    (run,) = Path("runs").iterdir()
    for path in (run / "round_1").iterdir():
        path.chmod(0o600)  # as they were
    (run / "round_1").chmod(0o555)
    branch = ["--rewind-step", "1", "--from-round-1", str(run), "--prune-rate", "0.4", "--runs", "branches"]
    assert odd.train(tiny, *branch).code == 0
    for path in (run / "round_1").iterdir():
        path.unlink()
    (run / "round_1").rmdir()
    assert odd.run("report", "branches", "--out", "page/page.html", "--markdown", "page/page.md").code == 0
    made = [
        path
        for folder in ("runs", "branches", "plots", "super_weights", "cache", "page")
        for path in (Path(folder), *Path(folder).rglob("*"))
    ]
    names = {path.name for path in made}
    assert {"final", "round_1", "theta_0.safetensors", "theta_k.safetensors"} <= names
    assert any(name.startswith("checkpoint_") for name in names)
    assert {"status.json", "lock", "m.json", "page.html", "survival.svg", "round_1.safetensors", "tokens"} <= names
    wrong = {
        str(path): oct(mode)
        for path in made
        if (mode := stat.S_IMODE(path.stat().st_mode)) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


def test_a_converted_model_has_the_mode_of_the_umask(
    umask: int, here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swlottery.models import gguf

    monkeypatch.setattr(gguf, "_convert", lambda path, folder: shutil.copytree(tiny, folder, dirs_exist_ok=True))
    folder = gguf.converted_folder(tiny / "config.json")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o666 & ~umask} and stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def nobody(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command by a user without an entry in passwd and without HOME, who may read everything."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs to become another user")
    may = "=-all,+dac_read_search"
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    become += [f"--{kind}-caps{may}" for kind in ("inh", "ambient")]
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    python = {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    whole = [*become, sys.executable, "-m", "swlottery.cli", *command]
    return subprocess.run(whole, env=kept | python | environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_user_without_a_home(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWLOTTERY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    here.chmod(0o777)
    given: list[list[str]] = []
    monkeypatch.setattr(odd, "main", lambda arguments: given.append(arguments) or 0)
    odd.find(tiny, "--null-draws", "1", "--controls", "1")
    odd.train(tiny)
    before = set(os.listdir())
    done = nobody(*given[0], TMPDIR="/nowhere")
    assert (done.returncode, done.stderr) == (0, ""), "no notice of matplotlib's either"
    assert set(os.listdir()) - before == {"super_weights", "plots"}, "no folder that is called `~`"
    done = nobody(*given[1])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "/nonexistent/.cache/swlottery" in done.stderr and "SWLOTTERY_CACHE" in done.stderr
    assert not Path("runs").exists()


def test_the_home_of_whom_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def getpwuid(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setenv("SWLOTTERY_CACHE", "")
    assert files.cache_folder() == Path("/nonexistent/.cache/swlottery")
    assert odd.run("status").code == 0 and os.environ["HOME"] == "/nonexistent"
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SWLOTTERY_CACHE", "~/c")
    assert files.cache_folder() == Path("/home/me/c")


def test_no_place_for_temporary_files(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(here / "nowhere")])
    before = set(os.listdir())
    for said in (odd.find(tiny), odd.train(tiny), odd.run("prepare", "--model", str(tiny)), odd.run("report", "runs")):
        odd.refused(said, "No usable temporary directory", str(here / "nowhere"), "TMPDIR")
    assert odd.run("status").code == 0
    assert set(os.listdir()) == before


def test_a_home_that_cannot_be_written_to(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place refuses root as well."""
    (here / "file").touch()
    monkeypatch.delenv("SWLOTTERY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(here / "file"))
    odd.refused(odd.train(tiny), "Not a directory", "SWLOTTERY_CACHE")
    assert odd.find(tiny).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["find", "--model", "{}/m"],
        ["train", "--model", "m", "--data", "t.txt", "--super-weights", "{}/m"],
        ["train", "--model", "m", "--data", "t.txt", "--from-round-1", "{}/m"],
        ["status", "{}/runs"],
        ["report", "{}/runs"],
    ],
    ids=" ".join,
)
def test_a_place_that_may_not_be_entered(arguments: list[str], here: Path, tiny: Path) -> None:
    """A name that is too long says the same to root, who may enter every folder."""
    place = str(here / ("x" * 300))
    odd.refused(odd.run(*(part.format(place) for part in arguments)), place)
