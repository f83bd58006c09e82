"""The lottery's `Recorder`: remembers the tracked weights, and turns what it hears into events and rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from swlottery.config import TrainSettings
from swlottery.data.tokens import Tokens
from swlottery.lottery import matching
from swlottery.lottery.entries import Layout, Place
from swlottery.lottery.masks import Masks
from swlottery.lottery.matching import Controls
from swlottery.lottery.progress import Position
from swlottery.lottery.recorder import Snapshot, Start
from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate
from swlottery.watch import events
from swlottery.watch import rows as watch
from swlottery.watch.events import Event
from swlottery.watch.outcomes import Survivors, outcome, survivors
from swlottery.watch.tracked import Tracked, as_tracked

if TYPE_CHECKING:
    from torch import Tensor


class Sink(Protocol):
    """Where the recorder's output goes."""

    def event(self, event: Event) -> None:
        """Something has happened."""

    def round(self, row: Mapping[str, Any]) -> None:
        """A row of rounds.csv."""

    def watch(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of watch.csv."""

    def at(self, round: int, step: int) -> None:
        """The run has come to this step."""

    def stepped(self, round: int, step: int, steps: int) -> None:
        """A training step is done."""

    def alive(self, tracked: int, kind: str | None, alive: int) -> None:
        """How many super weights (or a leader: ``kind``) are tracked, and how many of them the present masks leave."""


class WatchRecorder:
    """What is recorded of a run.

    tracked: the tracked weights without controls. theta_0: the tensors of these names at step 0; asked for when they
    are first needed, so that a run that tracks nothing never holds them.
    """

    def __init__(
        self,
        network: Network,
        data: Tokens,
        settings: TrainSettings,
        environment: Mapping[str, Any],
        tracked: Sequence[Tracked],
        sink: Sink,
        theta_0: Callable[[Collection[str]], dict[str, Tensor]],
    ) -> None:
        self.network, self.data, self.settings, self.environment = network, data, settings, environment
        self.layout = Layout(network)
        self.tokens_per_step = events.tokens_per_step(settings, network)
        self.tracked, self.sink, self.theta_0 = list(tracked), sink, theta_0
        self.controls: list[Controls] = []
        self.outcomes: list[dict[str, Any]] = []
        self._alive = 0  # how many of the super weights the present masks leave

    def started(self, start: Start) -> None:
        """Record what is trained on what."""
        self._tell_alive(self._count(self._survivors(start.masks)))
        self.sink.event(
            events.start(start, self.network, self.data, self.settings, self.environment, self.layout, self.tracked)
        )

    def round_started(self, round: int, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        """Record the boxes of the matrices before training."""
        self.sink.at(round, step)
        self._events(events.boxes(round, "before", weights, masks, self.layout, self.tracked))

    def stepped(self, round: int, step: int, steps: int) -> None:
        """Nothing is recorded of a step."""
        self.sink.stepped(round, step, steps)

    def evaluated(self, now: Snapshot) -> None:
        """Record the losses, and a row for every tracked weight."""
        self.sink.event(events.evaluation(now, self.tokens_per_step))
        self._rows(now)

    def trained(self, now: Snapshot, position: Position, seconds: float) -> None:
        """Record what is reported of every trained network, whether it is pruned next or final."""
        self.sink.at(now.round, now.step)
        losses = events.evaluation(now, self.tokens_per_step)
        self.sink.event(losses)
        row = events.trained(now, losses, position, seconds)
        self.sink.round(row)
        self.sink.event({"event": "round", **row})
        self._events(events.boxes(now.round, "after", now.weights, now.masks, self.layout, self.tracked))

    def looked(self, round: int, kind: str, weights: list[dict[str, Any]]) -> None:
        """Record which super weights the finder sees."""
        self.sink.event(events.found(round, kind, weights, self.tracked))

    def traced(self, trace: Mapping[str, Any]) -> None:
        """Record when the super weights of round 1 formed."""
        self.sink.event({"event": "trace", **trace})

    def discovered(self, kind: str, weights: list[dict[str, Any]], now: Snapshot) -> None:
        """Track these weights from now on. What is known of them before is their place at step 0, from θ_0."""
        found = [Tracked(kind, Coordinate.of(weight)) for weight in weights]
        self.tracked = found + self.tracked
        theta_0 = self.theta_0(now.weights)
        self._initial = self.layout.matrices(theta_0)
        then = replace(now, step=0, weights=theta_0, thresholds=None, gradients=None, moments=None, since=None)
        self.sink.watch(watch.rows(found, then, self.layout, self._initial))
        before, after = (
            events.boxes(1, when, weights_, now.masks, self.layout, found)
            for when, weights_ in (("before", theta_0), ("after", now.weights))
        )
        for pair in zip(before, after, strict=True):
            self._events(pair)

    def pruned(self, now: Snapshot) -> None:
        """Record rows, and what the prune does; in round 1 the controls are chosen, of what it leaves.

        A prune at the start, that of round 0, has no rows: those of step 0 come next.
        """
        if now.round == 1:
            self._choose_controls(now)
        if now.round:
            self._rows(now)
        before, after = self._survivors(now.masks), self._survivors(now.proposed)
        for one in self.tracked:
            if before.alive[one.coordinate] and not after.alive[one.coordinate]:
                self.outcomes.append(outcome(one, now.round, after, self.controls))
        self._tell_alive(self._count(after))
        self.sink.event(events.prune(now, self.layout, self.tracked, self.controls, before, after))

    def finished(self, now: Snapshot, wall: float, busy: float) -> None:
        """Record the last rows, and what became of every tracked weight."""
        self._rows(now)
        end = self._survivors(now.masks)
        gone = [(one["kind"], Coordinate.of(one)) for one in self.outcomes]
        weights = self.outcomes + [
            outcome(one, None if end.alive[one.coordinate] else 0, end, self.controls)
            for one in self.tracked
            if (one.kind, one.coordinate) not in gone
        ]
        self.sink.event({"event": "finished", "weights": weights, "wall_seconds": wall, "step_seconds": busy})

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this: JSON, a copy."""
        return {
            "tracked": [asdict(one) for one in self.tracked],
            "controls": [asdict(one) for one in self.controls],
            "outcomes": copy.deepcopy(self.outcomes),
            "alive": self._alive,
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.tracked = [Tracked.read(one) for one in state["tracked"]]
        self.controls = [Controls.read(one) for one in state["controls"]]
        self.outcomes = list(state["outcomes"])
        self._tell_alive(state["alive"])

    @cached_property
    def _initial(self) -> dict[Place, Tensor]:
        """The down-projections of θ_0, ``[out, in]``, by place."""
        return self.layout.matrices(self.theta_0(list(self.layout.names.values())))

    def _choose_controls(self, now: Snapshot) -> None:
        weights, alive = self.layout.matrices(now.weights), self.layout.matrices(now.proposed)
        if self.tracked:
            trained = {place: matrix.abs() for place, matrix in weights.items()}
            initial = {place: matrix.abs() for place, matrix in self._initial.items()}
            taken = {one.coordinate for one in self.tracked}
            self.controls = [
                matching.choose(one.coordinate, kind, trained, initial, alive, taken)
                for one in self.tracked
                for kind in matching.KINDS
            ]
        self.sink.event(events.comparison(self.tracked, self.controls, weights))

    def _rows(self, now: Snapshot) -> None:
        if self.tracked:
            everyone = [*self.tracked, *as_tracked(self.controls)]
            self.sink.watch(watch.rows(everyone, now, self.layout, self._initial))

    def _survivors(self, masks: Mapping[str, Tensor]) -> Survivors:
        return survivors(masks, self.layout, self.tracked, self.controls)

    @property
    def _own(self) -> list[Tracked]:
        return [one for one in self.tracked if one.kind != "foreign"]

    def _count(self, left: Survivors) -> int:
        return sum(left.alive[one.coordinate] for one in self._own)

    def _tell_alive(self, alive: int) -> None:
        self._alive = alive
        self.sink.alive(len(self._own), self._own[0].kind if self._own else None, alive)

    def _events(self, several: Iterable[Event]) -> None:
        for event in several:
            self.sink.event(event)
