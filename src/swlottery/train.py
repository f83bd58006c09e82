"""``swlottery train``: from settings to a run's folder, its log, and its figures."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.report.train_log import TrainLog
from swlottery.runtime import checkpoint, environment, files
from swlottery.runtime import folder as folders

if TYPE_CHECKING:
    from swlottery.data import Tokens
    from swlottery.lottery.state import Event, Run

DONE, STOPPED = 0, 75


def train(settings: TrainSettings, root: Path, same_log: bool = False) -> int:
    """Run a lottery, or go on with it where it was stopped. Returns the exit code: 0 done, 75 stopped and saved.

    root: the folder in which ``runs`` and ``plots`` stand by default. same_log: an earlier start of this very job wrote
    to the log already, so that its header is not repeated.

    Raises:
        BadInput: settings that contradict each other, the model or the data; a run in use; a full disk; a loss that is
            not finite. What was saved stays saved.
    """
    settings.check()
    started = time.monotonic()
    from swlottery.lottery import branch, start
    from swlottery.lottery.weights import beforehand

    for name in ("super_weights", "from_round_1"):  # a config names them from the repository's root
        path = getattr(settings, name)
        if path and not Path(path).exists() and (root / path).exists():
            setattr(settings, name, str(root / path))
    parent = Path(settings.from_round_1) if settings.from_round_1 else None
    round_1 = branch.check(parent, settings) if parent else {}
    contents = {}
    if round_1:
        contents["from_round_1"] = round_1["weights_sha256"]
    if settings.super_weights not in ("discover", "none"):
        contents["super_weights"] = _sha256(Path(settings.super_weights))
    environment.pin(settings.threads or environment.cores())
    network = start.network(settings)
    known = beforehand(network, settings, round_1.get("weights_sha256"))
    run_folder = Path(settings.runs or root / "runs") / folders.name(settings, network.slug, contents)
    plots = Path(settings.plots or root / "plots" / run_folder.name)
    data = _data(settings, network.tokenizer, network.context)
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        plots.mkdir(parents=True, exist_ok=True)
        with folders.held(run_folder):
            if folders.is_finished(run_folder):
                checkpoint.clear(run_folder / "checkpoints")
                print(f"{run_folder} is done: other settings make another run; to run it again, remove the folder")
                return DONE
            return _run(settings, network, data, known, parent, run_folder, plots, started, same_log)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"no space left for {run_folder}: free some and run the same again, it goes on") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise BadInput(f"cannot write {error.filename or run_folder} ({error.strerror})") from None
        raise


def _run(
    settings: TrainSettings, network: Any, data: Tokens, known: Any, parent: Path | None, run_folder: Path, plots: Path,
    started: float, same_log: bool,
) -> int:  # fmt: skip
    from swlottery.lottery.loop import Stopped, lottery
    from swlottery.lottery.state import Run

    here = _environment(settings, run_folder)
    environment.pin(here["threads"])
    files.write_json(run_folder / "settings.json", dataclasses.asdict(settings))
    notes: list[str] = []
    run = Run(network, data, settings, run_folder, here, notes.append)
    log = TrainLog(bars=sys.stderr.isatty())
    _open_log(log, run, notes, same_log)
    figures: list[Path] = []
    try:
        with _stop_flag() as stop:
            for event in lottery(run, known, parent / "round_1" if parent else None, stop):
                _tell(log, run, event)
                if event["event"] in ("prune", "finished"):
                    figures += _draw(run, plots, event)
    except Stopped:
        folders.write_status(run_folder, "stopped", _standing(run))
        log.footer(run_folder, figures, time.monotonic() - started, "stopped", "asked to stop by a signal")
        return STOPPED
    except BaseException as error:
        message = str(error) or type(error).__name__
        with suppress(OSError):  # a full disk must not hide what it caused
            folders.write_status(run_folder, "failed", {**_standing(run), "message": message})
        log.footer(run_folder, figures, time.monotonic() - started, "failed", message)
        raise
    finally:
        run.tables.close()
    folders.write_status(run_folder, "finished", _standing(run))
    checkpoint.clear(run_folder / "checkpoints")  # not before: a run with neither would be done again
    log.footer(run_folder, figures, time.monotonic() - started)
    return DONE


def _data(settings: TrainSettings, tokenizer: Any, context: int) -> Tokens:
    from tqdm import tqdm

    from swlottery.data import prepare

    with tqdm(
        unit="token", unit_scale=True, desc="preparing data", disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        data = prepare(settings.data, tokenizer, settings.data_tokens or None, progress, say=print)
    data.require(context, settings.micro_batch * settings.grad_accum, settings.eval_sequences)
    return data


def _environment(settings: TrainSettings, run_folder: Path) -> dict[str, Any]:
    """What the run was started with; threads are kept, other versions are said."""
    path = run_folder / "environment.json"
    here = environment.describe(settings.threads or environment.cores())
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        files.write_json(path, here)
        return here
    for name in ("versions", "cpu"):
        if stored[name] != here[name]:
            print(f"note: this run was begun with {name} {stored[name]}, and goes on with {here[name]}: other bits")
    return stored


def _open_log(log: TrainLog, run: Run, notes: list[str], same_log: bool) -> None:
    if not run.resumed:
        for note in notes:
            log.line(note)
        return
    history = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_bytes().splitlines()]
    begun = history[0]
    if begun["data"]["sha256"] != run.data.manifest.get("sha256"):
        raise BadInput(f"the text {run.data.name} is not the one that {run.folder} was begun with: it has other tokens")
    if begun["lineage"] != run.network.lineage:
        raise BadInput(f"the network is not the one that {run.folder} was begun with: it has other weights at step 0")
    log.quiet = same_log
    log.header(dataclasses.asdict(run.settings), begun, dataclasses.asdict(TrainSettings()))
    log.quiet = False
    log.resumed(history[1:], run.state.round, run.state.step, "; ".join(notes))


def _tell(log: TrainLog, run: Run, event: Event) -> None:
    match event["event"]:
        case "step":
            log.step(event["round"], event["step"], event["steps"])
        case "start":
            log.header(dataclasses.asdict(run.settings), event, dataclasses.asdict(TrainSettings()))
        case _:
            log.event(event)
    if event["event"] == "evaluation":
        folders.write_status(run.folder, "running", _standing(run, event))


def _standing(run: Run, evaluation: Event | None = None) -> dict[str, Any]:
    """Where the run stands, for status.json."""
    from swlottery.lottery.prune import count_alive

    own = [one for one in run.main if one.kind != "foreign"]
    numbers = ("train_loss", "val_loss", "val_perplexity", "seconds_left", "tokens_per_second")
    return {
        "round": run.state.round, "rounds": run.prunes if run.has_begun else run.settings.rounds,
        "step": run.state.step, "steps": run.settings.steps,
        "followed": len(own), "kind": own[0].kind if own else None,
        "alive": count_alive(run.matrices(run.masks), [one.coordinate for one in own]),
        **{name: (evaluation or run.last).get(name) for name in numbers},
    }  # fmt: skip


def _draw(run: Run, plots: Path, event: Event) -> list[Path]:
    from swlottery.report.train_figures import draw_round, draw_run

    round_ = event["round"] if event["event"] == "prune" else run.prunes + 1
    drawn = [draw_round(run.folder, plots, round_)] if run.main else []
    return drawn + (draw_run(run.folder, plots) if event["event"] == "finished" else [])


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """A function that says whether a signal asked the run to stop. The handler only sets a flag."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read the record {path}: {error.strerror} (find_sw.sh writes one)") from None
