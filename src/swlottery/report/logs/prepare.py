"""How far the making of tokens has come: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from swlottery.report.words import duration

EVERY = 60.0  # seconds between two lines


class PrepareLog:
    """bars: write a bar to a terminal (stderr), else lines. It is closed on leaving the ``with``."""

    def __init__(
        self, bars: bool, write: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bars, self._write, self._clock = bars, write, clock
        self._bar: Any = None
        self._begun: tuple[float, int] | None = None  # when, and with how many tokens that were there already
        self._told = clock()

    def __enter__(self) -> PrepareLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def progress(self, done: int, total: int | None) -> None:
        """So many tokens are there, of so many (None: unknown)."""
        now = self._clock()
        if self._begun is None:
            if not done:
                return
            self._begun = (now, done)
        if self._bars:
            self._show(done, total)
        elif now - self._told >= EVERY:
            self._told = now
            self._write(self._line(now, done, total))

    def _line(self, now: float, done: int, total: int | None) -> str:
        assert self._begun is not None
        seconds, made = now - self._begun[0], done - self._begun[1]
        rate = made / seconds if seconds > 0 else 0.0
        of = "" if total is None else f" of about {total:,}"
        left = f", {duration((total - done) / rate)} left" if total is not None and rate else ""
        return f"making tokens: {done:,}{of}, {rate:,.0f} a second{left}"

    def _show(self, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(unit="token", unit_scale=True, desc="making tokens", initial=done, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
