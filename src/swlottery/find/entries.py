"""Entries of a record: a spike, a weight's place, the effect of an ablation, a layer, a null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from swlottery.data.evaluation import Documents, Text
from swlottery.find.effects import Ablation
from swlottery.find.null import Null
from swlottery.find.probe import Probe
from swlottery.find.scan import LayerScan
from swlottery.find.spikes import Spike
from swlottery.find.verify import COMPARED
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate, rank_of

Entry = dict[str, Any]


def spike_entry(probe: Probe, spike: Spike) -> Entry:
    prompt, position = probe.place(spike.token)
    return {
        "layer": spike.layer,
        "out": spike.out,
        "spike": spike.value,
        "ratio": spike.ratio,
        "added": spike.added,
        "rms_ratio": spike.rms_ratio,
        "stream": spike.stream,
        "token": {
            "prompt": probe.prompts[prompt],
            "bos": probe.with_bos[prompt],
            "position": position,
            "text": probe.tokens[prompt][position],
        },
    }


def place_entry(downs: Sequence[DownProjection], c: Coordinate) -> Entry:
    matrix = downs[c.layer].matrix(c.expert)
    return {
        "layer": c.layer,
        "expert": c.expert,
        "module": downs[c.layer].part(c.expert).path,
        "out": c.out,
        "in": c.in_,
        "value": float(matrix[c.out, c.in_]),
        "rank": rank_of(matrix.abs(), c.out, c.in_),
    }


def control_entries(rows: Sequence[Ablation]) -> list[Entry]:
    return [
        {"kind": row.kind, "coordinates": [c.entry() for c in row.coordinates], **effect_entry(row)}
        for row in rows
        if row.kind in COMPARED
    ]


def effect_entry(row: Ablation) -> Entry:
    return {
        "perplexity_ratio": row.perplexity_ratio,
        "nll_difference": row.difference,
        "nll_difference_interval": [row.low, row.high],
        "level": row.level,
        "documents": len(row.documents),
    }


def layer_entry(scan: LayerScan) -> Entry:
    return {
        "layer": scan.layer,
        "input": {"value": scan.input.value, "channel": scan.input.channel},
        "output": {"value": scan.output.value, "channel": scan.output.channel},
    }


def loss_entry(protocol: str, text: Text, documents: Documents, loss: float) -> Entry:
    """loss: a token's, in nats."""
    count, context = documents.windows.shape
    total = loss * count * (context - 1)
    return {
        "protocol": protocol,
        "eval_text": text.name,
        "eval_text_sha256": text.sha256,
        "eval_tokens": count * context,
        "documents": count,
        "context": context,
        "baseline_nll": loss,
        "baseline_perplexity": math.exp(min(loss, 700.0)),
        "word_perplexity": math.exp(min(total / max(documents.words, 1), 700.0)),  # a text may be one long word
        "bits_per_byte": total / max(documents.bytes, 1) / math.log(2),
    }


def null_entry(null: Null, observed: float, kappa: float) -> Entry:
    import numpy as np

    rate, *interval = null.firing(kappa)
    return {
        "kind": null.kind,
        "draws": len(null.largest),
        "observed": observed,
        "p_value": null.p_value(observed),
        "median": float(np.median(null.largest)),
        "quantile_95": float(np.quantile(null.largest, 0.95)),
        "largest": max(null.largest),
        "firing_rate": rate,
        "firing_interval": interval,
    }
