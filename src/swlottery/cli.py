"""The command line: calls a command, and answers with its exit code.

What belongs to a process (signals, environment variables, quiet libraries) is set here and nowhere else. Nothing heavy
is imported before a command needs it, so that ``--help`` and a typo are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swlottery.config import FindSettings, SweepSettings, TraceSettings, TrainSettings
from swlottery.errors import BAD_INPUT, FAILED, BadInput, complain
from swlottery.flags import parser
from swlottery.runtime import stop, terminal
from swlottery.runtime.files import home
from swlottery.runtime.ranks import Place, Ranks
from swlottery.runtime.watchdog import RankLost, exit_now
from swlottery.settings_file import from_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 bad input, 75 stopped and saved, 1 anything else."""
    terminal.outlive()
    # Whole lines at once, also where PYTHONUNBUFFERED would write text and line end apart: stderr shares the log.
    # What the terminal's encoding lacks, and what in a file's name is no text, becomes a question mark.
    with contextlib.suppress(AttributeError):  # a test's capture has no such method; a closed stream is None
        sys.stdout.reconfigure(line_buffering=True, write_through=False, errors="replace")  # type: ignore[union-attr]
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser().parse_args(given)
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
                return _command(parsed, place, own, given)
        return _command(parsed, place, own, given)
    except BadInput as error:
        if place.rank == 0:  # all ranks have the same to say
            complain(str(error))
        return BAD_INPUT
    except RankLost as error:
        exit_now(str(error), error.reported)
    except KeyboardInterrupt:
        complain("interrupted: the model's weights are as they were; no record that is half written was left")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if sys.flags.dev_mode:  # python -X dev: where in the code it was
            raise
        if place.rank == 0:
            what = f"cannot use {error.filename} ({error.strerror})" if error.filename else error.strerror or str(error)
            goes_on = parsed.command in ("train", "prepare", "sweep", "trace")
            complain(
                f"{what}: see to that, {'and run the same again, it goes on' if goes_on else 'or give another path'}"
            )
        return BAD_INPUT
    finally:
        if not own:
            for number, handler in before.items():
                signal.signal(number, handler)


def _command(parsed: argparse.Namespace, place: Place, own: bool, given: Sequence[str]) -> int:
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
                task = os.environ.get("SLURM_ARRAY_TASK_ID") if parsed.point else None
                typed = ([f"SLURM_ARRAY_TASK_ID={task}"] if task else []) + ["swlottery", *given]
                return train(settings, root, Ranks(place), asked, _cores(place), log, shlex.join(typed))
        case "prepare":
            with stop.flag(last=own) as asked:
                settings = _train_settings(parsed)
                from swlottery.commands.prepare import prepare_only

                return prepare_only(settings, asked, _cores(place))
        case "sweep":
            from swlottery.commands.sweep import sweep

            return sweep(_settings(SweepSettings, parsed), root)
        case "trace":
            with stop.flag(last=own) as asked:
                from swlottery.commands.trace import trace

                parsed.model = parsed.model or None
                stored = from_file(Path(parsed.config), TraceSettings) if parsed.config else {}
                return trace(_settings(TraceSettings, parsed, stored), root, asked)
        case "evaluate":
            from swlottery.commands.evaluate import evaluate

            return evaluate(_settings(FindSettings, parsed), parsed.beside)
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
    given = {field.name: getattr(parsed, field.name, None) for field in dataclasses.fields(kind)}
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
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of what --device-map asks for
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HOME", str(home()))  # without one, libraries write into a folder that is called `~`


if __name__ == "__main__":
    sys.exit(main())
