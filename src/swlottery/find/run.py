"""The finder from end to end: probe → spikes → search → null → ablation → verify → record.

Each function returns what was found, and calls an observer with the events on the way. Nothing here prints or draws.
The model's weights are intact whenever the observer is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from swlottery.find.verdicts import Verdict, verdicts
from swlottery.find.verify import cost, describe, verify
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate, check_place
from swlottery.models.loaded import Loaded, embedding_rows
from swlottery.models.running import evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn

Observer = Callable[[Event], None]

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
    prepared = Prepared(probe, text, documents, unknown, asked)
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
    evaluator, rows, asked, used = _verification(loaded, roles, prepared, searched, settings, observe, ids)
    window, written = prepared.documents.windows.shape[1], []
    words = verdicts(rows, window, settings.seed) | verdicts(asked, window, settings.seed)
    if sets := _to_write_without(words, result.coordinates or prepared.asked):
        for one in generations(model, roles.downs, loaded.tokenizer, ids, loaded.context, sets):
            observe(one)
            written.append(one)
        used["generation"] = len(sets) * taken(ids, loaded.context)
    begun = [loaded.tokenizer.decode(row) for row in ids.tolist()]
    results = Results(loaded, settings, prepared, searched, tested, evaluator, rows, asked, words, written, begun, used)
    record = results.record()
    if known := published.known(loaded.name, settings, roles.downs):
        record |= published.compare(known, record, evaluator, probe, result, settings, observe)
    observe(Finished(record))
    return record


def _to_write_without(
    words: Mapping[Coordinate, Verdict], together: Sequence[Coordinate]
) -> list[tuple[Coordinate, ...]]:
    """The sets of weights without which the network has to write: none, all, and each that matters."""
    matter = [(one,) for one, verdict in words.items() if verdict.word in ("critical", "jointly critical")]
    return list(dict.fromkeys([(), tuple(together), *matter])) if words else []


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
    loaded: Loaded,
    roles: Roles,
    prepared: Prepared,
    searched: Searched,
    settings: FindSettings,
    observe: Observer,
    ids: Tensor,
) -> tuple[Evaluator, list[Ablation], list[Ablation], dict[str, float]]:
    """(what measures, the rows of the found weights, those of the weights asked for, forward tokens by what for).

    ids: what the network is to continue; the cost of that is said here too.
    """
    found, windows = searched.search.coordinates, prepared.documents.windows
    asked = [coordinate for coordinate in prepared.asked if coordinate not in found]
    cancelling = [contribution.coordinate for _, contribution in searched.cancelling]
    layers = [coordinate.layer for coordinate in [*found, *asked, *cancelling]]
    evaluator = Evaluator(loaded.model, roles, windows, layers, settings.seed)
    used = {"intact": evaluator.forward_tokens}

    def rows(
        some: list[Coordinate], never: list[Coordinate], cancelling: list[Coordinate], of: str = ""
    ) -> list[Ablation]:
        """Those that the verdicts need, and then those that describe."""
        before = evaluator.forward_tokens
        needed = verify(evaluator, some, settings.controls, settings.seed, never, observe)
        used[of + "verdicts"], before = evaluator.forward_tokens - before, evaluator.forward_tokens
        described = describe(evaluator, some, needed, cancelling, settings.kappa, observe)
        used[of + "description"] = evaluator.forward_tokens - before
        return [*needed, *described]

    def plan(passes: dict[str, float], asked: bool = False) -> None:
        observe(Planned(passes, windows.numel(), evaluator.seconds, asked))

    deciding, describing = cost(evaluator, found, cancelling, settings.controls)
    sets = 2 + len(found) + len(asked) if found or asked else 0
    writing = sets * taken(ids, loaded.context) / windows.numel()
    plan({"intact": 1, "verdicts": deciding, "description": describing, "generation": writing})
    observe(paired("intact", (), evaluator.baseline, evaluator.baseline))
    of_found = rows(found, asked, cancelling)
    if not asked:
        return evaluator, of_found, [], used
    deciding, describing = cost(evaluator, asked, [], settings.controls)
    plan({"ablated verdicts": deciding, "ablated description": describing}, asked=True)
    return evaluator, of_found, rows(asked, found, [], "ablated "), used
