"""What every rank makes for itself before a run begins; and that all of them have made the same."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.outputs import check_name, check_temporary
from swlottery.commands.prepare import prepare
from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.report.words import which_code
from swlottery.runtime import environment, files, hardware, provenance, stop, sums, tracker
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked
from swlottery.study import naming

if TYPE_CHECKING:
    import torch

    from swlottery.data.tokens import Tokens
    from swlottery.lottery.resolved import Resolved
    from swlottery.lottery.start import Network
    from swlottery.watch.tracked import Tracked


@dataclasses.dataclass
class Prepared:
    """What a run starts with: the network at step 0, its data, the weights to track, its folders, and what it took
    where the settings say auto, and why."""

    network: Network
    data: Tokens
    known: list[Tracked]
    parent: Path | None
    folder: Path
    plots: Path
    resolved: Resolved
    why: str
    device: torch.device


def prepare_run(settings: TrainSettings, root: Path, ranks: Ranks, asked: Asked, cores: int) -> Prepared:
    """Everything that every rank makes for itself; the text is made into tokens by one, and the others wait."""
    settings.check()
    ranks.check(settings.micro_batch, settings.grad_accum)
    check_temporary()
    check_name(Path(settings.runs or root / "runs"))
    device = hardware.pick_device(settings.device)
    hardware.make_current(device)
    ranks.choose_device(settings.device)
    if settings.compile:
        hardware.check_compiler(device)
    from swlottery.data.tokens import token_limit
    from swlottery.lottery import branch, resolved, start
    from swlottery.lottery.look import probe_of
    from swlottery.watch.tracked import beforehand

    for name in ("super_weights", "from_round_1"):  # a config names them from the repository's root
        path = getattr(settings, name)
        short = path in (None, "discover", "none")  # a file of that name is written with ./
        if not short and not os.path.exists(path) and os.path.exists(root / path):
            setattr(settings, name, str(root / path))
    parent: Path | None = None
    round_1: dict[str, Any] = {}
    if settings.from_round_1:
        parent = branch.find_parent(Path(settings.from_round_1), settings)
        settings.from_round_1 = str(parent)
        round_1 = branch.check(parent, settings)
    contents = naming.contents(settings)
    environment.pin(settings.threads or cores)
    stop.raise_if_asked(asked)
    network = start.network(settings)
    stop.raise_if_asked(asked)
    if (settings.super_weights, settings.trace) != ("none", "none"):
        probe_of(network)  # refused now, not after the first round
    known = beforehand(network, settings, round_1.get("weights_sha256"))
    folder = Path(settings.runs or root / "runs") / naming.name(settings, network.slug, contents)
    plots = Path(settings.plots or root / "plots" / folder.name)
    if not folder.exists():  # a run that is begun goes on without it, with a note
        tracker.check(settings.tracker)
    took, why = resolved.kept(folder, settings), "as it was begun"
    if took is None and parent is not None:
        took, why = resolved.stored(parent), "as the run that it branches from"
    if took is None:
        dtype, why = hardware.precision(settings.dtype, device)
        took = resolved.Resolved(dtype, token_limit(settings, network.context) or 0)
    data = prepare(settings, network.tokenizer, network.context, took.data_tokens or None, asked, cores)
    data.require_rows(network.embedding_rows, network.tokenizer)
    if parent is not None:
        branch.check_text(parent, data)
    return Prepared(network, data, known, parent, folder, plots, took, why, device)


def agree(ranks: Ranks, prepared: Prepared, settings: TrainSettings, cores: int) -> None:
    """All ranks must have come to the same network, data and folder, with the same libraries."""
    here = environment.describe(settings.threads or cores, prepared.device)
    mine = {
        "versions": here["versions"],
        "processor": here["cpu"],
        "GPU": here["gpu"],
        "precision": prepared.resolved.dtype,
        "weights at step 0": prepared.network.lineage,
        "tokens": prepared.data.manifest.get("sha256"),
        "folder": str(prepared.folder.absolute()),
    }
    cards = ranks.gather(hardware.gpu_id(prepared.device))
    for rank, one in enumerate(cards):
        if one and (first := cards.index(one)) != rank:
            raise BadInput(
                f"ranks {first} and {rank} share one GPU ({one}): start one task a GPU (sbatch --gpus-per-node=N "
                "--ntasks-per-node=N), or fewer tasks"
            )
    for rank, other in enumerate(ranks.gather(mine)):
        for name, value in mine.items():
            if other[name] != value:
                raise BadInput(
                    f"rank {rank} has other {name} than rank {ranks.rank} ({other[name]}, not {value}): all tasks need "
                    "the same files and libraries"
                )


def begun_with(
    prepared: Prepared, settings: TrainSettings, goes_on: bool, cores: int, ranks: int, command: str
) -> dict[str, Any]:
    """What the run was started with. Threads, precision and number of tokens are kept; what else differs is printed.

    goes_on: from a checkpoint; else this start is its first.
    """
    from swlottery.lottery import resolved

    path, device, took = prepared.folder / "environment.json", prepared.device, prepared.resolved
    here = {**environment.describe(settings.threads or cores, device), "device": str(device), "tasks": ranks}
    decided = {"dtype": took.dtype, "why": prepared.why, "data_tokens": took.data_tokens}
    stored = resolved.begun(prepared.folder)
    for name in ("versions", "cpu", "gpu", "tasks"):
        if name in stored and (begun := stored[name]) != here[name]:
            print(f"note: this run was begun with {name} {begun}, and goes on with {here[name]}: other bits")
    if took.dtype == "bfloat16" and not hardware.bfloat16(device)[0]:
        print(f"note: this run was begun in bfloat16, and keeps it: {hardware.how_slow(device)}")
    made_by = provenance.record(prepared.folder, stored if goes_on else None, command)
    starts = [made_by, *made_by.get("later", [])]
    print(f"code: {which_code(starts[-1]['code'])}")
    if len(starts) > 1:
        begun = which_code(made_by.get("code")) or "code that is not known"
        print(f"note: this run was begun with {begun}, and goes on with other code or other packages")
    ours = here | decided
    kept = ours | {name: stored[name] for name in ours if name in stored} | made_by
    try:
        if sums.read_sealed(path) == kept:
            return kept
    except FileNotFoundError:
        pass
    except ValueError as error:
        print(f"note: {path} was damaged ({error}), and is written again from metrics.jsonl")
    files.write_json(path, sums.sealed(kept))
    return kept
