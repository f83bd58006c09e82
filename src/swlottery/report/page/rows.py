"""What one run says, as rows of the tables of facts, from its text files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pandas import DataFrame

from swlottery.config import OPERATIONAL, TrainSettings
from swlottery.errors import BadInput
from swlottery.find.record import load
from swlottery.models.lineage import stored_sha256
from swlottery.report.logs import status
from swlottery.report.run_files import read_events, read_rows
from swlottery.report.words import key, place
from swlottery.runtime import files, sums

Row = dict[str, Any]
Event = dict[str, Any]

COLUMNS = {
    "runs": "run state message settings network lineage model",
    "rounds": "run round remaining remaining_fraction pruned threshold train_loss val_loss val_perplexity seconds "
    "start_loss",
    "weights": "run round kind weight of value over_threshold percentile_remaining "
    "gradient_percentile moment_percentile update_percentile gradient update alive",
    "initial": "run round weight of over_threshold",
    "kept": "run round remaining_fraction kind weight over_threshold alive matrix_kept matrix_size control_rank "
    "control_rank_n",
    "found": "run round kind weights kept moved lost",
    "boxes": "run round when weight count minimum low q1 median q3 high maximum value alive threshold",
    "fixed": "run round matrix drawn kept size matrix_kept bits",
    "elsewhere": "run round weight of alive matrix_keep_rate",
    "predicted": "run round auc_initial auc_trained",
    "regression": "run prunes weights intercept trained initial r_squared",
    "twins": "run other weight found_again percentile rank controls kept matrix_keep_rate",
    "records": "run of weight verdict nll_difference low high",
}
"""The tables and their columns. A weight is written ``(layer, out, in)``, with its expert behind where there is one."""
TEXT = (
    "run state message settings network lineage model kind weight of weights kept moved lost when matrix bits other "
    "verdict"
)
"""Columns of words; ``kept`` is a number in some tables."""
NUMBERS = {("fixed", "kept"), ("twins", "kept")}
AVERAGED = ["gradient_percentile", "moment_percentile", "update_percentile", "gradient", "update"]
"""Columns of ``weights`` that are means over the evaluations of the round."""
OWN = ("super_weight", "leader")
"""The kinds of a network's own tracked weights."""
IN_FULL = 2
"""Rounds of which everything is kept of the controls: the questions on gradients and sizes are asked of these."""
HASH = 16
"""Digits of a hash that tell networks apart."""
DAMAGE = (BadInput, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error)
"""What reading a damaged file may raise."""


def words_of(table: str) -> list[str]:
    """The columns of words in a table; the others hold numbers."""
    return [column for column in COLUMNS[table].split() if column in TEXT.split() and (table, column) not in NUMBERS]


def run(name: str, folder: Path, rows: dict[str, list[Row]]) -> None:
    """Add the rows of one run; of one that cannot be read only the one that says so."""
    row: Row = {"run": name, "state": "no run", "message": "holds no file of a run"}
    own: dict[str, list[Row]] = {}
    try:
        if any((folder / file).is_file() for file in status.FILES):
            found = status.runs(folder)[0]
            row |= {"state": found["state"], "message": found["message"]}
            described, read = _read(name, folder)
            for table, found_rows in read.items():
                _check_numbers(table, found_rows)
            own = read
            row |= described
    except DAMAGE as error:
        kind = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
        row |= {"state": "damaged", "message": f"{kind}{error}"}
    for table, found_rows in (own | {"runs": [row]}).items():
        rows[table] += found_rows


def _check_numbers(table: str, rows: list[Row]) -> None:
    """Raise `ValueError` for what is no number in a column of numbers."""
    numbers = set(COLUMNS[table].split()).difference(words_of(table))
    for row in rows:
        for column in row.keys() & numbers:
            value = row[column]
            if value in (None, "") or (column == "alive" and str(value) in ("True", "False")):
                continue
            number = float(str(value))
            if (isinstance(value, str) and math.isnan(number)) or (isinstance(value, int) and abs(number) >= 1 << 63):
                raise ValueError(f"{column} is {number}")


def network_of(folder: Path) -> str:
    """What the trained round-1 network is called by; empty before there is one."""
    stored = folder / "round_1" / "round.json"
    return str(files.read_json(stored)["weights_sha256"])[:HASH] if stored.exists() else ""


def _read(name: str, folder: Path) -> tuple[Row, dict[str, list[Row]]]:
    """What the text files of a run say: more columns of its row in ``runs``, and its rows in the other tables."""
    for file in ("settings.json", "metrics.jsonl", "rounds.csv", "watch.csv", "round_1/round.json"):
        sums.check(folder / file)
    settings = asdict(TrainSettings()) | files.read_json(folder / "settings.json")
    events: dict[str, list[Event]] = {kind: [] for kind in ("start", "evaluation", "prune", "found", "box")}
    for event in read_events(folder):
        if event["event"] in events:
            events[event["event"]].append(event)
    start: Event = events["start"][-1] if events["start"] else {}
    tables = {
        "rounds": _rounds(name, folder, start, events),
        "kept": list(_kept(name, events)),
        "found": list(_found(name, events)),
        "boxes": list(_boxes(name, events, settings["criterion"] == "global-magnitude")),
        "records": list(_records(name, folder)),
        **_weights(name, folder, int(settings["steps"])),
    }
    shown = {key: value for key, value in settings.items() if key not in OPERATIONAL}
    for key_ in ("from_round_1", "super_weights"):  # paths: the folder they lie in is the machine's
        if shown.get(key_):
            shown[key_] = Path(shown[key_]).name
    described = {
        "settings": json.dumps(shown),
        "network": network_of(folder),
        "lineage": start.get("lineage", "")[:HASH],
        "model": start.get("model", settings["model"]),
    }
    return described, tables


def _rounds(name: str, folder: Path, start: Event, events: dict[str, list[Event]]) -> list[Row]:
    """rounds.csv, the mask of a last prune that no round has followed yet, and the loss before each first step."""
    masks: dict[int, Row] = {}
    if start:
        kept, total = start["counts"][0], start["total"]
        masks[0] = {"remaining": kept, "remaining_fraction": kept / total}
    for event in events["prune"]:
        masks[event["round"]] = {
            column: event.get(column) for column in ("remaining", "remaining_fraction", "pruned", "threshold")
        }
    columns = COLUMNS["rounds"].split()[2:-1]
    for row in read_rows(folder / "rounds.csv"):
        masks[int(row["round"])] = {column: float(row[column]) if row[column] else None for column in columns}
    begun = {event["round"] - 1: event["val_loss"] for event in events["evaluation"] if event["step"] == 0}
    return [{"run": name, "round": mask, **masks[mask], "start_loss": begun.get(mask)} for mask in sorted(masks)]


def _boxes(name: str, events: dict[str, list[Event]], has_threshold: bool) -> Iterator[Row]:
    """One row a box and tracked weight, with the threshold of the evaluation at that time."""
    thresholds: dict[tuple[int, str], Any] = {}
    for event in events["evaluation"]:
        if event["step"] == event["steps"]:
            thresholds[event["round"], "after"] = event["threshold"]
        else:
            thresholds.setdefault((event["round"], "before"), event["threshold"])
    for box in events["box"]:
        numbers = ("count", "minimum", "low", "q1", "median", "q3", "high", "maximum")
        row: Row = {"run": name, "round": box["round"], "when": box["when"]} | {one: box[one] for one in numbers}
        row["threshold"] = thresholds.get((box["round"], box["when"])) if has_threshold else None
        for weight in box["weights"]:
            yield row | {"weight": place(key(weight)), "value": weight["value"], "alive": weight["alive"]}


def _kept(name: str, events: dict[str, list[Event]]) -> Iterator[Row]:
    """What each prune did to each tracked weight, to its matrix and to its controls."""
    paths = {box["layer"]: box["path"] for box in events["box"]}
    sizes: dict[str, int] = {}
    for event in events["prune"]:
        sizes = {path: matrix["before"] for path, matrix in event["matrices"].items()} | sizes
        for weight in event["weights"]:
            path, at = paths.get(weight["layer"], ""), [weight["layer"], weight["out"], weight["in"]]
            groups = [one for one in event["controls"] if one["of"] == at and one["kind"] == "control_rank"]
            yield {
                "run": name,
                "round": event["round"],
                "remaining_fraction": event["remaining_fraction"],
                "kind": weight["kind"],
                "weight": place(key(weight)),
                "over_threshold": weight["over_threshold"],
                "alive": weight["alive"],
                "matrix_kept": event["matrices"].get(path, {}).get("kept"),
                "matrix_size": sizes.get(path),
                "control_rank": sum(one["kept"] for one in groups),
                "control_rank_n": sum(one["count"] for one in groups),
            }


def _weights(name: str, folder: Path, steps: int) -> dict[str, list[Row]]:
    """watch.csv at the last step of each round: tracked weights, their primary controls, and those matched on |θ_0|."""
    watch = DataFrame(list(read_rows(folder / "watch.csv")))
    if watch.empty:
        return {}
    watch = watch[~watch["kind"].isin(("control_sigma", "control_both"))]
    numbers = COLUMNS["weights"].split()[5:-1]
    watch[numbers] = watch.reindex(columns=numbers).replace("", math.nan).astype(float)
    watch["round"] = watch["round"].astype(int)
    at = [column for column in ("round", "kind", "layer", "out", "in", "expert", "of") if column in watch]
    watch[AVERAGED] = watch.groupby(at)[AVERAGED].transform("mean")
    last = watch[watch["step"].astype(int) == steps].copy()
    last["run"] = name
    weights = [key(row) for row in last.to_dict("records")]
    last["weight"] = [place(weight) for weight in weights]
    last["of"] = [
        place([*map(int, of.split(":")), *w[3:]]) if of else "" for of, w in zip(last["of"], weights, strict=True)
    ]
    last["alive"] = last["alive"].isin(("1", "True", "true"))
    is_early, is_initial = last["round"] <= IN_FULL, last["kind"] == "control_initial"
    last.loc[last["kind"].str.startswith("control_") & ~is_early, ["value", *AVERAGED]] = math.nan
    return {
        "weights": last[~is_initial].to_dict("records"),
        "initial": last[is_initial & is_early].to_dict("records"),
    }


def _records(name: str, folder: Path) -> Iterator[Row]:
    """What ``swlottery find`` said of round_1/ and final/, where its records are. No verdict: nothing was found."""
    for of in ("round_1", "final"):
        if not (path := folder / of / "record.json").exists():
            continue
        record = load(path)
        there = network_of(folder) if of == "round_1" else stored_sha256(path.parent)
        if record["weights_sha256"][:HASH] != there[:HASH]:
            raise BadInput(f"{path} is of another network than {of}/: find its super weights again")
        for one in record["super_weights"] or [{}]:
            low, high = one.get("nll_difference_interval", (None, None))
            where = {"run": name, "of": of, "weight": place(key(one)) if one else "", "verdict": one.get("verdict", "")}
            yield {**where, "nll_difference": one.get("nll_difference"), "low": low, "high": high}


def _found(name: str, events: dict[str, list[Event]]) -> Iterator[Row]:
    """What the finder found in each trained network."""
    for event in events["found"]:
        yield {
            "run": name,
            "round": event["round"],
            "kind": event["kind"],
            "weights": "; ".join(place(key(weight)) for weight in event["weights"]),
            "kept": "; ".join(map(place, event["kept"])),
            "moved": "; ".join(f"{place(move['from'])} to {place(move['to'])}" for move in event["moved"]),
            "lost": "; ".join(map(place, event["lost"])),
        }
