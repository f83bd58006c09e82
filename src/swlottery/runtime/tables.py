"""The tables of a run: files that only grow, and that a resumed run cuts back to where its checkpoint stood."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from swlottery.runtime import files

ROUNDS = (
    *("round", "total", "remaining", "remaining_fraction", "sparsity", "pruned", "threshold"),
    *("train_loss", "val_loss", "val_perplexity", "seconds"),
)
WATCH = (
    *("round", "step", "kind", "layer", "out", "in", "value", "theta0", "displacement", "over_threshold"),
    *("percentile_matrix", "percentile_remaining", "gradient_percentile", "moment_percentile", "update_percentile"),
    *("gradient", "update", "alive", "expert", "of"),
)


class Tables:
    """``metrics.jsonl``, ``rounds.csv`` and ``watch.csv`` of one run. folder: None keeps nothing.

    lengths: where to cut each file (bytes), from a checkpoint; empty for a new run. Rows behind belong to steps that
    are done again, with the same numbers.
    """

    def __init__(self, folder: Path | None, lengths: Mapping[str, int]) -> None:
        self.files: dict[str, IO[bytes]] = {}
        self._hashes: dict[str, Any] = {}
        if folder is None:
            return
        for name, columns in (("metrics.jsonl", None), ("rounds.csv", ROUNDS), ("watch.csv", WATCH)):
            file = open(folder / name, "ab")  # noqa: SIM115 (closed by close)
            self.files[name] = file
            file.truncate(lengths.get(name, 0))
            self._hashes[name] = hashlib.sha256((folder / name).read_bytes())
            if file.seek(0, os.SEEK_END) == 0 and columns:
                self._append(name, [_line(columns)])

    def event(self, event: Mapping[str, Any]) -> None:
        """Append one event to metrics.jsonl."""
        self._append("metrics.jsonl", [json.dumps(event, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"])

    def round(self, row: Mapping[str, Any]) -> None:
        """Append one row to rounds.csv."""
        self._rows("rounds.csv", ROUNDS, [row])

    def watch(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to watch.csv."""
        self._rows("watch.csv", WATCH, rows)

    def lengths(self) -> dict[str, int]:
        """The byte length of every table, all of it safely on disk."""
        for file in self.files.values():
            file.flush()
            files.fsync(file.fileno())
        return {name: file.tell() for name, file in self.files.items()}

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of what was written to every table."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()

    def _rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        self._append(name, (_line([row[column] for column in columns]) for row in rows))

    def _append(self, name: str, lines: Iterable[bytes]) -> None:
        if name in self.files:
            content = b"".join(lines)
            self._hashes[name].update(content)
            self.files[name].write(content)
            self.files[name].flush()


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(int(cell) if isinstance(cell, bool) else cell for cell in cells)
    return text.getvalue().encode()
