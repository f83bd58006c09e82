"""The finder from end to end, as a stream of events: search, leader, nulls, verification, record.

Nothing here prints or draws: whoever iterates says what was seen. The model's weights are intact whenever an event is
handed over.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.config import FindSettings
from swlottery.data.evaluation import Text
from swlottery.find import null as nulls
from swlottery.find.ablation import Evaluator
from swlottery.find.probe import Probe
from swlottery.find.record import SCHEMA_VERSION, Record
from swlottery.find.search import Contribution, Leader, Removal, Search, contributions, leader, search
from swlottery.find.spikes import RHO, LayerScan, Spike
from swlottery.find.verify import Ablation, Verdict, cost, critical_sets, paired, verdicts, verify
from swlottery.find.watching import Everything, activations
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from swlottery.models.load import Loaded

CANCELLERS = 4
"""At most so many cancelling spikes are verified, the largest first."""


@dataclass(frozen=True)
class Searched:
    """The search is over. ``cancelling``: for each canceller that is verified, its largest contribution."""

    search: Search
    leader: Leader
    cancelling: list[tuple[Spike, Contribution]]


@dataclass(frozen=True)
class Drawn:
    """One draw of a null is done; ``done`` of ``total``."""

    kind: str
    done: int
    total: int


@dataclass(frozen=True)
class Tested:
    """The nulls are complete. observed: the largest ratio of a spike that arrives, or of the leader's entry."""

    nulls: list[nulls.Null]
    observed: float


@dataclass(frozen=True)
class Planned:
    """What the verification will cost at most: passes over ``documents`` × ``window`` tokens of text."""

    passes: int
    documents: int
    window: int


@dataclass(frozen=True)
class Finished:
    """Everything is known."""

    record: Record
    rows: list[Ablation]
    verdicts: list[Verdict]


Event = Searched | Drawn | Tested | Planned | Ablation | Finished


def find(
    loaded: Loaded, probe: Probe, text: Text, windows: Tensor, settings: FindSettings
) -> Generator[Event, None, None]:
    """Find, test and verify the super weights of a model.

    Args:
        windows: the documents to verify on, ``[documents, tokens]``.
    """
    roles = Roles(loaded.model)
    downs = roles.downs
    result = search(loaded.model, downs, probe, settings.kappa, settings.max_weights)
    found = result.coordinates
    everything = Everything(loaded.model, downs, probe)
    led = None
    for some, group in everything:
        led = leader(some, group, led)
    assert led is not None, "a model has at least one layer"
    cancelling = _cancelling(loaded.model, downs, probe, result)
    yield Searched(result, led, cancelling)

    drawn = []
    for kind in nulls.KINDS:
        largest = [0.0] * settings.null_draws
        for nth, ratio in _draws(everything, found, kind, settings):
            number = nth % settings.null_draws
            largest[number] = max(largest[number], ratio)
            yield Drawn(kind, nth + 1, settings.null_draws * everything.groups)
        drawn.append(nulls.Null(kind, tuple(largest)))
    observed = max((spike.ratio for spike in result.arriving), default=led.entry.ratio)
    del everything
    yield Tested(drawn, observed)

    inspected = [contribution.coordinate for _, contribution in cancelling]
    documents, window = windows.shape
    yield Planned(cost(found, len(inspected), settings.controls), documents, window)
    layers = sorted({coordinate.layer for coordinate in [*found, *inspected]})
    evaluator = Evaluator(loaded.model, roles, windows, layers)
    yield paired("intact", (), evaluator.baseline, evaluator.baseline)
    rows = []
    for row in verify(evaluator, found, inspected, settings.controls, settings.kappa, settings.seed):
        rows.append(row)
        yield row
    words = verdicts(found, rows, window, settings.seed)
    record = _record(loaded, probe, text, settings, downs, result, led, cancelling, drawn, observed)
    _add_verification(record, rows, words, found, evaluator, settings)
    yield Finished(record, rows, words)


def _draws(
    everything: Everything, found: Sequence[Coordinate], kind: str, settings: FindSettings
) -> Iterator[tuple[int, float]]:
    """(number, ratio) of every draw of every group of layers; the n-th draw is the same in each group."""
    count, done = settings.null_draws, 0
    shapes = [tuple(matrix.shape) for down in everything.downs for _, matrix in down.matrices()]
    for layers, group in everything:
        prepared = nulls.prepare(layers, group, found)
        group.clear()  # the inputs are all that is needed
        yield from enumerate(nulls.draws(prepared, kind, count, settings.seed, shapes), done)
        done += count
        prepared.clear()


def _cancelling(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, result: Search
) -> list[tuple[Spike, Contribution]]:
    """The largest cancelling spikes, each with the weight that gives it most."""
    import torch

    largest = sorted(result.cancellers, key=lambda spike: -spike.ratio)[:CANCELLERS]
    if not largest:
        return []
    layers = [downs[layer] for layer in sorted({spike.layer for spike in largest})]
    tokens = torch.tensor(sorted({spike.token for spike in largest}), device=probe.ids.device)
    now = {down.layer: one for down, one in zip(layers, activations(model, layers, probe, tokens), strict=True)}
    pairs = []
    for spike in sorted(largest, key=lambda spike: spike.layer):
        given, _ = contributions(downs[spike.layer], now[spike.layer], spike, 1)
        if given and given[0].coordinate not in result.coordinates:
            pairs.append((spike, given[0]))
    return pairs


def _place(probe: Probe, token: int) -> dict[str, Any]:
    prompt, position = probe.place(token)
    return {
        "prompt": probe.prompts[prompt],
        "bos": probe.with_bos[prompt],
        "position": position,
        "text": probe.tokens[prompt][position],
    }


def _spike(probe: Probe, spike: Spike) -> dict[str, Any]:
    return {
        "layer": spike.layer,
        "out": spike.out,
        "spike": spike.value,
        "ratio": spike.ratio,
        "added": spike.added,
        "rms_ratio": spike.rms_ratio,
        "stream": spike.stream,
        "token": _place(probe, spike.token),
    }


def _weight(downs: Sequence[DownProjection], contribution: Contribution) -> dict[str, Any]:
    c = contribution.coordinate
    size = downs[c.layer].matrix(c.expert).abs()
    return {
        "layer": c.layer,
        "expert": c.expert,
        "module": downs[c.layer].path,
        "out": c.out,
        "in": c.in_,
        "value": contribution.value,
        "rank": 1 + int((size > size[c.out, c.in_]).sum()),
        "input": contribution.input,
        "share": contribution.share,
    }


def _given(contribution: Contribution) -> dict[str, Any]:
    c = contribution.coordinate
    return {"in": c.in_, "expert": c.expert, "amount": contribution.amount, "share": contribution.share}


def _layer(scan: LayerScan) -> dict[str, Any]:
    return {
        "layer": scan.layer,
        "input": {"value": scan.input.value, "channel": scan.input.channel},
        "output": {"value": scan.output.value, "channel": scan.output.channel},
    }


def _row(row: Ablation) -> dict[str, Any]:
    return {
        "perplexity_ratio": row.perplexity_ratio,
        "nll_difference": row.difference,
        "nll_difference_interval": [row.low, row.high],
    }


def _coordinate(c: Coordinate) -> dict[str, Any]:
    return {"layer": c.layer, "expert": c.expert, "out": c.out, "in": c.in_}


def _removal(downs: Sequence[DownProjection], probe: Probe, removal: Removal) -> dict[str, Any]:
    return {
        **_spike(probe, removal.spike),
        **_weight(downs, removal.found),
        "removal": removal.order,
        "bias_share": removal.bias_share,
        "contributions": [_given(contribution) for contribution in removal.largest],
    }


def _record(
    loaded: Loaded,
    probe: Probe,
    text: Text,
    settings: FindSettings,
    downs: Sequence[DownProjection],
    result: Search,
    led: Leader,
    cancelling: Sequence[tuple[Spike, Contribution]],
    drawn: Sequence[nulls.Null],
    observed: float,
) -> Record:
    import numpy as np
    import torch
    import transformers

    import swlottery

    rate, low, high = drawn[0].firing(settings.kappa)
    return {
        "schema": SCHEMA_VERSION,
        "model": loaded.name,
        "note": loaded.note,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "stored_dtype": loaded.stored_dtype,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "versions": {
            "swlottery": swlottery.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "prompts": list(dict.fromkeys(probe.prompts)),
        "bos": sorted({"with" if flag else "without" for flag in probe.with_bos}),
        "probe_tokens": int(probe.valid.sum()),
        "kappa": settings.kappa,
        "rho": RHO,
        "seed": settings.seed,
        "complete": result.complete,
        "layers": {"before": [_layer(scan) for scan in result.before], "after": [_layer(scan) for scan in result.after]},
        "nulls": [
            {
                "kind": one.kind,
                "draws": len(one.largest),
                "observed": observed,
                "p_value": one.p_value(observed),
                "median": float(np.median(one.largest)),
                "quantile_95": float(np.quantile(one.largest, 0.95)),
                "largest": max(one.largest),
                "firing_rate": one.firing(settings.kappa)[0],
                "firing_interval": list(one.firing(settings.kappa)[1:]),
            }
            for one in drawn
        ],
        "false_positive_rate": {
            "rate": rate,
            "interval": [low, high],
            "draws": len(drawn[0].largest),
            "null": drawn[0].kind,
        },
        "leader": {**_spike(probe, led.entry), **_weight(downs, led.contribution), "lacks": led.lacks(settings.kappa)},
        "eval_text": text.name,
        "eval_text_sha256": text.sha256,
        "super_weights": [_removal(downs, probe, removal) for removal in result.removals],
        "cancellers": [{**_spike(probe, spike), **_weight(downs, given)} for spike, given in cancelling],
        "near_misses": [_spike(probe, spike) for spike in sorted(result.near, key=lambda spike: -spike.ratio)],
        "diffuse": [
            {**_spike(probe, removal.spike), "bias_share": removal.bias_share,
             "largest_share": removal.largest[0].share if removal.largest else 0.0}
            for removal in result.diffuse
        ],
    }  # fmt: skip


def _add_verification(
    record: Record,
    rows: Sequence[Ablation],
    words: Sequence[Verdict],
    found: Sequence[Coordinate],
    evaluator: Evaluator,
    settings: FindSettings,
) -> None:
    import math

    documents = len(evaluator.baseline)
    window = int(evaluator.batches[0].shape[1])
    record["documents"] = documents
    record["eval_tokens"] = documents * window
    record["baseline_nll"] = float(evaluator.baseline.mean())
    record["baseline_perplexity"] = math.exp(record["baseline_nll"])
    single = {(row.kind, row.coordinates[0]): row for row in rows if len(row.coordinates) == 1}
    for weight, coordinate, word in zip(record["super_weights"], found, words, strict=True):
        weight.update(_row(single["alone", coordinate]))
        restored = single.get(("restored", coordinate))
        weight["restored"] = _row(restored) if restored else None
        weight["verdict"] = word.word
        weight["tokens_to_decide"] = word.tokens
    for canceller in record["cancellers"]:
        place = Coordinate(canceller["layer"], canceller["out"], canceller["in"], canceller["expert"])
        canceller.update(_row(single["canceller", place]))
    critical = critical_sets(rows, settings.seed)
    record["joint"] = [
        {
            "kind": row.kind,
            "members": [found.index(coordinate) for coordinate in row.coordinates],
            "critical": row in critical,
            **_row(row),
        }
        for row in rows
        if row.kind in ("joint", "left in")
    ]
    record["controls"] = [
        {"kind": row.kind, "coordinates": [_coordinate(c) for c in row.coordinates], **_row(row)}
        for row in rows
        if row.kind in ("control", "random set", "largest others")
    ]
