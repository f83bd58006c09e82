"""swlottery as a library: the functions that ``import swlottery`` offers. They are those of the commands.

No function changes the environment, signals or (but for the time of `train`) the threads of the process. Each raises
`BadInput`, with one line that says what to do, for what cannot be done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands import find as find_command
from swlottery.config import EVALUATED, FindSettings
from swlottery.config import TrainSettings as TrainSettings
from swlottery.errors import DONE
from swlottery.errors import BadInput as BadInput
from swlottery.settings_file import check_values

if TYPE_CHECKING:
    from torch import nn

    from swlottery.find.record import Record
    from swlottery.lottery.masks import Masks


def find(model: str | Path | nn.Module, tokenizer: Any = None, **settings: Any) -> Record:
    """Find the super weights of a model and test whether they matter (Yu et al. 2024, arXiv:2411.07191).

    Args:
        model: a preset, a hub id, a folder, a GGUF file; or a causal model of transformers, which is examined in its
            own precision, on its own device, and is afterwards bit for bit as before.
        tokenizer: that of a loaded model.
        settings: those of `FindSettings` by name, such as ``eval_tokens=4096`` or ``kappa=40.0``. The ones that name
            outputs (out, plots, check) are the command's: nothing is written here.

    Returns:
        The record: ``super_weights`` is a list, an entry a weight (layer, out, in, value, spike, share, verdict, …);
        docs/method.md explains each. A model without one has only its ``leader``.

    Raises:
        BadInput: no such model or text, an architecture that is not known, a value out of its limits.
    """
    named = model if isinstance(model, str | Path) else "a loaded model"
    chosen = FindSettings(model=str(named), **check_values(settings, FindSettings))
    if chosen.out or chosen.plots or chosen.check:
        raise BadInput("find() returns the record and writes nothing: leave out, plots and check away")
    from swlottery.find.run import examine
    from swlottery.models.loaded import wrap

    find_command.check(chosen)
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise BadInput("tokenizer changes nothing for a model that is named: leave it away")
        loaded = find_command.load(chosen)
    elif tokenizer is None:
        raise BadInput("a loaded model needs its tokenizer: find(model, tokenizer)")
    else:
        chosen.check_idle(("revision start dtype device device_map", True, "for a model that is loaded already"))
        loaded = wrap(model, tokenizer)
    return examine(loaded, chosen, prompts=find_command.prompts(chosen))


def train(settings: TrainSettings, root: str | Path = ".") -> Path:
    """Train, prune and rewind, and track the super weights (Frankle & Carbin 2019, arXiv:1803.03635).

    The log goes to stdout. A run that was stopped goes on; one that is finished is only looked up.

    Args:
        settings: such as ``TrainSettings(model="gpt2", rounds=5, prune_rate="0.2")``.
        root: the folder of ``runs`` and ``plots``.

    Returns:
        The run's folder: settings.json, metrics.jsonl, rounds.csv, watch.csv, masks/, final/ (docs/method.md).

    Raises:
        BadInput: settings that contradict each other, the model or the data; a full disk; a loss that is not finite.
    """
    from swlottery.commands.train import train as command
    from swlottery.runtime import environment
    from swlottery.study import naming

    # A copy with values of the settings' own types: the command completes paths, and 0.2 is the same setting as "0.2".
    chosen = TrainSettings(**check_values(dataclasses.asdict(settings)))
    with environment.restored():
        code = command(chosen, Path(root))
    if code != DONE:
        raise RuntimeError(f"the run ended with code {code}")
    runs = Path(chosen.runs or Path(root) / "runs")
    (folder,) = runs.glob(f"*-{naming.digest(chosen, naming.contents(chosen))}")
    return folder


def evaluate(model: str | Path, beside: str | Path | None = None, **settings: Any) -> list[dict[str, Any]]:
    """The perplexities of a model, or of a run's final ticket with the dense network of its round 1 beside it.

    Args:
        model: the folder of a finished run; or what `find` takes by name.
        beside: a model to compare with, of the same tokenizer.
        settings: those of the command by name, such as ``protocol="wikitext2"`` or ``eval_text="held-out.txt"``.

    Returns:
        An entry a network, with the names of a record: ``baseline_nll`` (nats a token), ``baseline_perplexity``,
        ``word_perplexity``, ``bits_per_byte``, … The first has ``nll_difference`` to the second, paired by document.

    Raises:
        BadInput: no such model or text, a run that is not finished, a setting that the command does not have.
    """
    from swlottery.commands.evaluate import measure

    if other := sorted(settings.keys() - set(EVALUATED)):
        raise BadInput(f"evaluate() has no setting {other[0]}: it takes {', '.join(EVALUATED)}")
    chosen = FindSettings(model=str(model), **check_values(settings, FindSettings))
    return measure(chosen, None if beside is None else str(beside))


def load_record(path: str | Path) -> Record:
    """Read a record that ``swlottery find`` wrote.

    Raises:
        BadInput: no such file, not JSON, of another schema version, or not as the schema says.
    """
    from swlottery.find import record

    return record.load(Path(path))


def load_masks(run: str | Path, round: int) -> Masks:
    """The masks m_r of a run: m_0 before the first prune, m_1 after it, and so on.

    Returns:
        By parameter name a bool tensor in the parameter's own shape; True: the weight remains.

    Raises:
        BadInput: the run has no such mask, or not yet.
    """
    from safetensors import SafetensorError

    from swlottery.lottery import masks
    from swlottery.runtime import sums

    path = Path(run, "masks", f"round_{round}.safetensors")
    sums.check(path)
    try:
        return masks.load(path)
    except OSError as error:
        raise BadInput(f"no masks of round {round} there: {error}") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path} is damaged: {error}") from None


def prune(
    model: nn.Module,
    rate: float | str,
    scope: str = "attn+c_proj",
    criterion: str = "global-magnitude",
    masks: Masks | None = None,
    seed: int = 0,
) -> Masks:
    """Prune exactly floor(rate · remaining) of the weights that remain; the model itself is left alone: see `apply`.

    Iterative magnitude pruning (Frankle & Carbin 2019) is: train, prune, rewind, apply, again.

    Args:
        rate: the fraction of the remaining weights that goes, between 0 and 1; taken as decimal: 0.29 of 100 are 29.
        scope: what may be pruned: ``attn+c_proj``, ``linear``, ``mlp`` or ``all``.
        criterion: which weights go first: ``global-magnitude``, ``layer-magnitude`` or ``random``.
        masks: those before this prune; None: all weights in scope remain.
        seed: of the hash of positions that orders weights with equal scores.

    Returns:
        New masks: by parameter name a bool tensor in the parameter's shape and on its device; True: it remains.

    Raises:
        BadInput: an unknown scope, criterion or architecture; a rate out of its limits; masks of other parameters; a
            weight that is not finite.
    """
    from swlottery.lottery import masks as masking
    from swlottery.lottery.criteria import CRITERIA
    from swlottery.lottery.prune import prune_count
    from swlottery.lottery.scope import SCOPES, in_scope
    from swlottery.lottery.select import select
    from swlottery.models.architectures import Roles

    for what, value, known in (("scope", scope, SCOPES), ("criterion", criterion, CRITERIA)):
        if value not in known:
            raise BadInput(f"no {what} {value}: choose from {', '.join(known)}")
    parameters = in_scope(model, Roles(model), scope)
    before = masking.full(parameters) if masks is None else masking.fitting(masks, parameters)
    if before.keys() != parameters.keys():
        raise BadInput(f"the masks are of another scope than {scope}: prune under the scope that they were made for")
    try:
        count = prune_count(masking.remaining(before), rate)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return select(parameters, before, count, seed, CRITERIA[criterion])


def apply(masks: Masks, model: nn.Module) -> None:
    """Set every masked weight to zero, and its gradient where there is one.

    In a training loop call it between ``loss.backward()`` and the clipping or the step. Masked weights then take no
    part in either, and stay zero under an optimizer that was made after the prune. One that was made before holds
    moments which move them: call it after ``optimizer.step()`` as well.

    Raises:
        BadInput: the model has no such parameter, or of another shape.
    """
    from swlottery.lottery import masks as masking

    parameters = dict(model.named_parameters())
    masks = masking.fitting(masks, parameters)
    masking.apply(masks, parameters)
    gradients: Any = {name: parameters[name].grad for name in masks if parameters[name].grad is not None}
    masking.apply({name: masks[name] for name in gradients}, gradients)


def track(model: nn.Module, coordinates: Sequence[Sequence[int]], masks: Masks | None = None) -> list[dict[str, Any]]:
    """Look at single weights of the MLP down-projections, as they are now.

    Args:
        coordinates: (layer, out, in) of each, 0-based, and then the expert where there are experts.
        masks: as from `prune`; None: nothing is masked.

    Returns:
        A row a coordinate: layer, out, in, expert; ``value``; ``rank`` of |w| in its matrix, 1: the largest;
        ``percentile_matrix``, the mid-rank of |w| among all entries of its matrix, in percent; ``alive``, whether it
        remains. Names and definitions are those of watch.csv.

    Raises:
        BadInput: an architecture that is not known; a coordinate that the model does not have.
    """
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate, check_place, rank_of
    from swlottery.watch.rows import percentiles

    downs = Roles(model).downs
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rows = []
    for coordinate in coordinates:
        if len(coordinate) not in (3, 4) or min(coordinate) < 0:
            given = f"{tuple(coordinate)} is no coordinate"
            raise BadInput(f"{given}: give (layer, out, in), 0-based, and the expert where there are some")
        place = Coordinate(*coordinate)
        check_place(downs, place, "the model")
        layer, out, in_, expert = place
        part, matrix = downs[layer].part(expert), downs[layer].matrix(expert)
        sizes, mask = matrix.abs(), (masks or {}).get(names[id(part.weight)])
        rows.append(
            {
                "layer": layer,
                "out": out,
                "in": in_,
                "expert": expert,
                "value": float(matrix[out, in_]),
                "rank": rank_of(sizes, out, in_),
                "percentile_matrix": percentiles(sizes[out, in_].view(1), [(sizes, None)])[0],
                "alive": mask is None or bool(part.view(mask, expert)[out, in_]),
            }
        )
    return rows
