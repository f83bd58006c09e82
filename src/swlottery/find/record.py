"""The record's file, ``super_weights/<model>.json``: what was found in one model.

It is written completely or not at all, and read through one loader that checks it against the schema in this package.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.models.coordinates import Coordinate
from swlottery.runtime import files

SCHEMA_VERSION = 2
"""Of the records that are written; those of version 1 are read too."""

Record = dict[str, Any]


def schema() -> Record:
    """The JSON schema of a record."""
    text = resources.files("swlottery.find").joinpath("record.schema.json").read_text(encoding="utf-8")
    loaded: Record = json.loads(text)
    return loaded


def not_found(record: Record) -> list[Record]:
    """The weights of ``--ablate`` that are no super weights of the record."""
    found = {Coordinate.of(weight) for weight in record["super_weights"]}
    return [weight for weight in record.get("ablated", []) if Coordinate.of(weight) not in found]


def save(record: Record, path: Path) -> None:
    """Check a record and write it to ``path``, completely or not at all."""
    _check(record, path)
    files.write_json(path, record, allow_nan=False)


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        BadInput: no such file, not JSON, of another schema version, or not as the schema says.
    """
    try:
        record: Record = files.read_json(path)
    except OSError as error:
        raise BadInput(f"cannot read the record {path}: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path} is no record: not JSON ({error})") from None
    _check(record, path)
    return record


def _check(record: Any, path: Path) -> None:
    import jsonschema

    version = record.get("schema") if isinstance(record, dict) else None
    if version not in (1, SCHEMA_VERSION):
        raise BadInput(
            f"{path} is a record of schema version {version!r}; this swlottery reads versions 1 and {SCHEMA_VERSION}: "
            "run find_sw.sh again"
        )
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(record))
    if error:
        place = "/".join(map(str, error.absolute_path)) or "the record"
        raise BadInput(f"{path} is not a valid record: at {place}: {error.message[:200]}")


def check_lineage(record: Record, weights_sha256: str, model: str) -> None:
    """Refuse a record that was made from other weights than ``model``'s: its coordinates mean nothing there."""
    if record["weights_sha256"] != weights_sha256:
        raise BadInput(
            f"the record was made from '{record['model']}' with weights {record['weights_sha256'][:12]}…, but "
            f"'{model}' has weights {weights_sha256[:12]}…: a coordinate means nothing in another network"
        )
