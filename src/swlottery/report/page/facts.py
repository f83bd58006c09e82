"""What a report needs of runs, as tables.

A folder of runs becomes such tables, and a folder of such tables can stand for the runs it was made from: so a study
that was run in parts, or elsewhere, is put together.

``runs``: one row a run. ``rounds``: rounds.csv of each, and the prunes behind its last row. ``weights``: watch.csv of
each, at the last step of every round, of the tracked weights and their primary controls; ``initial``: the controls
matched on |θ_0|, to the end of round 2. ``kept``: what each prune did to each tracked weight, its matrix and its
controls. ``found``: what the finder found in each trained network. ``boxes``: the boxplots. The other tables come from
stored masks and weights: `swlottery.report.page.stored`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import pandas
from pandas import DataFrame

from swlottery.config import OPERATIONAL, TrainSettings
from swlottery.errors import BadInput
from swlottery.report.logs import status
from swlottery.report.page.rows import AVERAGED, COLUMNS, OWN, Row, run, words_of
from swlottery.report.page.stored import StoredRun, Tracked
from swlottery.report.page.stored import tables as stored_tables
from swlottery.report.words import Key, coordinate
from swlottery.runtime import files

ROUGH = {"weights": (*AVERAGED, "value", "over_threshold"), "initial": ("over_threshold",)}
"""Columns that five digits are enough for, in the longest tables."""
OTHER_RUN = {"elsewhere": "of", "twins": "other"}
"""Columns that name a second run."""
MOST_CELLS = 10_000
NUMERIC = ("boolean", "empty", "floating", "integer", "mixed-integer-float")
UNREADABLE = ("damaged", "no run")


@dataclass
class Facts:
    """The tables, by name, the folders of the runs that were read from folders, and those of stored tables."""

    tables: dict[str, DataFrame]
    folders: dict[str, Path] = field(default_factory=dict)
    stored: Sequence[Path] = ()

    def __getitem__(self, table: str) -> DataFrame:
        return self.tables[table]

    def write(self, folder: Path) -> None:
        """One CSV file a table, each whole or not at all."""
        for name, table in self.tables.items():
            files.write_text(folder / f"{name}.csv", to_csv_text(table, name))


def collect(paths: Sequence[Path]) -> Facts:
    """The facts of all runs below the paths: run folders, folders of them, and folders of tables. One run counts once.

    A run that cannot be read has its row in ``runs``, which says why.

    Raises:
        BadInput: a path that is not there, or not one run or folder in all of them.
    """
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    folders: dict[str, Path] = {}
    stored: dict[Path, dict[str, DataFrame]] = {}
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder: give a run's folder, or a folder of runs")
        if (path / "runs.csv").is_file():
            stored[path] = _read(path)
            continue
        for folder in _folders(path.resolve()):
            if folder not in folders.values():
                name = _free(name_of(folder), folders)
                folders[name] = folder
                run(name, folder, rows)
    if not folders and not stored:
        raise BadInput(f"no run in {', '.join(map(str, paths))}")
    readable = {row["run"]: row for row in rows["runs"] if row["state"] not in UNREADABLE}
    tracked = _tracked(pandas.DataFrame(rows["weights"], columns=COLUMNS["weights"].split()))
    runs = [StoredRun(folders[name], name, *tracked.get(name, ())) for name in readable]
    found, problems = stored_tables(runs, _networks(stored.values()))
    for name, problem in problems.items():
        readable[name]["message"] = "; ".join(filter(None, (readable[name]["message"], problem)))
    known = {(row["run"], row["round"]) for row in rows["rounds"]}
    for name, more in found.items():  # a run that goes on may have pruned again since its history was read
        rows[name] += [row for row in more if "round" not in row or (row["run"], row["round"]) in known]
    rows["runs"] = [
        {name: _utf_8(one) if isinstance(one, str) else one for name, one in row.items()} for row in rows["runs"]
    ]
    # Through CSV, so that a report on runs and one on the tables that it left are the same.
    tables = {
        name: from_csv_text(io.StringIO(to_csv_text(pandas.DataFrame(rows[name], columns=columns.split()), name)), name)
        for name, columns in COLUMNS.items()
    }
    for older in stored.values():
        tables = _joined(tables, older)
    return Facts(tables, folders, list(stored))


def own_of(weights: DataFrame) -> dict[str, str]:
    """Of each run that tracks a weight of its own the first one."""
    first = weights[weights["kind"].isin(OWN)].drop_duplicates("run")
    return dict(zip(first["run"], first["weight"], strict=True))


def _tracked(weights: DataFrame) -> dict[str, tuple[Key, list[Key]]]:
    """The same, with its primary controls after round 1."""
    own = own_of(weights)
    near = weights[(weights["kind"] == "control_rank") & (weights["of"] == weights["run"].map(own))]
    near = near[near["round"] == 1]
    return {
        run: (coordinate(weight), [*map(coordinate, near[near["run"] == run]["weight"])]) for run, weight in own.items()
    }


def _networks(stored: Iterable[dict[str, DataFrame]]) -> dict[str, Tracked]:
    """What each network of stored tables tracks first, by what the network is called by."""
    found: dict[str, Tracked] = {}
    for tables in stored:
        tracked = _tracked(tables["weights"])
        for row in tables["runs"].itertuples():
            if row.network and row.run in tracked:
                found.setdefault(row.network, (row.run, row.lineage, tracked[row.run][0]))
    return found


def _joined(tables: dict[str, DataFrame], older: dict[str, DataFrame]) -> dict[str, DataFrame]:
    """Two sets of tables as one. A run of the same name is the same one if it has the same settings and network."""
    known = {row.run: (full(row.settings), row.network) for row in tables["runs"].itertuples()}
    renamed: dict[str, str | None] = {}
    for row in older["runs"].itertuples():
        same = known.get(row.run) == (full(row.settings), row.network)
        renamed[row.run] = None if same else _free(row.run, known)
        if not same:
            known[str(renamed[row.run])] = (full(row.settings), row.network)
    joined = {}
    for name, table in tables.items():
        new = older[name].assign(run=older[name]["run"].map(renamed)).dropna(subset=["run"])
        if name in OTHER_RUN:
            new[OTHER_RUN[name]] = [renamed.get(one) or one for one in new[OTHER_RUN[name]]]
        parts = [one for one in (table, new) if len(one)]
        joined[name] = pandas.concat(parts, ignore_index=True) if parts else table
    return joined


def full(settings: str) -> dict[str, Any]:
    """The settings of a run as ``runs`` has them, and the defaults of those that came after it was stored."""
    stored: dict[str, Any] = json.loads(settings or "{}")
    return {name: value for name, value in asdict(TrainSettings()).items() if name not in OPERATIONAL} | stored


def _free(name: str, taken: Container[str]) -> str:
    """A name that no other run has."""
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(one for one in names if one not in taken)


def name_of(folder: Path) -> str:
    """A run by its study and point, whose folder holds that run alone; any other by its own name."""
    point = folder.parent
    return _utf_8(f"{point.parent.name}/{point.name}" if (point.parent / "points").is_dir() else folder.name)


def _utf_8(text: str) -> str:
    """As pandas takes it: a file's name may hold bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def to_csv_text(table: DataFrame, name: str) -> str:
    """A table of facts as CSV. name: of the table."""
    rough = {
        column: [float(f"{value:.5g}") if isinstance(value, float) else value for value in table[column]]
        for column in ROUGH.get(name, ())
    }
    return str(table.assign(**rough).to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def from_csv_text(text: Any, name: str) -> DataFrame:
    """A table from its CSV text or file. Words are never missing: a run may be called NA."""
    columns, words = COLUMNS[name].split(), words_of(name)
    found = pandas.read_csv(
        text,
        float_precision="round_trip",
        dtype=dict.fromkeys(words, str),
        keep_default_na=False,
        na_values=[""],
        usecols=columns.__contains__,
    )
    for column in found:
        if column not in words and pandas.api.types.infer_dtype(found[column]) not in NUMERIC:
            raise ValueError(f"no numbers in {column}")
    return found.reindex(columns=columns).fillna(dict.fromkeys(words, ""))


def _read(folder: Path) -> dict[str, DataFrame]:
    found = {}
    for name in COLUMNS:
        path = folder / f"{name}.csv"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ",".join(COLUMNS[name].split())
            if any(line.count(",") > MOST_CELLS for line in text.split("\n")):  # pandas would take minutes
                raise ValueError("a row has too many cells")
            found[name] = from_csv_text(io.StringIO(text), name)
            for settings in found[name].get("settings", ()):
                full(settings)
        except (OSError, ValueError, TypeError) as error:
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
