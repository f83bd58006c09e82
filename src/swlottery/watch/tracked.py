"""Which weights a run follows, where they come from, and whether they mean something in its network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import KAPPA, TrainSettings
from swlottery.errors import BadInput
from swlottery.find import probe as probes
from swlottery.find import record as records
from swlottery.find.search import leader, search
from swlottery.find.watching import activations
from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate
from swlottery.watch.rows import Followed

if TYPE_CHECKING:
    from torch import Tensor


def beforehand(network: Network, settings: TrainSettings, round_1: str | None = None) -> list[Followed]:
    """The weights that are followed from step 0: of a record, and those of ``--follow``.

    round_1: the hash of the trained network that the run branches from; a record of that one is no foreign one.

    A record without super weights gives its leader. Coordinates of another network are labelled foreign.

    Raises:
        BadInput: a record of another network without ``--allow-foreign``; a coordinate that the model does not have.
    """
    found = []
    if settings.super_weights not in ("discover", "none"):
        record = records.load(Path(settings.super_weights))
        kind = "super_weight" if record["super_weights"] else "leader"
        if record["weights_sha256"] not in (network.lineage, round_1):
            if not settings.allow_foreign:
                records.check_lineage(record, network.lineage, network.name)
            kind = "foreign"
        for weight in record["super_weights"] or [record["leader"]]:
            found.append(Followed(kind, coordinate_of(weight)))
    found += [Followed("foreign", Coordinate(*one)) for one in settings.coordinates()]
    for one in found:
        _check_place(network, one.coordinate)
    return list(dict.fromkeys(found))


def _check_place(network: Network, c: Coordinate) -> None:
    downs = network.roles.downs
    if c.layer < len(downs):
        experts, shape = downs[c.layer].experts, downs[c.layer].matrices()[0][1].shape
        if c.out < shape[0] and c.in_ < shape[1] and (c.expert is None) == (experts is None):
            return
    raise BadInput(
        f"{network.name} has no weight {c}: it has {len(downs)} layers of {tuple(downs[0].matrices()[0][1].shape)}"
    )


def look(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> tuple[str, list[dict[str, Any]]]:
    """Run the finder on the network as it is: (``super_weight``, those found) or (``leader``, the one).

    Each with layer, expert, out, in, value, spike ratio, share, and what it lacks to be a super weight.
    """
    device = next(network.model.parameters()).device
    fitting = [_cut(network.tokenizer, prompt, network.longest - 1) for prompt in prompts]
    probe = probes.build(network.tokenizer, fitting, network.longest, device=device)
    downs = network.roles.downs
    result = search(network.model, downs, probe)
    if result.removals:
        given = [(removal.found, removal.spike, list[str]()) for removal in result.removals]
    else:
        led = leader(downs, activations(network.model, downs, probe))
        given = [(led.contribution, led.entry, led.lacks(KAPPA))]
    return "super_weight" if result.removals else "leader", [
        {
            "layer": one.coordinate.layer, "expert": one.coordinate.expert, "out": one.coordinate.out,
            "in": one.coordinate.in_, "value": one.value, "ratio": spike.ratio, "share": one.share, "lacks": lacks,
        }
        for one, spike, lacks in given
    ]  # fmt: skip


def _cut(tokenizer: Any, prompt: str, longest: int) -> str:
    """The prompt, or as much of its start as fits a model of very short context."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return prompt if len(ids) <= longest else str(tokenizer.decode(ids[:longest]))


def coordinate_of(weight: dict[str, Any]) -> Coordinate:
    """The coordinate in an entry of an event or of a record."""
    return Coordinate(weight["layer"], weight["out"], weight["in"], weight["expert"])


def compare(followed: list[Coordinate], kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Which followed weights were found again (kept), which gave way to another, and which are lost.

    *Moved*: another weight that is not followed now feeds the same spike channel (layer, out); the leader, of which
    there is one, always moves.
    """
    now = [coordinate_of(weight) for weight in found]
    fresh = [c for c in now if c not in followed]
    kept = [c for c in followed if c in now]
    moved, lost = [], []
    for c in followed:
        heirs = fresh if kind == "leader" else [other for other in fresh if other[:2] == c[:2]]
        if c in now:
            continue
        if heirs:
            moved.append({"from": list(c[:3]), "to": list(heirs[0][:3])})
        else:
            lost.append(list(c[:3]))
    return {"kind": kind, "weights": found, "kept": [list(c[:3]) for c in kept], "moved": moved, "lost": lost}


def place_in_storage(matrix: Tensor, parameter: Tensor, c: Coordinate) -> int:
    """The flat position in ``parameter`` of entry (out, in) of ``matrix``, which is a view of it."""
    offset = int(matrix.storage_offset() - parameter.storage_offset())
    return offset + c.out * matrix.stride(0) + c.in_ * matrix.stride(1)
