"""The command line: commands and flags meet here and nowhere else.

Nothing heavy is imported before a command needs it, so that ``--help`` and a typo are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from swlottery import __version__
from swlottery.config import FindSettings, SweepSettings, TrainSettings, from_file
from swlottery.errors import BAD_INPUT, DONE, FAILED, BadInput
from swlottery.runtime import stop
from swlottery.runtime.ranks import Place, RankLost, Ranks, lost

if TYPE_CHECKING:
    from swlottery.models.load import Loaded


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown flag with the nearest valid one, in one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = known.flags
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]}?" if near else f": the flags are {' '.join(flags)}"
            _complain(f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}")
            sys.exit(BAD_INPUT)
        return known


def _complain(message: str) -> None:
    # One write: print's second one, of the line's end, may come behind another line of a log that stdout shares.
    sys.stderr.write(f"swlottery: {' '.join(message.split())}\n")
    sys.stderr.flush()


def _add_flags(parser: argparse.ArgumentParser, settings: type, *arguments: str) -> None:
    """One flag for each field of a settings class, but for those that are ``arguments`` of their own."""
    hints = get_type_hints(settings)
    flags = []
    for field in dataclasses.fields(settings):
        if field.name in arguments:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        options = dict(field.metadata["flag"])
        kind = next((t for t in (int, float, bool) if hints[field.name] is t), str)
        if "action" not in options:
            options["type"] = kind
        default = None if field.default is dataclasses.MISSING else field.default
        shown = "" if default in (None, "", False) else f" [{default:g}]" if kind is float else f" [{default}]"
        parser.add_argument(flag, default=None, help=field.metadata["help"] + shown, **options)
        flags.append(flag)
    parser.set_defaults(flags=flags)


def _settings(kind: type, arguments: argparse.Namespace, stored: dict[str, Any] | None = None) -> Any:
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)}
    return kind(**(stored or {}) | {name: value for name, value in given.items() if value is not None})


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="swlottery", description="Super weights of language models, and whether they survive pruning.")
    top.add_argument("--version", action="version", version=f"swlottery {__version__}")
    top.set_defaults(flags=["--help", "--version"])
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    find = commands.add_parser("find", help="locate the super weights of a model, and test whether they matter",
                               allow_abbrev=False)  # fmt: skip
    _add_flags(find, FindSettings)
    train = commands.add_parser("train", help="train, prune and rewind a model, and follow its super weights",
                                allow_abbrev=False)  # fmt: skip
    prepare = commands.add_parser("prepare", help="only make the tokens that such a training reads: on a login or CPU node",
                                  allow_abbrev=False)  # fmt: skip
    for one in (train, prepare):
        one.add_argument("--config", metavar="FILE", help="a file of settings, one 'name: value' a line; a flag wins")
        _add_flags(one, TrainSettings)
        one.set_defaults(flags=["--config", "--point", *one.get_default("flags")])
        one.add_argument("--point", metavar="FILE[:LINE]", help="settings from a file that a sweep wrote; the line is that of "
                         "SLURM_ARRAY_TASK_ID")  # fmt: skip
    sweep = commands.add_parser(
        "sweep", help="run every point of a study, as an array job or in turn", allow_abbrev=False
    )
    sweep.add_argument("study", metavar="STUDY.yaml", help="the study: see docs/slurm.md")
    _add_flags(sweep, SweepSettings, "study")
    status = commands.add_parser("status", help="how all runs stand, or all points of a study", allow_abbrev=False)
    status.add_argument("folder", nargs="?", metavar="FOLDER", help="the runs' folder, or a study's [runs]")
    status.set_defaults(flags=[])
    report = commands.add_parser(
        "report", help="one page on many runs: the answers, tables, figures", allow_abbrev=False
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder, a folder of runs, or of the tables of an earlier report"
    )
    report.add_argument(
        "--out", default="report.html", metavar="PAGE.html", help="the page; its tables stand beside it [report.html]"
    )
    report.add_argument("--markdown", metavar="FILE.md", help="the same as Markdown, its tables and figures beside it")
    report.set_defaults(flags=["--out", "--markdown"])
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 bad input, 1 anything else."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser().parse_args(given)
    # Whole lines at once, also where PYTHONUNBUFFERED would write text and line end apart: stderr shares the log.
    with contextlib.suppress(AttributeError):  # a test's capture has no such method
        sys.stdout.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    _be_quiet()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages on a CPU: a fifth off a step
    own = arguments is None  # this process is the command, and ends with it
    before = signal.signal(signal.SIGTERM, _terminate)
    place = Place.of(os.environ) if parsed.command == "train" else Place()
    try:
        if place.rank > 0:  # the lead writes the log
            with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                return _command(parsed, place, own)
        return _command(parsed, place, own)
    except BadInput as error:
        if place.rank == 0:  # all ranks have the same to say
            _complain(str(error))
        return BAD_INPUT
    except RankLost as error:
        lost(str(error), error.told)
    except KeyboardInterrupt:
        _complain("interrupted: the model's weights are as they were; no record that is half written was left")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    finally:
        if not own:
            signal.signal(signal.SIGTERM, before)


def _command(parsed: argparse.Namespace, place: Place, own: bool) -> int:
    root = Path(os.environ.get("SWLOTTERY_ROOT", "."))  # set by the scripts, which run from anywhere
    match parsed.command:
        case "find":
            return find(_settings(FindSettings, parsed), root)
        case "train":
            with stop.flag(last=own) as asked:
                from swlottery.commands.train import train

                settings = _train_settings(parsed)
                # Slurm appends to a requeued job's log; scripts/job.sh says that this one writes such a log.
                log = os.environ.get("SWLOTTERY_BATCH_JOB", "")
                return train(settings, root, Ranks(place), asked, _cores(place), log)
        case "prepare":
            with stop.flag(last=own) as asked:
                from swlottery.commands.prepare import prepare_only

                return prepare_only(_train_settings(parsed), asked, _cores(place))
        case "sweep":
            from swlottery.study.sweep import sweep

            return sweep(_settings(SweepSettings, parsed), root)
        case "report":
            return _report(
                [Path(run) for run in parsed.runs], Path(parsed.out), parsed.markdown and Path(parsed.markdown)
            )
        case _:
            return _status(Path(parsed.folder or root / "runs"))


def _train_settings(parsed: argparse.Namespace) -> TrainSettings:
    stored = from_file(Path(parsed.config), TrainSettings) if parsed.config else {}
    stored |= _point(parsed.point) if parsed.point else {}
    settings: TrainSettings = _settings(TrainSettings, parsed, stored)
    return settings


def _point(named: str) -> dict[str, Any]:
    from swlottery.study.sweep import point_settings

    path, _, line = named.rpartition(":")
    if path and line.isdecimal():
        return point_settings(Path(path), line)
    return point_settings(Path(named), os.environ.get("SLURM_ARRAY_TASK_ID", ""))


def _report(runs: list[Path], out: Path, markdown: Path | None) -> int:
    for path in (out, *([markdown] if markdown else [])):
        if path.is_dir():
            raise BadInput(f"cannot write {path}: it is a folder")
        _check_writable(path, path.absolute().parent)
    from swlottery.report.page.make import make

    for written in make(runs, out, markdown):
        print(f"wrote    {written}")
    return DONE


def _status(folder: Path) -> int:
    from swlottery.report.logs import status
    from swlottery.study import sweep

    if (folder / "study.json").is_file():
        print("\n".join(sweep.table(folder)))
        return DONE
    print(status.table(status.runs(folder)))
    for study in sorted(folder.glob("*/study.json")):
        try:
            *_, last = sweep.table(study.parent)
        except BadInput as error:
            last = str(error)
        print(f"study {study.parent}: {last}")
    return DONE


def _cores(place: Place) -> int:
    """The CPU cores of one task: Slurm's word; where it has none, its share of what the machine lets us use."""
    from swlottery.runtime import environment

    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(given) if given.isdecimal() else max(1, environment.cores() // place.local_size)


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _be_quiet() -> None:
    """Libraries' progress bars and notices have no place in a log; on a terminal the bars may stay."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for library, level in (("TRANSFORMERS", "error"), ("DATASETS", "critical"), ("HF_HUB", "critical")):
        os.environ.setdefault(f"{library}_VERBOSITY", level)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def find(settings: FindSettings, root: Path) -> int:
    """``swlottery find``: load, search, verify, and write the log (stdout), the record and the figures.

    root: where the record and the figures go by default.
    """
    import time

    from swlottery.report.logs.find import FindLog

    _check_find(settings)
    prompts = _prompts(settings)
    if settings.check:
        return _check_record(settings, Path(settings.check))
    _check_outputs(settings.out, settings.plots)
    started = time.monotonic()

    from swlottery.data.evaluation import evaluation_windows, read_text
    from swlottery.find import probe as probes
    from swlottery.find import record as records
    from swlottery.find.run import Finished
    from swlottery.find.run import find as run_find
    from swlottery.runtime import hardware

    # A text that is not there is told before torch is imported, a GPU that cannot be used before anything is written.
    text = None if settings.eval_text == "builtin" else read_text(settings.eval_text)
    hardware.use(hardware.pick_device(settings.device))
    text = text or read_text(settings.eval_text)
    loaded = _load(settings)
    out = Path(settings.out or root / "super_weights" / f"{loaded.slug}.json")
    plots = Path(settings.plots or root / "plots" / loaded.slug)
    _check_outputs(out, plots)
    probe = probes.build(loaded.tokenizer, prompts, loaded.context, settings.bos, loaded.device)
    windows = evaluation_windows(
        text, loaded.tokenizer, settings.eval_tokens, min(settings.eval_context, loaded.context)
    )
    before = _record_before(out)
    log = FindLog(bars=sys.stderr.isatty())
    log.header(loaded, probe, text, windows, settings, time.monotonic() - started)
    events = run_find(loaded, probe, text, windows, settings)
    record: records.Record = {}
    with contextlib.closing(events):
        for event in events:
            log.event(event)
            if isinstance(event, Finished):
                record = event.record
    log.compare(record, before)
    out.parent.mkdir(parents=True, exist_ok=True)
    records.save(record, out)
    from swlottery.report.figures.find import draw

    figures = draw(records.load(out), plots)
    log.footer(record, out, figures, time.monotonic() - started)
    return DONE


def _load(settings: FindSettings) -> Loaded:
    from swlottery.models import load as model

    if settings.start == "scratch":
        return model.from_config(settings.model, settings.seed, settings.dtype, settings.device)
    return model.load(settings.model, settings.revision, settings.dtype, settings.device)


def _check_record(settings: FindSettings, path: Path) -> int:
    from swlottery.find import record as records

    record = records.load(path)
    loaded = _load(settings)
    records.check_lineage(record, loaded.weights_sha256, loaded.name)
    print(f"{path} belongs to {loaded.name}: weights {loaded.weights_sha256[:12]}…, as loaded")
    return DONE


def _record_before(path: Path) -> dict[str, Any] | None:
    """The record that stands where the new one will, if there is one that can be read."""
    from swlottery.find import record as records

    with contextlib.suppress(BadInput):
        return records.load(path)
    return None


def _check_find(settings: FindSettings) -> None:
    for name, least in (("kappa", 2.0), ("max_weights", 1), ("null_draws", 1), ("eval_tokens", 1), ("eval_context", 16), ("seed", 0),
                        ("controls", 1)):  # fmt: skip
        value = getattr(settings, name)
        if not least <= value < 2**63:
            raise BadInput(f"--{name.replace('_', '-')} {value:g}: must be at least {least:g}, and finite")
    from swlottery.models.load import existing, is_path

    if settings.start != "scratch" and is_path(settings.model):
        existing(settings.model)


def _prompts(settings: FindSettings) -> list[str]:
    from swlottery.find.probe import DEFAULT_PROMPTS

    prompts = list(settings.prompt)
    if settings.prompt_file is not None:
        try:
            text = Path(settings.prompt_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read --prompt-file {settings.prompt_file}: {error}") from None
        prompts += text.splitlines() or [""]
    if any(not prompt.strip() for prompt in prompts):
        raise BadInput("an empty prompt: every --prompt and every line of --prompt-file needs some text")
    return prompts or list(DEFAULT_PROMPTS)


def _check_outputs(record: str | Path | None, plots: str | Path | None) -> None:
    if record is not None:
        if os.path.isdir(record):
            raise BadInput(f"cannot write {record}: it is a folder")
        _check_writable(Path(record), Path(record).absolute().parent)
    if plots is not None:
        _check_writable(Path(plots), Path(plots).absolute())


def _check_writable(target: Path, place: Path) -> None:
    """Refuse before any work is done what could not be written at its end; nothing is created."""
    while not os.path.exists(place):  # Path.exists raises where a folder may not be entered
        place = place.parent
    try:  # permissions alone do not tell: root passes them all, on read-only and special file systems too
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write {target}: {place} is not a folder that can be written to ({error.strerror})"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
