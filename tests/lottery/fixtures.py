"""What every test that trains needs: a text of its own, and a cache that no other run has filled."""

from __future__ import annotations

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
