"""What one run says, as rows of the tables of facts, from its text files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swlottery.config import ELSEWHERE, TrainSettings
from swlottery.report.logs import status
from swlottery.report.run_files import read_events, read_rows
from swlottery.report.words import key, place

Row = dict[str, Any]
Event = dict[str, Any]

COLUMNS = {
    "runs": "run state message settings network lineage model",
    "rounds": "run round remaining remaining_fraction pruned threshold train_loss val_loss val_perplexity seconds start_loss",
    "weights": "run round kind weight of value over_threshold percentile_remaining "
    "gradient_percentile moment_percentile update_percentile gradient update alive",
    "initial": "run round weight of over_threshold",
    "kept": "run round remaining_fraction kind weight over_threshold alive matrix_kept matrix_size control_rank control_rank_n",
    "found": "run round kind weights kept moved lost",
    "boxes": "run round when weight count minimum low q1 median q3 high maximum value alive threshold",
    "fixed": "run round matrix drawn kept size matrix_kept bits",
    "elsewhere": "run round weight of alive matrix_keep_rate",
    "predicted": "run round auc_initial auc_trained",
    "regression": "run prunes weights intercept trained initial r_squared",
    "twins": "run other weight found_again percentile rank controls kept matrix_keep_rate",
}
"""The tables and their columns. A weight is written ``(layer, out, in)``, and behind it the expert where there is one."""
AVERAGED = ("gradient_percentile", "moment_percentile", "update_percentile", "gradient", "update")
"""Columns of ``weights`` that are means over the evaluations of the round."""
OWN = ("super_weight", "leader")
"""The kinds of a network's own followed weights."""
SEEN_CLOSELY = 2
"""Rounds of which everything is kept of the controls: the questions on gradients and sizes are asked of these."""
HASH = 16
"""Digits of a hash that tell networks apart."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error)
"""What reading a damaged file may raise."""


def run(name: str, folder: Path, rows: dict[str, list[Row]]) -> None:
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
    begun: dict[int, float] = {}  # the held-out loss under a mask, before the first step
    for event in read_events(folder):
        kind = event["event"]
        if kind == "start":
            start = event
            masks[0] = {"remaining": event["counts"][0], "remaining_fraction": event["counts"][0] / event["total"]}
        elif kind == "evaluation":
            if event["step"] == 0:
                begun[event["round"] - 1] = event["val_loss"]
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
        masks[int(row["round"])] = {column: _number(row[column]) for column in COLUMNS["rounds"].split()[2:-1]}
    rows["rounds"] += [
        {"run": name, "round": number, **masks[number], "start_loss": begun.get(number)} for number in sorted(masks)
    ]
    _weights(name, folder, int(settings["steps"]), rows)
    named = {
        key: Path(value).name if key in ("from_round_1", "super_weights") and value else value
        for key, value in settings.items()
    }
    shown = {key: value for key, value in named.items() if key not in ELSEWHERE}
    return {
        "settings": json.dumps(shown),
        "network": network_of(folder),
        "lineage": start.get("lineage", "")[:HASH],
        "model": start.get("model", settings["model"]),
    }


def network_of(folder: Path) -> str:
    """What the trained round-1 network is called by; empty before there is one."""
    stored = folder / "round_1" / "round.json"
    return str(json.loads(stored.read_text(encoding="utf-8"))["weights_sha256"])[:HASH] if stored.exists() else ""


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
