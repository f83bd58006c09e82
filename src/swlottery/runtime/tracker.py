"""One run in an experiment tracker, by accelerate's classes: the same one whenever it goes on, with no number twice."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.runtime import files

PROJECT = "swlottery"
FOLDER = "tracker"
"""In a run's folder: what is known of its trackers, what they print, and tensorboard's files."""


def check(name: str) -> None:
    """Raise `BadInput` where a tracker's package is missing. A folder of its name here (wandb makes one) is none."""
    if name != "none" and getattr(importlib.util.find_spec(name), "origin", None) is None:
        raise BadInput(f"--tracker {name} needs its package: pip install {name}")


class Tracker:
    """A tracker of the run in a folder. For a process of its own: trackers print, have threads and handle signals.

    What was sent is known from tensorboard's files, trackio's and mlflow's stores, and else from a mark in `FOLDER`.
    """

    def __init__(self, name: str, run: Path, settings: Mapping[str, Any]) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for size in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
            os.environ.pop(size, None)  # accelerate would wait for the other ranks
        PartialState(cpu=True)  # its classes and their log ask it which rank this is
        self._file = run / FOLDER / f"{name}.json"
        self._mark: dict[str, Any] = {"run": uuid.uuid4().hex, "step": -1}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._mark = files.read_json(self._file)
        self._save()
        key = self._mark["run"]
        title = f"{run.name}-{key[:6]}"  # a run that is made again, its folder removed, is another one
        same: dict[str, dict[str, Any]] = {
            "comet_ml": {"experiment_key": key, "mode": "get_or_create"},
            "dvclive": {"dir": str(run / FOLDER), "resume": True},
            "mlflow": {"run_name": title},
            "swanlab": {"id": key, "experiment_name": title, "resume": "allow"},
            "tensorboard": {"logging_dir": str(run)},
            "trackio": {"name": title, "resume": "allow", "auto_log_cpu": False, "auto_log_gpu": False},
            "wandb": {"id": key, "name": title, "resume": "allow"},
        }
        self._sent: set[tuple[str, int]] = set()
        if name == "tensorboard":
            self._sent = _in_event_files(run / FOLDER)
        elif name == "mlflow":
            import mlflow

            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            named = f"attributes.run_name = '{title}'"
            for one in mlflow.search_runs(experiment_names=[project], filter_string=named, output_format="list"):
                same["mlflow"] = {"run_id": one.info.run_id}
                history = mlflow.MlflowClient().get_metric_history(one.info.run_id, "val_loss")
                self._mark["step"] = max((metric.step for metric in history), default=-1)
        self.name = name
        self._tracker = LOGGER_TYPE_TO_CLASS[name](FOLDER if name == "tensorboard" else PROJECT, **same[name])
        self._tracker.start()
        if name == "trackio":
            self._mark["step"] = max([self._tracker.tracker._next_step - 1, *_in_inbox(key)])
            self._tracker.tracker.id = key  # on a network drive it knows no run of before until a dashboard reads them
        if name != "tensorboard":  # it would make a second run of them
            self._tracker.store_init_configuration({key: _plain(value) for key, value in settings.items()})

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send the numbers of a step, the next or one that may have been sent before."""
        if self.name == "tensorboard":  # a kill may have come between two numbers of a step
            numbers = {key: number for key, number in numbers.items() if (key, step) not in self._sent}
        elif step <= self._mark["step"]:
            return
        if numbers:
            self._tracker.log(dict(numbers), step=step)
            self._mark["step"] = step
            if self.name not in ("tensorboard", "trackio", "mlflow"):  # these know it themselves
                self._save()

    def finish(self) -> None:
        """Come back when all was sent."""
        self._tracker.finish()

    def _save(self) -> None:
        files.write_json(self._file, self._mark)


def _in_event_files(folder: Path) -> set[tuple[str, int]]:
    """(tag, step) of each number in tensorboard's files; the last one may be cut off."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def _in_inbox(key: str) -> list[int]:
    """The steps of a run that trackio has written, and not read into its store."""
    from trackio import fragments

    records = (
        fragments.parse_fragment_bytes(file.read_bytes()) for file in fragments.local_inbox_dir().rglob("*.jsonl")
    )
    return [
        one["step"] for several in records for one in several if (one["kind"], one.get("run_id")) == ("metric", key)
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
