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

from swlottery.config import FindSettings
from swlottery.errors import BadInput
from swlottery.find.ablation import Evaluator
from swlottery.find.effects import Ablation, paired
from swlottery.find.entries import effect_entry
from swlottery.find.events import Planned
from swlottery.find.missed import why_missed
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.search import Search
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate, check_place
from swlottery.models.names import is_path

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
        """The published weights."""
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
