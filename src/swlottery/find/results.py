"""From the results of a find to its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swlottery.config import FindSettings
from swlottery.find.ablation import Evaluator
from swlottery.find.attribution import Contribution
from swlottery.find.effects import Ablation
from swlottery.find.entries import (
    Entry,
    control_entries,
    effect_entry,
    layer_entry,
    loss_entry,
    null_entry,
    place_entry,
    spike_entry,
)
from swlottery.find.events import Prepared, Searched, Tested
from swlottery.find.generation import Generation
from swlottery.find.record import SCHEMA_VERSION, Record
from swlottery.find.search import Removal
from swlottery.find.spikes import RHO
from swlottery.find.verdicts import Verdict, critical_sets
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate
from swlottery.models.loaded import Loaded
from swlottery.version import __version__


@dataclass(frozen=True)
class Results:
    """All that a find has measured.

    rows: of the verification. asked: its rows of the weights that were asked for and not found. words: the verdict on
    each weight that was found or asked for. generations: of the intact network, without all weights, and without each
    that matters, behind the ``beginnings``; none where there is no weight. forward_tokens: what was run, by what for.
    """

    loaded: Loaded
    settings: FindSettings
    prepared: Prepared
    searched: Searched
    tested: Tested
    evaluator: Evaluator
    rows: Sequence[Ablation]
    asked: Sequence[Ablation]
    words: Mapping[Coordinate, Verdict]
    generations: Sequence[Generation]
    beginnings: Sequence[str]
    forward_tokens: Mapping[str, float]

    @property
    def downs(self) -> Sequence[DownProjection]:
        return self.evaluator.roles.downs

    def record(self) -> Record:
        """The record, as record.schema.json says."""
        search, prepared, kappa = self.searched.search, self.prepared, self.settings.kappa
        nulls = [null_entry(one, self.tested.observed, kappa) for one in self.tested.nulls]
        first, loss = nulls[0], float(self.evaluator.baseline.mean())
        return {
            **self._origin(),
            "complete": search.complete,
            "layers": {
                "before": [layer_entry(scan) for scan in search.before],
                "after": [layer_entry(scan) for scan in search.after],
            },
            "nulls": nulls,
            "false_positive_rate": {
                "rate": first["firing_rate"],
                "interval": first["firing_interval"],
                "draws": first["draws"],
                "null": first["kind"],
            },
            **self._weights(),
            **loss_entry(self.settings.protocol, prepared.text, prepared.documents, loss),
            "joint": self._joint(search.coordinates, self.rows),
            "controls": control_entries(self.rows),
            "forward_tokens": {name: round(count) for name, count in self.forward_tokens.items()},
            "generation": self._continued(),
            **self._ablated(),
        }

    def _origin(self) -> Entry:
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

    def _weights(self) -> Entry:
        """The leader, the super weights, and the spikes that have none."""
        search, led, probe = self.searched.search, self.searched.leader, self.prepared.probe
        lacks = led.lacks(self.settings.kappa)
        return {
            "leader": {**spike_entry(probe, led.entry), **self._weight(led.contribution), "lacks": lacks},
            "super_weights": [
                {**self._removal(removal), **self._verified(removal.found.coordinate)} for removal in search.removals
            ],
            "cancellers": [
                {
                    **spike_entry(probe, spike),
                    **self._weight(given),
                    **effect_entry(self._of("canceller", given.coordinate)[0]),
                }
                for spike, given in self.searched.cancelling
            ],
            "near_misses": [spike_entry(probe, spike) for spike in sorted(search.near, key=lambda spike: -spike.ratio)],
            "diffuse": [
                {
                    **spike_entry(probe, removal.spike),
                    "bias_share": removal.bias_share,
                    "largest_share": removal.largest[0].share if removal.largest else 0.0,
                }
                for removal in search.diffuse
            ],
        }

    def _continued(self) -> Entry | None:
        if not self.generations:
            return None
        intact, together = self.generations[:2]
        return {
            "prompts": list(self.beginnings),
            "tokens": intact.tokens,
            "intact": self._written(intact.coordinates),
            "joint": self._written(together.coordinates),
        }

    def _written(self, coordinates: tuple[Coordinate, ...]) -> Entry | None:
        for one in self.generations:
            if one.coordinates == coordinates:
                return {"repeated_4grams": one.repeated_4grams, "text": one.text}
        return None

    def _ablated(self) -> Entry:
        """The weights that were asked for: those that were found too have the numbers that they have there."""
        asked = self.prepared.asked
        if not asked:
            return {}
        return {
            "ablated": [{**place_entry(self.downs, coordinate), **self._verified(coordinate)} for coordinate in asked],
            "ablated_joint": self._joint(asked, self.asked),
            "ablated_controls": control_entries(self.asked),
        }

    def _joint(self, weights: Sequence[Coordinate], rows: Sequence[Ablation]) -> list[Entry]:
        critical = critical_sets(rows, self.settings.seed)
        return [
            {
                "kind": row.kind,
                "members": [weights.index(coordinate) for coordinate in row.coordinates],
                "critical": row in critical,
                **effect_entry(row),
            }
            for row in rows
            if row.kind in ("joint", "left in")
        ]

    def _weight(self, contribution: Contribution) -> Entry:
        return {
            **place_entry(self.downs, contribution.coordinate),
            "input": contribution.input,
            "share": contribution.share,
        }

    def _removal(self, removal: Removal) -> Entry:
        return {
            **spike_entry(self.prepared.probe, removal.spike),
            **self._weight(removal.found),
            "removal": removal.order,
            "bias_share": removal.bias_share,
            "contributions": [
                {"in": one.coordinate.in_, "expert": one.coordinate.expert, "amount": one.amount, "share": one.share}
                for one in removal.largest
            ],
        }

    def _verified(self, coordinate: Coordinate) -> Entry:
        verdict = self.words[coordinate]
        return {
            **effect_entry(self._of("alone", coordinate)[0]),
            "restored": self._effect("restored", coordinate),
            "verdict": verdict.word,
            "tokens_to_decide": verdict.tokens,
            "dose": [{"factor": row.factor, **effect_entry(row)} for row in self._of("dose", coordinate)],
            "row": self._effect("row", coordinate),
            "generation": self._written((coordinate,)),
        }

    def _effect(self, kind: str, coordinate: Coordinate) -> Entry | None:
        return next(map(effect_entry, self._of(kind, coordinate)), None)

    def _of(self, kind: str, coordinate: Coordinate) -> list[Ablation]:
        """The rows of one weight."""
        rows = [*self.rows, *self.asked]
        return [row for row in rows if (row.kind, row.coordinates) == (kind, (coordinate,))]
