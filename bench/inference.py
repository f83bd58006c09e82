"""Is the test of a study calibrated, and what does it see? Simulated studies, from networks that do what is said of them.

    python bench/inference.py [--studies 1000] [--common 3.0] [--seed 0]

Each network has a followed weight and 19 controls. Their values (of log(|w|/threshold)) have a large part in common, as those of
one network have, and the followed weight stands `shift` standard deviations of the rest above. Printed: how often a difference is
claimed at 5 %, with the Clopper-Pearson interval of that rate, and how often the 95 % interval of the shift holds the true one.
"""

from __future__ import annotations

import argparse

import numpy as np

from swlottery.inference import proportion, rank_test

CONTROLS = 19


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument(
        "--common", type=float, default=3.0, help="standard deviation of what a network's weights share"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.studies} studies a row, {CONTROLS} controls a network\n")
    print("shift  networks  claimed at 5 %   95 % interval    the interval holds the shift")
    for shift in (0.0, 0.5, 0.75, 1.0, 1.5):
        for networks in (10, 20):
            rng = np.random.default_rng([arguments.seed, networks, int(shift * 100)])
            claimed = held = 0
            for _ in range(arguments.studies):
                drawn = rng.normal(scale=arguments.common, size=(networks, 1)) + rng.normal(
                    size=(networks, CONTROLS + 1)
                )
                found = rank_test(drawn[:, 0] + shift, list(drawn[:, 1:]))
                claimed += found.p <= 0.05
                held += found.interval[0] <= shift <= found.interval[1]
            low, high = proportion(claimed, arguments.studies)
            print(f"{shift:5.2f}  {networks:8d}  {claimed / arguments.studies:14.1%}   {low:6.1%} – {high:6.1%}"
                  f"   {held / arguments.studies:10.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
