"""The command line: parses flags, calls a command, and answers with its exit code.

What belongs to a process (signals, environment variables, quiet libraries) is set here and nowhere else. Nothing heavy
is imported before a command needs it, so that ``--help`` and a typo are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from swlottery.config import FindSettings, SweepSettings, TrainSettings, flag_of, from_file
from swlottery.errors import BAD_INPUT, FAILED, BadInput
from swlottery.runtime import stop, terminal
from swlottery.runtime.files import home
from swlottery.runtime.ranks import Place, Ranks
from swlottery.runtime.watchdog import RankLost, exit_now
from swlottery.version import __version__

LONGEST = 2000  # characters of a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 bad input, 75 stopped and saved, 1 anything else."""
    terminal.outlive()
    # Whole lines at once, also where PYTHONUNBUFFERED would write text and line end apart: stderr shares the log.
    # What the terminal's encoding lacks, and what in a file's name is no text, becomes a question mark.
    with contextlib.suppress(AttributeError):  # a test's capture has no such method; a closed stream is None
        sys.stdout.reconfigure(line_buffering=True, write_through=False, errors="replace")  # type: ignore[union-attr]
    parsed = parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    _be_quiet()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages on a CPU: a fifth off a step
    own = arguments is None  # this process is the command, and ends with it
    before = stop.handle(_terminate, signal.SIGTERM, signal.SIGHUP)
    place = Place()
    try:
        if parsed.command == "train":
            place = Place.of(os.environ, terminal.is_there())
            place.require_address(os.environ)
        if place.rank > 0:  # the lead writes the log
            with (
                open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere,
                contextlib.redirect_stdout(nowhere),
            ):
                return _command(parsed, place, own)
        return _command(parsed, place, own)
    except BadInput as error:
        if place.rank == 0:  # all ranks have the same to say
            _complain(str(error))
        return BAD_INPUT
    except RankLost as error:
        exit_now(str(error), error.reported)
    except KeyboardInterrupt:
        _complain("interrupted: the model's weights are as they were; no record that is half written was left")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if sys.flags.dev_mode:  # python -X dev: where in the code it was
            raise
        if place.rank == 0:
            what = f"cannot use {error.filename} ({error.strerror})" if error.filename else error.strerror or str(error)
            goes_on = parsed.command in ("train", "prepare", "sweep")
            _complain(
                f"{what}: see to that, {'and run the same again, it goes on' if goes_on else 'or give another path'}"
            )
        return BAD_INPUT
    finally:
        if not own:
            for number, handler in before.items():
                signal.signal(number, handler)


def _command(parsed: argparse.Namespace, place: Place, own: bool) -> int:
    root = Path(os.environ.get("SWLOTTERY_ROOT", "."))  # set by the scripts, which run from anywhere
    match parsed.command:
        case "find":
            from swlottery.commands.find import find

            return find(_settings(FindSettings, parsed), root)
        case "train":
            with stop.flag(last=own) as asked:
                settings = _train_settings(parsed)
                from swlottery.commands.train import train

                # Slurm appends to a requeued job's log; scripts/job.sh says that this one writes such a log.
                log = os.environ.get("SWLOTTERY_BATCH_JOB", "")
                return train(settings, root, Ranks(place), asked, _cores(place), log)
        case "prepare":
            with stop.flag(last=own) as asked:
                settings = _train_settings(parsed)
                from swlottery.commands.prepare import prepare_only

                return prepare_only(settings, asked, _cores(place))
        case "sweep":
            from swlottery.commands.sweep import sweep

            return sweep(_settings(SweepSettings, parsed), root)
        case "report":
            from swlottery.commands.report import report

            return report(
                [Path(run) for run in parsed.runs], Path(parsed.out), parsed.markdown and Path(parsed.markdown)
            )
        case _:
            from swlottery.commands.status import status

            return status(Path(parsed.folder or root / "runs"))


# From flags to settings


def _settings(kind: type, parsed: argparse.Namespace, stored: dict[str, Any] | None = None) -> Any:
    """The settings of a command; stored: those of a file, over which flags win."""
    given = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    return kind(**(stored or {}) | {name: value for name, value in given.items() if value is not None})


def _train_settings(parsed: argparse.Namespace) -> TrainSettings:
    stored = from_file(Path(parsed.config)) if parsed.config else {}
    if parsed.point:
        from swlottery.study.sweep import point_settings

        path, _, line = parsed.point.rpartition(":")
        if not (path and line.isdecimal()):
            path, line = parsed.point, os.environ.get("SLURM_ARRAY_TASK_ID", "")
        stored |= point_settings(Path(path), line)
    settings: TrainSettings = _settings(TrainSettings, parsed, stored)
    settings.check()  # a typo is answered before anything heavy is imported
    return settings


def _cores(place: Place) -> int:
    """The CPU cores of one task: Slurm's number; where it gives none, the task's share of those that we may use."""
    from swlottery.runtime import environment

    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(given) if given.isdecimal() else max(1, environment.cores() // place.local_size)


# The process


def _complain(message: str) -> None:
    message = " ".join(message.split())
    if len(message) > LONGEST:  # a value in it is
        message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
    # One write: print's second one, of the line's end, may come behind another line of a log that stdout shares.
    sys.stderr.write(f"swlottery: {message}\n")
    sys.stderr.flush()


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _be_quiet() -> None:
    """Libraries' progress bars and notices have no place in a log; on a terminal the bars may stay."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for library, level in (("TRANSFORMERS", "error"), ("DATASETS", "critical"), ("HF_HUB", "critical")):
        os.environ.setdefault(f"{library}_VERBOSITY", level)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where the home cannot be written to
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HOME", str(home()))  # without one, libraries write into a folder that is called `~`


# The flags


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown flag with the nearest valid one, in one line."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += f"; one that begins with - is written {message.split()[1].rstrip(':')}=…"
        _complain(f"{message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in known.parser._actions for flag in action.option_strings if flag != "-h"]
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]}?" if near else f": the flags are {' '.join(flags)}"
            _complain(f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}")
            sys.exit(BAD_INPUT)
        return known


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="swlottery", description="Super weights of language models, and whether they survive pruning.")
    top.add_argument("--version", action="version", version=f"swlottery {__version__}")
    home = os.path.expanduser  # a ~ in a path; of the settings config knows which are paths
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = commands.add_parser(name, help=help, allow_abbrev=False)
        one.set_defaults(parser=one)
        return one

    find = command("find", "locate the super weights of a model, and test whether they matter")
    _add_flags(find, FindSettings)
    train = command("train", "train, prune and rewind a model, and track its super weights")
    prepare = command("prepare", "only make the tokens that such a training reads: on a login or CPU node")
    for one in (train, prepare):
        one.add_argument(
            "--config", type=home, metavar="FILE", help="a file of settings, one 'name: value' a line; a flag wins"
        )
        _add_flags(one, TrainSettings)
        one.add_argument(
            "--point",
            type=home,
            metavar="FILE[:LINE]",
            help="settings from a file that a sweep wrote; without a line: SLURM_ARRAY_TASK_ID's",
        )
    sweep = command("sweep", "run every point of a study, as an array job or in turn")
    sweep.add_argument("study", metavar="STUDY.yaml", help="the study: see docs/slurm.md")
    _add_flags(sweep, SweepSettings, "study")
    status = command("status", "the state of all runs, or of all points of a study")
    status.add_argument("folder", nargs="?", type=home, metavar="FOLDER", help="the runs' folder, or a study's [runs]")
    report = command("report", "one page on many runs: the answers, tables, figures")
    runs = "a run, a folder of runs, or an earlier report's tables"
    report.add_argument("runs", nargs="+", type=home, metavar="RUN", help=runs)
    page = "the page, with its tables beside it"
    report.add_argument("--out", default="report.html", type=home, metavar="PAGE.html", help=page)
    markdown = "the same as Markdown, its tables and figures beside it"
    report.add_argument("--markdown", type=home, metavar="FILE.md", help=markdown)
    return top


def _add_flags(parser: argparse.ArgumentParser, settings: type, *arguments: str) -> None:
    """One flag for each field of a settings class, but for those that are ``arguments`` of their own."""
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if field.name in arguments:
            continue
        options = dict(field.metadata["flag"])
        kind = next((t for t in (int, float, bool) if hints[field.name] is t), str)
        if "action" not in options:
            options["type"] = kind
        parser.add_argument(flag_of(field.name), default=None, help=_help(field, kind), **options)


def _help(field: dataclasses.Field[Any], kind: type) -> str:
    """What a setting does, and its default with its unit."""
    text: str = field.metadata["help"]
    if field.default in (None, dataclasses.MISSING, "", 0):
        return text
    shown = f"{field.default:g}" if kind is float else f"{field.default}"
    unit = field.metadata["unit"] if shown != "auto" else ""
    return f"{text} [{shown}{' ' + unit if unit else ''}]"


if __name__ == "__main__":
    sys.exit(main())
