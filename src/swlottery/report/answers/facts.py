"""What a report needs of runs, as six tables. A folder of runs becomes such tables, and a folder of such tables can stand for
the runs it was made from: a study that was run in parts, or elsewhere, is put together from them.

``runs``: one row a run. ``rounds``: rounds.csv of each. ``weights``: watch.csv of each, but only the last step of every round, and
only the followed weights and their primary controls. ``kept``: what each prune did to each followed weight, its matrix and all its
controls. Its percentiles, and |gradient| and |update|, are means over the round's evaluations. ``found``: what the finder found in each trained network. ``boxes``: the boxplots. What masks and weights say, which are
read whole, is in `swlottery.report.answers.whole`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.report import status
from swlottery.report.run_files import read_events, read_rows
from swlottery.report.words import key, place

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
Event = dict[str, Any]

COLUMNS = {
    "runs": "run state message settings seed data_seed network lineage model note text total prunes steps finished",
    "rounds": "run round remaining remaining_fraction pruned threshold train_loss val_loss val_perplexity seconds",
    "weights": "run round kind weight of value over_threshold percentile_remaining "
    "gradient_percentile moment_percentile update_percentile gradient update alive",
    "kept": "run round remaining_fraction kind weight over_threshold before alive matrix_kept matrix_size "
    "control_rank control_rank_n control_sigma control_sigma_n control_initial control_initial_n control_both control_both_n",
    "found": "run round kind weights kept moved lost",
    "boxes": "run round when weight count minimum low q1 median q3 high maximum value alive threshold",
    "fixed": "run round matrix drawn kept size matrix_kept bits",
    "elsewhere": "run round weight of alive matrix_keep_rate",
    "predicted": "run round auc_initial auc_trained",
    "growth": "run prunes weights intercept trained initial r_squared",
    "twins": "run other weight found_again percentile rank controls kept matrix_keep_rate",
}  # fmt: skip
"""The tables and their columns. A weight is written ``(layer, out, in)``, and behind it the expert where there is one."""

AVERAGED = ("gradient_percentile", "moment_percentile", "update_percentile", "gradient", "update")
PLACES = (
    "runs",
    "plots",
    "threads",
    "from_round_1",
    "super_weights",
    "checkpoint_steps",
    "checkpoint_seconds",
    "rank_timeout",
)


UNREADABLE = ("damaged", "no run")


@dataclass
class Facts:
    """The tables, by name, and the folders of the runs that were read from folders."""

    tables: dict[str, DataFrame]
    folders: dict[str, Path] = field(default_factory=dict)

    def __getitem__(self, table: str) -> DataFrame:
        return self.tables[table]

    def write(self, folder: Path) -> None:
        """One CSV file a table, each whole or not at all."""
        from swlottery.runtime import files

        for name, table in self.tables.items():
            files.write_text(folder / f"{name}.csv", _csv(table))


def collect(paths: Sequence[Path]) -> Facts:
    """The facts of all runs below the paths: run folders, folders of them, and folders of tables. One run counts once.

    A run that cannot be read has its row in ``runs``, which says why.

    Raises:
        BadInput: a path that is not there, or not one run or folder in all of them.
    """
    import pandas

    from swlottery.report.answers import whole

    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    folders: dict[str, Path] = {}
    stored: list[dict[str, DataFrame]] = []
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder: give a run's folder, or a folder of runs")
        if (path / "runs.csv").is_file():
            stored.append(_read(path))
            continue
        for folder in _folders(path):
            name = name_of(folder)
            if name in folders:
                if folder.resolve() == folders[name].resolve():
                    continue
                name = f"{folder.parent.name}/{name}"
            folders[name] = folder
            _run(name, folder, rows)
    readable = {row["run"]: row for row in rows["runs"] if row["state"] not in UNREADABLE}
    found, problems = whole.tables({name: folders[name] for name in readable})
    for name, problem in problems.items():
        readable[name]["message"] = "; ".join(filter(None, (readable[name]["message"], problem)))
    for name, more in found.items():
        rows[name] += more
    if not folders and not stored:
        raise BadInput(f"no run in {', '.join(map(str, paths))}")
    # Through CSV, so that a report on runs and one on the tables that it left are the same.
    tables = {
        name: _parsed(io.StringIO(_csv(pandas.DataFrame(rows[name], columns=columns.split()))), name)
        for name, columns in COLUMNS.items()
    }
    known = set(folders)
    for older in stored:
        for name in COLUMNS:
            new = older[name][~older[name]["run"].isin(known)]
            if len(new):
                tables[name] = pandas.concat([tables[name], new], ignore_index=True) if len(tables[name]) else new
        known |= set(older["runs"]["run"])
    return Facts(tables, folders)


def name_of(folder: Path) -> str:
    """A run by its point of a study, whose folder holds that run alone; any other by its own name."""
    point = folder.parent
    return point.name if (point.parent / "points").is_dir() else folder.name


def _csv(table: DataFrame) -> str:
    return str(table.to_csv(index=False, float_format="%.5g", lineterminator="\n"))


def _parsed(text: Any, name: str) -> DataFrame:
    """A table from its CSV text or file."""
    import pandas

    words = dict.fromkeys(("run", "of", "other", "weight", "bits", "network", "lineage"), str)
    return pandas.read_csv(text, float_precision="round_trip", dtype=words).reindex(columns=COLUMNS[name].split())


def _read(folder: Path) -> dict[str, DataFrame]:
    found = {}
    for name in COLUMNS:
        path = folder / f"{name}.csv"
        try:
            found[name] = _parsed(path if path.exists() else io.StringIO(",".join(COLUMNS[name].split())), name)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: not a table of an earlier report ({error})") from None
    return found


DEPTH = 3
"""How far below a given folder runs are looked for: a folder of studies, a study, a point."""


def _folders(path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Every run below a path, and every folder that holds nothing of the kind: a report names those too."""
    if any((path / name).is_file() for name in status.FILES):
        yield path
        return
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if (path / "points").is_dir():
        inside = [p for p in inside if p.name not in ("points", "logs")]
    if (not inside and depth < DEPTH) or not depth:
        yield path
    for folder in inside if depth else ():
        yield from _folders(folder, depth - 1)


def _run(name: str, folder: Path, rows: dict[str, list[Row]]) -> None:
    """Add the rows of one run; of one that cannot be read only the one that says so."""
    standing: Row = {"run": name, "state": "no run", "message": "holds no file of a run"}
    own: dict[str, list[Row]] = {table: [] for table in rows}
    try:
        found = status.runs(folder)
        if any((folder / file).is_file() for file in status.FILES):
            standing |= {"state": found[0]["state"], "message": found[0]["message"]}
            standing |= _light(name, folder, own)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        standing |= {"state": "damaged", "message": f"{type(error).__name__}: {error}"}
        own = {table: [] for table in rows}
    own["runs"] = [standing]
    for table, found_rows in own.items():
        rows[table] += found_rows


def _light(name: str, folder: Path, rows: dict[str, list[Row]]) -> Row:
    """What the text files of a run say."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    start: Event = {}
    threshold: dict[tuple[int, str], Any] = {}
    boxes: list[Event] = []
    sizes: dict[str, int] = {}
    finished = False
    for event in read_events(folder):
        kind = event["event"]
        if kind == "start":
            start = event
        elif kind == "evaluation":
            when = "after" if event["step"] == event["steps"] else "before"
            if when == "after" or (event["round"], when) not in threshold:
                threshold[event["round"], when] = event["threshold"]
        elif kind == "prune":
            rows["kept"] += _kept(name, event, {box["layer"]: box["path"] for box in boxes}, sizes)
        elif kind == "followed":
            sizes = {place(key(weight)): weight["matrix_size"] for weight in event["weights"]}
        elif kind == "found":
            rows["found"].append({"run": name, "round": event["round"], "kind": event["kind"], **_found(event)})
        elif kind == "box":
            boxes.append(event)
        elif kind == "finished":
            finished = True
    for box in boxes:
        numbers = {
            column: box[column] for column in ("count", "minimum", "low", "q1", "median", "q3", "high", "maximum")
        }
        for weight in box["weights"]:
            own = {"weight": place(key(weight)), "value": weight["value"], "alive": weight["alive"]}
            level = threshold.get((box["round"], box["when"]))
            rows["boxes"].append(
                {"run": name, "round": box["round"], "when": box["when"], "threshold": level, **numbers, **own}
            )
    columns = COLUMNS["rounds"].split()[1:]
    rows["rounds"] += [
        {"run": name, **{c: _number(row[c]) for c in columns}, "round": int(row["round"])}
        for row in read_rows(folder / "rounds.csv")
    ]
    rows["weights"] += _weights(name, folder, int(settings["steps"]))
    stored = folder / "round_1" / "round.json"
    network = json.loads(stored.read_text(encoding="utf-8"))["weights_sha256"][:16] if stored.exists() else ""
    shown = {key: value for key, value in settings.items() if key not in PLACES}
    return {
        "settings": json.dumps(shown), "seed": settings["seed"], "data_seed": settings["data_seed"], "network": network,
        "lineage": start.get("lineage", "")[:16], "model": start.get("model", settings["model"]), "note": start.get("note", ""),
        "text": start.get("data", {}).get("name", ""), "total": start.get("total"), "prunes": start.get("prunes"),
        "steps": settings["steps"], "finished": finished,
    }  # fmt: skip


def _weights(name: str, folder: Path, steps: int) -> Iterator[Row]:
    columns = COLUMNS["weights"].split()[5:-1]
    seen: dict[tuple[str, ...], list[Row]] = {}
    for row in read_rows(folder / "watch.csv"):
        if row["kind"].startswith("control_") and row["kind"] != "control_rank":
            continue
        of = place([int(part) for part in row["of"].split(":")]) if row["of"] else ""
        at = (row["kind"], place(key(row)), of)
        numbers = {column: _number(row.get(column) or "") for column in columns}
        seen.setdefault((row["round"], *at), []).append(numbers)
        if int(row["step"]) == steps:
            evaluations = seen.pop((row["round"], *at))
            means = {column: _mean([one[column] for one in evaluations]) for column in AVERAGED}
            yield {
                "run": name, "round": int(row["round"]), "kind": at[0], "weight": at[1], "of": of, **numbers, **means,
                "alive": row["alive"] in ("1", "True", "true"),
            }  # fmt: skip


def _kept(name: str, event: Event, paths: dict[int, str], sizes: dict[str, int]) -> Iterator[Row]:
    for weight in event["weights"]:
        at = place(key(weight))
        matrix = event["matrices"].get(paths.get(weight["layer"], ""), {})
        own = [group for group in event["controls"] if group["of"] == [weight["layer"], weight["out"], weight["in"]]]
        controls = {group["kind"]: group["kept"] for group in own} | {
            f"{group['kind']}_n": group["count"] for group in own
        }
        yield {
            "run": name, "round": event["round"], "remaining_fraction": event["remaining_fraction"], "kind": weight["kind"],
            "weight": at, "over_threshold": weight["over_threshold"], "before": weight["alive_before"],
            "alive": weight["alive"], "matrix_kept": matrix.get("kept"), "matrix_size": sizes.get(at), **controls,
        }  # fmt: skip


def _found(event: Event) -> Row:
    return {
        "weights": "; ".join(place(key(weight)) for weight in event["weights"]),
        "kept": "; ".join(map(place, event["kept"])),
        "moved": "; ".join(f"{place(move['from'])} to {place(move['to'])}" for move in event["moved"]),
        "lost": "; ".join(map(place, event["lost"])),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _number(text: str) -> float | None:
    return float(text) if text else None
