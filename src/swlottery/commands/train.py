"""``swlottery train``: from settings to a run's folder, its log, and its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from swlottery.commands.keeper import FolderKeeper
from swlottery.commands.prepared import Prepared, agree, begun_with, prepare_run
from swlottery.commands.tracker import PATIENCE, Follower
from swlottery.config import TrainSettings
from swlottery.errors import DONE, STOPPED, BadInput
from swlottery.report.logs.progress import Output, printed_before
from swlottery.report.logs.train import TrainLog
from swlottery.report.words import one_line
from swlottery.runtime import checkpoint, environment, files, sums
from swlottery.runtime import folder as folders
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never

AWAY = "give --runs and --plots other folders, or move that one away"


def train(
    settings: TrainSettings,
    root: Path,
    ranks: Ranks | None = None,
    asked: Asked = never,
    cores: int = 0,
    log: str = "",
    command: str = "",
) -> int:
    """Run a lottery, or go on with it where it was stopped. Returns the exit code: 0 done, 75 stopped and saved.

    root: the folder in which ``runs`` and ``plots`` are by default. ranks: the processes that share the work. asked:
    whether to stop. cores: of this process; 0: as many as it may use. log: names the log that this writes, if several
    starts write to one: what an earlier start has printed there is not printed again. command: as it was typed.

    Raises:
        BadInput: settings that contradict each other, the model or the data; a run in use; a loss that is not finite.
        OSError: a full disk, or another error of the system. What was saved stays saved, also then.
        RankLost: another rank is gone.
    """
    ranks = ranks or Ranks()
    started = time.monotonic()
    cores = cores or environment.cores()
    prepared: Prepared | None = None
    error: BadInput | Stopped | None = None
    try:
        prepared = prepare_run(settings, root, ranks, asked, cores)
    except (BadInput, Stopped) as caught:
        error = caught  # the other ranks are to hear of it
    try:
        ranks.open(settings.rank_timeout)
        ranks.raise_any(error)
        assert prepared is not None
        agree(ranks, prepared, settings, cores)
        with contextlib.ExitStack() as stack:
            code = DONE
            if not ranks.decide(lambda: _take(prepared, settings, stack, patient=bool(log))):
                code = _run(settings, prepared, ranks, asked, cores, log, command, started)
            ranks.close()
            return code
    except Stopped:
        print("asked to stop before the first step: nothing is lost")
        return STOPPED
    except OSError as problem:
        if prepared is not None and problem.filename is None:  # such as a full disk
            problem.filename = str(prepared.folder)
        if not ranks.lead and problem is not ranks.lead_error:  # what only this task has met, nobody else prints
            sys.stderr.write(f"swlottery: rank {ranks.rank} on {socket.gethostname()}: {problem}\n")
        raise


def _take(prepared: Prepared, settings: TrainSettings, stack: contextlib.ExitStack, patient: bool) -> bool:
    """Take hold of the run's folder. Returns whether the run is done already.

    Raises `BadInput` for a run in use, and for one that is done with other weights or another text than are there now.
    """
    folder = prepared.folder
    folder.mkdir(parents=True, exist_ok=True)
    prepared.plots.mkdir(parents=True, exist_ok=True)
    # A job that was cancelled a moment ago may take some time to end, and its successor is there already.
    stack.enter_context(folders.held(folder, patience=60 if patient else 0))
    if not folders.is_finished(folder):
        (folder / sums.NAME).unlink(missing_ok=True)
        return False
    sums.check(folder)
    _check_begun(prepared, settings)
    if not folders.read_status(folder):
        print(f"note: {folder / 'status.json'} was damaged, and is written again; all other files are sound")
        folders.write_status(folder, "finished", {})
    _clear(folder)
    print(f"{one_line(folder)} is done: other settings make another run; to run it again, remove the folder")
    for note in Follower(folder, settings.tracker).close(min(PATIENCE, settings.rank_timeout)):  # what is still missing
        print(note)
    return True


def _clear(folder: Path) -> None:
    """Remove what only a run needs that is not finished: the only training of a run may have traced steps."""
    checkpoint.clear(folder / "checkpoints")
    shutil.rmtree(folder / "trace", ignore_errors=True)


def _changed(begun: dict[str, Any], prepared: Prepared) -> dict[str, str]:
    """What is not as it was when the run began, ``text`` or ``weights``, in words. begun: the run's first event."""
    folder, data, changed = prepared.folder, prepared.data, {}
    if begun["data"]["sha256"] != data.manifest.get("sha256"):
        changed["text"] = f"the text {data.name} is not the one that {folder} was begun with: it has other tokens"
    if begun["lineage"] != prepared.network.lineage:
        changed["weights"] = f"the network is not the one that {folder} was begun with: it has other weights at step 0"
    return changed


def _check_begun(prepared: Prepared, settings: TrainSettings) -> None:
    """Raise `BadInput` where a finished run was made from other weights, or another text.

    Other versions of Python and torch give other weights from scratch, another built-in text, and another tokenizer
    made from that. Then a note is enough.
    """
    from swlottery.lottery.start import tokenizer_name

    try:
        with open(prepared.folder / "metrics.jsonl", encoding="utf-8") as file:
            begun = files.parse_json(file.readline())
        changed, versions = _changed(begun, prepared), begun["versions"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # of an earlier version, or damaged: nothing is known
    scratch, others = settings.start == "scratch", versions != environment.describe(0)["versions"]
    made = settings.data == "builtin" or (scratch and tokenizer_name(settings) == "builtin")
    for what, words in changed.items():
        if not (scratch if what == "weights" else made and others):
            raise BadInput(f"{words}; {AWAY}")
        print(f"note: {one_line(words)}, for it was made with other versions")


def _run(
    settings: TrainSettings,
    prepared: Prepared,
    ranks: Ranks,
    asked: Asked,
    cores: int,
    log_name: str,
    command: str,
    started: float,
) -> int:
    from swlottery.lottery.loop import Lottery
    from swlottery.watch.recorder import WatchRecorder
    from swlottery.watch.tracked import subjects

    folder, network, data = prepared.folder, prepared.network, prepared.data
    ranks.watch(folder)
    printed = ranks.decide(lambda: printed_before(folder, log_name))
    notes: list[str] = []
    keeper = FolderKeeper(folder, settings, network, notes.append, ranks, asked)
    goes_on = keeper.place is not None
    here = ranks.decide(lambda: begun_with(prepared, settings, goes_on, cores, ranks.size, command))
    environment.pin(here["threads"])
    ranks.decide(lambda: files.write_json(folder / "settings.json", dataclasses.asdict(settings)))
    log = TrainLog(bars=sys.stderr.isatty()) if ranks.lead else None
    draw, theta_0 = functools.partial(_draw, folder, prepared.plots, settings), functools.partial(keeper.theta, 0)
    follower = Follower(folder, settings.tracker if ranks.lead else "none")
    output = Output(folder, settings, here["dtype"], keeper.place, keeper.tables, log, printed, draw, follower.notes)
    recorder = WatchRecorder(network, data, settings, here, prepared.known, output, theta_0)

    def ended(state: str, message: str = "") -> None:
        if log is not None:
            with suppress(OSError) if state == "failed" else contextlib.nullcontext():  # not to hide what it caused
                output.status(state, **({"message": message} if state == "failed" else {}))
            if state == "finished":  # not before: a run with neither would be done again
                _clear(folder)
            patience = PATIENCE if state == "finished" else PATIENCE / 4  # a job that is stopped has no time
            log.lines(follower.close(min(patience, settings.rank_timeout)))
            output.footer(time.monotonic() - started, state, message)

    try:
        ranks.decide(lambda: _open(output, keeper, prepared, notes, log_name))
        try:
            source = prepared.parent / "round_1" if prepared.parent else None
            lottery = Lottery(network, data, settings, keeper, recorder, ranks, asked, here["dtype"])
            ranks.decide(lambda: output.status("running"))
            lottery.run(subjects(prepared.known, settings), source)
            ranks.decide(keeper.finish)
        except Stopped:
            keeper.settle()
            raise
    except Stopped:
        ranks.decide(lambda: ended("stopped", keeper.saved_where))
        return STOPPED
    except BaseException as error:
        message = str(error) or type(error).__name__
        ended("failed", message)
        raise
    finally:
        keeper.close()
    ranks.decide(lambda: ended("finished"))
    return DONE


def _open(output: Output, keeper: FolderKeeper, prepared: Prepared, notes: list[str], log_name: str) -> None:
    """Begin the log. `BadInput` where the run was begun with another network or other data."""
    history = keeper.history() if keeper.place is not None else []
    if history:
        for words in _changed(history[0], prepared).values():
            raise BadInput(f"{words}; {AWAY}")
    output.open(notes, history, log_name)


def _draw(folder: Path, plots: Path, settings: TrainSettings, event: dict[str, Any]) -> list[Path]:
    """The figures that a prune, or the end of the run, calls for."""
    from swlottery.report.figures.train import draw_round, draw_run

    if event["event"] == "trace":
        from swlottery.report.figures.trace import draw

        title = f"{settings.model}, round 1 of {folder.name}"
        return [draw(folder / "round_1" / "trace.csv", plots, title)] if event["rows"] else []
    round = event.get("round", settings.trainings)
    drawn = [draw_round(folder, plots, round)] if event["weights"] and round else []
    return drawn + (draw_run(folder, plots) if event["event"] == "finished" else [])
