"""Judging the network in training: its held-out loss, and what a prune now would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swlottery.config import TrainSettings
from swlottery.lottery.progress import Progress
from swlottery.lottery.recorder import Snapshot
from swlottery.lottery.training import NotFinite
from swlottery.runtime.stop import Asked

if TYPE_CHECKING:
    from torch import Tensor


class Judge:
    """Makes the snapshots of a run. windows: held-out ``[n, context + 1]``; asked: whether this process is to stop."""

    def __init__(self, progress: Progress, settings: TrainSettings, windows: Tensor, asked: Asked) -> None:
        self.progress, self.settings, self.windows, self.asked = progress, settings, windows, asked

    def snapshot(self, counts: Sequence[int]) -> Snapshot:
        """The network now. counts: how many weights the prune at the end of each round takes.

        Raises:
            Stopped: that was asked for; nothing is changed.
            NotFinite: the held-out loss is.
        """
        training, pruner, interval = self.progress.training, self.progress.pruner, self.progress.interval
        round, step, steps = self.progress.position.round, self.progress.position.step, self.settings.steps
        masks, losses = training.masks, interval.losses
        training.ranks.position = f"the evaluation after step {step} of round {round}"
        proposed = pruner.prune(masks, counts[round - 1])
        val_loss = training.evaluate(self.windows, self.asked)
        if not math.isfinite(val_loss):
            raise NotFinite(
                f"the held-out loss is not finite after step {step} of round {round}: lower --lr, or clip harder; "
                "the last good checkpoint is kept"
            )
        threshold, thresholds = pruner.thresholds(masks, proposed)
        stepped = bool(interval.gradients)
        return Snapshot(
            round=round,
            step=step,
            steps=steps,
            weights={name: parameter.detach() for name, parameter in pruner.scope.items()},
            masks=masks,
            proposed=proposed,
            alive=masks,
            threshold=threshold,
            thresholds=thresholds,
            gradients=interval.gradients if stepped else None,
            moments=(interval.moments or training.second_moments(interval.gradients)) if stepped else None,
            since=interval.since if stepped else None,
            train_loss=math.fsum(losses) / len(losses) if losses else None,
            val_loss=val_loss,
            norm=self.progress.position.norm if losses else None,
            steps_left=steps - step + (len(counts) - round) * (steps - self.settings.rewind_step),
            seconds_per_step=self.progress.clock.seconds_per_step,
        )

    def proposed_anew(self, now: Snapshot, count: int) -> Snapshot:
        """The same snapshot, with what a prune leaves under the present arms."""
        masks, pruner = self.progress.training.masks, self.progress.pruner
        proposed = pruner.prune(masks, count)
        threshold, thresholds = pruner.thresholds(masks, proposed)
        return replace(now, proposed=proposed, threshold=threshold, thresholds=thresholds)
