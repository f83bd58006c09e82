"""Super weights that others have published, by hub id, and what the finder makes of each of them.

The table is published.csv: facts with their sources. A row without a coordinate says that a model has none.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from swlottery.config import FindSettings
from swlottery.errors import BadInput
from swlottery.find.ablation import Evaluator
from swlottery.find.activations import Activations, activations
from swlottery.find.attribution import MIN_SHARE, contributions, entry_at, given
from swlottery.find.effects import Ablation, paired
from swlottery.find.entries import effect_entry
from swlottery.find.events import Planned
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.search import Search
from swlottery.find.spikes import RHO, arrives, medians_of
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate, check_place
from swlottery.models.names import is_path

if TYPE_CHECKING:
    from torch import nn

PRECISION = re.compile(r"[-.](i?q\d\w*|b?f16|f32)$", re.IGNORECASE)
"""What stands behind a model's name in the name of a GGUF file."""
EFFECT = ("perplexity_ratio", "nll_difference", "nll_difference_interval", "level", "documents")
"""The keys of an ablation in a record."""


@dataclass(frozen=True)
class Published:
    """What a source says of a model: a super weight, or (None) that there is none."""

    coordinate: Coordinate | None
    source: str
    note: str

    @property
    def negative(self) -> bool:
        """Whether no critical weight is expected there."""
        return self.note.startswith("negative control")


@functools.cache
def table() -> dict[str, tuple[Published, ...]]:
    """All that is published, by hub id, in the order of published.csv."""
    text = resources.files("swlottery.find").joinpath("published.csv").read_text(encoding="utf-8")
    models: dict[str, tuple[Published, ...]] = {}
    for row in csv.DictReader(text.splitlines()):
        place = [row["layer"], row["out"], row["in"]]
        coordinate = Coordinate(*map(int, place)) if row["layer"] else None
        said = Published(coordinate, row["source"], row["note"])
        models[row["model"]] = (*models.get(row["model"], ()), said)
    return models


def identity(name: str) -> tuple[str, bool] | None:
    """(hub id in the table, whether only a name says so) of a model that was loaded by ``name``; or None.

    A hub id must be that of the table. A folder or a GGUF file is called as the model is, or is in its folder of the
    hub's cache.
    """
    ids = {model.lower(): model for model in table()}
    if not is_path(name) and name.lower() in ids:
        return ids[name.lower()], False
    parts = Path(os.path.abspath(os.path.expanduser(name))).parts if is_path(name) else (name,)
    for part in reversed(parts):
        if part.startswith("models--"):
            model = ids.get(part.removeprefix("models--").replace("--", "/", 1).lower())
            return (model, True) if model else None
    last = PRECISION.sub("", parts[-1].removesuffix(".gguf")).lower()
    return next(((ids[one], True) for one in ids if one.partition("/")[2] == last), None)


@dataclass(frozen=True)
class Known:
    """What is published of a model. by_name: only its name says that it is ``model``."""

    model: str
    weights: tuple[Published, ...]
    by_name: bool

    @property
    def coordinates(self) -> list[Coordinate]:
        return [one.coordinate for one in self.weights if one.coordinate]


def known(name: str, settings: FindSettings, downs: Sequence[DownProjection]) -> Known | None:
    """What is published of the model that was loaded by ``name``; None for a model of which nothing is.

    Where only a name says which model it is, it must have a place for each of the weights.
    """
    found = identity(name) if settings.start != "scratch" else None
    if not found:
        return None
    result = Known(found[0], table()[found[0]], by_name=found[1] or settings.model != name)
    return None if result.by_name and not all(_is_there(downs, one) for one in result.coordinates) else result


def _is_there(downs: Sequence[DownProjection], coordinate: Coordinate) -> bool:
    with suppress(BadInput):
        check_place(downs, coordinate, "")
        return True
    return False


def compare(
    known: Known,
    record: Record,
    evaluator: Evaluator,
    probe: Probe,
    search: Search,
    settings: FindSettings,
    observe: Callable[[Planned | Ablation], None],
) -> Record:
    """What became of each published weight, as entries of the ``record``.

    Those that were neither found nor asked for are verified alone, and all of them jointly, without controls.
    """
    downs, before = evaluator.roles.downs, evaluator.forward_tokens
    found = {Coordinate.of(weight): weight for weight in record["super_weights"]}
    tested = {Coordinate.of(weight): weight for weight in record.get("ablated", [])} | found
    there = [coordinate for coordinate in known.coordinates if _is_there(downs, coordinate)]
    missed = [coordinate for coordinate in there if coordinate not in found]
    sets = [("alone", [coordinate]) for coordinate in there if coordinate not in tested]
    sets += [("joint", there)] * (len(there) > 1)
    if sets:
        passes = {"published": sum(evaluator.share(members) for _, members in sets)}
        observe(Planned(passes, record["eval_tokens"], evaluator.seconds, published=known.model))
    effects = {}
    for kind, members in sets:
        row = paired(kind, members, evaluator.nll(members), evaluator.baseline, settings.seed)
        observe(row)
        effects[row.coordinates] = effect_entry(row)
    why = why_missed(evaluator.model, downs, probe, search, missed, settings.kappa)
    entries = []
    for one in known.weights:
        if (at := one.coordinate) is None:
            continue
        weight = tested.get(at, {})
        effect = effects.get((at,)) or {key: weight.get(key) for key in EFFECT}
        entries.append(
            {
                **at.entry(),
                "source": one.source,
                "note": one.note,
                "value": float(downs[at.layer].matrix(at.expert)[at.out, at.in_]) if at in there else None,
                "found": at in found,
                "removal": weight.get("removal"),
                "verdict": weight.get("verdict"),
                "why": None if at in found else why.get(at, "the model has no such weight"),
                **effect,
            }
        )
    return {
        "forward_tokens": {**record["forward_tokens"], "published": round(evaluator.forward_tokens - before)},
        "published_model": known.model,
        "published_by_name": known.by_name,
        "published": entries,
        "published_joint": effects.get(tuple(there)) if len(there) > 1 else None,
    }


def why_missed(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    search: Search,
    missed: Sequence[Coordinate],
    kappa: float,
) -> dict[Coordinate, str]:
    """For each weight that the search did not find why it did not, in words. The model is intact."""
    if not missed:
        return {}
    layers = [downs[layer] for layer in sorted({coordinate.layer for coordinate in missed})]
    now = {one.down.layer: one for one in activations(model, layers, probe)}
    return {coordinate: why(now[coordinate.layer], coordinate, search, kappa) for coordinate in missed}


def why(now: Activations, coordinate: Coordinate, search: Search, kappa: float) -> str:
    """Which of the conditions of a spike (see spikes.py) its channel lacks, or which weight makes the spike."""
    import torch

    output, added, stream = (matrix[:, coordinate.out] for matrix in (now.output, now.added, now.stream))
    ratio = output.abs() / medians_of(now.output, coordinate.out)
    rms_ratio = added.abs() / now.rms
    high = float(ratio.max())
    if high < kappa:
        what = "the spike of its channel is below the bar" if high >= kappa / 2 else "its channel has no spike"
        return f"{what}: its largest ratio is {high:.1f}, {high / kappa:.2f} of κ"
    above = ratio >= kappa
    reaching = above & (rms_ratio >= RHO)
    if not reaching.any():
        size = float(rms_ratio[above].max())
        return f"the spike of its channel is {size:.1f} times the stream's RMS, where ρ = {RHO:g} is needed"
    arriving = reaching & arrives(added, stream)
    if not arriving.any():
        return f"the spike of its channel cancels an earlier one (ratio {high:.0f})"
    token = int(torch.where(arriving, ratio, 0.0).argmax())
    spike = entry_at(now, token, coordinate.out)
    most, _ = contributions(now, spike, 1)
    weight = float(now.down.matrix(coordinate.expert)[coordinate.out, coordinate.in_])
    share = float(given(now.inputs, coordinate, weight, now.output)[token]) / spike.value
    if not most or most[0].share < MIN_SHARE:
        return f"no single weight makes the spike of its channel (ratio {spike.ratio:.0f}); its share is {share:.0%}"
    (largest,) = most
    if largest.coordinate not in search.coordinates:
        return f"the search reached its limit (--max-weights) before it; it makes {share:.0%} of its channel's spike"
    order = 1 + search.coordinates.index(largest.coordinate)
    return (
        f"removal {order}, {largest.coordinate}, makes the spike of its channel (share {largest.share:.0%}; "
        f"its own is {share:.0%})"
    )
