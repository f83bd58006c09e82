"""What the tests of the lottery share: a text of their own, a cache that no other run has filled, and no figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice, {i % 7}." for i in range(400)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Runs draw nothing: that takes longer than all else in them, and has tests of its own; see `runs.draw`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("swlottery.train._draw", lambda *_: [])
        yield
