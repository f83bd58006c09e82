"""The log of ``swlottery train``, written for the person who will read the ``.out`` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swlottery.lottery.criteria import CRITERIA
from swlottery.report.logs import tables, trace
from swlottery.report.logs.log import Log, print_line
from swlottery.report.logs.survival import Survival
from swlottery.report.logs.tables import Event
from swlottery.report.words import count, duration, number, one_line, percent, perplexity, threshold
from swlottery.version import __version__


class TrainLog(Log):
    """Prints the sections of the log as the events of a run come."""

    def __init__(self, bars: bool, write: Callable[[str], None] = print_line) -> None:
        super().__init__(bars, write)
        self.quiet = False  # while events are replayed that were printed before
        self.gap = False  # the last lines were not printed
        self.settings: Mapping[str, Any] = {}
        self.start: Event = {}
        self.round = 0  # the one that is being trained, 1…R+1; 0 before the first
        self.in_table = False  # the last event was an evaluation
        self.rows: list[Event] = []
        self.remaining: dict[int, float] = {}
        self.survival = Survival()

    def line(self, text: str = "") -> None:
        if self.quiet:
            self.gap = True
        else:
            super().line(text)

    def header(self, settings: Mapping[str, Any], start: Event, defaults: Mapping[str, Any] | None = None) -> None:
        """What is run: the ``start`` event, every setting (marked if as in ``defaults``), what prunes leave."""
        self.settings, self.start = settings, start
        self.remaining[0] = start["counts"][0] / start["total"]
        rounds = f"{count(start['prunes'], 'round')} of train, prune, rewind" if start["prunes"] else "trained once"
        at_start = "pruned at the start, then " if settings.get("prune_at_start") else ""
        self.line(f"swlottery {__version__} train: {at_start}{rounds}\n")
        self.survival.downs = dict(enumerate(start.get("downs", [])))
        self.facts(tables.header(settings, start), 13)
        self.section("Settings" + (" (· at its default)" if defaults else ""))
        self.lines(tables.settings_lines(settings, defaults or {}))
        self.section("What each prune will leave")
        self.lines(tables.plan(start))

    def again(self, round: int | None, step: int, note: str = "") -> None:
        """Go on in the log that an earlier start has written. round: None where the run starts from its beginning."""
        self.paragraph(note)
        where = "from the beginning" if round is None else f"{self._title(round)}: going on from step {step:,}"
        self.line(f"\nstarted again. {where}; nothing above is repeated")

    def resumed(self, round: int, step: int, note: str = "") -> None:
        """Go on with a run in a new log, from the checkpoint of ``round`` and ``step``.

        note: a sentence that the reader should have, such as which checkpoint was damaged.
        """
        self.round, self.in_table = 0, False
        self.section("Resumed")
        self.paragraph(note)
        self.line(f"{self._title(round)}: going on from step {step:,}; what came before is in an earlier log")
        self._all_rounds()

    def event(self, event: Event) -> None:
        """Print one event of the run's history; kinds that are not for the log pass in silence."""
        kind = event["event"]
        if kind in ("evaluation", "found", "prune", "round"):
            self._enter(event["round"] + (kind == "round"))
        match kind:
            case "evaluation":
                self._evaluated(event)
            case "round":
                self._trained(event)
            case "found":
                for line in tables.found(event):
                    self.paragraph(line)
            case "trace":
                self._traced(event)
            case "followed":
                self.lines(["", *self.survival.follow(event)] if event["weights"] else ["no weight is tracked"])
            case "prune":
                self._pruned(event)
            case "finished":
                self._finished(event)
            case _:
                return
        self.in_table = kind == "evaluation"

    def _title(self, round: int) -> str:
        rounds = self.start["prunes"]
        name = f"Round {round} of {rounds}" if round <= rounds else "Final ticket"
        return f"{name}: training under {percent(self.remaining.get(round - 1))} remaining"

    def _enter(self, round: int) -> None:
        if round != self.round:
            self.round, self.in_table = round, False
            self.section(self._title(round))

    def _evaluated(self, event: Event) -> None:
        if not self.in_table or (self.gap and not self.quiet):
            self.gap = False
            self.line(tables.EVALUATIONS)
        self.line(tables.evaluation(event))

    def _trained(self, row: Event) -> None:
        self.end_bar()
        self.rows.append(row)
        self.line(
            f"trained: train loss {number(row['train_loss'])}, validation loss {number(row['val_loss'])}, "
            f"perplexity {perplexity(row['val_perplexity'])}, at {percent(row['remaining_fraction'])} remaining, "
            f"in {duration(row['seconds'])}"
        )

    def _traced(self, event: Event) -> None:
        if event["rows"] is None:
            self.paragraph(
                "trace: none. The run that this one branches from was trained without --trace log, and this one has "
                "its first training."
            )
            return
        self.line("\nWhen did they form? (--trace log)")
        if missing := event.get("missing"):
            self.paragraph(f"damaged, and left out: what was kept after steps {', '.join(map(str, missing))}")
        self.lines(trace.tables(event["rows"]) if event["rows"] else [])
        if "forward_tokens" in event:
            self.line(
                f"  the trace took {event['forward_tokens']:,} forward tokens, and {event['bytes'] / 1e6:,.0f} MB on "
                "disk until now; an effect is known where the weight is found"
            )

    def _pruned(self, event: Event) -> None:
        self.end_bar()
        self.remaining[event["round"]] = event["remaining_fraction"]
        criterion = CRITERIA[str(self.settings.get("criterion", "global-magnitude"))]
        how = f"threshold {threshold(event['threshold'])}" if criterion.by_magnitude else "at random"
        before = event["remaining"] + event["pruned"]
        self.line(
            f"\nPrune {event['round']}: removed {event['pruned']:,} of {before:,} weights, {how}\n"
            f"         sparsity {percent(event['sparsity'])}, remaining {percent(event['remaining_fraction'])} "
            f"({event['remaining']:,} of {event['total']:,})"
        )
        self.lines(self.survival.prune(event))

    def _all_rounds(self) -> None:
        if self.rows:
            before = "" if self.settings.get("prune_at_start") else " (mask 0: before the first prune)"
            self.section(f"All rounds: each mask, and the network trained under it{before}")
            self.lines(tables.rounds_table(self.rows, self.survival.alive))
            if self.survival.alive:
                self.line("  alive: how many of the tracked weights the mask keeps")

    def _finished(self, event: Event) -> None:
        self._all_rounds()
        self.section("What became of the tracked weights")
        for weight in event["weights"]:
            self.paragraph(tables.outcome(weight, self.start["prunes"], self.settings))
        for text in tables.caveats(event, self.settings) if event["weights"] else ["No weight was tracked."]:
            self.paragraph(text)

    def footer(
        self, run: Path, figures: Sequence[Path], seconds: float, state: str = "finished", message: str = ""
    ) -> None:
        """Where everything is. state: ``finished``, or ``stopped`` or ``failed`` with a message that says why."""
        self.end_bar()
        if state == "failed":
            self._all_rounds()
        self.section({"finished": "Where everything is", "stopped": "Stopped early"}.get(state, "Failed"))
        if state != "finished":
            self.paragraph(message or "no reason was given")
        if state == "stopped":
            self.line("asked to stop: the same command goes on from there")
        else:
            self.line(f"run      {one_line(run)}")
            self.lines(f"table    {one_line(run / name)}" for name in ("rounds.csv", "watch.csv", "metrics.jsonl"))
            self.lines(f"figure   {one_line(figure)}" for figure in figures)
        self.line(f"{'done' if state == 'finished' else state} after {duration(seconds)}")

    def step(self, round: int, step: int, steps: int) -> None:
        """One optimizer step was done, the ``step``-th of ``steps``; moves the bar and prints nothing."""
        if not self.bars:
            return
        if self.bar is None:
            what = f"round {round}" if round <= self.start["prunes"] else "final ticket"
            self.start_bar(steps, what, "step", done=step - 1)
        self.move_bar(step - self.bar.n)
        if step >= steps:
            self.end_bar()
