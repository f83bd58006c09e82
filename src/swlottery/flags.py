"""The command line's flags: one for each setting of config/."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
from typing import Any, NoReturn, get_type_hints

from swlottery.config import EVALUATED, FindSettings, SweepSettings, TraceSettings, TrainSettings, flag_of
from swlottery.errors import BAD_INPUT, complain
from swlottery.version import __version__


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown flag with the nearest valid one, in one line."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += f"; one that begins with - is written {message.split()[1].rstrip(':')}=…"
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in known.parser._actions for flag in action.option_strings if flag != "-h"]
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]}?" if near else f": the flags are {' '.join(flags)}"
            complain(f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}")
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
    trace = command("trace", "when super weights form: find them in the checkpoints of one training, and follow them")
    what = "one model on the hub with --revisions, or the folders of its checkpoints in their order"
    trace.add_argument("model", nargs="*", type=home, metavar="MODEL", help=what)
    trace.add_argument("--config", type=home, metavar="FILE", help="a file of these settings; a flag wins")
    _add_flags(trace, TraceSettings, "model")
    evaluate = command("evaluate", "the perplexities of a model, or of a run's final ticket and its dense network")
    evaluate.add_argument(
        "model", metavar="RUN|MODEL", help="the folder of a finished run, or any model that find takes"
    )
    _add_flags(evaluate, FindSettings, *({field.name for field in dataclasses.fields(FindSettings)} - set(EVALUATED)))
    dense = "a model to compare with; of a run its own network of round 1 by default"
    evaluate.add_argument("--beside", metavar="MODEL", help=dense)
    evaluate.add_argument("--out", metavar="FILE.json", help="the numbers as JSON, named as in a record")
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
