"""The finder from end to end: probe → spikes → search → null → ablation → verify → record.

`examine` returns the record and calls an observer with the events on the way; `find` yields the events one by one.
Nothing here prints or draws. The model's weights are intact whenever an event is handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from swlottery.config import FindSettings
from swlottery.data.evaluation import Text, evaluation_windows, read_text
from swlottery.find import null as nulls
from swlottery.find import probe as probes
from swlottery.find.ablation import Evaluator
from swlottery.find.activations import AllActivations, activations
from swlottery.find.attribution import Contribution, Leader, contributions, leader
from swlottery.find.events import Drawn, Event, Finished, Planned, Prepared, Searched, Tested
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.results import Results
from swlottery.find.search import Search, search
from swlottery.find.spikes import Spike
from swlottery.find.verdicts import verdicts
from swlottery.find.verify import Ablation, cost, paired, verify
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate
from swlottery.models.loaded import Loaded, evaluating

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

CANCELLERS = 4
"""At most so many cancelling spikes are verified, the largest first."""


def examine(
    loaded: Loaded,
    settings: FindSettings | None = None,
    text: Text | None = None,
    prompts: Sequence[str] = (),
    observe: Callable[[Event], None] = lambda event: None,
) -> Record:
    """Find, test and verify the super weights of a model: its record (see record.schema.json).

    Args:
        loaded: from `models.load.load`, or `models.load.wrap` of a model that is loaded already.
        settings: κ, the lengths of the text, the numbers of draws and controls, the seed.
        text: held-out text; that of ``settings.eval_text`` unless given.
        prompts: texts to look for spikes with, instead of the default ones.
        observe: called with every event, in the order of events.py.

    Raises:
        BadInput: a prompt or a text that is too long, too short or empty; an output or a loss that is not finite.
    """
    settings = settings or FindSettings()
    text = text or read_text(settings.eval_text)
    probe = probes.build(
        loaded.tokenizer, prompts or probes.DEFAULT_PROMPTS, loaded.context, settings.bos, loaded.device
    )
    context = min(settings.eval_context, loaded.context)
    windows = evaluation_windows(text, loaded.tokenizer, settings.eval_tokens, context)
    observe(Prepared(probe, text, windows))
    with evaluating(loaded.model), closing(find(loaded, probe, text, windows, settings)) as events:
        for event in events:
            observe(event)
    assert isinstance(event, Finished), "the last event has the record"
    return event.record


def find(
    loaded: Loaded, probe: Probe, text: Text, windows: Tensor, settings: FindSettings
) -> Generator[Event, None, None]:
    """The events of finding, testing and verifying the super weights of a model in evaluation mode.

    Args:
        windows: the documents to verify on, ``[documents, tokens]``.
    """
    model, roles = loaded.model, Roles(loaded.model)
    result = search(model, roles.downs, probe, settings.kappa, settings.max_weights)
    everything = AllActivations(model, roles.downs, probe)
    led = _leader(everything)
    searched = Searched(result, led, _cancelling(model, roles.downs, probe, result))
    yield searched

    drawn = yield from _nulls(everything, result.coordinates, settings)
    observed = max((spike.ratio for spike in result.arriving), default=led.entry.ratio)
    del everything
    tested = Tested(drawn, observed)
    yield tested

    rows, baseline = yield from _verification(model, roles, windows, searched, settings)
    words = verdicts(result.coordinates, rows, windows.shape[1], settings.seed)
    results = Results(
        loaded, probe, text, settings, roles.downs, searched, tested, rows, words, baseline, windows.shape[1]
    )
    yield Finished(results.record(), rows, words)


def _leader(everything: AllActivations) -> Leader:
    best = None
    for downs, group in everything:
        best = leader(downs, group, best)
    assert best is not None, "a model has at least one layer"
    return best


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


def _nulls(
    everything: AllActivations, found: Sequence[Coordinate], settings: FindSettings
) -> Generator[Event, None, list[nulls.Null]]:
    """Both nulls: of each draw the largest ratio over all layers."""
    count = settings.null_draws
    drawn = []
    for kind in nulls.KINDS:
        largest = [0.0] * count
        for nth, ratio in enumerate(_draws(everything, found, kind, settings)):
            largest[nth % count] = max(largest[nth % count], ratio)
            yield Drawn(kind, nth + 1, count * everything.groups)
        drawn.append(nulls.Null(kind, tuple(largest)))
    return drawn


def _draws(
    everything: AllActivations, found: Sequence[Coordinate], kind: str, settings: FindSettings
) -> Iterator[float]:
    """The ratio of every draw of the first group of layers, then of the next; the n-th draw is the same in each."""
    shapes = [tuple(matrix.shape) for down in everything.downs for _, matrix in down.matrices()]
    for layers, group in everything:
        prepared = nulls.prepare(layers, group, found)
        group.clear()  # the inputs are all that is needed
        yield from nulls.draws(prepared, kind, settings.null_draws, settings.seed, shapes)
        prepared.clear()


def _verification(
    model: nn.Module, roles: Roles, windows: Tensor, searched: Searched, settings: FindSettings
) -> Generator[Event, None, tuple[list[Ablation], np.ndarray]]:
    """The rows of the verification, and the intact network's loss of each document."""
    found = searched.search.coordinates
    cancelling = [contribution.coordinate for _, contribution in searched.cancelling]
    yield Planned(cost(found, len(cancelling), settings.controls), *windows.shape)
    layers = sorted({coordinate.layer for coordinate in [*found, *cancelling]})
    evaluator = Evaluator(model, roles, windows, layers)
    yield paired("intact", (), evaluator.baseline, evaluator.baseline)
    rows = []
    verified = verify(evaluator, found, cancelling, count=settings.controls, kappa=settings.kappa, seed=settings.seed)
    for row in verified:
        rows.append(row)
        yield row
    return rows, evaluator.baseline
