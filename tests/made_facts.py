"""Facts of studies that never happened, with known answers."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas

from swlottery.config import TrainSettings
from swlottery.report.page.arms import Study
from swlottery.report.page.facts import Facts, from_csv_text, to_csv_text
from swlottery.report.page.rows import COLUMNS

OWN, CONTROLS = "(1, 2, 3)", [f"(1, 2, {n})" for n in range(10, 29)]
Rows = dict[str, list[dict[str, Any]]]


def settings(**changed: Any) -> dict[str, Any]:
    """A run's settings as a report keeps them."""
    return asdict(TrainSettings(**{"model": "gpt2-mini", "start": "scratch", "steps": 100} | changed))


def study(rows: Rows) -> Study:
    """The study that these rows make, taken through CSV as real ones are."""
    tables = {name: pandas.DataFrame(rows.get(name, []), columns=columns.split()) for name, columns in COLUMNS.items()}
    return Study(
        Facts({name: from_csv_text(io.StringIO(to_csv_text(table, name)), name) for name, table in tables.items()})
    )


def run(rows: Rows, name: str, network: int, state: str = "finished", kind: str = "leader", **changed: Any) -> None:
    """A run of a network, with the seeds of that."""
    own = settings(**{"seed": network, "data_seed": network} | changed)
    rows.setdefault("runs", []).append(
        {
            "run": name,
            "state": state,
            "message": "",
            "settings": json.dumps(own),
            "network": f"network-{network}",
            "lineage": f"theta-{network}",
            "model": "gpt2-mini",
        }
    )


def masks(rows: Rows, name: str, rate: float, prunes: int, loss: float = 5.0, start: float = 9.0) -> None:
    """What each mask leaves, and the loss of the network trained under it, and before its first step."""
    for mask in range(prunes + 1):
        left = (1 - rate) ** mask
        rows.setdefault("rounds", []).append(
            {
                "run": name,
                "round": mask,
                "remaining": int(1e6 * left),
                "remaining_fraction": left,
                "pruned": 1,
                "threshold": 0.1,
                "train_loss": loss,
                "val_loss": loss + mask / 10,
                "val_perplexity": float(np.exp(loss + mask / 10)),
                "seconds": 1.0,
                "start_loss": start,
            }
        )


def weights(
    rows: Rows, name: str, round_: int, own: dict[str, Any], controls: list[dict[str, Any]], kind: str = "leader"
) -> None:
    """The rows of one round: of the followed weight, and of its controls."""
    usual = {
        "value": 1.0,
        "over_threshold": 2.0,
        "percentile_remaining": 50.0,
        "gradient_percentile": 50.0,
        "moment_percentile": 50.0,
        "update_percentile": 50.0,
        "gradient": 1.0,
        "update": 1.0,
        "alive": True,
    }
    place = {"run": name, "round": round_}
    rows.setdefault("weights", []).append({**place, "kind": kind, "weight": OWN, "of": "", **usual, **own})
    for at, control in zip(CONTROLS, controls, strict=False):
        rows["weights"].append({**place, "kind": "control_rank", "weight": at, "of": OWN, **usual, **control})


def kept(
    rows: Rows,
    name: str,
    prune: int,
    left: float,
    alive: bool,
    controls: int = 19,
    matrix: float = 0.5,
    kind: str = "leader",
    weight: str = OWN,
) -> None:
    """What a prune did."""
    rows.setdefault("kept", []).append(
        {
            "run": name,
            "round": prune,
            "remaining_fraction": left,
            "kind": kind,
            "weight": weight,
            "over_threshold": 2.0,
            "alive": alive,
            "matrix_kept": int(1000 * matrix),
            "matrix_size": 1000,
            "control_rank": controls,
            "control_rank_n": 19,
        }
    )


def two_rates(shift: float, networks: int = 10, bracketed: bool = False) -> Rows:
    """Pairs of runs at 20 % and at 10 %. The tracked weight alone is further from pruning at 10 %, by ``shift``.

    bracketed: after round 1 it is in the middle of its controls.
    """
    rows: Rows = {}
    random = np.random.default_rng(1)
    for network in range(networks):
        for name, part, prunes in (("p20", 0.2, 5), ("p10", 0.1, 10)):
            label = f"{name}-{network}"
            run(rows, label, network, prune_rate=str(part), rounds=prunes)
            masks(rows, label, part, prunes)
            kept(rows, label, 1, 1 - part, True)
            for round_ in range(1, prunes + 2):
                left = (1 - part) ** (round_ - 1)
                own = 0.1 * math.exp(-shift if name == "p10" else 0)

                def at(q: float, value: float = 1.0, left: float = left) -> dict[str, Any]:
                    return {"percentile_remaining": 100 * (1 - q / left), "value": value}

                weights(
                    rows,
                    label,
                    round_,
                    at(own * math.exp(0.02 * random.normal())),
                    [at(0.1 * math.exp(0.1 * random.normal()), 0.5 + n % 2 if bracketed else 1.0) for n in range(19)],
                )
    return rows


def table(section: Any, name: str) -> list[dict[str, Any]]:
    return next(list(one.rows) for one in section.tables if one.name == name)
