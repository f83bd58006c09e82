"""The lottery (Frankle & Carbin 2019): train, prune, rewind; and at the end the final ticket is trained once more.

A run that was killed goes on from its newest checkpoint. What came behind that is done again, with the same bits: all
that lies between two trainings is a function of the trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings
from swlottery.data.batches import validation_windows
from swlottery.data.tokens import Tokens
from swlottery.lottery import arms, trace
from swlottery.lottery import masks as masking
from swlottery.lottery.arms import Arms
from swlottery.lottery.entries import Layout
from swlottery.lottery.judge import Judge
from swlottery.lottery.keeper import Keeper
from swlottery.lottery.look import look
from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Interval, Position, Progress
from swlottery.lottery.prune import Pruner, planned
from swlottery.lottery.recorder import Recorder, Snapshot, Start
from swlottery.lottery.scope import in_scope
from swlottery.lottery.start import Network
from swlottery.lottery.training import Training
from swlottery.models.coordinates import Coordinate
from swlottery.runtime.clock import Clock
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never


class Lottery:
    """The method on one network. Building one takes up the keeper's newest checkpoint; `run` does the rest.

    dtype: of matrix products; None: what the settings ask for, on this device. asked: whether this process is to stop.
    """

    def __init__(
        self,
        network: Network,
        data: Tokens,
        settings: TrainSettings,
        keeper: Keeper,
        recorder: Recorder,
        ranks: Ranks | None = None,
        asked: Asked = never,
        dtype: str | None = None,
    ) -> None:
        self.network, self.settings, self.keeper, self.recorder = network, settings, keeper, recorder
        self.parameters, self.layout = network.parameters, Layout(network)
        self.downs = {name: self.parameters[name] for name in self.layout.names.values()}
        self.scope = in_scope(network.model, network.roles, settings.scope)
        self.pruner = Pruner(self.layout, self.scope, settings)
        self.training = Training(network, masking.full(self.scope), settings, data.train, ranks, dtype)
        self.position, self.interval, self.clock = Position(), Interval(), Clock()
        self.progress = Progress(self.position, self.interval, self.training, self.pruner, recorder, self.clock)
        windows = validation_windows(data.validation, network.context, settings.eval_sequences, network.prefix)
        self.judge = Judge(self.progress, settings, windows, asked)
        self.resumed = keeper.take_up(self.progress)
        if self.resumed:
            self.training.set_masks(keeper.masks(self.position.round - 1))

    def run(self, subjects: Sequence[Coordinate] = (), branch: Path | None = None) -> Masks:
        """Train → prune → rewind, in as many rounds as there are prunes behind a training, then train the final ticket.

        Args:
            subjects: the super weights that are known beforehand, for the arms of the run.
            branch: a ``round_1`` folder, instead of the first training.

        Returns:
            The masks of the final ticket.

        Raises:
            Stopped: because ``asked`` said so. There is a checkpoint of the last step then; but in a round's first
                evaluation and in a prune none is written, and the last one counts.
        """
        if not self.resumed:
            self.begin(subjects, masked_at_start=branch is None)
        final = len(self.counts)
        for round in range(self.position.round, final + 1):
            if round == 1 and branch is not None:
                self.keeper.read_round_1(branch, self.progress)
            else:
                self.train(round)
            if round == final:
                self.finish(round)
                break
            self.prune(round)
            self.rewind()
            self.next_round(round + 1)
        return self.training.masks

    def begin(self, subjects: Sequence[Coordinate], masked_at_start: bool) -> None:
        """Store θ_0 and m_0. Forced weights are masked in m_0, or go with a first prune: of a branch, at the start."""
        chosen = arms.choose(self.settings, subjects, self.layout.matrices(self.downs))
        masks, training, position = self.training.masks, self.training, self.position
        self.keeper.write_theta(0, self.parameters)
        if self.settings.prune_at_start:
            self.pruner.arms, position.round = chosen, 0
            count = planned(self.settings, masking.total(masks))[0][0]
            now = self.judge.snapshot([count])
            masks, chosen = dict(now.proposed), Arms(chosen.protected)
            position.round, position.pruned, position.threshold = 1, count, now.threshold
        elif masked_at_start:
            masks, chosen = self.pruner.without(masks, chosen.forced), Arms(chosen.protected)
        self.pruner.arms = chosen
        self.set_masks(masks, 0)
        self.recorder.started(Start(masks, self.counts[:-1], str(training.device), training.dtype))
        if self.settings.prune_at_start:
            self.recorder.pruned(replace(now, alive=now.proposed))
        masking.apply(masks, self.parameters)

    def train(self, round: int) -> None:
        """Train under m_{r-1} from the rewind point to step T."""
        settings, position = self.settings, self.position
        if position.step == self.first_step(round):
            self.interval.restart(self.downs)
            self.recorder.round_started(round, position.step, self.scope, self.training.masks)
            self.recorder.evaluated(self.judge.snapshot(self.counts))
            position.evaluation_due = False
        elif position.evaluation_due and position.step < settings.steps:
            self.evaluate(round)
        for step in range(position.step, settings.steps):
            last, due = step + 1 == settings.steps, (step + 1) % settings.eval_steps == 0
            self.take_step(step, round, see=due or last)
            if round == 1 and step + 1 == settings.rewind_step:
                self.keeper.write_theta(step + 1, self.parameters)
            if round == 1 and step + 1 in self.traced_steps:  # before the checkpoint of this step
                self.keeper.write_trace(step + 1, *trace.kept(self.network, self.judge.windows))
            self.recorder.stepped(round, step + 1, settings.steps)
            position.evaluation_due = due or last
            self.keeper.boundary(self.progress, only_if_asked=due or last)
            if due and not last:
                self.evaluate(round)
                self.keeper.boundary(self.progress, only_if_asked=False)

    def take_step(self, step: int, round: int, see: bool) -> None:
        """One step of training. see: keep the gradients of the down-projections, an evaluation follows."""
        self.training.ranks.position = f"step {step + 1} of round {round}"
        with self.clock.step():
            seen = (lambda: self.interval.see_gradients(self.downs)) if see else None
            loss, self.position.norm = self.training.step(step, round, seen)
        self.interval.losses.append(loss)
        self.position.step = step + 1

    def evaluate(self, round: int) -> None:
        """The evaluation that is due at this step. A run that is stopped in it has it still to come when it goes on."""
        try:
            now = self.judge.snapshot(self.counts)
        except Stopped:
            self.keeper.save(self.progress)
            raise
        self.recorder.evaluated(now)
        del now  # it holds tensors that `restart` lets go
        self.position.evaluation_due = False
        self.interval.restart(self.downs)

    def trained(self, round: int) -> tuple[Snapshot, str, list[dict[str, Any]]]:
        """Judge the trained network, have the finder look at it, and keep that of round 1."""
        now = self.judge.snapshot(self.counts)
        self.recorder.trained(now, self.position, self.clock.round_seconds())
        self.keeper.leave_if_asked()
        kind, found = "", list[dict[str, Any]]()
        if self.settings.super_weights != "none":
            kind, found = look(self.network)
            self.recorder.looked(round, kind, found)
        if round == 1:
            traced = self.keeper.traces(self.traced_steps)
            self.keeper.write_round_1(self.network, now, self.interval.losses, traced)
            if traced is not None:
                self.recorder.traced(traced)
        return now, kind, found

    def prune(self, round: int) -> None:
        """Make m_r from the trained network. Survival is read from this new mask."""
        now, kind, found = self.trained(round)
        self.keeper.leave_if_asked()
        if round == 1 and self.settings.super_weights == "discover":
            now = self.discover(kind, found, now)
        self.recorder.pruned(replace(now, alive=now.proposed))
        self.position.pruned, self.position.threshold = self.counts[round - 1], now.threshold
        self.set_masks(dict(now.proposed), round)

    def discover(self, kind: str, found: list[dict[str, Any]], now: Snapshot) -> Snapshot:
        """Track what the finder has found, and propose a prune anew: it may be protected, or have to go."""
        self.recorder.discovered(kind, found, now)
        weights = self.layout.matrices(self.downs)
        self.pruner.arms = arms.choose(self.settings, [Coordinate.of(weight) for weight in found], weights)
        return self.judge.proposed_anew(now, self.counts[0])

    def set_masks(self, masks: Masks, number: int) -> None:
        """Store m_number, and train under it from now on."""
        self.keeper.write_masks(masks, number)
        self.training.set_masks(masks)

    def rewind(self) -> None:
        """The weights that a round starts with: θ_k·m_r (Frankle & Carbin 2019; k > 0: Frankle et al. 2020).

        ``lr`` and ``none`` keep the weights, times m_r. The first replays the learning rate's schedule from step k
        (Renda et al. 2020), the second stays at its final rate: see `training.learning_rate`.
        """
        if self.settings.rewind == "weights":
            self.network.set_weights(self.keeper.theta(self.settings.rewind_step, self.parameters))
        masking.apply(self.training.masks, self.parameters)

    def next_round(self, round: int) -> None:
        """A round starts where the rewind point is, with fresh moments, and with a checkpoint."""
        self.training.forget_moments()
        self.interval.restart(self.downs)
        self.position.round, self.position.step, self.position.evaluation_due = round, self.first_step(round), False
        self.clock.start_round()
        self.keeper.save(self.progress)
        if self.traced_steps:  # what was kept of round 1 is needed until this checkpoint is on disk
            self.keeper.settle()
            self.keeper.drop_traces()

    def finish(self, round: int) -> None:
        """The final ticket: its losses, the network itself, and what became of every tracked weight."""
        now, _, _ = self.trained(round)
        self.training.check_masked()
        self.keeper.write_final(self.network)
        self.keeper.settle()
        self.recorder.finished(now, self.clock.tick(), self.clock.busy)

    @cached_property
    def traced_steps(self) -> list[int]:
        """The steps of round 1 that are traced; none in a branch, which has its parent's trace."""
        traces = self.settings.trace == "log" and not self.settings.from_round_1
        return trace.steps(self.settings.steps) if traces else []

    @cached_property
    def counts(self) -> list[int]:
        """How many weights the prune at the end of each round takes; and, last, how many one more would take."""
        masks, at_start = self.keeper.masks(0), self.settings.prune_at_start
        counts, one_more = planned(self.settings, masking.total(masks) if at_start else masking.remaining(masks))
        return [*counts[at_start:], one_more]

    def first_step(self, round: int) -> int:
        """Where a round's training starts: k, but 0 in the first round."""
        return 0 if round == 1 else self.settings.rewind_step
