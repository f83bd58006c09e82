"""Is the test of a study calibrated, and what is its power? Simulated studies with known effects.

    python bench/inference.py [--studies 1000] [--common 0.5] [--seed 0]

Each network has a tracked weight and 19 controls. First: their values (of log(|w|/threshold)) have a large part in
common, as those of one network have, and the tracked weight is `shift` standard deviations of the rest above. Printed:
how often a difference is claimed at 5 %, with the Clopper-Pearson interval of that rate, and how often the 95 %
interval of the shift holds the true one.

Second: the tracked weight is *selected*, as a leader is: the largest |w|·x of a matrix, x the input of its column. Its
controls are the nearest in rank of |w|; the size after round 2 depends on that after round 1 and on nothing else.
Printed: how often the test then claims that it is special, in all networks, and in those where at least five controls
are larger and five smaller.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from swlottery.study.statistics import proportion, rank_test

CONTROLS, BRACKET = 19, 5
SHAPE = (32, 128)
"""Of the simulated matrix."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument(
        "--common", type=float, default=0.5, help="standard deviation of what a network's weights share"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.studies} studies a row, {CONTROLS} controls a network\n")
    known_shift(arguments)
    print("\nselected by |w|·x; spread of x, correlation of log|w| between the rounds\n")
    selection(arguments)


def known_shift(arguments: argparse.Namespace) -> None:
    print("shift  networks  claimed at 5 %   95 % interval    the interval holds the shift")
    for shift in (0.0, 0.5, 0.75, 1.0, 1.5):
        for networks in (10, 20):
            rng = np.random.default_rng([arguments.seed, networks, int(shift * 100)])
            claimed = held = 0
            for _ in range(arguments.studies):
                common = rng.normal(scale=arguments.common, size=(networks, 1))
                drawn = common + rng.normal(size=(networks, CONTROLS + 1))
                found = rank_test(drawn[:, 0] + shift, list(drawn[:, 1:]))
                claimed += found.p <= 0.05
                held += found.interval[0] <= shift <= found.interval[1]
            claims = rate(claimed, arguments.studies)
            print(f"{shift:5.2f}  {networks:8d}  {claims}   {held / arguments.studies:10.1%}", flush=True)


def selection(arguments: argparse.Namespace) -> None:
    print("spread  correlation  networks  claimed at 5 %   95 % interval", end="    ")
    print("bracketed: claimed        95 % interval   networks")
    for spread in (0.5, 1.0, 2.0):
        for correlation in (0.3, 0.7):
            rng = np.random.default_rng([arguments.seed, int(10 * spread), int(10 * correlation)])
            claimed = inside = tested = left = 0
            for _ in range(arguments.studies):
                drawn, bracketed = zip(*(selected(rng, spread, correlation) for _ in range(10)), strict=True)
                claimed += is_claimed(drawn)
                kept = [pair for pair, is_inside in zip(drawn, bracketed, strict=True) if is_inside]
                left += len(kept)
                if len(kept) > 1:
                    tested += 1
                    inside += is_claimed(kept)
            print(f"{spread:6.1f}  {correlation:11.1f}  {10:8d}  {rate(claimed, arguments.studies)}", end="   ")
            print(f"{rate(inside, tested)}   {left / arguments.studies:8.1f}", flush=True)


def is_claimed(networks: Sequence[tuple[float, np.ndarray]]) -> bool:
    """networks: of each the tracked weight's value, and its controls'."""
    return rank_test([own for own, _ in networks], [others for _, others in networks]).p <= 0.05


def selected(rng: np.random.Generator, spread: float, correlation: float) -> tuple[tuple[float, np.ndarray], bool]:
    """(the leader's log|w| after round 2, and its controls'), and whether they bracket it after round 1."""
    sizes = np.abs(rng.normal(size=SHAPE))
    inputs = np.exp(spread * rng.normal(size=SHAPE[1]))
    leader = int((sizes * inputs).argmax())
    logs = np.log(sizes.reshape(-1))
    later = correlation * (logs - logs.mean()) / logs.std() + np.sqrt(1 - correlation**2) * rng.normal(size=logs.size)
    order = logs.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(logs.size)
    controls = np.abs(rank - rank[leader]).argsort(kind="stable")[1 : CONTROLS + 1]
    above = int((logs[controls] > logs[leader]).sum())
    return (float(later[leader]), later[controls]), BRACKET <= above <= CONTROLS - BRACKET


def rate(claimed: int, studies: int) -> str:
    """How often, and the Clopper-Pearson interval of that."""
    low, high = proportion(claimed, max(studies, 1))
    return f"{claimed / max(studies, 1):14.1%}   {low:6.1%} – {high:6.1%}"


if __name__ == "__main__":
    main()
