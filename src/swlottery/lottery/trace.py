"""When do super weights form? Round 1 is looked at after 1, 2, 4, … steps and at its end.

Nobody knows at a step which weights will be found later. So what any weight's spike can be measured from is kept until
round 1 ends: the down-projections, what enters them and what leaves them. Then each weight that was found at any step
is looked up in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swlottery.config import MAX_WEIGHTS
from swlottery.find.activations import activations
from swlottery.find.trace import counted, effects, followed, found_in, measured
from swlottery.lottery.look import probe_of
from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate
from swlottery.models.down import Inputs

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENTS, WINDOW = 32, 128
"""The held-out text on which found weights are set to zero: the beginnings of so many windows of the evaluations."""


def steps(total: int) -> list[int]:
    """1, 2, 4, … and the last: after these steps of a round of ``total`` steps the network is looked at."""
    return [*(1 << n for n in range(total.bit_length()) if 1 << n < total), total]


def text(windows: Tensor) -> Tensor:
    """Of the evaluations' windows ``[n, context + 1]`` what weights are set to zero on; the model may take no more."""
    return windows[:DOCUMENTS, : min(WINDOW, windows.shape[1] - 1)]


def kept(network: Network, windows: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is kept of the network as it is now: tensors, and JSON: what is found, and what that is worth now.

    ``w/layer/expert`` is a matrix ``[out, in]``; ``x/…`` what enters it at the tokens ``t/…``; ``y/layer`` the output.
    """
    model, downs = network.model, network.roles.downs
    probe, tensors = probe_of(network), dict[str, "Tensor"]()
    with counted(downs) as forward:
        kind, weights = found_in(model, downs, probe)
        found = [Coordinate.of(weight) for weight in weights] if kind == "super_weight" else []
        worth = effects(model, network.roles, text(windows), found)
        for now in activations(model, downs, probe):
            layer = now.down.layer
            tensors[f"y/{layer}"] = now.output
            tensors |= {f"w/{layer}/{expert}": matrix for expert, matrix in now.down.matrices()}
            for inputs in now.inputs:
                tensors |= {f"x/{layer}/{inputs.expert}": inputs.values, f"t/{layer}/{inputs.expert}": inputs.tokens}
    return tensors, {"kind": kind, "weights": weights, "effects": worth, "forward_tokens": forward()}


def looked_up(stored: Sequence[tuple[int, dict[str, Any], Any]], tokens: int) -> list[dict[str, Any]]:
    """The rows of trace.csv: each weight found at any step, at all of them.

    Its effect is known where it was found only: elsewhere it is not measured.

    Args:
        stored: of each step its number, the JSON of `kept`, and safetensors' open file with its tensors.
        tokens: of a step.
    """
    those = followed([(content["kind"], content["weights"]) for _, content, _ in stored])
    rows = []
    for step, content, file in stored:
        found = [Coordinate.of(weight) for weight in content["weights"]] if content["effects"] else []
        worth = dict(zip(found, content["effects"], strict=True))
        for one in those:
            place = f"{one.layer}/{one.expert}"
            inputs = []  # where no token goes to the expert
            if f"x/{place}" in file.keys():  # noqa: SIM118 (it is no mapping)
                inputs.append(Inputs(one.expert, file.get_tensor(f"t/{place}"), file.get_tensor(f"x/{place}")))
            seen = measured(one, file.get_tensor(f"w/{place}"), inputs, file.get_tensor(f"y/{one.layer}"))
            where = {"checkpoint": f"step{step}", "step": step, "tokens": step * tokens, **one.entry()}
            nothing = {"nll_difference": None, "low": None, "high": None}
            rows.append({**where, **seen, "found": one in worth, **worth.get(one, nothing)})
    return rows


def cost(
    total: int, probe: int, padded: int, evaluated: int, layers: Sequence[tuple[int, int]]
) -> dict[str, int | list[int]]:
    """What tracing a round takes at most: steps, forward tokens and bytes on disk.

    A look has a pass for the spikes and one after all removals, one for each layer that has spikes and for each weight
    that is taken out, one for the leader, and one for what is kept. Each weight that is found takes one pass over text,
    and one more is that of the intact network.

    Args:
        total: steps of the round. probe, padded: tokens of the probe, without and with padding. evaluated: of the text.
        layers: of each the weights in its down-projection, and the values that enter and leave that at a token.
    """
    passes = 4 + len(layers) + MAX_WEIGHTS
    looked = steps(total)
    return {
        "steps": looked,
        "forward_tokens": len(looked) * (passes * padded + (1 + MAX_WEIGHTS) * evaluated),
        "bytes": len(looked) * 4 * sum(weights + probe * values for weights, values in layers),
    }


def cost_of(network: Network, total: int, sequences: int) -> dict[str, int | list[int]]:
    """`cost` for a network whose evaluations have so many sequences."""
    downs = network.roles.downs
    layers = [(sum(part.weight.numel() for part in down.parts), down.entering + network.roles.hidden) for down in downs]
    probe, evaluated = probe_of(network), min(DOCUMENTS, sequences) * min(WINDOW, network.context)
    return cost(total, int(probe.valid.sum()), probe.ids.numel(), evaluated, layers)
