"""What the stored masks and weights of runs say, as rows of five more tables.

``fixed``: coordinates drawn without a look at any network: which of them each prune kept (as bits), and how much of
their matrices. ``elsewhere``: the weights that other networks track, looked up here. ``predicted``: how well |θ_0|
and |θ_T1| predict what is kept. ``regression``: what the size of a weight in the final ticket depends on. ``twins``:
networks trained from one initialisation in another order of the batches: is the same weight found, how large is it?
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from swlottery.config import AFTER_ROUND_1, TrainSettings
from swlottery.report.page.rows import DAMAGE, HASH, Row, network_of
from swlottery.report.run_files import read_events, read_settings
from swlottery.report.words import Key, place
from swlottery.runtime import sums
from swlottery.study import statistics

FREE = AFTER_ROUND_1 | {"data_seed", "threads", "device"}
"""Settings in which twins may differ: the order of the batches, and all that concerns later rounds."""

DRAWN = 1000
"""Coordinates that are drawn, the same ones in all networks of one shape."""
DRAW = 2024
"""The seed that draws them: never a run's."""


@dataclass
class StoredRun:
    """The stored tensors of one run's down-projections, in their storage order, by parameter name.

    own, controls: the run's own weight that is listed first, and its primary controls after round 1.
    """

    folder: Path
    name: str = ""
    own: Key | None = None
    controls: Sequence[Key] = ()

    @cached_property
    def start(self) -> dict[str, Any]:
        """The run's first event; empty where it says nothing of down-projections."""
        first = next(iter(read_events(self.folder)), {})
        return first if first.get("event") == "start" and first.get("downs") else {}

    @property
    def names(self) -> list[str]:
        """The down-projections, by layer."""
        return list(self.start.get("downs", []))

    @cached_property
    def network(self) -> str:
        """What the trained round-1 network is called by; empty before there is one."""
        return network_of(self.folder)

    @property
    def lineage(self) -> str:
        """What θ_0 is called by."""
        return str(self.start["lineage"])[:HASH]

    def tensors(self, file: str) -> dict[str, NDArray[Any]]:
        """The down-projections in a file of weights; none where there is no such file."""
        path = self.folder / file
        if not path.exists():
            return {}
        sums.check(path)
        with safe_open(path, framework="np") as stored:
            return {name: stored.get_tensor(name).astype(np.float32, copy=False) for name in self.names}

    def masks(self) -> Iterator[tuple[int, dict[str, NDArray[np.bool_]]]]:
        """(r, m_r of those down-projections that are in scope) of each prune r, as far as the run has come."""
        from swlottery.lottery import masks

        first = 0 if read_settings(self.folder).get("prune_at_start") else 1
        for number in range(first, int(self.start["prunes"]) + 1):
            path = self.folder / "masks" / f"round_{number}.safetensors"
            if not path.exists():
                return
            sums.check(path)
            mask = masks.load(path)
            if here := {name: mask[name].numpy() for name in self.names if name in mask}:
                yield number, here

    def entry(self, tensor: NDArray[Any], at: Key) -> Any:
        """The entry of one down-projection; IndexError where it has none there."""
        _, out, in_, *expert = at
        matrix = tensor[expert[0]] if expert else tensor
        return matrix[in_, out] if self.start["in_out"] else matrix[out, in_]


Tracked = tuple[str, str, Key]
"""The run that found a weight, what its θ_0 is called by, and the weight."""


def tables(given: Sequence[StoredRun], known: Mapping[str, Tracked]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The rows of all five tables, and which of the runs could not be read to the end, and why.

    known: of networks whose runs are not here, by what they are called by, what they track: looked up here as well.
    """
    found: dict[str, list[Row]] = {name: [] for name in ("fixed", "elsewhere", "predicted", "regression", "twins")}
    problems: dict[str, str] = {}
    runs: list[StoredRun] = []
    tracked: dict[str, Tracked] = {}
    for run in given:
        try:
            if run.names:
                if run.network and run.own:
                    tracked.setdefault(run.network, (run.name, run.lineage, run.own))
                for table, rows in _of_one(run).items():
                    found[table] += rows
                runs.append(run)
        except (*DAMAGE, SafetensorError) as error:
            problems[run.name] = f"its weights or masks are damaged ({error})"
    of_one_start: dict[str, dict[str, StoredRun]] = {}
    for run in runs:
        for number, mask in run.masks():
            found["elsewhere"] += elsewhere(run, number, mask, list({**known, **tracked}.values()))
        settings = read_settings(run.folder)
        in_full = asdict(TrainSettings()) | settings
        own = in_full["super_weights"] == "discover"  # what it tracks is of its own network alone
        if run.network and own and not in_full["prune_at_start"]:
            training = [run.lineage, {name: value for name, value in in_full.items() if name not in FREE}]
            of_one_start.setdefault(json.dumps(training, sort_keys=True), {}).setdefault(run.network, run)
    for networks in of_one_start.values():
        first, *others = networks.values()
        found["twins"] += [row for other in others for row in twins(first, other)]
    return found, problems


def _of_one(run: StoredRun) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {"fixed": [], "predicted": [], "regression": []}
    initial, trained = run.tensors("theta_0.safetensors"), run.tensors("round_1/model.safetensors")
    for number, mask in run.masks():
        found["fixed"] += fixed(run.name, number, mask)
        aucs = {"auc_initial": predicts(initial, mask), "auc_trained": predicts(trained, mask)}
        found["predicted"].append({"run": run.name, "round": number, **aucs})
    final = run.tensors("final/model.safetensors")
    if final and trained and initial and run.start["prunes"]:
        where = {"run": run.name, "prunes": run.start["prunes"]}
        found["regression"].append(where | regression(final, trained, initial))
    return found


def fixed(name: str, number: int, mask: Mapping[str, NDArray[np.bool_]]) -> list[Row]:
    """Of each matrix: which of the drawn coordinates in it mask ``number`` kept, and how much of the matrix."""
    ends = np.cumsum([one.size for one in mask.values()])
    drawn = np.random.default_rng(DRAW).choice(ends[-1], size=min(DRAWN, int(ends[-1])), replace=False)
    rows = []
    for (matrix, one), end in zip(mask.items(), ends, strict=True):
        inside = drawn[(drawn >= end - one.size) & (drawn < end)] - (end - one.size)
        kept = one.reshape(-1)[inside]
        rows.append(
            {
                "run": name,
                "round": number,
                "matrix": matrix,
                "drawn": len(inside),
                "kept": int(kept.sum()),
                "size": one.size,
                "matrix_kept": int(np.count_nonzero(one)),
                "bits": np.packbits(kept).tobytes().hex(),
            }
        )
    return rows


def elsewhere(
    run: StoredRun, number: int, mask: Mapping[str, NDArray[np.bool_]], tracked: Sequence[Tracked]
) -> list[Row]:
    """The weights that other networks track, each looked up in mask ``number``, where it means nothing."""
    rows = []
    for of, lineage, at in tracked:
        matrix = mask.get(run.names[at[0]]) if at[0] < len(run.names) else None
        if lineage == run.lineage or matrix is None:
            continue
        try:
            alive = bool(run.entry(matrix, at))
        except IndexError:
            continue  # a network of another shape
        where = {"run": run.name, "round": number, "weight": place(at), "of": of}
        rows.append(where | {"alive": alive, "matrix_keep_rate": float(matrix.mean())})
    return rows


def predicts(sizes: Mapping[str, NDArray[Any]], mask: Mapping[str, NDArray[np.bool_]]) -> float | None:
    """How well |w| then separates the kept weights of a matrix from the pruned ones: the mean AUC over matrices."""
    aucs = [
        statistics.auc(np.abs(sizes[name]).reshape(-1), one.reshape(-1)) for name, one in mask.items() if name in sizes
    ]
    there = [one for one in aucs if not np.isnan(one)]
    return float(np.mean(there)) if there else None


def regression(
    final: Mapping[str, NDArray[Any]], trained: Mapping[str, NDArray[Any]], initial: Mapping[str, NDArray[Any]]
) -> Row:
    """log|w| in the final ticket on log|θ_T1| and log|θ_0|, over the down-projections' weights that remain."""
    sizes = [
        np.concatenate([np.abs(one[name]).reshape(-1) for name in final]).astype(np.float64)
        for one in (final, trained, initial)
    ]
    there = np.logical_and.reduce([size > 0 for size in sizes])
    y, x1, x0 = (np.log(size[there]) for size in sizes)
    (intercept, slope, slope_0), r_squared = statistics.regression(y, x1, x0)
    return {
        "weights": int(there.sum()),
        "intercept": intercept,
        "trained": slope,
        "initial": slope_0,
        "r_squared": r_squared,
    }


def twins(first: StoredRun, other: StoredRun) -> list[Row]:
    """The first network's tracked weight, and its controls, in the other one, which had no part in choosing them."""
    own, weights = first.own, other.tensors("round_1/model.safetensors")
    if own is None or not weights:
        return []
    matrix = first.names[own[0]]
    sizes = np.abs(weights[matrix])
    value = float(other.entry(sizes, own))
    kept = next(other.masks(), (1, {}))[1].get(matrix)
    return [
        {
            "run": first.name,
            "other": other.name,
            "weight": place(own),
            "found_again": own == other.own,
            "percentile": 100 * float(np.mean(sizes < value) + np.mean(sizes == value) / 2),
            "rank": sum(float(other.entry(sizes, at)) < value for at in first.controls),
            "controls": len(first.controls),
            "kept": None if kept is None else bool(other.entry(kept, own)),
            "matrix_keep_rate": None if kept is None else float(kept.mean()),
        }
    ]
