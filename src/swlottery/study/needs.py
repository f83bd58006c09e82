"""What the points of a study will take, from their settings and the shapes of their models: nothing is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from swlottery.config import TrainSettings
from swlottery.data.tokenizer import VOCABULARY
from swlottery.errors import BadInput
from swlottery.lottery.start import tokenizer_name, training_context
from swlottery.runtime import files, sums
from swlottery.runtime.checkpoint import KEPT
from swlottery.runtime.folder import read_status
from swlottery.study.grid import Point

Pace = tuple[float, str]
"""Tokens a second of one process, and where that is known from."""


@dataclass(frozen=True)
class Needs:
    """What points take. None: not known.

    disk: bytes of their folders in the end. working: bytes more that each needs for its checkpoints while it runs.
    """

    trainings: int
    steps: int
    tokens: int | None
    seconds: float | None
    disk: int | None
    working: int | None


def of_points(points: Sequence[Point], paces: dict[tuple[str, int], Pace], given: float = 0) -> Needs:
    """What these points take in all. paces: see `measured`; given: tokens a second, which win."""
    each = [_of_point(point, paces, given) for point in points]

    def whole(name: str) -> Any:
        values = [getattr(one, name) for one in each]
        return None if None in values else max(values) if name == "working" else sum(values)

    return Needs(**{field.name: whole(field.name) for field in fields(Needs)})


def _of_point(point: Point, paces: dict[tuple[str, int], Pace], given: float) -> Needs:
    settings = TrainSettings(**point.settings)
    later = settings.trainings - 1
    first = not (point.parent or settings.from_round_1)
    steps = settings.steps * first + later * (settings.steps - settings.rewind_step)
    trainings = later + first
    scratch = settings.start == "scratch"
    builtin = scratch and tokenizer_name(settings) == "builtin"
    shape = _shape(settings.model, scratch, settings.vocabulary or VOCABULARY * builtin, settings.scope)
    context = settings.context or (training_context(settings, shape[0]) if shape else 0)
    tokens = steps * settings.micro_batch * settings.grad_accum * context or None
    pace = given or paces.get((settings.model, settings.context), (0, ""))[0]
    seconds = tokens / pace if tokens and pace else None
    if shape is None:
        return Needs(trainings, steps, tokens, seconds, None, None)
    _, parameters, in_scope, downs = shape
    networks = 3 + (settings.rewind_step > 0)  # θ_0, round_1 and final; and θ_k
    disk = 4 * (networks * parameters + 3 * downs) + settings.trainings * in_scope // 8
    return Needs(trainings, steps, tokens, seconds, disk, (KEPT + 1) * 4 * (3 * parameters + 2 * downs))


@cache
def _shape(name: str, scratch: bool, rows: int, scope: str) -> tuple[int, int, int, int] | None:
    """The longest sequence that a model takes, and how many entries it has: in all, in scope, in down-projections.

    None for a model on the hub, which is not asked. rows: of the embedding from scratch; 0: GPT-2's.
    """
    from swlottery.lottery.scope import in_scope
    from swlottery.models import load as models
    from swlottery.models import pretrained, tokenizers
    from swlottery.models.architectures import Roles
    from swlottery.models.loaded import context_of
    from swlottery.models.names import locate

    try:
        if scratch:
            config = models.shape(name, **({"vocab_size": rows} if rows else {}))
        elif isinstance(where := locate(name)[0], Path):
            config = tokenizers.load(where, None, name)[1]
        else:
            return None
        model = pretrained.empty(name, config)
        roles = Roles(model)
        scoped = in_scope(model, roles, scope).values()
    except BadInput:
        return None
    downs = [parameter for path, parameter in model.named_parameters() if roles.role_of(path, parameter) == "mlp-out"]
    counts = [sum(one.numel() for one in some) for some in (model.parameters(), scoped, downs)]
    return context_of(config), counts[0], counts[1], counts[2]


def measured(folder: Path) -> dict[tuple[str, int], Pace]:
    """(model, context) → the pace of the runs in a study's folder: their median, on the device that most ran on."""
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in (path.parent for path in folder.glob("*/*/status.json")):
        with suppress(OSError, ValueError, LookupError, TypeError):
            settings, here = files.read_json(run / "settings.json"), sums.read_sealed(run / "environment.json")
            device = (here["gpu"] or {"name": f"CPU (threads: {here['threads']})"})["name"]
            pace = read_status(run)["tokens_per_second"] / here["tasks"]
            found[settings["model"], settings["context"]][device].append(pace)
    best = {key: max(devices.items(), key=lambda one: len(one[1])) for key, devices in found.items()}
    return {key: (median(paces), f"{len(paces)} of its runs, {device}") for key, (device, paces) in best.items()}
