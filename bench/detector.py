"""How good is the detector? Power on planted super weights, and the rate of false alarms under the permutation nulls.

    python bench/detector.py [--draws 400] [--seeds 4] [--without-smollm2]

First table: in a tiny random model of every architecture one weight is planted, at a random place and at a multiple of
the detection bound. How often is exactly that weight found? Second: SmolLM2-135M-Instruct (Q4_1) with its real inputs
and permuted matrices. How often is a spike above the bar anywhere?
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from scipy.stats import binomtest

from planted import plant_input, plant_weight, random_probe
from swlottery.config import KAPPA
from swlottery.find import null
from swlottery.find.activations import activations
from swlottery.find.search import search
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from tiny import CONFIGS, HIDDEN, LAYERS, VOCABULARY, tiny_model

STRENGTHS = (0.5, 0.9, 1.0, 1.1, 1.5, 2.0)


def found(name: str, seed: int, strength: float) -> bool:
    """Whether the search finds exactly the planted weight."""
    model = tiny_model(name, seed)
    roles = Roles(model)
    probe = random_probe(VOCABULARY, seed=seed)
    draw = torch.Generator().manual_seed(1000 + seed)
    width = roles.downs[0].matrices()[0][1].shape[1]
    layer, out, in_, token = (int(torch.randint(n, (1,), generator=draw)) for n in (LAYERS, HIDDEN, width, 30))
    plant = plant_input(model, roles, probe, Coordinate(layer, out, in_), token)
    plant_weight(model, roles, probe, plant, strength)
    return search(model, roles.downs, probe).coordinates == [plant.coordinate]


def power(seeds: int) -> None:
    print(f"Planted super weights found, of {seeds} a cell, by strength in detection bounds (κ = {KAPPA:g})\n")
    print(f"{'architecture':<20}" + "".join(f"{strength:>8g}×" for strength in STRENGTHS))
    total = dict.fromkeys(STRENGTHS, 0)
    for name in CONFIGS:
        counts = {strength: sum(found(name, seed, strength) for seed in range(seeds)) for strength in STRENGTHS}
        for strength, count in counts.items():
            total[strength] += count
        print(f"{name:<20}" + "".join(f"{count:>9}" for count in counts.values()), flush=True)
    n = seeds * len(CONFIGS)
    print(f"{'all':<20}" + "".join(f"{count / n:>9.1%}" for count in total.values()))
    for strength in (STRENGTHS[0], STRENGTHS[-1]):
        low, high = binomtest(total[strength], n).proportion_ci(method="exact")
        print(f"at {strength:g}×: {total[strength]} of {n}, 95 % Clopper–Pearson {low:.1%} to {high:.1%}")


def false_alarms(count: int) -> None:
    from swlottery.find import probe as probes
    from swlottery.models import load as models

    loaded = models.load("smollm2", device="cpu")
    print(f"\nFalse alarms: {loaded.note}\n")
    roles = Roles(loaded.model)
    probe = probes.build(loaded.tokenizer, probes.DEFAULT_PROMPTS, loaded.context)
    result = search(loaded.model, roles.downs, probe)
    everything = activations(loaded.model, roles.downs, probe)
    prepared = null.prepare(everything, result.coordinates)
    for kind in null.KINDS:
        drawn = null.Null(kind, tuple(null.draws(prepared, kind, count)))
        rate, low, high = drawn.firing(KAPPA)
        ordered = sorted(drawn.largest)
        print(
            f"{kind:<8} {count} null models: largest ratio median {ordered[count // 2]:.1f}, 95 % below "
            f"{ordered[int(0.95 * count)]:.1f}, at most {ordered[-1]:.1f}; above κ = {KAPPA:g} in {rate:.2%} "
            f"(95 % Clopper–Pearson {low:.2%} to {high:.2%}); p of the real {result.removals[0].spike.ratio:.0f}: "
            f"{drawn.p_value(result.removals[0].spike.ratio):.4f}",
            flush=True,
        )
    layer = 11
    matrix = roles.downs[layer].matrix().clone()
    for coordinate in result.coordinates:
        if coordinate.layer == layer:
            matrix[coordinate.out, coordinate.in_] = 0
    shuffled = matrix.flatten()[torch.randperm(matrix.numel(), generator=torch.Generator().manual_seed(0))].view_as(
        matrix
    )
    output = everything[layer].inputs[0].values @ shuffled.t()
    pooled = float(output.abs().max() / output.abs().median())
    ours = null.largest_ratio(output, output, everything[layer].rms)
    print(
        f"layer {layer}, one permutation: max over the pooled median {pooled:,.0f}, over the larger of both medians "
        f"{ours:.1f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--without-smollm2", action="store_true")
    arguments = parser.parse_args()
    power(arguments.seeds)
    if not arguments.without_smollm2:
        false_alarms(arguments.draws)
