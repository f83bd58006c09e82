"""Which code made a run (`swlottery.runtime.provenance`), on repositories of a real git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import odd
from swlottery.runtime import provenance
from swlottery.runtime.provenance import code

pytestmark = pytest.mark.usefixtures("no_figures")


def git(root: Path, *arguments: str) -> str:
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run([*own, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a package of three files, committed."""
    root = tmp_path / "root"
    files = {"src/swlottery/__init__.py": "a = 1\n", "src/swlottery/room/b.py": "b = 1\n", "scripts/job.sh": "true\n"}
    files |= {
        "src/swlottery/data.bin": "\0\1",
        "func_train.sh": "true\n",
        "pyproject.toml": "\n",
        "README.md": "read\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def package(root: Path) -> Path:
    return root / "src" / "swlottery"


def edit(root: Path) -> None:
    """A change of every kind."""
    (package(root) / "__init__.py").write_text("a = 2")
    (package(root) / "data.bin").write_bytes(b"\0\2")
    (package(root) / "room" / "b.py").unlink()
    (package(root) / "a new one.py").write_text("ü = 3\n")
    (root / "scripts" / "new.sh").write_bytes(b"\0new")


def test_a_clean_tree_has_its_commit_and_no_difference(root: Path) -> None:
    (package(root) / "__pycache__").mkdir()
    (package(root) / "__pycache__" / "b.pyc").touch()
    (package(root) / ".b.py.swp").touch()
    what, diff = code(package(root))
    assert (what["commit"], what["changed"], diff) == (git(root, "rev-parse", "HEAD"), False, b"")
    assert len(what["sha256"]) == 64 and "why" not in what


@pytest.mark.parametrize("config", [{}, {"diff.noprefix": "true", "color.ui": "always", "diff.external": "false"}])
def test_the_difference_makes_the_same_code_of_the_commit(config: dict[str, str], root: Path, tmp_path: Path) -> None:
    """Untracked files too, and whatever the user has set for git."""
    was = code(package(root))[0]["sha256"]
    for name, value in config.items():
        git(root, "config", name, value)
    edit(root)
    what, diff = code(package(root))
    assert what["changed"] and what["sha256"] != was
    (tmp_path / "code.diff").write_bytes(diff)
    git(tmp_path, "clone", "--quiet", "root", "again")
    git(tmp_path / "again", "apply", "../code.diff")
    assert code(package(tmp_path / "again"))[0]["sha256"] == what["sha256"]


def test_only_the_code_is_in_the_difference(root: Path) -> None:
    (root / "README.md").write_text("other\n")
    (root / "password.txt").write_text("secret\n")
    assert code(package(root))[0]["changed"] is False


def test_a_large_difference_is_cut(root: Path) -> None:
    (package(root) / "__init__.py").write_text("a = 0\n" * 300_000)
    (package(root) / "more.py").write_text("a = 0\n" * 300_000)
    what, diff = code(package(root))
    assert (
        what["changed"]
        and len(diff) == 1_000_000
        and diff.endswith(b"# cut here: of a difference at most 1 MB is kept\n")
    )


def test_a_hook_of_another_repository_does_not_mislead(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", "other")
    assert code(package(root))[0]["commit"] == git(tmp_path, "-C", "root", "--git-dir=.git", "rev-parse", "HEAD")


def test_where_no_commit_is_known_it_says_why(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    commit, head = (root / ".git"), code(package(root))[0]["sha256"]
    installed = root / ".venv" / "site-packages" / "swlottery"
    shutil.copytree(package(root), installed)
    copied = root / "runs" / "src" / "swlottery"
    shutil.copytree(package(root), copied)
    for place, why in ((installed, "an installed package"), (copied, "not in 'HEAD'")):
        what, diff = code(place)
        assert (what["commit"], what["changed"], diff) == (None, None, b"") and why in what["why"]
        assert what["sha256"]
    commit.rename(tmp_path / "away")
    assert "not a git repository" in code(package(root))[0]["why"]
    assert code(package(root))[0]["sha256"] == head
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code(package(root))[0]["why"] == "git is not installed"
    (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr(provenance, "PATIENCE", 0.1)
    assert "did not answer" in code(package(root))[0]["why"]


def test_a_frozen_copy_is_whole_and_knows_what_it_is_of(root: Path, tmp_path: Path) -> None:
    edit(root)
    was, diff = code(package(root))
    place = root / "runs" / "study" / ".code"  # inside of a repository, whose commit goes on
    left = place.parent / "..code.0123456789abcdef0123456789abcdef" / "src"  # of a sweep that was killed
    left.mkdir(parents=True)
    provenance.freeze(package(root), place)
    assert not left.parent.exists()
    git(root, "commit", "--quiet", "--all", "-m", "second")
    (package(root) / "__init__.py").write_text("a = 5")
    assert code(package(place)) == ({**was, "frozen": True}, diff)
    assert (place / "func_train.sh").exists() and (place / "pyproject.toml").exists()
    provenance.freeze(package(root), place)
    assert code(package(place))[0]["sha256"] == was["sha256"], "it is made once"
    (package(place) / "__init__.py").write_text("a = 5")
    assert code(package(place))[0]["edited"] is True


def test_an_installed_package_can_be_frozen(root: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "swlottery"
    shutil.copytree(package(root), installed)
    provenance.freeze(installed, tmp_path / ".code")
    what, _ = code(package(tmp_path / ".code"))
    assert what["frozen"] and what["why"] == "an installed package" and "edited" not in what


def test_a_file_whose_name_is_no_text(root: Path) -> None:
    (root / "scripts" / os.fsdecode(b"\xff.sh")).touch()
    assert code(package(root))[0]["sha256"]


def test_packages_are_those_that_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "half_removed-1.0.dist-info").mkdir()  # it has no name
    monkeypatch.syspath_prepend(tmp_path)

    found = provenance.packages()
    assert found["torch"] == torch.__version__ and list(found) == sorted(found)


def test_a_run_says_what_made_it(here: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(root)
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    made, real = code(package(root)), provenance.code
    monkeypatch.setattr(provenance, "code", lambda *_: made)
    model = odd.model(here / "model")
    said = odd.train(model, "--super-weights", "none")
    assert said.code == 0, said
    assert said.out.startswith(f"code: commit {made[0]['commit'][:12]}, changed\n")
    (run,) = (here / "runs").iterdir()
    stored = json.loads((run / "environment.json").read_text())
    assert stored["code"] == made[0] and (run / "code.diff").read_bytes() == made[1]
    assert stored["device"] == "cpu" and stored["packages"]["numpy"]
    assert stored["command"].startswith(f"swlottery train --model {model} --data t.txt")
    assert "  code.diff\n" in (run / "SHA256SUMS").read_text()
    assert not any(b"hf_secret" in path.read_bytes() for path in run.rglob("*") if path.is_file())
    monkeypatch.setattr(provenance, "code", real)
    assert provenance.codes(run) == [made[0]]
    assert f"code of 1 run: commit {made[0]['commit'][:12]}, changed" in odd.run("status").out


def test_later_starts_with_other_code_are_told_apart(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(commit: str, stored: dict[str, Any] | None) -> dict[str, Any]:
        monkeypatch.setattr(provenance, "code", lambda: ({"commit": commit, "sha256": commit}, b"x" * (commit != "b")))
        return provenance.record(tmp_path, stored, "swlottery train")

    first = start("a", None)
    assert (tmp_path / "code.diff").exists() and "later" not in first
    assert start("a", first) == first, "a run that goes on has the same files as one that was left alone"
    second = start("b", first)
    assert {**second, "later": 0} == {**first, "later": 0} and [one["code"]["commit"] for one in second["later"]] == [
        "b"
    ]
    assert start("b", second) == second
    assert [one["code"]["commit"] for one in start("c", second)["later"]] == ["b", "c"]
    assert {path.name for path in tmp_path.glob("code*")} == {"code.diff", "code_2.diff"}
    monkeypatch.setattr(provenance, "packages", lambda: {"torch": "0"})
    assert len(start("b", second)["later"]) == 2
    for before in ({"versions": {}}, {"code": "no code", "later": 3}):
        unknown = start("b", before)
        assert list(unknown) == ["later"], "what an earlier version began is not this code's"
        assert start("b", unknown) == unknown
    assert start("b", None)["code"]["commit"] == "b" and not list(tmp_path.glob("code*"))
