"""How far the making of tokens has come: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from swlottery.report.logs.log import Log
from swlottery.report.words import duration

EVERY = 60.0  # seconds between two lines


class PrepareLog(Log):
    """Its bar is closed on leaving the ``with``."""

    def __init__(
        self, bars: bool, write: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(bars, write)
        self._clock = clock
        self._begun: tuple[float, int] | None = None  # when, and with how many tokens that were there already
        self._written = clock()

    def __enter__(self) -> PrepareLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_bar()

    def progress(self, done: int, total: int | None) -> None:
        """So many tokens are there, of so many (None: unknown)."""
        now = self._clock()
        if self._begun is None:
            if not done:
                return
            self._begun = (now, done)
            self.start_bar(total, "making tokens", "token", done)
        if self.bar is not None:
            self.bar.total = total
            self.move_bar(done - self.bar.n)
        elif now - self._written >= EVERY:
            self._written = now
            seconds, made = now - self._begun[0], done - self._begun[1]
            rate = made / seconds if seconds > 0 else 0.0
            of = "" if total is None else f" of about {total:,}"
            left = f", {duration((total - done) / rate)} left" if total is not None and rate else ""
            self.line(f"making tokens: {done:,}{of}, {rate:,.0f} a second{left}")
