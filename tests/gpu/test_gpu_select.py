"""Selection on a GPU removes what it removes on a CPU. The host waits as often for many weights as for few."""

from __future__ import annotations

import math

import pytest
import torch

from fake_gpu import NAME
from swlottery.errors import BadInput
from swlottery.lottery import keys as keying
from swlottery.lottery.criteria import CRITERIA
from swlottery.lottery.select import select


def network(side: int, dtype: torch.dtype = torch.float32, levels: int = 0) -> tuple[dict, dict]:
    """Weights, one tensor of them transposed, and masks of which a fifth is gone; levels: so many magnitudes."""
    draw = torch.Generator().manual_seed(side)
    weights = {name: torch.randn(side, rows, generator=draw) for name, rows in (("a", 30), ("b", 50), ("c", 7))}
    if levels:
        weights = {name: (w * levels / 4).round() / 8 for name, w in weights.items()}
    weights["b"] = weights["b"].T
    masks = {name: torch.rand(w.shape, generator=draw) < 0.8 for name, w in weights.items()}
    return {name: w.to(dtype) for name, w in weights.items()}, masks


def on_gpu(tensors: dict) -> dict:
    return {name: tensor.to(NAME) for name, tensor in tensors.items()}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 0), (torch.float32, 3), (torch.bfloat16, 0)])
@pytest.mark.parametrize("large", [1 << 26, 5000])
def test_the_same_masks_as_on_the_cpu(criterion, dtype, levels, large, gpu, monkeypatch):
    monkeypatch.setattr(keying, "LARGE_CHUNK", large)
    weights, masks = network(200, dtype, levels)
    protected = {"b": torch.tensor([0, 77, 9999]), "c": [3]}
    for count in (0, 1, 2500, 10_000):
        expected = select(weights, masks, count, 5, CRITERIA[criterion], protected)
        got = select(on_gpu(weights), on_gpu(masks), count, 5, CRITERIA[criterion], protected)
        for name, mask in got.items():
            assert mask.device.type == NAME and torch.equal(mask.cpu(), expected[name])


@pytest.mark.parametrize("place", [0, 4242])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused_where_they_remain(bad, place, gpu):
    weights, masks = network(200)
    weights["a"].view(-1)[place] = bad
    for name in masks:
        masks[name].fill_(True)
    with pytest.raises(BadInput, match="a has scores that are NaN or infinite"):
        select(on_gpu(weights), on_gpu(masks), 1000, 0)
    masks["a"].view(-1)[place] = False
    select(on_gpu(weights), on_gpu(masks), 1000, 0)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_waits_do_not_grow_with_the_weights(criterion, gpu):
    counts = []
    for side in (100, 40_000):  # the largest tensor has 5,000, and 2,000,000: eight of a CPU's chunks
        weights, masks = (on_gpu(tensors) for tensors in network(side))
        with gpu.inside() as inside:
            select(weights, masks, 40 * side, 0, CRITERIA[criterion])
        counts.append(inside.count())
    assert counts[0] == counts[1] <= (75 if CRITERIA[criterion].per_tensor else 35), str(inside)
