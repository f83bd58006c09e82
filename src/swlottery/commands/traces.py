"""What --trace log keeps in a run's folder until round 1 ends, and what is made of it then.

Its files are in no checkpoint's manifest, as they go again: each has its own hash. Every checkpoint of round 1 comes
after the trace of its step, so that a run that goes on finds the traces of all steps behind it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.find import trace as tracing
from swlottery.lottery.start import Network
from swlottery.lottery.trace import looked_up
from swlottery.runtime import files, sums
from swlottery.runtime.ranks import Ranks
from swlottery.watch.events import tokens_per_step

if TYPE_CHECKING:
    from torch import Tensor


class TraceKeeper:
    """The part of a `Keeper` that keeps traced steps. Every rank has one; only the lead's writes files."""

    folder: Path
    settings: TrainSettings
    network: Network
    ranks: Ranks

    def write_trace(self, step: int, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Keep a step. One that is done again writes the same bits."""
        path = self._trace(step)

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            files.write_tensors(path, tensors)
            kept = {**content, "sha256": files.file_sha256(path), "bytes": path.stat().st_size}
            files.write_json(path.with_suffix(".json"), sums.sealed(kept))

        self.ranks.decide(write)

    def traces(self, steps: Sequence[int]) -> dict[str, Any] | None:
        """The rows of all steps, and what they cost; of a branch (no ``steps``) its parent's rows, None if it has none.

        missing: the steps whose files are damaged; they have no rows. Without --trace log: None.
        """
        if self.settings.trace == "none":
            return None
        theirs = self.folder / "round_1" / "trace.csv"
        if not steps:
            return self.ranks.decide(lambda: {"rows": tracing.read(theirs) if theirs.exists() else None})
        return self.ranks.decide(lambda: self._looked_up(steps))

    def drop_traces(self) -> None:
        """Remove what was kept."""
        self.ranks.decide(lambda: shutil.rmtree(self.folder / "trace", ignore_errors=True))

    def _looked_up(self, steps: Sequence[int]) -> dict[str, Any]:
        from safetensors import safe_open

        stored, missing = [], []
        with ExitStack() as stack:
            for step in steps:
                path = self._trace(step)
                try:
                    content = sums.read_sealed(path.with_suffix(".json"))
                    if files.file_sha256(path) != content["sha256"]:
                        raise ValueError
                except (FileNotFoundError, ValueError):
                    missing.append(step)
                    continue
                stored.append((step, content, stack.enter_context(safe_open(path, framework="pt"))))
            totals = {name: sum(content[name] for _, content, _ in stored) for name in ("forward_tokens", "bytes")}
            rows = looked_up(stored, tokens_per_step(self.settings, self.network)) if stored else []
            return {"rows": rows, **totals, "missing": missing}

    def _trace(self, step: int) -> Path:
        return self.folder / "trace" / f"step_{step}.safetensors"
