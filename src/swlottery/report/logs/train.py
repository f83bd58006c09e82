"""The log of ``swlottery train``, written for the person who will read the ``.out`` file."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swlottery import __version__
from swlottery.report.logs import tables
from swlottery.report.logs.survival import Survival
from swlottery.report.logs.tables import Event
from swlottery.report.words import WIDTH, count, duration, number, percent, perplexity, share, threshold

_print: Callable[[str], None] = partial(print, flush=True)


class TrainLog:
    """Prints the sections of the log as the events of a run come; progress bars only where ``bars`` (a terminal)."""

    def __init__(self, bars: bool, write: Callable[[str], None] = _print) -> None:
        self.bars, self.write = bars, write
        self.bar: Any = None
        self.quiet = False  # while events are replayed that were printed before
        self.settings: Mapping[str, Any] = {}
        self.start: Event = {}
        self.hushed = False  # the last lines were not printed
        self.round = 0  # the one that is being trained, 1…R+1; 0 before the first
        self.under_table = False  # the last line was one of the table of evaluations
        self.rows: list[Event] = []
        self.remaining: dict[int, float] = {}
        self.survival = Survival()

    def section(self, title: str) -> None:
        self._end_bar()
        self.line(f"\n{title}\n{'-' * len(title)}")

    def line(self, text: str = "") -> None:
        if self.quiet:
            self.hushed = True
            return
        if self.bar is not None:
            self.bar.clear()
        self.write(text)

    def lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.line(text)

    def words(self, text: str, indent: int = 4) -> None:
        """A sentence or a list, over as many lines as it needs."""
        whole = re.sub(
            r"\(\d+(, (expert )?\d+)+\)", lambda found: found[0].replace(" ", "\xa0"), text
        )  # no broken coordinate
        for line in textwrap.wrap(whole, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False):
            self.line(line.replace("\xa0", " "))

    def header(self, settings: Mapping[str, Any], start: Event, defaults: Mapping[str, Any] | None = None) -> None:
        """What is run: the ``start`` event, every setting (marked where it is as in ``defaults``), what prunes leave."""
        self.settings, self.start = settings, start
        self.remaining[0] = start["counts"][0] / start["total"]
        data, steps, tokens = start["data"], start["steps"], start["tokens_per_step"]
        self.line(f"swlottery {__version__} train: {count(start['prunes'], 'round')} of train, prune, rewind\n")
        for name, value in (
            ("model", start["model"]),
            ("what it is", start["note"]),
            ("θ_0", f"sha256 {start['lineage']}"),
            (
                "in scope",
                f"{start['total']:,} of {start['parameters']:,} parameters ({share(start['total'], start['parameters'])}), "
                f"in {count(start['matrices'], 'tensor')}: {start['scope']}",
            ),
            (
                "text",
                f"{data['name']}: {data['train_tokens']:,} training, {data['validation_tokens']:,} validation tokens"
                + tables.limit(settings, start),
            ),
            ("", f"sha256 {data['sha256']}" if data["sha256"] else ""),
            (
                "a round",
                f"{steps:,} steps of {tokens:,} tokens = {steps * tokens / data['train_tokens']:.3g} times the text",
            ),
            ("round 1", f"branches from {start['from_round_1']}" if start.get("from_round_1") else ""),
            ("device", f"{tables.device(start)}, {count(start['threads'], 'CPU thread')}"),
            ("precision", f"{start['dtype']} ({start['why']})" if start.get("dtype") else ""),
            ("versions", ", ".join(f"{name} {version}" for name, version in start["versions"].items())),
        ):
            if value:
                self.words(f"{name:<13}{value}", 13)
        self.section("Settings" + (" (· at its default)" if defaults else ""))
        self.lines(tables.settings_lines(settings, defaults or {}))
        self.section("What each prune will leave")
        self.lines(tables.plan(start))

    def replay(self, events: Iterable[Event]) -> None:
        """Take in the history of a run that goes on; nothing is printed."""
        quiet, self.quiet = self.quiet, True
        for event in events:
            self.event(event)
        self.quiet = quiet

    def again(self, round: int | None, step: int, note: str = "") -> None:
        """Go on in the log that an earlier start has written; what it tells is not told again.

        round: None where the run starts from its beginning.
        """
        if note:
            self.words(note)
        where = "from the beginning" if round is None else f"{self._title(round)}: going on from step {step:,}"
        self.line(f"\nstarted again. {where}; what stands above is not told again")

    def resumed(self, round: int, step: int, note: str = "") -> None:
        """Go on with a run in a new log, from the checkpoint of ``round`` and ``step``.

        note: a sentence that the reader should have, such as which checkpoint was damaged.
        """
        self.round, self.under_table = 0, False
        self.section("Resumed")
        if note:
            self.words(note)
        self.line(f"{self._title(round)}: going on from step {step:,}; what came before is in an earlier log")
        self._all_rounds()

    def event(self, event: Event) -> None:
        """Print one event of the run's history; kinds that are not for the log pass in silence."""
        kind = event["event"]
        if kind in ("evaluation", "found", "prune", "round"):
            self._enter(event["round"] + (kind == "round"))
        match kind:
            case "evaluation":
                if not self.under_table or (self.hushed and not self.quiet):
                    self.hushed = False
                    self.line(tables.evaluation(None))
                self.under_table = True
                self.line(tables.evaluation(event))
                return
            case "box":
                self.survival.locate(event)
                return
            case "round":
                self._trained(event)
            case "found":
                for line in tables.found(event):
                    self.words(line)
            case "followed":
                self.lines(["", *self.survival.follow(event)] if event["weights"] else ["no weight is followed"])
            case "prune":
                self._pruned(event)
            case "finished":
                self._finished(event)
            case _:
                return
        self.under_table = False

    def _title(self, round: int) -> str:
        rounds = self.start["prunes"]
        left = percent(self.remaining.get(round - 1))
        if round > rounds:
            return f"Final ticket: training under {left} remaining"
        return f"Round {round} of {rounds}: training under {left} remaining"

    def _enter(self, round: int) -> None:
        if round != self.round:
            self.round, self.under_table = round, False
            self.section(self._title(round))

    def _trained(self, row: Event) -> None:
        self._end_bar()
        self.rows.append(row)
        self.line(
            f"trained: train loss {number(row['train_loss'])}, validation loss {number(row['val_loss'])}, perplexity "
            f"{perplexity(row['val_perplexity'])}, at {percent(row['remaining_fraction'])} remaining, in {duration(row['seconds'])}"
        )

    def _pruned(self, event: Event) -> None:
        self._end_bar()
        self.remaining[event["round"]] = event["remaining_fraction"]
        before = event["remaining"] + event["pruned"]
        random = self.settings.get("criterion") == "random"
        level = "at random" if random else f"threshold {threshold(event['threshold'])}"
        self.line(
            f"\nPrune {event['round']}: removed {event['pruned']:,} of {before:,} weights, {level}\n"
            f"         sparsity {percent(event['sparsity'])}, remaining {percent(event['remaining_fraction'])} "
            f"({event['remaining']:,} of {event['total']:,})"
        )
        lines = self.survival.prune(event)
        if event["weights"]:
            self.lines(["", *lines])
            self.line(
                "  its matrix"
                + ", its controls" * (event["round"] > 1)
                + ": kept of those that stood before this prune; in all: of the whole matrix"
            )

    def _all_rounds(self) -> None:
        if self.rows:
            self.section("All rounds: a mask, and the network trained under it (mask 0: before the first prune)")
            self.lines(tables.rounds_table(self.rows, self.survival.alive))
            if self.survival.sizes:
                self.line("  alive: how many of the followed weights the mask keeps")

    def _finished(self, event: Event) -> None:
        self._all_rounds()
        self.section("What became of the weights that were followed")
        for weight in event["weights"]:
            self.words(tables.sentence(weight, self.start["prunes"], self.settings))
        for text in tables.caveats(event, self.settings) if event["weights"] else ["No weight was followed."]:
            self.words(text)

    def footer(
        self, run: Path, figures: Sequence[Path], seconds: float, state: str = "finished", message: str = ""
    ) -> None:
        """Where everything is. state: ``finished``, or ``stopped`` or ``failed`` with a message that says why."""
        self._end_bar()
        if state == "finished":
            self.section("Where everything is")
        else:
            if state == "failed":
                self._all_rounds()
            self.section("Stopped early" if state == "stopped" else "Failed")
            self.words(message or "no reason was given")
            if state == "stopped":
                self.line("asked to stop: the same command goes on from there")
                self.line(f"stopped after {duration(seconds)}")
                return
        self.line(f"run      {run}")
        for name in ("rounds.csv", "watch.csv", "metrics.jsonl"):
            self.line(f"table    {run / name}")
        for figure in figures:
            self.line(f"figure   {figure}")
        self.line(f"{'done' if state == 'finished' else state} after {duration(seconds)}")

    def step(self, round: int, step: int, steps: int) -> None:
        """One optimizer step was done, the ``step``-th of ``steps``; moves the bar and prints nothing."""
        if not self.bars:
            return
        if self.bar is None:
            from tqdm import tqdm

            what = f"round {round}" if round <= self.start["prunes"] else "final ticket"
            self.bar = tqdm(
                total=steps, initial=step - 1, desc=what, unit="step", leave=False, file=sys.stderr, dynamic_ncols=True
            )
        self.bar.update(step - self.bar.n)
        if step >= steps:
            self._end_bar()

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
