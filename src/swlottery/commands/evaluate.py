"""``swlottery evaluate``: the perplexities of a model; of a run's final ticket, with its dense network beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swlottery.commands import find
from swlottery.commands.outputs import check_file, check_temporary
from swlottery.config import FindSettings
from swlottery.errors import DONE, BadInput
from swlottery.runtime import files, sums

if TYPE_CHECKING:
    import numpy as np

    from swlottery.data.evaluation import Documents, Text

Entry = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network to evaluate. model: what it is loaded by. sparsity: None where nothing is known of masks.

    longest: of the sequences that it was trained on from scratch, in tokens; 0: as long as the model takes.
    """

    name: str
    model: str
    sparsity: float | None = None
    longest: int = 0
    note: str = ""


class Measured(NamedTuple):
    """losses: of each document, nats a token. longest: tokens of a document, at most."""

    entry: Entry
    losses: np.ndarray
    documents: Documents
    longest: int


def evaluate(settings: FindSettings, beside: str | None = None) -> int:
    """Measure the losses, print them, and write them to ``settings.out`` if that is given. Returns the exit code.

    Raises:
        BadInput: as `measure`; a file that could not be written.
    """
    check_temporary()
    if settings.out:
        check_file(Path(settings.out))
    from swlottery.report.logs.evaluate import EvaluateLog

    log = EvaluateLog(bars=False)
    entries = measure(settings, beside)
    log.losses(entries)
    if settings.out:
        files.write_json(Path(settings.out), {"schema": 1, "networks": entries})
        log.written(Path(settings.out))
    return DONE


def measure(settings: FindSettings, beside: str | None = None) -> list[Entry]:
    """The losses of ``settings.model``, a run or a model, on the finder's documents, and those of the dense one.

    beside: a model to compare with; None: a run's own network of round 1, where it has one.

    Returns:
        An entry a network, with the names of a record; the first has the paired difference to the second.

    Raises:
        BadInput: no such model, or none yet; another tokenizer beside it; a text that cannot be used.
    """
    find.check(settings)
    networks = _networks(settings, beside)
    from swlottery.data.evaluation import evaluation_text
    from swlottery.find.effects import paired
    from swlottery.find.entries import effect_entry
    from swlottery.runtime import hardware

    text = evaluation_text(settings.eval_text, settings.protocol)
    hardware.make_current(hardware.pick_device(settings.device))
    first = _measured(networks[0], settings, text)
    if len(networks) == 1:
        return [first.entry]
    other = _measured(networks[1], replace(settings, revision=None), text, first)
    return [first.entry | effect_entry(paired("dense", (), first.losses, other.losses)), other.entry]


def _networks(settings: FindSettings, beside: str | None) -> list[Network]:
    """What is evaluated: a run's final ticket, or the model; and what stands beside it."""
    from swlottery.models.names import path_of

    run = path_of(settings.model)
    others = []
    if beside is not None:
        path_of(beside)  # before anything is loaded
        others.append(Network("beside it", beside))
    if run is None or not (run / "settings.json").is_file():
        return [Network("model", settings.model), *others]
    if not (run / "final" / "config.json").is_file():
        raise BadInput(f"{run} has no final ticket yet: start that run again, and evaluate it when it is finished")
    from swlottery.report.run_files import read_rows, read_settings

    for name in ("settings.json", "rounds.csv"):
        sums.check(run / name)
    try:
        trained, rows = read_settings(run), list(read_rows(run / "rounds.csv"))
        longest = int(trained["context"]) if trained["start"] == "scratch" else 0
        start, end = float(rows[0]["sparsity"]), float(rows[-1]["sparsity"])
    except (ValueError, LookupError) as error:
        raise BadInput(f"{run}: its settings.json or rounds.csv is damaged ({error}): take it from a copy") from None
    if not others and (run / "round_1" / "config.json").is_file():
        masked = int(rows[0]["total"]) - int(rows[0]["remaining"])
        name = f"round 1 ({masked:,} masked)" if masked else "dense (round 1)"
        others = [Network(name, str(run / "round_1"), start)]
    return [Network("final ticket", str(run / "final"), end, longest, _note(settings, trained, others)), *others]


def _note(settings: FindSettings, trained: dict[str, Any], others: list[Network]) -> str:
    """What a reader of the numbers of a run has to know."""
    from swlottery.data.sources import is_on_hub

    notes = []
    same = os.path.realpath(trained["data"]) == os.path.realpath(os.path.expanduser(settings.eval_text))
    if same and not is_on_hub(settings.eval_text):
        notes.append("the run was trained on this text: these are not the losses of held-out text (--eval-text)")
    if not others:
        notes.append("the run has no network that was trained before a prune: --beside names another dense one")
    return "; ".join(notes)


def _measured(network: Network, settings: FindSettings, text: Text, like: Measured | None = None) -> Measured:
    """like: whose documents have to be this network's too."""
    import torch

    from swlottery.find.ablation import Evaluator
    from swlottery.find.entries import loss_entry
    from swlottery.find.run import documents_of
    from swlottery.models.architectures import Roles
    from swlottery.models.running import evaluating

    loaded = find.load(replace(settings, model=network.model))
    longest = min((like.longest if like else network.longest) or loaded.context, loaded.context)
    documents = documents_of(loaded, settings, text, longest)
    if like and longest < like.documents.windows.shape[1]:
        found = f"{network.model} takes {longest:,} tokens at most, and the documents have"
        raise BadInput(f"{found} {like.documents.windows.shape[1]:,}: give the two models the other way round")
    if like and not torch.equal(documents.windows, like.documents.windows):
        raise BadInput(f"{network.model} takes the text as other tokens than {like.entry['model']}: they need the same")
    with evaluating(loaded.model):
        losses = Evaluator(loaded.model, Roles(loaded.model), documents.windows, (), settings.seed).baseline
    entry = {
        "network": network.name,
        "model": loaded.name,
        "weights_sha256": loaded.weights_sha256,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "sparsity": network.sparsity,
        "note": "; ".join(filter(None, (network.note, loaded.note))),
        **loss_entry(settings.protocol, text, documents, float(losses.mean())),
    }
    return Measured(entry, losses, documents, longest)
