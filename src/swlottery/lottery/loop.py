"""The lottery (Frankle & Carbin 2019): train, prune, rewind; and at the end the final ticket is trained once more.

What happens is yielded as events (dicts), which are also the lines of the run's metrics.jsonl. A run that was killed
goes on from its newest checkpoint: its tables are cut back to where that stood, and what comes behind is done again,
with the same bits. All that stands between two trainings is a function of the trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swlottery.lottery.branch import read_round_1, write_round_1
from swlottery.lottery.rewind import rewind
from swlottery.lottery.state import Event, Run
from swlottery.runtime.stop import Stopped
from swlottery.watch import events as observe
from swlottery.watch.rows import Followed


def lottery(run: Run, known: list[Followed], branch: Path | None = None) -> Iterator[Event]:
    """Train → prune → rewind, in as many rounds as there are prunes, then train the final ticket.

    Args:
        known: the weights that are followed from step 0.
        branch: a ``round_1`` folder: instead of the first training.

    Raises:
        Stopped: because ``run.asked`` said so; with a checkpoint of the last step, but for a round's first evaluation and
            a prune, where the last checkpoint stands.
    """
    if not run.resumed:
        run.state.followed = list(known)
        run.masks = observe.arms(run, at_start=branch is None)
        run.begin()
        yield observe.start(run)
    final = run.prunes + 1
    for round_ in range(run.state.round, final + 1):
        if round_ == 1 and branch is not None:
            read_round_1(run, branch)
        else:
            yield from train(run, round_)
        if round_ == final:
            yield from finish(run, round_)
            return
        yield from prune(run, round_)
        theta_k = run.theta(run.settings.rewind_step) if run.settings.rewind == "weights" else {}
        rewind(run.parameters, theta_k, run.masks, run.settings.rewind)
        next_round(run, round_ + 1)


def train(run: Run, round_: int) -> Iterator[Event]:
    """Train under m_{r-1} from the rewind point to step T."""
    settings, state = run.settings, run.state
    if state.step == run.first_step(round_):
        run.forget_interval()
        yield from observe.boxes(run, round_, "before")
        yield from observe.evaluation(run, round_, state.step)
    elif state.owed and state.step < settings.steps:
        yield from evaluate(run, round_)
    for step in range(state.step, settings.steps):
        last, due = step + 1 == settings.steps, (step + 1) % settings.eval_steps == 0
        run.take_step(step, round_, see=due or last)
        if round_ == 1 and step + 1 == settings.rewind_step:
            run.write_tensors("theta_k.safetensors", run.parameters)
        yield {"event": "step", "round": round_, "step": step + 1, "steps": settings.steps}
        state.owed = due or last
        run.save_if_due(only_if_asked=state.owed)
        if due and not last:
            yield from evaluate(run, round_)
            run.save_if_due()


def evaluate(run: Run, round_: int) -> Iterator[Event]:
    """The evaluation that is owed at this step. A run that is asked to stop in it still owes it when it goes on."""
    try:
        yield from observe.evaluation(run, round_, run.state.step)
    except Stopped:
        run.save()
        raise
    run.forget_interval()


def prune(run: Run, round_: int) -> Iterator[Event]:
    """Judge the trained network and make m_r from it. Survival is read from this new mask."""
    run.ranks.where = f"prune {round_}"
    new = run.pruner.prune(run.masks, run.count(round_))
    yield from observe.trained(run, round_, new)
    run.leave_if_asked()
    if round_ == 1:
        write_round_1(run)
        yield from observe.discover(run)
        new = run.pruner.prune(run.masks, run.count(round_))  # what was discovered may be protected, or have to go
        yield from observe.choose_controls(run, new)
    observe.watched(run, round_, run.settings.steps, new, alive=new)
    yield observe.pruned(run, round_, new)
    run.set_masks(new, round_)


def next_round(run: Run, round_: int) -> None:
    """A round starts where the rewind point stands, with fresh moments, and with a checkpoint."""
    run.training.forget_moments()
    run.forget_interval()
    run.state.round, run.state.step = round_, run.first_step(round_)
    run.state.round_began = run.tick()
    run.save()


def finish(run: Run, round_: int) -> Iterator[Event]:
    """The final ticket: its losses, its watch, the network itself, and what became of every followed weight."""
    new = run.pruner.prune(run.masks, run.count(round_))
    yield from observe.trained(run, round_, new)
    observe.watched(run, round_, run.settings.steps, new, alive=run.masks)
    run.check_masked()
    if run.ranks.lead:
        run.save_model(run.folder / "final")
    run.settle()
    seconds = {"wall_seconds": run.tick(), "step_seconds": run.state.busy}
    yield run.record("finished", weights=observe.fates(run), **seconds)
    run.tables.lengths()
