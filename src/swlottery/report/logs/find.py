"""The log of ``swlottery find``, written for the person who will read the ``.out`` file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery import __version__
from swlottery.config import FindSettings
from swlottery.find.null import KINDS
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.run import Drawn, Event, Finished, Planned, Searched, Tested
from swlottery.find.search import Contribution, Removal
from swlottery.find.spikes import RHO, Spike
from swlottery.find.verify import CRITICAL, INERT, Ablation
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor

    from swlottery.data.evaluation import Text
    from swlottery.models.load import Loaded

_NULL_NAMES = {"entries": "all entries of a matrix permuted", "rows": "permuted within rows"}
_KINDS = {
    "alone": "alone",
    "restored": "alone, spike put back",
    "joint": "together",
    "left in": "together, one left in",
    "control": "control, nearest in |w|",
    "random set": "random set",
    "largest others": "largest other weights",
    "canceller": "canceller's largest weight",
}


class FindLog:
    """Prints the sections of the log as the events come; progress bars only where ``bars`` (a terminal)."""

    def __init__(self, bars: bool) -> None:
        self.bars = bars
        self.bar: Any = None
        self.probe: Probe
        self.kappa = 0.0
        self.kind = ""
        self.per_pass = 0

    def section(self, title: str) -> None:
        self._end_bar()
        self.line(f"\n{title}\n{'-' * len(title)}")

    def line(self, text: str = "") -> None:
        if self.bar is not None:
            self.bar.clear()
        print(text, flush=True)

    def header(
        self, loaded: Loaded, probe: Probe, text: Text, windows: Tensor, settings: FindSettings, seconds: float
    ) -> None:
        import torch

        self.probe, self.kappa = probe, settings.kappa
        prompts = len(dict.fromkeys(probe.prompts))
        modes = " and ".join(sorted({"with BOS" if flag else "without BOS" for flag in probe.with_bos}))
        self.line(f"swlottery {__version__} find: where are the super weights, and do they matter?\n")
        for name, value in (
            ("model", loaded.name + (f" @ {loaded.revision}" if loaded.revision else "")),
            ("what it is", loaded.note),
            ("weights", f"sha256 {loaded.weights_sha256}"),
            ("precision", f"stored {loaded.stored_dtype}, run in {loaded.dtype}" + _why(loaded, settings)),
            ("device", f"{loaded.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"),
            ("probe", f"{prompts} prompts, {modes}: {int(probe.valid.sum())} tokens"),
            ("bar", f"κ = {settings.kappa:g} times both medians, ρ = {RHO:g} times the residual stream's RMS"),
            ("text", text.name),
            ("documents", f"{len(windows)} of {windows.shape[1]} tokens, evenly spread over the text"),
            ("seed", str(settings.seed)),
            ("loaded in", f"{seconds:.0f} s"),
        ):
            if value:
                self.line(f"{name:<11}{value}")

    def event(self, event: Event) -> None:
        match event:
            case Searched():
                self._searched(event)
            case Drawn():
                self._drawn(event)
            case Tested():
                self._tested(event)
            case Planned():
                self._planned(event)
            case Ablation():
                self._ablated(event)
            case Finished():
                self._finished(event.record)

    def _searched(self, event: Searched) -> None:
        result = event.search
        self.section("The largest input and output of each layer's down-projection")
        self.line("layer       input  in channel        output  out channel   spikes (ratio: times the larger median)")
        for layer in result.before:
            spikes = ", ".join(
                f"out {spike.out}: {spike.value:,.1f} (ratio {spike.ratio:.0f}"
                + (")" if spike.arrives else ", CANCELS an earlier one)")
                for spike in layer.spikes
            )
            self.line(
                f"{layer.layer:5}  {layer.input.value:10,.1f}  {layer.input.channel:10}  {layer.output.value:12,.1f}  "
                f"{layer.output.channel:11}   {spikes}".rstrip()
            )
        for spike in sorted(result.near, key=lambda spike: -spike.ratio)[:8]:
            self.line(
                f"below the bar: layer {spike.layer}, out {spike.out}: {spike.value:,.1f}, ratio {spike.ratio:.1f} = "
                f"{spike.ratio / self.kappa:.2f} of the bar (other prompts may lift it over)"
            )
        self.section("The search: from the last layer to the first, the largest spike of a layer first")
        for removal in result.removals:
            self.line(
                f"removal {removal.order}: {removal.found.coordinate}  weight {removal.found.value:.4f} × input "
                f"{removal.found.input:,.1f} = {removal.found.share:.0%} of a spike of {removal.spike.value:,.1f}{_rest(removal, result.removals)} "
                f"(ratio {removal.spike.ratio:.0f}, {removal.spike.rms_ratio:,.0f} times the stream's RMS)\n"
                f"           at {self._at(removal.spike)}; made by {_made_by(removal.largest, removal.bias_share)}"
            )
        for removal in result.diffuse:
            self.line(
                f"diffuse: layer {removal.spike.layer}, out {removal.spike.out}: a spike of {removal.spike.value:,.1f} "
                f"that no single weight makes: {_made_by(removal.largest, removal.bias_share)}"
            )
        for spike, given in event.cancelling:
            before = spike.stream - spike.added
            self.line(
                f"canceller: layer {spike.layer}, out {spike.out}: {spike.added:,.1f} onto a stream of {before:,.1f}, "
                f"largest weight {given.coordinate} ({given.share:.0%}); not taken for a super weight, but tested below"
            )
        if not result.complete:
            self.line("THE LIMIT WAS REACHED: earlier layers were not searched; raise --max-weights")
        if not result.removals:
            self.line(
                "No super weight: arriving spikes stand above the bar, but no single weight gives a tenth of one."
                if result.diffuse
                else "No super weight: no arriving spike stands above the bar."
            )
            led = event.leader.contribution
            self.line(
                f"leader (the largest contribution of all, no super weight): {led.coordinate}  weight {led.value:.4f} × "
                f"input {led.input:,.2f} = {led.amount:,.2f}; {'; '.join(event.leader.lacks(self.kappa))}"
            )

    def _at(self, spike: Spike) -> str:
        return self.probe.describe(*self.probe.place(spike.token))

    def _drawn(self, event: Drawn) -> None:
        if event.kind != self.kind:
            self._end_bar()
            self.kind = event.kind
            self._start_bar(event.total, f"null, {event.kind}", "draw")
        if self.bar is not None:
            self.bar.update()

    def _tested(self, event: Tested) -> None:
        self.section("How large a spike would unaligned weights make? (real inputs kept, found weights out)")
        for null in event.nulls:
            fired, low, high = null.firing(self.kappa)
            draws = len(null.largest)
            ordered = sorted(null.largest)
            self.line(
                f"{null.kind:<8} ({_NULL_NAMES[null.kind]}): {draws} draws, largest ratio anywhere: median "
                f"{ordered[draws // 2]:.1f}, at most {ordered[-1]:.1f}; seen {event.observed:.1f}: "
                f"p = {null.p_value(event.observed):.3g}; above the bar in {fired * draws:.0f} of {draws} draws "
                f"({low:.1%} to {high:.1%})"
            )

    def _planned(self, event: Planned) -> None:
        self.per_pass = event.documents * event.window
        self.section("Do they matter? Weights set to zero, on held-out text")
        self.line(
            f"cost: at most {event.passes} passes × {self.per_pass:,} tokens = {event.passes * self.per_pass:,} tokens, "
            "each from the first changed block on\n"
            "perplexity: × that of the intact model; ΔNLL: nats a token, paired, 95 % bootstrap over documents"
        )
        self._start_bar(event.passes * self.per_pass, "verification", "token")

    def _ablated(self, row: Ablation) -> None:
        if row.kind == "intact":
            return
        numbers = f"× {row.perplexity_ratio:<10.4g} ΔNLL {row.difference:+8.4f}  [{row.low:+.4f}, {row.high:+.4f}]"
        self.line(f"{_KINDS[row.kind]:<27}{numbers:<58} {' '.join(map(str, row.coordinates))}")
        if self.bar is not None:
            self.bar.update(self.per_pass)

    def _finished(self, record: Record) -> None:
        self._end_bar()
        self.line(
            f"intact: perplexity {record['baseline_perplexity']:.2f} on {record['documents']} documents of "
            f"{record['eval_tokens'] // record['documents']} tokens (short documents: not comparable with perplexities "
            "on long context)"
        )
        self.section("Verdicts")
        for sentence in sentences(record):
            self.line(sentence)

    def compare(self, record: Record, before: Record | None) -> None:
        """Say whether the record that stands at the same place, of the same weights, found the same."""
        for sentence in differences(record, before) if before else []:
            self.line(sentence)

    def footer(self, record: Record, out: Path, figures: Sequence[Path], seconds: float) -> None:
        self.section("What next")
        scratch = record["note"].startswith("random")
        flags = ["--model", record["model"], "--start", "scratch" if scratch else "pretrained"]
        flags += ["--revision", record["revision"]] if record["revision"] else []
        flags += ["--seed", str(record["seed"])] if scratch else []
        if record["super_weights"]:
            self.line("to follow these weights through training and pruning, from these very weights:")
            flags += ["--super-weights", str(out)]
        else:
            self.line("there is nothing to follow but the leader; training can look for super weights of its own:")
            flags += ["--super-weights", "discover"]
        self.line(f"    sbatch func_train.sh {shlex.join(flags)}")
        self.line(f"\nrecord   {out}")
        for figure in figures:
            self.line(f"figure   {figure}")
        self.line(f"done in {seconds:.0f} s")

    def _start_bar(self, total: int, what: str, unit: str) -> None:
        if self.bars:
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, leave=False, file=sys.stderr)

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def _made_by(largest: Sequence[Contribution], bias_share: float) -> str:
    parts = [f"in {given.coordinate.in_} {given.share:.0%}" for given in largest[:4] if given.share >= 0.01]
    return ", ".join(parts + ([f"the bias {bias_share:.0%}"] if abs(bias_share) >= 0.01 else []))


def _rest(removal: Removal, removals: Sequence[Removal]) -> str:
    earlier = {(r.spike.layer, r.spike.out) for r in removals if r.order < removal.order}
    return " that is left" if (removal.spike.layer, removal.spike.out) in earlier else ""


def place(weight: Record) -> Coordinate:
    """The coordinate of an entry of a record."""
    return Coordinate(weight["layer"], weight["out"], weight["in"], weight["expert"])


def sentences(record: Record) -> list[str]:
    """The verdicts, one sentence each, from a record."""
    weights = record["super_weights"]
    said = []
    for weight in weights:
        low, high = weight["nll_difference_interval"]
        effect = (
            f"without it the perplexity is × {weight['perplexity_ratio']:.4g} "
            f"(ΔNLL {weight['nll_difference']:+.3f} nat, {low:+.3f} to {high:+.3f})"
        )
        reason = {
            "critical": f"is critical: {effect}, more than {CRITICAL} nat and than any control",
            "jointly critical": f"is jointly critical: alone {effect}, but it is needed in a set that is critical",
            "weak": f"is weak: {effect}",
            "inert": f"is inert: {effect}, inside ±{INERT} nat",
            "undetermined": f"is undetermined: {effect}; {_decide(weight['tokens_to_decide'])}",
        }[weight["verdict"]]
        restored = weight["restored"]
        if restored and weight["nll_difference"] > 0:
            back = 1 - restored["nll_difference"] / weight["nll_difference"]
            reason += f"; with its spike alone put back, {back:.0%} of the loss is recovered"
        said.append(f"{place(weight)} {reason}.")
    for joint in record["joint"]:
        if joint["critical"]:
            members = ", ".join(str(place(weights[member])) for member in joint["members"])
            said.append(
                f"Together, {members} are critical and none of them is idle: without them the perplexity is × "
                f"{joint['perplexity_ratio']:.4g} (ΔNLL {joint['nll_difference']:+.3f} nat)."
            )
    for canceller in record["cancellers"]:
        said.append(
            f"The spike at layer {canceller['layer']}, out {canceller['out']} cancels an earlier one and makes no super "
            f"weight; without its largest weight {place(canceller)} the perplexity is × "
            f"{canceller['perplexity_ratio']:.4g}."
        )
    ordinary = [row["perplexity_ratio"] for row in record["controls"] if row["kind"] == "control"]
    if ordinary:
        said.append(f"The {len(ordinary)} controls: perplexity × {min(ordinary):.4f} to {max(ordinary):.4f}.")
    if not weights:
        said.append("No super weight: nothing to verify.")
    if record["note"]:
        said.append(f"All this is about {record['note']}.")
    return said


def _decide(tokens: int | None) -> str:
    return f"about {tokens:,} tokens would decide" if tokens else "if anything, the model is better without it"


def differences(record: Record, before: Record) -> list[str]:
    """What differs from an earlier record of the same weights, and why."""
    if before["weights_sha256"] != record["weights_sha256"]:
        return ["The record that stood here was made from other weights; it is replaced."]
    new, old = ({place(weight): weight for weight in one["super_weights"]} for one in (record, before))
    changed = [
        f"{name} {_short(before[name])} → {_short(record[name])}"
        for name in ("prompts", "bos", "dtype", "kappa")
        if before[name] != record[name]
    ]
    settings = "; ".join(changed) or "the same settings"
    if set(new) == set(old):
        return [f"The same {len(new)} weights as in the record that stood here ({settings})."]
    said = [f"Not the same weights as in the record that stood here ({settings}):"]
    near = {(spike["layer"], spike["out"]): spike["ratio"] for spike in record["near_misses"]}
    near_before = {(spike["layer"], spike["out"]): spike["ratio"] for spike in before["near_misses"]}
    for here, there, ratios, when, then in (
        (new, old, near_before, "new", "before"), (old, new, near, "gone", "now"),
    ):  # fmt: skip
        for coordinate in sorted(set(here) - set(there)):
            ratio = here[coordinate]["ratio"]
            other = ratios.get(coordinate[:2])
            level = f"its channel reached {other / record['kappa']:.2f} of the bar" if other else "it stood well below"
            said.append(f"  {when}: {coordinate}, at {ratio / record['kappa']:.2f} of the bar; {then} {level}")
    return said


def _short(value: Any) -> str:
    return f"{len(value)} prompts" if isinstance(value, list) and len(value) > 2 else str(value)


assert set(_NULL_NAMES) == set(KINDS)


def _why(loaded: Loaded, settings: FindSettings) -> str:
    if settings.dtype == "auto" and loaded.dtype != loaded.stored_dtype:
        return f": this CPU is slow at {loaded.stored_dtype}"
    return ""
