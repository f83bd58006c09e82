"""What the tests on a GPU that is none share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_gpu


@pytest.fixture
def gpu() -> Iterator[fake_gpu.Waits]:
    """While a test runs, ``auto`` is a GPU that is none; its waits for the device are counted."""
    with fake_gpu.gpu() as waits:
        yield waits


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice, {i % 7}." for i in range(400)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
