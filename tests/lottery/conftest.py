"""What the tests of the lottery share: a text of their own, a cache that no other run has filled, and no figures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lottery.fixtures import cache, text  # noqa: F401 (fixtures)


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Runs draw nothing: that takes longer than all else in them, and has tests of its own; see `runs.draw`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("swlottery.commands.train._draw", lambda *_: [])
        yield
