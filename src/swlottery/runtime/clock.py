"""The clock of a job that is stopped and goes on: what was done again is not counted twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """wall: seconds since the job began; busy: of those, in steps; round_began: the wall at the start of the round."""

    def __init__(self) -> None:
        self.wall = self.busy = self.round_began = 0.0
        self._paces: deque[float] = deque(maxlen=100)
        self._ticked_at = time.monotonic()

    def tick(self) -> float:
        """Bring the wall up to now, and read it."""
        now = time.monotonic()
        self.wall, self._ticked_at = self.wall + now - self._ticked_at, now
        return self.wall

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step is being taken; one that fails is not counted."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.busy += seconds
        self._paces.append(seconds)

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of the last hundred; None before the first."""
        return sum(self._paces) / len(self._paces) if self._paces else None

    def start_round(self) -> None:
        """A round starts now."""
        self.round_began = self.tick()

    def round_seconds(self) -> float:
        """Seconds since the round started."""
        return self.tick() - self.round_began

    def state(self) -> dict[str, float]:
        """What has to be saved."""
        return {"wall": self.wall, "busy": self.busy, "round_began": self.round_began}

    def take_up(self, state: Mapping[str, float]) -> None:
        """The inverse of `state`."""
        self.wall, self.busy, self.round_began = state["wall"], state["busy"], state["round_began"]
        self._ticked_at = time.monotonic()
