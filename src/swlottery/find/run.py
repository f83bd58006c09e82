"""The finder from end to end: probe → spikes → search → null → ablation → verify → record.

Each function returns what was found, and calls an observer with the events on the way. Nothing here prints or draws.
The model's weights are intact whenever the observer is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from swlottery.config import FindSettings
from swlottery.data.evaluation import QUICK_TOKENS, Documents, Text, evaluation_text, quick, wikitext2
from swlottery.data.vocabulary import check_rows, unknown_share
from swlottery.find import null as nulls
from swlottery.find import probe as probes
from swlottery.find import published
from swlottery.find.ablation import Evaluator
from swlottery.find.activations import AllActivations, activations
from swlottery.find.attribution import Contribution, contributions, leader
from swlottery.find.effects import Ablation, paired
from swlottery.find.events import Drawn, Event, Finished, Planned, Prepared, Searched, Tested
from swlottery.find.forward import budget, groups
from swlottery.find.generation import beginnings, generations, taken
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.results import Results
from swlottery.find.search import Search, search
from swlottery.find.spikes import Spike
from swlottery.find.verify import cost, describe, latest, verify
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate, check_place
from swlottery.models.loaded import Loaded, embedding_rows
from swlottery.models.running import evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn

Observer = Callable[[Event], None]

RUN_FOR = ("intact", "verdicts", "description", "ablated verdicts", "ablated description")
"""What forward tokens are run for: the intact network; what was found; what was asked for, if anything was."""

CANCELLERS = 4
"""At most so many cancelling spikes are verified, the largest first."""


def examine(
    loaded: Loaded,
    settings: FindSettings,
    text: Text | None = None,
    prompts: Sequence[str] = (),
    observe: Observer = lambda event: None,
) -> Record:
    """Find, test and verify the super weights of a model: its record (see record.schema.json).

    Args:
        loaded: from `models.load.load`, or `models.loaded.wrap` of a model that is loaded already.
        settings: κ, the lengths of the text, the numbers of draws and controls, the seed.
        text: held-out text; that of ``settings.eval_text`` unless given.
        prompts: texts to look for spikes with, instead of the default ones.
        observe: called with every event, in the order of events.py.

    Raises:
        BadInput: a prompt or a text that is too long, too short or empty; an output or a loss that is not finite; a
            coordinate to ablate that the model does not have.
    """
    asked = tuple(Coordinate(*one) for one in settings.coordinates())
    for coordinate in asked:
        check_place(Roles(loaded.model).downs, coordinate, loaded.name)
    text = text or evaluation_text(settings.eval_text, settings.protocol)
    rows = embedding_rows(loaded.model)
    probe = probes.build(
        loaded.tokenizer, prompts or probes.DEFAULT_PROMPTS, loaded.context, settings.bos, loaded.device, rows
    )
    documents = documents_of(loaded, settings, text, loaded.context)
    unknown = unknown_share(documents.windows, loaded.tokenizer)
    prepared = Prepared(probe, text, documents.windows, unknown, asked, documents.words, documents.bytes)
    observe(prepared)
    with evaluating(loaded.model):
        return find(loaded, prepared, settings, observe)


def documents_of(loaded: Loaded, settings: FindSettings, text: Text, longest: int) -> Documents:
    """The documents on which a protocol measures a model's loss, of at most ``longest`` tokens.

    Raises:
        BadInput: a text that is too short, or a token for which the model has no row.
    """
    if settings.protocol == "wikitext2":
        documents = wikitext2(text, loaded.tokenizer, longest)
    else:
        tokens = settings.eval_tokens or QUICK_TOKENS["cpu" if loaded.device == "cpu" else "gpu"]
        documents = quick(text, loaded.tokenizer, tokens, min(settings.eval_context, longest))
    rows = embedding_rows(loaded.model)
    check_rows(int(documents.windows.max()), rows, loaded.tokenizer, f"the text {text.name}")
    return documents


def find(loaded: Loaded, prepared: Prepared, settings: FindSettings, observe: Observer) -> Record:
    """Find, test and verify the super weights of a model in evaluation mode: its record."""
    model, roles, probe = loaded.model, Roles(loaded.model), prepared.probe
    result = search(model, roles.downs, probe, settings.kappa, settings.max_weights)
    everything = AllActivations(model, roles.downs, probe)
    led = leader(now for group in everything for now in group)
    searched = Searched(result, led, _cancelling(model, roles.downs, probe, result))
    observe(searched)

    drawn = _nulls(everything, result.coordinates, settings, observe)
    del everything
    tested = Tested(drawn, max((spike.ratio for spike in result.arriving), default=led.entry.ratio))
    observe(tested)

    ids = beginnings(loaded.tokenizer, probe.prompts, loaded.context).to(loaded.device)
    one = taken(ids, loaded.context)  # of the sets that the network has to write without; see `Results.to_continue`
    rows, asked, evaluator, used = _verification(model, roles, prepared, searched, settings, observe, one)
    baseline = evaluator.baseline
    results = Results(loaded, settings, roles.downs, prepared, searched, tested, rows, asked, baseline, used)
    record = _continued(results, ids, observe).record()
    if known := published.known(loaded.name, settings, roles.downs):
        record |= published.compare(known, record, evaluator, probe, result, settings, observe)
    observe(Finished(record, [*rows, *asked]))
    return record


def _continued(results: Results, ids: Tensor, observe: Observer) -> Results:
    """The results with what the network writes, where there is a weight to take from it."""
    loaded, made = results.loaded, []
    if not (sets := results.to_continue()):
        return results
    for one in generations(loaded.model, results.downs, loaded.tokenizer, ids, loaded.context, sets):
        observe(one)
        made.append(one)
    prompts = [loaded.tokenizer.decode(row) for row in ids.tolist()]
    tokens = {**results.forward_tokens, "generation": sum(one.forward_tokens for one in made)}
    return replace(results, generations=made, beginnings=prompts, forward_tokens=tokens)


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
    now = {one.down.layer: one for one in activations(model, layers, probe, tokens)}
    pairs = []
    for spike in sorted(largest, key=lambda spike: spike.layer):
        given, _ = contributions(now[spike.layer], spike, 1)
        if given and given[0].coordinate not in result.coordinates:
            pairs.append((spike, given[0]))
    return pairs


def _nulls(
    everything: AllActivations, found: Sequence[Coordinate], settings: FindSettings, observe: Observer
) -> list[nulls.Null]:
    """Both nulls: of each draw the largest ratio over all layers. The n-th draw is the same in each group of layers."""
    count = settings.null_draws
    downs, limit = everything.downs, budget(everything.model)
    shapes = [down.shape(expert) for down in downs for expert in down.numbers()]
    # As many layers at a time as there is room for copies of their matrices; where none are made, all.
    pieces = [groups([nulls.copied(downs[n]) for n in stretch], limit) for stretch in everything.stretches]
    passes = count * sum(map(len, pieces))
    drawn = []
    for kind in nulls.KINDS:
        largest = [0.0] * count
        for group, stretches in zip(everything, pieces, strict=True):
            for stretch in stretches:
                part = [group.pop(0) for _ in stretch]
                prepared = nulls.prepare(part, found)
                part.clear()  # the inputs are all that is needed
                for nth, ratio in enumerate(nulls.draws(prepared, kind, count, settings.seed, shapes)):
                    largest[nth] = max(largest[nth], ratio)
                    observe(Drawn(kind, passes))
                del prepared
        drawn.append(nulls.Null(kind, tuple(largest)))
    return drawn


def _verification(
    model: nn.Module,
    roles: Roles,
    prepared: Prepared,
    searched: Searched,
    settings: FindSettings,
    observe: Observer,
    written: int,
) -> tuple[list[Ablation], list[Ablation], Evaluator, dict[str, float]]:
    """The rows of the found weights and of those asked for, what has measured them, and the forward tokens used.

    written: the forward tokens of one continuation of the prompts, whose cost is said here too.
    """
    found, windows = searched.search.coordinates, prepared.windows
    asked = [coordinate for coordinate in prepared.asked if coordinate not in found]
    cancelling = [contribution.coordinate for _, contribution in searched.cancelling]
    layers = [coordinate.layer for coordinate in [*found, *asked, *cancelling]]
    evaluator = Evaluator(model, roles, windows, layers, settings.seed)

    done = [0.0, evaluator.forward_tokens]

    def rows(some: list[Coordinate], others: list[Coordinate], cancelling: list[Coordinate]) -> Iterator[Ablation]:
        """Those that the verdicts need, and then those that describe."""
        needed = []
        for row in verify(evaluator, some, settings.controls, settings.seed, others):
            observe(row)
            needed.append(row)
        verdicts = latest(needed)
        yield from verdicts
        done.append(evaluator.forward_tokens)
        for row in describe(evaluator, some, verdicts, cancelling, settings.kappa):
            observe(row)
            yield row
        done.append(evaluator.forward_tokens)

    def plan(names: Sequence[str], passes: Sequence[float], asked: bool = False) -> None:
        observe(Planned(dict(zip(names, passes, strict=True)), windows.numel(), evaluator.seconds, asked))

    sets = 2 + len(found) + len(asked) if found or asked else 0
    writing = sets * written / windows.numel()
    plan((*RUN_FOR[:3], "generation"), (1, *cost(evaluator, found, cancelling, settings.controls), writing))
    observe(paired("intact", (), evaluator.baseline, evaluator.baseline))
    of_found = list(rows(found, asked, cancelling))
    if asked:
        plan(RUN_FOR[3:], cost(evaluator, asked, [], settings.controls), asked=True)
    of_asked = list(rows(asked, found, [])) if asked else []
    used = dict(zip(RUN_FOR, (after - before for before, after in pairwise(done)), strict=False))
    return of_found, of_asked, evaluator, used
