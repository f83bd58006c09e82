"""Does the finder find what others have published? A find of each model of src/swlottery/find/published.csv.

    PYTHONPATH=src python bench/references.py [NAME …] [NAME=PLACE …] [--out FOLDER] [--list | --task N] [-- FLAGS]

NAME is one of the table's hub ids; without any, all of them are meant. NAME=PLACE takes a folder or a GGUF file for
that model. FLAGS go to each find (-- --dtype bfloat16).

Each model is a find in a process of its own: its record, figures and log are FOLDER/<model>.json, …/ and ….out. A
model whose record is there is not run again. One that cannot be had is named, and the others go on. Then a table and
FOLDER/references.png: how many published weights were found (recall), what was found beyond them (extras), and what
each costs at zero, alone and all together. In a negative control no critical weight is expected.

--list runs nothing: it numbers the models, says how to submit them as one array job, and shows what is there. --task N
runs the model with that number alone. The exit code is 1 if a model was not run to its end.
"""

from __future__ import annotations

import os
import sys

# This folder holds a select.py, which would hide the standard library's.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != HERE]

import argparse
import math
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.errors import BadInput
from swlottery.find import published
from swlottery.find import record as records
from swlottery.find.record import Record
from swlottery.models.names import slug
from swlottery.report.figures import style
from swlottery.report.logs.published import extras, negative, published_table, sentences
from swlottery.report.words import NOTHING, count, table

FIND = [sys.executable, "-c", "from sys import exit; from swlottery.cli import main; exit(main())", "find"]
LARGEST = 1e6
"""Where the figure's axis of perplexity ratios ends."""


def main() -> int:
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME[=PLACE]")
    parser.add_argument("--out", type=Path, default=Path("references"), metavar="FOLDER")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true")
    only.add_argument("--task", type=int, metavar="N")
    arguments = parser.parse_args(own)
    places, out = asked_for(arguments.models, parser), arguments.out
    models = list(places)
    if arguments.task is not None:
        if not 0 <= arguments.task < len(models):
            parser.error(f"--task {arguments.task}: the models have the numbers 0 to {len(models) - 1}")
        models = [models[arguments.task]]
    out.mkdir(parents=True, exist_ok=True)
    if arguments.list:
        submit(models, [one for one in own if one != "--list"], flags, out)
    else:
        for model in models:
            run(model, places[model], flags, out)
    found = {model: stored(model, out) for model in models}
    done = {model: record for model, record in found.items() if record and "published" in record}
    show(done, {model: reason(model, found[model], out) for model in models if model not in done})
    if done and arguments.task is None:
        print(f"\nfigure   {style.save(draw(done), out / 'references.png')}")
    return int(len(done) < len(models))


def asked_for(names: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str | None]:
    """For each model by its hub id in the table where it is: None on the hub (or in its cache)."""
    ids = {model.lower(): model for model in published.table()}
    places = {}
    for name in names:
        model, _, place = name.partition("=")
        if model.lower() not in ids:
            parser.error(f"nothing is published of {model} in find/published.csv, which has {', '.join(ids.values())}")
        places[ids[model.lower()]] = place or None
    return places or dict.fromkeys(published.table())


def submit(models: Sequence[str], own: Sequence[str], flags: Sequence[str], out: Path) -> None:
    """Print the numbers of the models, and how to run them as one array job."""
    for nth, model in enumerate(models):
        print(f"{nth:>3}  {model}")
    python, behind = shlex.join([sys.executable, __file__, *own]), shlex.join(["--", *flags] if flags else [])
    job = shlex.quote(f"{python} --task $SLURM_ARRAY_TASK_ID {behind}".rstrip())
    print("\nAs one array job; what your cluster wants (--gres=gpu:1 --mem=64G --time=04:00:00) comes before --wrap:\n")
    print(f"    sbatch --array=0-{len(models) - 1} --output={shlex.quote(str(out))}/task_%a.out --wrap {job}")
    print(f"\nWhen it is done:\n\n    {python} --list\n")


def run(model: str, place: str | None, flags: Sequence[str], out: Path) -> None:
    """The find of one model, if its record is not there yet."""
    if stored(model, out):
        print(f"{model}: its record is there")
        return
    print(f"{model} …", flush=True)
    stem = str(out / slug(model))
    where = ["--model", linked(model, place, out) if place else model, "--out", f"{stem}.json", "--plots", stem]
    with open(f"{stem}.out", "w", encoding="utf-8") as log:
        code = subprocess.run([*FIND, *where, *flags], stdout=log, stderr=subprocess.STDOUT).returncode
        if code < 0:  # killed: it said nothing itself
            log.write(f"ended by signal {-code}\n")


def linked(model: str, place: str, out: Path) -> str:
    """A link to a local copy which says by its path what model it is, as a folder of the hub's cache does."""
    where = Path(os.path.expanduser(place)).absolute()
    if not where.exists():
        return str(where)  # find says so
    link = out.absolute() / f"models--{model.replace('/', '--')}" / where.name
    link.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(where)
    return str(link)


def stored(model: str, out: Path) -> Record | None:
    """The record of a model, or None where there is none that can be read."""
    with suppress(BadInput):
        return records.load(out / f"{slug(model)}.json")
    return None


def reason(model: str, record: Record | None, out: Path) -> str:
    """Why there is nothing to show of a model."""
    if record:
        weights = ", ".join(str(one.coordinate) for one in published.table()[model])
        return f"it is another network: it has no place for each of the published weights, {weights}"
    with suppress(OSError):
        lines = (out / f"{slug(model)}.out").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no log")
    return "not run yet"


def show(done: Mapping[str, Record], missing: Mapping[str, str]) -> None:
    """The table of all models; of each what became of its published weights; and those that could not be had."""
    rows = [cells(f"{model} (control)" if negative(model) else model, [done[model]]) for model in done]
    positive = [record for model, record in done.items() if not negative(model)]
    if len(positive) > 1:
        rows.append(cells("all but the negative controls", positive))
    heads = ["model", "published", "found", "recall", "extras", "critical", "alone", "together"]
    print("\n" + "\n".join(table(heads, rows)))
    print(
        "  extras: found and not published; critical: of these, alone or jointly; alone, together: perplexity × at zero"
    )
    for model, record in done.items():
        print(f"\n{model}, {record['dtype']}, {record['eval_tokens']:,} tokens of {record['eval_text']}")
        print("\n".join([*published_table(record), *(f"  {sentence}" for sentence in sentences(record))]))
    for model, why in missing.items():
        print(f"\nNOT THERE: {model}: {why}")


def cells(name: str, some: Sequence[Record]) -> list[str]:
    """A row of the table: of one model, or of several together."""
    weights = [weight for record in some for weight in record["published"]]
    found = sum(weight["found"] for weight in weights)
    more = [weight for record in some for weight in extras(record)]
    critical = sum("critical" in weight["verdict"] for weight in more)
    recall = f"{found / len(weights):.0%}" if weights else NOTHING
    alone = times([weight for weight in weights if weight["nll_difference"] is not None])
    together = times([record["published_joint"] for record in some if record["published_joint"]])
    return [name, str(len(weights)), str(found), recall, str(len(more)), str(critical), alone, together]


def times(effects: Sequence[Record]) -> str:
    """The smallest and the largest perplexity ratio."""
    ratios = sorted(
        f"{effect['perplexity_ratio']:.4g}" for effect in sorted(effects, key=lambda e: e["nll_difference"])
    )
    return " to ".join(dict.fromkeys([ratios[0], ratios[-1]])) if ratios else NOTHING


def draw(done: Mapping[str, Record]) -> Figure:
    """A line for each model: its published weights, found or not, all of them together, and what was found beyond."""
    some = [record for model, record in done.items() if not negative(model)]
    weights = [weight for record in some for weight in record["published"]]
    number = count(len(weights), "published weight")
    name = f"{sum(weight['found'] for weight in weights)} of {number} found, negative controls aside"
    remark = "Weights at zero, with intervals (levels: see the table). Right: how many published are found, and others."
    with style.look():
        figure = style.page(
            "Published super weights, and what the finder finds", name, 1.2 + 0.42 * len(done), [remark]
        )
        axes = figure.subplots()
        for y, record in enumerate(done.values()):
            line(axes, y, record)
            found = sum(weight["found"] for weight in record["published"])
            words = f"{found} of {len(record['published'])}, {len(extras(record))} more"
            axes.annotate(words, (1, y), (8, 0), axes.get_yaxis_transform(), "offset points", va="center", fontsize=8)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set(xlim=(min(low, 0.9), max(high, 1.25)), ylim=(len(done) - 0.5, -0.5))
        powers = {10_000: "×10⁴", 100_000: "×10⁵", 1_000_000: "×10⁶"}
        style.log_ticks(axes.xaxis, lambda x, _: powers.get(round(x), f"×{x:,g}"))
        axes.axvline(1, color="black", lw=0.8)
        axes.set_yticks(range(len(done)), [f"{model}{' (control)' if negative(model) else ''}" for model in done])
        axes.tick_params(axis="y", length=0)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.set_xlabel("perplexity ÷ perplexity of the intact model")
        for label, (marker, colour, face) in KINDS.items():
            axes.plot([], [], marker, color=colour, mfc=face, label=label)
        figure.legend(loc="outside lower center", ncols=4)
    return figure


KINDS = {
    "published, found": ("o", style.VERMILLION, style.VERMILLION),
    "published, not found": ("o", style.VERMILLION, "white"),
    "all published together": ("s", style.OCHRE, style.OCHRE),
    "found, not published": ("x", style.BLUE, style.BLUE),
}


def line(axes: Axes, y: float, record: Record) -> None:
    """The points of one model; a triangle where one is beyond the axis."""
    here = [
        ("published, found" if weight["found"] else "published, not found", weight) for weight in record["published"]
    ]
    here += [("all published together", record["published_joint"])] if record["published_joint"] else []
    here += [("found, not published", weight) for weight in extras(record)]
    for kind, effect in here:
        if effect["nll_difference"] is None:
            continue
        marker, colour, face = KINDS[kind]
        at = y + (0.2 if kind == "found, not published" else -0.2 if kind == "all published together" else 0)
        end = math.log(LARGEST)
        effects = (effect["nll_difference"], *effect["nll_difference_interval"])
        ratio, *ends = (math.exp(min(value, end)) for value in effects)
        marker = ">" if effects[0] > end else marker
        axes.plot(ends, [at, at], color=colour, lw=1.2)
        axes.plot(ratio, at, marker, color=colour, mfc=face, zorder=3, clip_on=False)


if __name__ == "__main__":
    sys.exit(main())
