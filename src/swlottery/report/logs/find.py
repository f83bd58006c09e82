"""The log of ``swlottery find``, written for the person who will read the ``.out`` file."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swlottery.config import FindSettings
from swlottery.find.effects import Ablation
from swlottery.find.events import Drawn, Event, Finished, Planned, Prepared, Searched, Tested
from swlottery.find.generation import Generation
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.scan import LayerScan
from swlottery.find.search import Removal
from swlottery.find.spikes import RHO
from swlottery.report.logs import published, verdicts
from swlottery.report.logs.verification import VerificationLog
from swlottery.report.words import one_line, percent, table
from swlottery.version import __version__

if TYPE_CHECKING:
    from swlottery.models.loaded import Loaded

NULLS = {"entries": "entries: all of a matrix permuted", "rows": "rows: permuted within each row"}


class FindLog(VerificationLog):
    """Prints the sections of the log as the events come."""

    probe: Probe
    kappa = 0.0
    null = ""  # the kind of null that is being drawn

    def header(self, loaded: Loaded, prepared: Prepared, settings: FindSettings, seconds: float) -> None:
        """What is searched, with which prompts and which text."""
        import torch

        from swlottery.models.offload import where

        probe, text, windows = prepared.probe, prepared.text, prepared.documents.windows
        self.probe, self.kappa = probe, settings.kappa
        prompts = len(dict.fromkeys(probe.prompts))
        modes = " and ".join(sorted({"with BOS" if flag else "without BOS" for flag in probe.with_bos}))
        documents = f"{len(windows)} of {windows.shape[1]:,} tokens, evenly spread over the text"
        read_as = ""
        if settings.protocol == "wikitext2":
            read_as = ", read as the raw test split of WikiText-2" * (settings.eval_text not in ("builtin", "wikitext"))
            documents = (
                f"protocol wikitext2: {len(windows)} of {windows.shape[1]:,} tokens, the first of the text, one after "
                "the other; BOS only where the tokenizer puts it, in front of the whole text"
            )
        slow = settings.dtype == "auto" and loaded.dtype != loaded.stored_dtype
        why = f": this CPU is slow at {loaded.stored_dtype}" if slow else ""
        self.line(f"swlottery {__version__} find: where are the super weights, and do they matter?\n")
        facts = {
            "model": one_line(loaded.name) + (f" @ {loaded.revision}" if loaded.revision else ""),
            "what it is": loaded.note,
            "weights": f"sha256 {loaded.weights_sha256}",
            "precision": f"stored {loaded.stored_dtype}, run in {loaded.dtype}{why}",
            "device": f"{loaded.device}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "weights in": _places(where(loaded.model)) if settings.device_map else "",
            "probe": f"{prompts} prompts, {modes}: {int(probe.valid.sum())} tokens" + _unknown(probe.unknown),
            "cut": f"{probe.cut} of the prompts, to the model's context of {loaded.context} tokens" * bool(probe.cut),
            "bar": f"a spike: κ = {settings.kappa:g} times both medians, ρ = {RHO:g} times the residual stream's RMS",
            "text": one_line(text.name) + read_as + _unknown(prepared.unknown),
            "left out": text.note,
            "documents": documents,
            "seed": str(settings.seed),
            "loaded in": f"{seconds:.0f} s",
        }
        self.facts(facts, 11)

    def event(self, event: Event) -> None:
        match event:
            case Searched():
                self._layers(event.search.before)
                self._search(event)
            case Drawn():
                self._draw(event)
            case Tested():
                self._nulls(event)
            case Planned():
                self._plan(event)
            case Ablation():
                self._ablation(event)
            case Generation():
                self._generation(event)
            case Finished():
                self._verdicts(event.record)
                published.section(self, event.record)

    def _layers(self, layers: Sequence[LayerScan]) -> None:
        self.section("The largest input and output of each layer's down-projection")
        heads = ["layer", "input", "in channel", "output", "out channel"]
        cells, spikes = [], ["spikes (ratio: to the larger median)"]
        for layer in layers:
            peaks = [(f"{peak.value:,.1f}", str(peak.channel)) for peak in (layer.input, layer.output)]
            cells.append([str(layer.layer), *peaks[0], *peaks[1]])
            spikes.append(
                ", ".join(
                    f"out {spike.out}: {spike.value:,.1f} (ratio {spike.ratio:.0f}"
                    + (")" if spike.arrives else ", cancels an earlier one)")
                    for spike in layer.spikes
                )
            )
        for line, text in zip(table(heads, cells), spikes, strict=True):
            self.line(f"{line}   {text}".rstrip())

    def _search(self, event: Searched) -> None:
        result = event.search
        if result.near:
            self.line("below the bar (other prompts may lift them above it):")
        for spike in sorted(result.near, key=lambda spike: -spike.ratio)[:8]:
            where = f"layer {spike.layer}, out {spike.out}: {spike.value:,.1f}"
            self.line(f"       {where}, ratio {spike.ratio:.1f} = {spike.ratio / self.kappa:.2f} of the bar")
        self.section("The search, from the last layer to the first")
        channels: set[tuple[int, int]] = set()
        for removal in result.removals:
            channel = (removal.spike.layer, removal.spike.out)
            self._removal(removal, " that is left" if channel in channels else "")
            channels.add(channel)
        for removal in result.diffuse:
            spike = removal.spike
            self.line(
                f"diffuse: layer {spike.layer}, out {spike.out}: no single weight makes its spike, {spike.value:,.1f}\n"
                f"           shares: {_shares(removal)}"
            )
        for spike, largest in event.cancelling:
            self.line(
                f"canceller: layer {spike.layer}, out {spike.out}: adds {spike.added:,.1f} to a stream of "
                f"{spike.stream - spike.added:,.1f}\n           largest weight {largest.coordinate} "
                f"({largest.share:.0%}): no super weight, but tested below"
            )
        if not result.complete:
            self.line("THE LIMIT WAS REACHED: earlier layers were not searched; raise --max-weights")
        if not result.removals:
            why = "no arriving spike is above the bar"
            if result.diffuse:
                why = "arriving spikes are above the bar, but no single weight gives a tenth of one"
            self.line(f"No super weight: {why}.")
            leader = event.leader.contribution
            self.line(
                f"leader (the largest contribution of all, no super weight): {leader.coordinate}\n"
                f"           weight {leader.value:.4f} × input {leader.input:,.2f} = {leader.amount:,.2f}"
            )
            self.lines(f"           {lack}" for lack in event.leader.lacks(self.kappa))

    def _removal(self, removal: Removal, rest: str) -> None:
        spike, found = removal.spike, removal.found
        self.line(
            f"removal {removal.order}: {found.coordinate}\n"
            f"           weight {found.value:.4f} × input {found.input:,.1f} = {found.share:.0%} of a spike of "
            f"{spike.value:,.1f}{rest}\n"
            f"           ratio {spike.ratio:.0f}, {spike.rms_ratio:,.0f} times the stream's RMS, "
            f"at {self.probe.describe(*self.probe.place(spike.token))}\n"
            f"           shares: {_shares(removal)}"
        )

    def _draw(self, event: Drawn) -> None:
        if event.kind != self.null:
            self.end_bar()
            self.null = event.kind
            self.start_bar(event.total, f"null, {event.kind}", "draw")
        self.move_bar()

    def _nulls(self, event: Tested) -> None:
        self.section("How large is a spike by chance? (weights permuted, found weights out, real inputs kept)")
        cells = []
        for null in event.nulls:
            fired, low, high = null.firing(self.kappa)
            draws, ordered = len(null.largest), sorted(null.largest)
            ratios = [f"{ratio:.1f}" for ratio in (ordered[draws // 2], ordered[-1], event.observed)]
            above = [f"{fired * draws:.0f} of {draws}", f"{low:.1%} to {high:.1%}"]
            cells.append([NULLS[null.kind], str(draws), *ratios, f"{null.p_value(event.observed):.3g}", *above])
        heads = ["null", "draws", "median", "largest", "observed", "p", "above the bar", "95 % interval"]
        self.lines(table(heads, cells))
        self.line("  median, largest: of the largest ratio in each draw; observed: the largest ratio of the network")

    def compare(self, record: Record, before: Record | None) -> None:
        """Say whether the earlier record at the same path, if there was one, has the same super weights."""
        self.lines(verdicts.differences(record, before) if before else [])

    def footer(self, record: Record, out: Path, figures: Sequence[Path], seconds: float) -> None:
        """The command that tracks what was found, and where the files are."""
        scratch = record["note"].startswith("random")
        flags = ["--model", record["model"], "--start", "scratch" if scratch else "pretrained"]
        flags += ["--revision", record["revision"]] if record["revision"] else []
        flags += ["--seed", str(record["seed"])] if scratch else []
        flags += ["--super-weights", str(out) if record["super_weights"] else "discover"]
        self.section("What next")
        if record["super_weights"]:
            self.line("to track these weights through training and pruning, from this very network:")
        else:
            self.line(
                "no super weight to track. Training can look for its own, and tracks the leader where there is none:"
            )
        command = shlex.join(flags).replace("\n", "'$'\\n''")  # on one line, and the shell reads a line end in it
        self.line(f"    sbatch func_train.sh {command}")
        self.line(f"\nrecord   {one_line(out)}")
        self.lines(f"figure   {one_line(figure)}" for figure in figures)
        self.line(f"done in {seconds:.0f} s")


def _places(bytes_of: dict[str, int]) -> str:
    """Where the weights are."""
    words = {"cpu": "in CPU memory", "disk": f"in a folder under {tempfile.gettempdir()}, read at each pass"}
    return ", ".join(f"{size / 1e9:.2f} GB {words.get(place, f'on {place}')}" for place, size in bytes_of.items())


def _unknown(share: float) -> str:
    return f"; {percent(share)} of its tokens are unknown to the tokenizer" if share else ""


def _shares(removal: Removal) -> str:
    shares = [f"in {one.coordinate.in_} {one.share:.0%}" for one in removal.largest[:4] if one.share >= 0.01]
    return ", ".join(shares + [f"the bias {removal.bias_share:.0%}"] * (abs(removal.bias_share) >= 0.01))
