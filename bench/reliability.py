"""How reliably does the finder name the same weight, whatever the prompts? On the trained round-1 networks of a study.

    python bench/reliability.py runs/kept [--sets 10]

Each network is probed with the default prompts, as its run was, and with other sets of six passages of 24 tokens from
the held-out text. Printed: how many of those sets put the same weight in front, and which others they put there. Twins
cannot agree more often than that.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from swlottery.config import TrainSettings
from swlottery.data.tokens import prepare
from swlottery.lottery import start
from swlottery.lottery.look import look
from swlottery.report.page.stored import StoredRun
from swlottery.report.run_files import read_settings
from swlottery.report.words import key, place

PASSAGES, TOKENS = 6, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--sets", type=int, default=10)
    arguments = parser.parse_args()
    seen: set[str] = set()
    same: list[int] = []
    print("network                  in front         with other prompts")
    for path in sorted(arguments.study.glob("*/*/round_1/round.json")):
        run = path.parents[1]
        if (name := StoredRun(run).network) in seen:
            continue  # a branch has a copy of its parent's
        seen.add(name)
        settings = read_settings(run)
        network = start.network(TrainSettings(model=str(run / "round_1"), context=settings["context"]))
        held_out = prepare(settings["data"], network.tokenizer).validation[:]
        own = place(key(look(network)[1][0]))
        rng = np.random.default_rng(0)
        others = Counter(
            place(key(look(network, passages(network.tokenizer, held_out, rng))[1][0])) for _ in range(arguments.sets)
        )
        same.append(others[own])
        rest = ", ".join(f"{weight} {times}" for weight, times in others.most_common() if weight != own)
        also = f"; {rest}" if rest else ""
        print(f"{run.parent.name:24} {own:16} the same {others[own]} of {arguments.sets}{also}", flush=True)
    if same:
        most = sum(2 * n > arguments.sets for n in same)
        print(f"the same in {sum(same)} of {len(same) * arguments.sets}", end="; ")
        print(f"in more than half of the sets in {most} of {len(same)} networks")


def passages(tokenizer: object, held_out: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Six passages from anywhere in the held-out text."""
    at = rng.integers(0, len(held_out) - TOKENS, size=PASSAGES)
    return [tokenizer.decode(held_out[i : i + TOKENS].tolist()) for i in at]


if __name__ == "__main__":
    main()
