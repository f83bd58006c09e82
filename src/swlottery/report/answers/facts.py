"""What a report needs of runs, as tables. A folder of runs becomes such tables, and a folder of such tables can stand for
the runs it was made from: a study that was run in parts, or elsewhere, is put together from them.

``runs``: one row a run. ``rounds``: rounds.csv of each, and the prunes behind its last row. ``weights``: watch.csv of each, but only the
last step of every round, and only the followed weights and their primary controls; ``initial``: the controls matched on |θ_0|, to the
end of round 2. ``kept``: what each prune did to each followed weight, its matrix and its controls. ``found``: what the finder found in
each trained network. ``boxes``: the boxplots. What masks and weights say, which are read whole, is in `swlottery.report.answers.whole`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.report import status
from swlottery.report.run_files import read_events, read_rows
from swlottery.report.words import key, place

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
Event = dict[str, Any]

COLUMNS = {
    "runs": "run state message settings network lineage model",
    "rounds": "run round remaining remaining_fraction pruned threshold train_loss val_loss val_perplexity seconds",
    "weights": "run round kind weight of value over_threshold percentile_remaining "
    "gradient_percentile moment_percentile update_percentile gradient update alive",
    "initial": "run round weight of over_threshold",
    "kept": "run round remaining_fraction kind weight over_threshold alive matrix_kept matrix_size control_rank control_rank_n",
    "found": "run round kind weights kept moved lost",
    "boxes": "run round when weight count minimum low q1 median q3 high maximum value alive threshold",
    "fixed": "run round matrix drawn kept size matrix_kept bits",
    "elsewhere": "run round weight of alive matrix_keep_rate",
    "predicted": "run round auc_initial auc_trained",
    "growth": "run prunes weights intercept trained initial r_squared",
    "twins": "run other weight found_again percentile rank controls kept matrix_keep_rate",
}
"""The tables and their columns. A weight is written ``(layer, out, in)``, and behind it the expert where there is one."""
TEXT = (
    "run",
    "state",
    "message",
    "settings",
    "network",
    "lineage",
    "model",
    "kind",
    "weight",
    "of",
    "weights",
    "kept",
    "moved",
    "lost",
    "when",
    "matrix",
    "bits",
    "other",
)
"""Columns of words; in ``fixed`` and ``twins``, ``kept`` is a number."""
AVERAGED = ("gradient_percentile", "moment_percentile", "update_percentile", "gradient", "update")
"""Columns of ``weights`` that are means over the evaluations of the round."""
SEEN_CLOSELY = 2
"""Rounds of which everything is kept of the controls: the questions on gradients and sizes are asked of these."""
ROUGH = {"weights": (*AVERAGED, "value", "over_threshold"), "initial": ("over_threshold",)}
"""Columns that five digits are enough for, in the longest tables."""
PLACES = ("runs", "plots", "checkpoint_steps", "checkpoint_seconds", "rank_timeout")
"""Settings that say nothing about what a run computes."""
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
            files.write_text(folder / f"{name}.csv", _csv(table, name))


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
        for folder in _folders(path.resolve()):
            if folder not in folders.values():
                name = _free(name_of(folder), folders)
                folders[name] = folder
                _run(name, folder, rows)
    if not folders and not stored:
        raise BadInput(f"no run in {', '.join(map(str, paths))}")
    readable = {row["run"]: row for row in rows["runs"] if row["state"] not in UNREADABLE}
    found, problems = whole.tables({name: folders[name] for name in readable})
    for name, problem in problems.items():
        readable[name]["message"] = "; ".join(filter(None, (readable[name]["message"], problem)))
    known = {(row["run"], row["round"]) for row in rows["rounds"]}
    for name, more in found.items():  # a run that goes on may have pruned again since its history was read
        rows[name] += [row for row in more if "round" not in row or (row["run"], row["round"]) in known]
    # Through CSV, so that a report on runs and one on the tables that it left are the same.
    tables = {
        name: _parsed(io.StringIO(_csv(pandas.DataFrame(rows[name], columns=columns.split()), name)), name)
        for name, columns in COLUMNS.items()
    }
    for older in stored:
        tables = _joined(tables, older)
    return Facts(tables, folders)


def _joined(tables: dict[str, DataFrame], older: dict[str, DataFrame]) -> dict[str, DataFrame]:
    """Two sets of tables as one. A run of the same name is the same one if it has the same settings and network."""
    import pandas

    known = {row.run: (row.settings, row.network) for row in tables["runs"].itertuples()}
    renamed: dict[str, str | None] = {}
    for row in older["runs"].itertuples():
        same = known.get(row.run) == (row.settings, row.network)
        renamed[row.run] = None if same else _free(row.run, known)
        if not same:
            known[str(renamed[row.run])] = (row.settings, row.network)
    joined = {}
    for name, table in tables.items():
        new = older[name].assign(run=older[name]["run"].map(renamed)).dropna(subset=["run"])
        for column in ({"elsewhere": ["of"], "twins": ["other"]}).get(name, []):
            new[column] = [renamed.get(one) or one for one in new[column]]
        parts = [one for one in (table, new) if len(one)]
        joined[name] = pandas.concat(parts, ignore_index=True) if parts else table
    return joined


def _free(name: str, taken: Container[str]) -> str:
    """A name that no other run has."""
    number = 2
    while (name if number == 2 else f"{name} ({number - 1})") in taken:
        number += 1
    return name if number == 2 else f"{name} ({number - 1})"


def name_of(folder: Path) -> str:
    """A run by its study and point, whose folder holds that run alone; any other by its own name."""
    point = folder.parent
    return f"{point.parent.name}/{point.name}" if (point.parent / "points").is_dir() else folder.name


def _csv(table: DataFrame, name: str) -> str:
    rough = {
        column: [float(f"{value:.5g}") if isinstance(value, float) else value for value in table[column]]
        for column in ROUGH.get(name, ())
    }
    return str(table.assign(**rough).to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def _parsed(text: Any, name: str) -> DataFrame:
    """A table from its CSV text or file. Words are never missing: a run may be called NA."""
    import pandas

    columns = COLUMNS[name].split()
    words = [
        column for column in columns if column in TEXT and (name, column) not in (("fixed", "kept"), ("twins", "kept"))
    ]
    missing = {column: [""] for column in columns if column not in words}
    found = pandas.read_csv(
        text, float_precision="round_trip", dtype=dict.fromkeys(words, str), keep_default_na=False, na_values=missing
    )
    return found.reindex(columns=columns)


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
    inside = []
    with suppress(OSError):
        inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if (path / "points").is_dir():
        inside = [p for p in inside if p.name not in ("points", "logs")]
    if (not inside and depth < DEPTH) or not depth:
        yield path
    for folder in inside if depth else ():
        yield from _folders(folder, depth - 1)


DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error)
"""What reading a damaged file may raise."""


def _run(name: str, folder: Path, rows: dict[str, list[Row]]) -> None:
    """Add the rows of one run; of one that cannot be read only the one that says so."""
    standing: Row = {"run": name, "state": "no run", "message": "holds no file of a run"}
    own: dict[str, list[Row]] = {table: [] for table in rows}
    try:
        if any((folder / file).is_file() for file in status.FILES):
            found = status.runs(folder)[0]
            standing |= {"state": found["state"], "message": found["message"]}
            standing |= _light(name, folder, own)
    except DAMAGE as error:
        standing |= {"state": "damaged", "message": f"{type(error).__name__}: {error}"}
        own = {table: [] for table in rows}
    own["runs"] = [standing]
    for table, found_rows in own.items():
        rows[table] += found_rows


def _light(name: str, folder: Path, rows: dict[str, list[Row]]) -> Row:
    """What the text files of a run say."""
    settings = asdict(TrainSettings()) | json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    start: Event = {}
    threshold: dict[tuple[int, str], Any] = {}
    boxes: list[Event] = []
    sizes: dict[str, int] = {}
    masks: dict[int, Row] = {}
    for event in read_events(folder):
        kind = event["event"]
        if kind == "start":
            start = event
            masks[0] = {"remaining": event["counts"][0], "remaining_fraction": event["counts"][0] / event["total"]}
        elif kind == "evaluation":
            when = "after" if event["step"] == event["steps"] else "before"
            if when == "after" or (event["round"], when) not in threshold:
                threshold[event["round"], when] = event["threshold"]
        elif kind == "prune":
            masks[event["round"]] = {
                column: event.get(column) for column in ("remaining", "remaining_fraction", "pruned", "threshold")
            }
            sizes = {path: matrix["before"] for path, matrix in event["matrices"].items()} | sizes
            rows["kept"] += _kept(name, event, {box["layer"]: box["path"] for box in boxes}, sizes)
        elif kind == "found":
            rows["found"].append({"run": name, "round": event["round"], "kind": event["kind"], **_found(event)})
        elif kind == "box":
            boxes.append(event)
    for box in boxes:
        numbers = {
            column: box[column] for column in ("count", "minimum", "low", "q1", "median", "q3", "high", "maximum")
        }
        level = threshold.get((box["round"], box["when"])) if settings["criterion"] == "global-magnitude" else None
        for weight in box["weights"]:
            own = {"weight": place(key(weight)), "value": weight["value"], "alive": weight["alive"]}
            rows["boxes"].append(
                {"run": name, "round": box["round"], "when": box["when"], "threshold": level, **numbers, **own}
            )
    for row in read_rows(folder / "rounds.csv"):
        masks[int(row["round"])] = {column: _number(row[column]) for column in COLUMNS["rounds"].split()[2:]}
    rows["rounds"] += [{"run": name, "round": number, **masks[number]} for number in sorted(masks)]
    _weights(name, folder, int(settings["steps"]), rows)
    stored = folder / "round_1" / "round.json"
    network = json.loads(stored.read_text(encoding="utf-8"))["weights_sha256"][:16] if stored.exists() else ""
    named = {
        key: Path(value).name if key in ("from_round_1", "super_weights") and value else value
        for key, value in settings.items()
    }
    shown = {key: value for key, value in named.items() if key not in PLACES}
    return {
        "settings": json.dumps(shown),
        "network": network,
        "lineage": start.get("lineage", "")[:16],
        "model": start.get("model", settings["model"]),
    }


def _weights(name: str, folder: Path, steps: int, rows: dict[str, list[Row]]) -> None:
    columns = COLUMNS["weights"].split()[5:-1]
    seen: dict[tuple[str, ...], list[Row]] = {}
    for row in read_rows(folder / "watch.csv"):
        if row["kind"] in ("control_sigma", "control_both"):
            continue
        at = key(row)
        of = place([*(int(part) for part in row["of"].split(":")), *at[3:]]) if row["of"] else ""  # of the same matrix
        where: Row = {"run": name, "round": int(row["round"]), "kind": row["kind"], "weight": place(at), "of": of}
        numbers = {column: _number(row.get(column) or "") for column in columns}
        seen.setdefault(tuple(map(str, where.values())), []).append(numbers)
        if int(row["step"]) != steps:
            continue
        evaluations = seen.pop(tuple(map(str, where.values())))
        means = {column: _mean([one[column] for one in evaluations]) for column in AVERAGED}
        if row["kind"].startswith("control_") and where["round"] > SEEN_CLOSELY:
            numbers, means = numbers | {"value": None}, dict.fromkeys(AVERAGED)
        if row["kind"] != "control_initial":
            rows["weights"].append({**where, **numbers, **means, "alive": row["alive"] in ("1", "True", "true")})
        elif where["round"] <= SEEN_CLOSELY:
            rows["initial"].append({**where, **numbers})


def _kept(name: str, event: Event, paths: dict[int, str], sizes: dict[str, int]) -> Iterator[Row]:
    for weight in event["weights"]:
        path = paths.get(weight["layer"], "")
        matrix = event["matrices"].get(path, {})
        groups = [
            one
            for one in event["controls"]
            if one["of"] == [weight["layer"], weight["out"], weight["in"]] and one["kind"] == "control_rank"
        ]
        yield {
            "run": name, "round": event["round"], "remaining_fraction": event["remaining_fraction"], "kind": weight["kind"], "weight": place(key(weight)),
            "over_threshold": weight["over_threshold"], "alive": weight["alive"], "matrix_kept": matrix.get("kept"), "matrix_size": sizes.get(path),
            "control_rank": sum(one["kept"] for one in groups), "control_rank_n": sum(one["count"] for one in groups),
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
