"""The name of a run's folder, made from its settings: same settings, same folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swlottery.config import OPERATIONAL, TrainSettings
from swlottery.data.sources import is_on_hub
from swlottery.errors import BadInput
from swlottery.models.names import shortened
from swlottery.runtime import files


def changed(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are not at their default, so that a new setting does not rename old runs.

    Before there was ``auto``, a run was in float32 by default, and numbers of tokens were no text.
    """
    defaults = vars(TrainSettings())
    found = {
        name: value for name, value in vars(settings).items() if name not in OPERATIONAL and value != defaults[name]
    }
    if found.get("dtype") == "float32":
        del found["dtype"]
    if "data_tokens" in found:
        found["data_tokens"] = settings.token_count() or 0  # a number, as before there was auto
        if not found["data_tokens"] and not is_on_hub(settings.data):
            del found["data_tokens"]  # all, as with auto; of a local source that was the default
    return found


def name(settings: TrainSettings, slug: str, contents: Mapping[str, str]) -> str:
    """A readable stem and a hash: same settings, same name.

    contents: hashes of the files that settings name (the record, the round-1 network): a path alone says too little.
    """
    rate = "schedule" if settings.schedule else re.sub(r"[^\w.+-]", "_", f"p{settings.prune_rate}")
    parts = [
        slug if settings.start == "scratch" else f"{slug}-{settings.start}",
        rate + "-one-shot" * settings.one_shot + "-at-start" * settings.prune_at_start,
        f"T{settings.steps}",
        f"d{settings.data_seed}",
    ]
    return f"{shortened('-'.join(parts), 240)}-{digest(settings, contents)}"


def digest(settings: TrainSettings, contents: Mapping[str, str]) -> str:
    """The hash with which the name ends: eight hexadecimal digits. contents: as for `name`."""
    named = {key: value for key, value in changed(settings).items() if key not in contents}
    text = json.dumps([named, dict(contents)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def contents(settings: TrainSettings) -> dict[str, str]:
    """The hashes of the files that settings name: of the record, and of the round-1 network to branch from.

    Raises:
        BadInput: the record cannot be read.
        OSError, KeyError, ValueError: there is no such network; `branch.check` says so in words.
    """
    found = {}
    if settings.from_round_1:
        round_1 = Path(settings.from_round_1, "round_1", "round.json")
        found["from_round_1"] = str(files.read_json(round_1)["weights_sha256"])
    if settings.super_weights not in ("discover", "none"):
        record = Path(settings.super_weights)
        try:
            found["super_weights"] = files.file_sha256(record)
        except OSError as error:
            raise BadInput(f"cannot read the record {record}: {error.strerror} (find_sw.sh writes one)") from None
    return found
