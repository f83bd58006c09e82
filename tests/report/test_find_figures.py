"""The figures of a record: `swlottery.report.find_figures`."""

from __future__ import annotations

import copy
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from matplotlib import style

from swlottery.find.record import Record, schema
from swlottery.report import find_figures
from swlottery.report.find_figures import ablations, activations, contributions, draw, forest

VERDICTS = ("critical", "jointly critical", "weak", "inert", "undetermined")


def ablation(difference: float, width: float = 0.05) -> Record:
    return {
        "perplexity_ratio": math.exp(min(difference, 700)),
        "nll_difference": difference,
        "nll_difference_interval": [difference - width, difference + width],
    }


def weight(layer: int, out: int, in_: int, expert: int | None = None, spike: float = 24881.6) -> Record:
    token = {"prompt": "Apple Inc. is", "bos": True, "position": 0, "text": "Apple"}
    return {
        "layer": layer, "out": out, "spike": spike, "ratio": 503.2, "added": spike, "rms_ratio": 2954.0,
        "stream": spike, "token": token, "expert": expert, "module": f"model.layers.{layer}.mlp.down_proj", "in": in_,
        "value": 5.9, "rank": 1, "input": 3064.8, "share": 0.72,
    }  # fmt: skip


def synthetic(layers: int = 30, weights: int = 6, experts: bool = False, huge: bool = False) -> Record:
    """A valid record. experts: of a mixture; huge: the first ablations multiply the perplexity by far over a million."""
    found = []
    for i in range(weights):
        expert = i % 4 if experts else None
        difference = 30.0 - i if huge and i < 3 else (2.6, 0.3, 0.02, 0.0, -0.03)[i % 5]
        given = [
            {"in": 1229 + i + j, "expert": expert, "amount": 0.72 * 0.3**j, "share": 0.72 * 0.3**j} for j in range(8)
        ]
        found.append(
            weight((3 * i) % layers, 507 + i, 1229 + i, expert, spike=(-1) ** i * 24881.6 / (i + 1))
            | ablation(difference)
            | {"removal": i + 1, "bias_share": 0.02 * (i % 2), "contributions": given, "verdict": VERDICTS[i % 5]}
            | {"restored": ablation(0.01) if difference > 0 else None, "tokens_to_decide": None}
        )
    def peaks(factor: float) -> list[Record]:
        return [
            {
                "layer": i,
                "input": {"value": -3.0 - i - factor * (i == 11), "channel": i},
                "output": {"value": 20.0 + i + 8 * factor * (i == 11), "channel": i},
            }
            for i in range(layers)
        ]
    place = {"layer": 1, "expert": 0 if experts else None, "out": 3, "in": 4}
    members = list(range(weights))
    joint = [
        {"kind": "joint", "members": members, "critical": True} | ablation(9.0),
        {"kind": "joint", "members": members[:2], "critical": False} | ablation(0.5),
        {"kind": "left in", "members": members[1:], "critical": False} | ablation(0.4),
    ]  # fmt: skip
    sets = [
        *({"kind": "random set", "coordinates": [place] * weights} | ablation(0.001 * i, 0.002) for i in range(3)),
        {"kind": "largest others", "coordinates": [place] * weights} | ablation(0.004, 0.002),
    ]
    controls = [{"kind": "control", "coordinates": [place]} | ablation((i - 9) / 4000, 0.001) for i in range(20)]
    null = {"draws": 199, "p_value": 0.005, "firing_rate": 0.0, "firing_interval": [0.0, 0.02]}
    cancellers = [weight(layers - 2, 507, 678, spike=-14267.3), weight(layers - 1, 507, 1165, spike=-5798.0)]
    record = {
        "schema": 1, "model": "smollm2", "note": "the Instruct model, quantised to Q4_1: full of tied weights",
        "revision": None, "weights_sha256": "0" * 64, "stored_dtype": "float32", "dtype": "float32", "device": "cpu",
        "versions": {}, "prompts": ["Apple Inc. is a worldwide tech company."], "bos": ["with"], "probe_tokens": 240,
        "kappa": 40.0, "rho": 5.0, "seed": 0, "complete": True, "layers": {"before": peaks(3000), "after": peaks(0)},
        "nulls": [
            {"kind": kind, "observed": 503.2, "median": 12.0, "quantile_95": 20.0, "largest": 22.0} | null
            for kind in ("entries", "rows")
        ],
        "false_positive_rate": {"rate": 0.0, "interval": [0.0, 0.02], "draws": 199, "null": "entries"},
        "leader": weight(3, 5, 7, spike=12.3) | {"lacks": ["ratio 8.2 < κ = 40", "1.2 < ρ = 5 times the stream's RMS"]},
        "baseline_nll": 3.0, "baseline_perplexity": 20.09, "eval_text": "builtin", "eval_text_sha256": "0" * 64,
        "eval_tokens": 1024, "documents": 32, "super_weights": found,
        "cancellers": [spike | ablation(0.03) for spike in cancellers], "diffuse": [],
        "joint": joint if weights > 1 else [], "controls": [*controls, *(sets if weights > 1 else [])] if weights else [],
        "near_misses": [],
    }  # fmt: skip
    jsonschema.validate(record, schema())
    return record
