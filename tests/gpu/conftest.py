"""What the tests on a GPU that is none share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fake_gpu
from lottery.fixtures import cache, text  # noqa: F401 (fixtures)


@pytest.fixture
def gpu() -> Iterator[fake_gpu.Waits]:
    """While a test runs, ``auto`` is a GPU that is none; its waits for the device are counted."""
    with fake_gpu.gpu() as waits:
        yield waits
