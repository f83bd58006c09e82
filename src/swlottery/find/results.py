"""From the results of a find to its record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.config import FindSettings
from swlottery.find.attribution import Contribution
from swlottery.find.effects import Ablation
from swlottery.find.events import Prepared, Searched, Tested
from swlottery.find.null import Null
from swlottery.find.record import SCHEMA_VERSION, Record
from swlottery.find.scan import LayerScan
from swlottery.find.search import Removal
from swlottery.find.spikes import RHO, Spike
from swlottery.find.verdicts import Verdict, critical_sets, verdicts
from swlottery.find.verify import COMPARED
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate
from swlottery.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from swlottery.models.loaded import Loaded

_Entry = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All that a find has measured.

    rows: of the verification. asked: its rows of the weights that were asked for and not found. baseline: the intact
    loss of each document, in nats. forward_tokens: what was run, by what it was run for.
    """

    loaded: Loaded
    settings: FindSettings
    downs: Sequence[DownProjection]
    prepared: Prepared
    searched: Searched
    tested: Tested
    rows: Sequence[Ablation]
    asked: Sequence[Ablation]
    baseline: np.ndarray
    forward_tokens: Mapping[str, float]

    def record(self) -> Record:
        """The record, as record.schema.json says."""
        parts = (self._origin(), self._search(), self._nulls(), self._weights(), self._verification(), self._ablated())
        return {key: value for part in parts for key, value in part.items()}

    def _origin(self) -> _Entry:
        """Which network was looked at, and with what."""
        import torch
        import transformers

        versions = {"swlottery": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
        loaded, probe = self.loaded, self.prepared.probe
        return {
            "schema": SCHEMA_VERSION,
            "model": loaded.name,
            "note": loaded.note,
            "revision": loaded.revision,
            "weights_sha256": loaded.weights_sha256,
            "stored_dtype": loaded.stored_dtype,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "versions": versions,
            "prompts": list(dict.fromkeys(probe.prompts)),
            "bos": sorted({"with" if flag else "without" for flag in probe.with_bos}),
            "probe_tokens": int(probe.valid.sum()),
            "kappa": self.settings.kappa,
            "rho": RHO,
            "seed": self.settings.seed,
        }

    def _search(self) -> _Entry:
        search = self.searched.search
        before, after = ([_layer(scan) for scan in scans] for scans in (search.before, search.after))
        return {"complete": search.complete, "layers": {"before": before, "after": after}}

    def _nulls(self) -> _Entry:
        nulls = [_null(one, self.tested.observed, self.settings.kappa) for one in self.tested.nulls]
        first = nulls[0]
        rate = {
            "rate": first["firing_rate"],
            "interval": first["firing_interval"],
            "draws": first["draws"],
            "null": first["kind"],
        }
        return {"nulls": nulls, "false_positive_rate": rate}

    def _weights(self) -> _Entry:
        """The leader, the super weights, and the spikes that have none."""
        search, led = self.searched.search, self.searched.leader
        lacks = led.lacks(self.settings.kappa)
        text, words = self.prepared.text, self._verdicts(search.coordinates, self.rows)
        return {
            "leader": {**self._spike(led.entry), **self._weight(led.contribution), "lacks": lacks},
            "eval_text": text.name,
            "eval_text_sha256": text.sha256,
            "super_weights": [
                {**self._removal(removal), **self._verified(removal.found.coordinate, words)}
                for removal in search.removals
            ],
            "cancellers": [
                {**self._spike(spike), **self._weight(given), **_effect(self._row("canceller", given.coordinate))}
                for spike, given in self.searched.cancelling
            ],
            "near_misses": [self._spike(spike) for spike in sorted(search.near, key=lambda spike: -spike.ratio)],
            "diffuse": [
                {
                    **self._spike(removal.spike),
                    "bias_share": removal.bias_share,
                    "largest_share": removal.largest[0].share if removal.largest else 0.0,
                }
                for removal in search.diffuse
            ],
        }

    def _verification(self) -> _Entry:
        """The text and the loss on it, and the rows of sets and controls."""
        loss = float(self.baseline.mean())
        return {
            "documents": len(self.baseline),
            "eval_tokens": self.prepared.windows.numel(),
            "baseline_nll": loss,
            "baseline_perplexity": math.exp(loss),
            "joint": self._joint(self.searched.search.coordinates, self.rows),
            "controls": _controls(self.rows),
            "forward_tokens": {name: round(count) for name, count in self.forward_tokens.items()},
        }

    def _ablated(self) -> _Entry:
        """The weights that were asked for: those that were found too have the numbers that they have there."""
        asked, found = self.prepared.asked, self.searched.search.coordinates
        if not asked:
            return {}
        words = self._verdicts(found, self.rows)
        words |= self._verdicts([coordinate for coordinate in asked if coordinate not in found], self.asked)
        return {
            "ablated": [{**self._place(coordinate), **self._verified(coordinate, words)} for coordinate in asked],
            "ablated_joint": self._joint(asked, self.asked),
            "ablated_controls": _controls(self.asked),
        }

    def _verdicts(self, weights: Sequence[Coordinate], rows: Sequence[Ablation]) -> dict[Coordinate, Verdict]:
        words = verdicts(weights, rows, self.prepared.windows.shape[1], self.settings.seed)
        return dict(zip(weights, words, strict=True))

    def _joint(self, weights: Sequence[Coordinate], rows: Sequence[Ablation]) -> list[_Entry]:
        critical = critical_sets(rows, self.settings.seed)
        return [
            {
                "kind": row.kind,
                "members": [weights.index(coordinate) for coordinate in row.coordinates],
                "critical": row in critical,
                **_effect(row),
            }
            for row in rows
            if row.kind in ("joint", "left in")
        ]

    def _spike(self, spike: Spike) -> _Entry:
        probe = self.prepared.probe
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

    def _weight(self, contribution: Contribution) -> _Entry:
        return {**self._place(contribution.coordinate), "input": contribution.input, "share": contribution.share}

    def _place(self, c: Coordinate) -> _Entry:
        matrix = self.downs[c.layer].matrix(c.expert)
        size = matrix.abs()
        return {
            "layer": c.layer,
            "expert": c.expert,
            "module": self.downs[c.layer].part(c.expert).path,
            "out": c.out,
            "in": c.in_,
            "value": float(matrix[c.out, c.in_]),
            "rank": 1 + int((size > size[c.out, c.in_]).sum()),
        }

    def _removal(self, removal: Removal) -> _Entry:
        return {
            **self._spike(removal.spike),
            **self._weight(removal.found),
            "removal": removal.order,
            "bias_share": removal.bias_share,
            "contributions": [
                {"in": one.coordinate.in_, "expert": one.coordinate.expert, "amount": one.amount, "share": one.share}
                for one in removal.largest
            ],
        }

    def _verified(self, coordinate: Coordinate, words: Mapping[Coordinate, Verdict]) -> _Entry:
        alone, restored = (self._row(kind, coordinate) for kind in ("alone", "restored"))
        verdict = words[coordinate]
        return {
            **_effect(alone),
            "restored": _effect(restored) or None,
            "verdict": verdict.word,
            "tokens_to_decide": verdict.tokens,
        }

    def _row(self, kind: str, coordinate: Coordinate) -> Ablation | None:
        """The row of one weight, if there is one."""
        rows = [*self.rows, *self.asked]
        return next((row for row in rows if (row.kind, row.coordinates) == (kind, (coordinate,))), None)


def _controls(rows: Sequence[Ablation]) -> list[_Entry]:
    return [
        {"kind": row.kind, "coordinates": [c.entry() for c in row.coordinates], **_effect(row)}
        for row in rows
        if row.kind in COMPARED
    ]


def _effect(row: Ablation | None) -> _Entry:
    """The numbers of a row; none where there is no row."""
    if row is None:
        return {}
    return {
        "perplexity_ratio": row.perplexity_ratio,
        "nll_difference": row.difference,
        "nll_difference_interval": [row.low, row.high],
    }


def _layer(scan: LayerScan) -> _Entry:
    return {
        "layer": scan.layer,
        "input": {"value": scan.input.value, "channel": scan.input.channel},
        "output": {"value": scan.output.value, "channel": scan.output.channel},
    }


def _null(null: Null, observed: float, kappa: float) -> _Entry:
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
