"""A plausible run, made up: the settings, events and tables of a training that never happened."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.runtime.tables import ROUNDS, WATCH

Event = dict[str, Any]
MATRIX, LAYERS, TOTAL = 128 * 512, 4, 524_288
CONTROLS = ("control_rank", "control_sigma", "control_initial", "control_both")
COUNT = 19
KINDS = ("super_weight", "super_weight", "leader", "foreign", "super_weight", "super_weight")
TRAINED = (0.21, -0.034, 0.16, 0.019, 0.044, -0.09)


@dataclass
class Walk:
    """A weight that goes from θ_0 to where training takes it, a little elsewhere each round."""

    place: Event
    theta0: float
    trained: float
    of: str = ""
    alive: bool = True
    value: float = 0.0

    def go(self, draw: np.random.Generator, part: float) -> None:
        noise = 1 + 0.03 * draw.normal()
        self.value = (
            self.theta0 + (self.trained - self.theta0) * (1 - math.exp(-4 * part)) * noise if self.alive else 0.0
        )


def settings(weights: int = 2, rounds: int = 5, rate: float = 0.2, steps: int = 300, **more: Any) -> Event:
    return {
        "model": "gpt2-mini",
        "revision": None,
        "start": "scratch",
        "init": "gpt2",
        "data": "builtin",
        "context": 256,
        "steps": steps,
        "rounds": rounds,
        "prune_rate": str(rate),
        "scope": "attn+c_proj",
        "one_shot": False,
        "criterion": "global-magnitude",
        "rewind": "weights",
        "follow": [],
        "lr": 6e-4,
        "checkpoint_seconds": 300.0,
        "super_weights": "discover" if weights else "none",
        "protect": "none",
        "force_prune": "none",
        "seed": 0,
    } | more


def events(
    weights: int = 2,
    rounds: int = 5,
    rate: float = 0.2,
    steps: int = 300,
    every: int = 30,
    rewind: int = 0,
    size: float = 1.0,
) -> Iterator[tuple[Event, list[Event]]]:
    """Events as they come, each with the rows that are added to watch.csv before it. size: of the first weight."""
    draw = np.random.default_rng(0)
    counts = [TOTAL]
    for _ in range(rounds):
        counts.append(counts[-1] - math.floor(round(rate * counts[-1], 6)))
    yield _start(steps, rounds, rate, counts), []
    walks = _walks(weights, size, draw)
    main = [walk for walk in walks if not walk.of]
    kept = dict.fromkeys(sorted({walk.place["layer"] for walk in main}), MATRIX)
    prune: Event = {"pruned": None, "threshold": None}
    outcomes: list[Event] = []
    for r in range(1, rounds + 2):
        level = 0.012 * (1 + 0.55 * (r - 1))
        first = rewind if r > 1 else 0
        loss = 0.0
        for step in range(first, steps + 1, every):
            part = step / steps
            for walk in walks:
                walk.go(draw, part)
            if step == first:
                yield from _boxes(r, "before", main, kept, draw)
            loss = 3.4 + 0.05 * (r - 1) ** 1.5 + 6.0 * math.exp(-5 * part) + 0.01 * draw.normal()
            threshold = level * (0.6 + 0.4 * part)
            yield (
                {
                    "event": "evaluation",
                    "round": r,
                    "step": step,
                    "steps": steps,
                    "train_loss": None if step == first else loss - 0.06,
                    "val_loss": loss,
                    "val_perplexity": math.exp(loss),
                    "gradient_norm": None if step == first else 1.2,
                    "threshold": threshold,
                    "tokens_per_second": None if step == first else 41_234.5,
                    "seconds_left": None if step == first else (rounds + 1 - r) * 15.0 + (1 - part) * 15,
                },
                [],
            )
            if step + every <= steps:
                yield {"event": "nothing"}, [_watched(walk, r, step, threshold, walk.alive) for walk in walks]
        mask = {"total": TOTAL, "remaining": counts[r - 1], **_fractions(counts[r - 1])}
        yield (
            {
                "event": "round",
                "round": r - 1,
                **mask,
                **prune,
                "train_loss": loss - 0.06,
                "val_loss": loss,
                "val_perplexity": math.exp(loss),
                "seconds": 15.25,
            },
            [],
        )
        yield from _boxes(r, "after", main, kept, draw)
        again = [[w.place["layer"], w.place["out"], w.place["in"]] for w in main] if r > 1 else []
        yield (
            {
                "event": "found",
                "round": r,
                "kind": "super_weight",
                "kept": again,
                "moved": [],
                "lost": [],
                "weights": [w.place | {"value": w.value, "ratio": 88.1, "share": 0.72, "lacks": []} for w in main],
            },
            [],
        )
        if r == 1:
            yield (
                {
                    "event": "followed",
                    "round": 1,
                    "weights": [
                        w.place | {"value": w.value, "rank": 3 + 40 * i, "matrix_size": MATRIX}
                        for i, w in enumerate(main)
                    ],
                    "controls": [
                        {"of": _of(w), "kind": k, "count": COUNT, "gap": 1.25} for w in main for k in CONTROLS
                    ],
                },
                [],
            )
        after = {id(walk): walk.alive and (abs(walk.value) > level or r > rounds) for walk in walks}
        rows = [_watched(walk, r, steps, level, after[id(walk)]) for walk in walks]
        if r > rounds:
            yield {"event": "nothing"}, rows
            break
        held = {layer: (count, round(count * (1 - rate * (0.8 + 0.1 * layer)))) for layer, count in kept.items()}
        kept = {layer: left for layer, (_, left) in held.items()}
        tallies = [
            {
                "of": _of(w),
                "kind": kind,
                "count": COUNT,
                "before": sum(c.alive for c in own),
                "kept": sum(after[id(c)] for c in own),
            }
            for w in main
            for kind in CONTROLS
            for own in [[c for c in walks if c.place["kind"] == kind and c.of == _joined(w)]]
        ]
        prune = {"pruned": counts[r - 1] - counts[r], "threshold": level}
        yield (
            {
                "event": "prune",
                "round": r,
                "total": TOTAL,
                "remaining": counts[r],
                **_fractions(counts[r]),
                **prune,
                "seconds": 15.25,
                "matrices": {_path(layer): {"before": was, "kept": left} for layer, (was, left) in held.items()},
                "weights": [
                    w.place
                    | {
                        "value": w.value,
                        "over_threshold": abs(w.value) / level,
                        "alive_before": w.alive,
                        "alive": after[id(w)],
                    }
                    for w in main
                ],
                "controls": tallies,
            },
            rows,
        )
        outcomes += [_outcome(w, r, counts[r], kept, tallies) for w in main if w.alive and not after[id(w)]]
        for walk in walks:
            walk.alive = after[id(walk)]
    outcomes += [_outcome(w, None, counts[-1], kept, tallies) for w in main if w.alive]
    yield {"event": "finished", "weights": outcomes, "seconds": 15.25}, []


def _start(steps: int, rounds: int, rate: float, counts: Sequence[int]) -> Event:
    return {
        "event": "start",
        "model": "gpt2-mini",
        "note": "GPT-2 of 4 layers, width 128, from scratch in GPT-2's init",
        "lineage": "5e1f" * 16,
        "parameters": 1_053_824,
        "scope": "attn+c_proj",
        "total": TOTAL,
        "matrices": 12,
        "context": 256,
        "device": "cpu",
        "prunes": rounds,
        "steps": steps,
        "tokens_per_step": 2048,
        "rates": [str(rate)] * rounds,
        "counts": counts,
        "from_round_1": None,
        "followed": [],
        "downs": [_path(layer) for layer in range(LAYERS)],
        "in_out": True,
        "threads": 1,
        "versions": {"torch": "2.13.0", "swlottery": "0.1.0"},
        "data": {"name": "builtin", "train_tokens": 180_000, "validation_tokens": 20_000, "sha256": "0b" * 32},
    }


def _walks(weights: int, size: float, draw: np.random.Generator) -> list[Walk]:
    walks = []
    for i in range(weights):
        place = {"kind": KINDS[i], "layer": i % LAYERS, "expert": None, "out": 44 + i, "in": 66 * i + 6}
        trained = TRAINED[i] * (size if i == 0 else 1)
        walks.append(Walk(place, draw.normal() * 0.02, trained))
        for kind in CONTROLS:
            for n in range(COUNT):
                layer = (i + 1 + n % 3) % LAYERS if kind == "control_sigma" else i % LAYERS
                near = place | {"kind": kind, "layer": layer, "out": n, "in": 7 * n + i}
                spread = math.exp((0.1 if kind == "control_rank" else 0.5) * draw.normal())
                goal = 0.8 * trained * spread * float(draw.choice((-1, 1)))
                walks.append(Walk(near, draw.normal() * 0.02, goal, f"{place['layer']}:{place['out']}:{place['in']}"))
    return walks


def _of(walk: Walk) -> list[int]:
    return [walk.place["layer"], walk.place["out"], walk.place["in"]]


def _joined(walk: Walk) -> str:
    return ":".join(map(str, _of(walk)))


def _path(layer: int) -> str:
    return f"transformer.h.{layer}.mlp.c_proj.weight"


def _fractions(count: int) -> Event:
    return {"remaining_fraction": count / TOTAL, "sparsity": 1 - count / TOTAL}


def _outcome(walk: Walk, r: int | None, count: int, kept: dict[int, int], tallies: list[Event]) -> Event:
    own = [{name: tally[name] for name in ("kind", "kept", "count")} for tally in tallies if tally["of"] == _of(walk)]
    rate = kept[walk.place["layer"]] / MATRIX
    return walk.place | {"pruned_in": r, **_fractions(count), "matrix_keep_rate": rate, "control_keep_rates": own}


def _watched(walk: Walk, r: int, step: int, threshold: float, alive: bool) -> Event:
    percentiles = {name: 50.0 for name in WATCH if "percentile" in name}
    return (
        percentiles
        | walk.place
        | {
            "round": r,
            "step": step,
            "value": walk.value,
            "theta0": walk.theta0,
            "displacement": walk.value - walk.theta0,
            "over_threshold": abs(walk.value) / threshold,
            "alive": int(alive),
            "of": walk.of,
        }
    )


def _boxes(r: int, when: str, main: list[Walk], kept: dict[int, int], draw: np.random.Generator) -> Iterator[Any]:
    for layer, count in kept.items():
        sample = draw.normal(0, 0.02 if when == "before" else 0.026, 4001) * (1 + (draw.random(4001) < 0.02) * 2)
        q1, median, q3 = np.quantile(sample, (0.25, 0.5, 0.75))
        inside = sample[np.abs(sample - median) <= 1.5 * (q3 - q1)]
        here = [walk for walk in main if walk.place["layer"] == layer]
        ends = [*sample, *(walk.value for walk in here if walk.alive)]
        numbers = {
            "minimum": min(ends),
            "low": inside.min(),
            "q1": q1,
            "median": median,
            "q3": q3,
            "high": inside.max(),
        }
        yield (
            {
                "event": "box",
                "round": r,
                "when": when,
                "layer": layer,
                "expert": None,
                "path": _path(layer),
                "count": count,
                **{name: float(number) for name, number in numbers.items()},
                "maximum": float(max(ends)),
                "weights": [walk.place | {"value": walk.value, "alive": walk.alive} for walk in here],
            },
            [],
        )


def write(run: Path, cut: int | None = None, changed: Event | None = None, **shape: Any) -> list[Event]:
    """Write the files of a run, or of one where only the first ``cut`` events have come; returns its events."""
    run.mkdir(parents=True, exist_ok=True)
    made = list(events(**shape))[:cut]
    known = {name: shape[name] for name in ("weights", "rounds", "rate", "steps") if name in shape}
    (run / "settings.json").write_text(json.dumps(settings(**known) | (changed or {})))
    history = [event for event, _ in made if event["event"] != "nothing"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))
    _table(run / "rounds.csv", ROUNDS, [event for event in history if event["event"] == "round"])
    _table(run / "watch.csv", WATCH, [row for _, rows in made for row in rows])
    return history


def _table(path: Path, columns: Sequence[str], rows: list[Event]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
