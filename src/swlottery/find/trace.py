"""Following weights through the checkpoints of one training: one look at a network, and given weights looked up in it.

A weight is looked up at the token where what it gives, W[o,i] · x_i(t) · sign(y_o(t)), stands furthest above the larger
of the entry's two medians. There its ratio and its share are measured, whether or not it is a spike.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import KAPPA, MAX_WEIGHTS
from swlottery.find.ablation import Evaluator
from swlottery.find.activations import activations
from swlottery.find.attribution import given, leader
from swlottery.find.effects import paired
from swlottery.find.probe import Probe
from swlottery.find.search import search
from swlottery.find.spikes import medians_of
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate, rank_of
from swlottery.models.down import Entered, Inputs
from swlottery.runtime import files

if TYPE_CHECKING:
    from torch import Tensor, nn

COLUMNS = (
    *("checkpoint", "step", "tokens", "layer", "expert", "out", "in"),
    *("value", "rank", "ratio", "share", "found", "nll_difference", "low", "high"),
)
"""Of trace.csv: a row a checkpoint and weight."""

Entry = dict[str, Any]


def found_in(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, kappa: float = KAPPA, limit: int = MAX_WEIGHTS
) -> tuple[str, list[Entry]]:
    """Search a network as it is: (``super_weight``, those found) or (``leader``, the one).

    Each with layer, expert, out, in, value, spike ratio, share, and what it lacks to be a super weight.
    """
    result = search(model, downs, probe, kappa, limit)
    if result.removals:
        those = [(removal.found, removal.spike, list[str]()) for removal in result.removals]
    else:
        led = leader(activations(model, downs, probe))
        those = [(led.contribution, led.entry, led.lacks(kappa))]
    return "super_weight" if result.removals else "leader", [
        {**one.coordinate.entry(), "value": one.value, "ratio": spike.ratio, "share": one.share, "lacks": lacks}
        for one, spike, lacks in those
    ]


def followed(looks: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Coordinate]:
    """The weights found in any of the checkpoints, in the order of their first; where there are none, the last leader.

    looks: of each checkpoint what `found_in` says.
    """
    found = [Coordinate.of(weight) for kind, weights in looks if kind == "super_weight" for weight in weights]
    return list(dict.fromkeys(found)) or [Coordinate.of(weight) for weight in looks[-1][1]]


def measured(coordinate: Coordinate, matrix: Tensor, inputs: Iterable[Inputs], output: Tensor) -> Entry:
    """One weight in one network: its value, the rank of |w| in its matrix, its ratio and share (see above).

    Args:
        matrix: its down-projection, ``[out, in]``. inputs: what enters the layer's matrices, or that one alone.
        output: the layer's output ``[tokens, out]``, in float32.
    """
    out, in_ = coordinate.out, coordinate.in_
    value, y = float(matrix[out, in_]), output[:, out]
    amounts = given(inputs, coordinate, value, output) * y.sign()
    medians = medians_of(output, out)
    at = int((amounts / medians).argmax())
    return {
        "value": value,
        "rank": rank_of(matrix.abs(), out, in_),
        "ratio": float(y[at].abs() / medians[at]),
        "share": float(amounts[at] / y[at].abs().clamp_min(1e-30)),
    }


def look_up(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, those: Sequence[Coordinate]
) -> list[Entry]:
    """`measured` of each weight, in a network as it is."""
    layers = [downs[layer] for layer in sorted({one.layer for one in those})]
    now = {one.down.layer: one for one in activations(model, layers, probe)}
    return [
        measured(one, downs[one.layer].matrix(one.expert), now[one.layer].inputs, now[one.layer].output)
        for one in those
    ]


def effects(
    model: nn.Module,
    roles: Roles,
    windows: Tensor,
    those: Sequence[Coordinate],
    poll: Callable[[], None] = lambda: None,
) -> list[Entry]:
    """What it costs to set each weight to zero, alone, on ``windows[documents, tokens]``: see `effects.paired`.

    poll: called before each weight; its exceptions end the work.
    """
    if not those:
        return []
    evaluator, found = Evaluator(model, roles, windows, [one.layer for one in those]), []
    for one in those:
        poll()
        row = paired("alone", [one], evaluator.nll([one]), evaluator.baseline)
        found.append({"nll_difference": row.difference, "low": row.low, "high": row.high})
    return found


@contextmanager
def counted(downs: Sequence[DownProjection]) -> Iterator[Callable[[], int]]:
    """Count forward tokens inside the ``with`` block: tokens × blocks that ran ÷ blocks of the model."""
    seen = 0

    def see(entered: Entered, output: Tensor) -> None:
        nonlocal seen
        seen += output.numel() // output.shape[-1]

    with ExitStack() as hooks:
        for down in downs:
            hooks.enter_context(down.hooked(see))
        yield lambda: -(-seen // len(downs))


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name: ``step1000``, ``checkpoint-1000``, ``stage1-step1000-tokens4B``; else None."""
    number = re.search(r"(?:step|checkpoint)[-_]?(\d{1,15})(?!\d)", name, re.IGNORECASE)
    return int(number[1]) if number else None


def tokens_of(name: str) -> int | None:
    """The tokens in a checkpoint's name: 4,000,000,000 of ``step1000-tokens4B``; else None."""
    number = re.search(r"tokens[-_]?(\d{1,9}(?:\.\d{1,6})?)([KMBT])(?![A-Za-z0-9])", name, re.IGNORECASE)
    return round(float(number[1]) * 1000 ** (" KMBT".index(number[2].upper()))) if number else None


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write trace.csv. What is not known is empty; ``found`` is 0 or 1."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "found": int(row["found"])} for row in rows)
    files.write_text(path, text.getvalue())


def read(path: Path) -> list[Entry]:
    """The rows of a trace.csv: the inverse of `write`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: _cell(name, text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [{**row, "found": bool(row["found"])} for row in rows]


def _cell(name: str, text: str) -> Any:
    if name == "checkpoint":
        return text
    is_real = name in ("value", "ratio", "share", "nll_difference", "low", "high")
    return (float(text) if is_real else int(text)) if text else None
