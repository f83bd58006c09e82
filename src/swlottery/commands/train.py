"""``swlottery train``: from settings to a run's folder, its log, and its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.prepare import prepare
from swlottery.config import TrainSettings
from swlottery.errors import DONE, STOPPED, BadInput
from swlottery.report.logs.progress import Telling, standing, told_before
from swlottery.report.logs.train import TrainLog
from swlottery.runtime import checkpoint, environment, files, hardware, stop
from swlottery.runtime import folder as folders
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never
from swlottery.study import naming

if TYPE_CHECKING:
    import torch

    from swlottery.data.tokens import Tokens
    from swlottery.lottery.start import Network
    from swlottery.lottery.state import Event, Run
    from swlottery.lottery.taken import Taken
    from swlottery.watch.rows import Followed


@dataclasses.dataclass
class Prepared:
    """What a run starts with: the network at step 0, its data, the weights to follow, its folders, and what it took where
    the settings say auto, and why."""

    network: Network
    data: Tokens
    known: list[Followed]
    parent: Path | None
    folder: Path
    plots: Path
    taken: Taken
    why: str
    device: torch.device


def train(
    settings: TrainSettings, root: Path, ranks: Ranks | None = None, asked: Asked = never, cores: int = 0, log: str = ""
) -> int:
    """Run a lottery, or go on with it where it was stopped. Returns the exit code: 0 done, 75 stopped and saved.

    root: the folder in which ``runs`` and ``plots`` stand by default. ranks: the processes that share the work. asked:
    whether to stop. cores: of this process; 0: as many as it may use. log: names the log that this writes, if several
    starts write to one: what an earlier start has told there is not told again.

    Raises:
        BadInput: settings that contradict each other, the model or the data; a run in use; a full disk; a loss that is
            not finite. What was saved stays saved.
        RankLost: another rank is gone.
    """
    ranks = ranks or Ranks()
    started = time.monotonic()
    cores = cores or environment.cores()
    prepared: Prepared | None = None
    error: BadInput | Stopped | None = None
    try:
        prepared = _prepare(settings, root, ranks, asked, cores)
    except (BadInput, Stopped) as caught:
        error = caught  # the other ranks are to hear of it
    try:
        ranks.open(settings.rank_timeout)
        ranks.raise_any(error)
        assert prepared is not None
        _agree(ranks, prepared, settings, cores)
        with contextlib.ExitStack() as stack:
            code = DONE
            if not ranks.decide(lambda: _take(prepared.folder, prepared.plots, stack, patient=bool(log))):
                code = _run(settings, prepared, ranks, asked, cores, log, started)
            ranks.close()
            return code
    except Stopped:
        print("asked to stop before the first step: nothing is lost")
        return STOPPED
    except OSError as problem:
        folder = prepared.folder if prepared is not None else root
        if not ranks.lead and problem is not ranks.told:  # what only this task has met, nobody else tells
            sys.stderr.write(f"swlottery: rank {ranks.rank} on {socket.gethostname()}: {problem}\n")
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"no space left for {folder}: free some and run the same again, it goes on") from None
        if problem.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise BadInput(f"cannot write {problem.filename or folder} ({problem.strerror})") from None
        raise


def _prepare(settings: TrainSettings, root: Path, ranks: Ranks, asked: Asked, cores: int) -> Prepared:
    """Everything that every rank makes for itself; the text is made into tokens by one, and the others wait."""
    settings.check()
    ranks.check(settings.micro_batch, settings.grad_accum)
    device = hardware.pick_device(settings.device)
    hardware.use(device)
    ranks.choose_device(settings.device)
    if settings.compile:
        hardware.check_compiler(device)
    from swlottery.data.tokens import token_limit
    from swlottery.lottery import branch, start, taken
    from swlottery.watch.tracked import beforehand

    for name in ("super_weights", "from_round_1"):  # a config names them from the repository's root
        path = getattr(settings, name)
        if path and not Path(path).exists() and (root / path).exists():
            setattr(settings, name, str(root / path))
    parent: Path | None = None
    round_1: dict[str, Any] = {}
    contents = {}
    if settings.from_round_1:
        parent = branch.run_in(Path(settings.from_round_1), settings)
        settings.from_round_1 = str(parent)
        round_1 = branch.check(parent, settings)
        contents["from_round_1"] = round_1["weights_sha256"]
    if settings.super_weights not in ("discover", "none"):
        contents["super_weights"] = _sha256(Path(settings.super_weights))
    environment.pin(settings.threads or cores)
    stop.here(asked)
    network = start.network(settings)
    stop.here(asked)
    known = beforehand(network, settings, round_1.get("weights_sha256"))
    folder = Path(settings.runs or root / "runs") / naming.name(settings, network.slug, contents)
    plots = Path(settings.plots or root / "plots" / folder.name)
    took, why = taken.kept(folder, settings), "as it was begun"
    if took is None and parent is not None:
        took, why = taken.stored(parent), "as the run that it branches from"
    if took is None:
        dtype, why = hardware.precision(settings.dtype, device)
        took = taken.Taken(dtype, token_limit(settings, network.context) or 0)
    data = prepare(settings, network.tokenizer, network.context, took.data_tokens or None, asked, cores)
    if parent is not None:
        branch.check_text(parent, data)
    return Prepared(network, data, known, parent, folder, plots, took, why, device)


def _agree(ranks: Ranks, prepared: Prepared, settings: TrainSettings, cores: int) -> None:
    """All ranks must have come to the same network, data and folder, with the same libraries."""
    here = environment.describe(settings.threads or cores, prepared.device)
    mine = {
        "versions": here["versions"], "processor": here["cpu"], "GPU": here["gpu"], "precision": prepared.taken.dtype,
        "weights at step 0": prepared.network.lineage, "tokens": prepared.data.manifest.get("sha256"),
        "folder": str(prepared.folder.absolute()),
    }  # fmt: skip
    cards = ranks.gather(hardware.card(prepared.device))
    for rank, one in enumerate(cards):
        if one and (first := cards.index(one)) != rank:
            raise BadInput(f"ranks {first} and {rank} share one GPU ({one}): start one task a GPU (sbatch --gpus-per-node=N "
                           "--ntasks-per-node=N), or fewer tasks")  # fmt: skip
    for rank, other in enumerate(ranks.gather(mine)):
        for name, value in mine.items():
            if other[name] != value:
                raise BadInput(f"rank {rank} has other {name} than rank {ranks.rank} ({other[name]}, not {value}): all "
                               "tasks need the same files and libraries")  # fmt: skip


def _take(folder: Path, plots: Path, stack: contextlib.ExitStack, patient: bool) -> bool:
    """Take hold of the run's folder. Returns whether the run is done already."""
    folder.mkdir(parents=True, exist_ok=True)
    plots.mkdir(parents=True, exist_ok=True)
    # A job that was cancelled a moment ago may take some time to end, and its successor is there already.
    stack.enter_context(folders.held(folder, patience=60 if patient else 0))
    if not folders.is_finished(folder):
        return False
    checkpoint.clear(folder / "checkpoints")
    print(f"{folder} is done: other settings make another run; to run it again, remove the folder")
    return True


def _run(
    settings: TrainSettings, prepared: Prepared, ranks: Ranks, asked: Asked, cores: int, log_name: str, started: float
) -> int:
    from swlottery.lottery.loop import lottery
    from swlottery.lottery.state import Run

    folder = prepared.folder
    ranks.watch(folder)
    told, here = ranks.decide(
        lambda: (told_before(folder, log_name), _environment(settings, prepared, cores, ranks.size))
    )
    environment.pin(here["threads"])
    if ranks.lead:
        files.write_json(folder / "settings.json", dataclasses.asdict(settings))
    notes: list[str] = []
    run = Run(prepared.network, prepared.data, settings, folder, here, notes.append, ranks, asked)
    log = TrainLog(bars=sys.stderr.isatty())
    telling = Telling(log, run, told)
    events = lottery(run, prepared.known, prepared.parent / "round_1" if prepared.parent else None)
    figures: list[Path] = []
    try:
        ranks.decide(lambda: telling.open(notes))
        if ranks.lead:
            folders.write_status(folder, "running", standing(run))
            if told < 0 and log_name:  # from here on this log tells of the run
                files.write_json(folder / "told.json", {"log": log_name, "events": 0})
        try:
            for event in events:
                if ranks.lead:
                    telling.tell(event)
                    if event["event"] in ("prune", "finished"):
                        figures += _draw(run, prepared.plots, event)
        except Stopped:
            run.settle()
            raise
    except Stopped:
        if ranks.lead:
            folders.write_status(folder, "stopped", standing(run))
            telling.footer(figures, time.monotonic() - started, "stopped", run.saved_where)
        return STOPPED
    except BaseException as error:
        message = str(error) or type(error).__name__
        if ranks.lead:
            with suppress(OSError):  # a full disk must not hide what it caused
                folders.write_status(folder, "failed", {**standing(run), "message": message})
            telling.footer(figures, time.monotonic() - started, "failed", message)
        raise
    finally:
        run.close()
    if ranks.lead:
        folders.write_status(folder, "finished", standing(run))
        checkpoint.clear(folder / "checkpoints")  # not before: a run with neither would be done again
        telling.footer(figures, time.monotonic() - started)
    return DONE


def _environment(settings: TrainSettings, prepared: Prepared, cores: int, ranks: int) -> dict[str, Any]:
    """What the run was started with. Threads, precision and the number of tokens are kept; what else differs is said."""
    path, device, taken = prepared.folder / "environment.json", prepared.device, prepared.taken
    here = {**environment.describe(settings.threads or cores, device), "tasks": ranks}
    decided = {"dtype": taken.dtype, "why": prepared.why, "data_tokens": taken.data_tokens}
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        files.write_json(path, here | decided)
        return here | decided
    for name in ("versions", "cpu", "gpu", "tasks"):
        if name in stored and (begun := stored[name]) != here[name]:
            print(f"note: this run was begun with {name} {begun}, and goes on with {here[name]}: other bits")
    if taken.dtype == "bfloat16" and not hardware.bfloat16(device)[0]:
        print(f"note: this run was begun in bfloat16, and keeps it: {hardware.how_slow(device)}")
    kept = decided | stored
    if kept != stored:  # of an earlier version, whose settings said it; they are written anew
        files.write_json(path, kept)
    return kept


def _draw(run: Run, plots: Path, event: Event) -> list[Path]:
    from swlottery.report.figures.train import draw_round, draw_run

    round_ = event["round"] if event["event"] == "prune" else run.prunes + 1
    drawn = [draw_round(run.folder, plots, round_)] if run.main else []
    return drawn + (draw_run(run.folder, plots) if event["event"] == "finished" else [])


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read the record {path}: {error.strerror} (find_sw.sh writes one)") from None
