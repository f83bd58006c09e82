"""``swlottery find``: search a model, and write the log (stdout), the record and the figures."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.outputs import check_file, check_folder, check_temporary
from swlottery.config import FindSettings
from swlottery.errors import DONE, BadInput
from swlottery.report.words import one_line
from swlottery.runtime import files

if TYPE_CHECKING:
    from swlottery.find.events import Event
    from swlottery.find.record import Record
    from swlottery.models.loaded import Loaded

PROMPTS = 4_000_000
"""Bytes of a file of prompts, at most."""


def find(settings: FindSettings, root: Path) -> int:
    """Search, verify, and write what was found. Returns the exit code.

    root: where the record and the figures go by default.

    Raises:
        BadInput: settings or a model that cannot be used; outputs that could not be written. Nothing is written then.
    """
    check(settings)
    check_temporary()
    given = prompts(settings)
    if settings.check is not None:
        return _check_record(settings, Path(settings.check))
    _check_outputs(settings.out, settings.plots)
    started = time.monotonic()

    from swlottery.data.evaluation import evaluation_text
    from swlottery.find import record as records
    from swlottery.find.events import Prepared
    from swlottery.find.run import examine
    from swlottery.runtime import hardware

    # A missing text is refused before torch is imported, a GPU that cannot be used before anything is written.
    builtin = (settings.eval_text, settings.protocol) == ("builtin", "quick")
    text = None if builtin else evaluation_text(settings.eval_text, settings.protocol)
    hardware.make_current(hardware.pick_device(settings.device))
    loaded = load(settings)
    usual = root / "super_weights" / f"{loaded.slug}.json"
    _check_outputs(settings.out or usual, settings.plots or root / "plots" / Path(settings.out or usual).stem)
    from swlottery.report.logs.find import FindLog

    log = FindLog(bars=sys.stderr.isatty())

    def observe(event: Event) -> None:
        if isinstance(event, Prepared):
            log.header(loaded, event, settings, time.monotonic() - started)
        else:
            log.event(event)

    record = examine(loaded, settings, text, given, observe)
    from swlottery.report.figures.find import draw

    with contextlib.nullcontext() if settings.out else files.lock(usual.with_name(".records"), print):
        ours = _ours(usual, loaded.weights_sha256)
        out = Path(settings.out or ours)
        if ours != usual and not settings.out:
            log.line(f"{one_line(usual)} stays: it is of another network, or cannot be read")
        log.compare(record, _earlier(out))
        records.save(record, out)
    figures = draw(records.load(out), Path(settings.plots or root / "plots" / out.stem))
    log.footer(record, out, figures, time.monotonic() - started)
    return DONE


def check(settings: FindSettings) -> None:
    """Raise `BadInput` for settings that cannot be meant, or a model's file or folder that is not there."""
    settings.validate()
    from swlottery.models.names import path_of

    if settings.start != "scratch":
        path_of(settings.model)


def prompts(settings: FindSettings) -> list[str]:
    """The prompts that the settings give: each --prompt, and each line of --prompt-file that is not blank.

    Raises `BadInput` for an empty prompt, one that is no text, and a file that cannot be read or is too long.
    """
    given, name = list(settings.prompt), settings.prompt_file
    if name is not None:
        try:
            with open(name, "rb") as file:
                content = file.read(PROMPTS + 1)
            if len(content) > PROMPTS:
                raise BadInput(f"--prompt-file {name} has more than {PROMPTS:,} bytes: a long text is for --eval-text")
            # Not `splitlines`: it ends a line at U+2028 and other characters that may stand in a prompt.
            lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except UnicodeDecodeError as error:
            raise BadInput(f"--prompt-file {name} is not UTF-8 (byte {error.start}): convert it to UTF-8") from None
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read --prompt-file {name}: {error}") from None
        given += [line for line in lines if line.strip()] or [""]
    if any(not prompt.strip() for prompt in given):
        raise BadInput("an empty prompt: every --prompt needs some text, and --prompt-file some line of it")
    if odd := next((prompt for prompt in given if re.search("[\0\ud800-\udfff]", prompt)), ""):
        raise BadInput(f"the prompt {odd[:60]!a} is no text: give text in UTF-8")
    return given


def load(settings: FindSettings) -> Loaded:
    """The model that the settings name."""
    from swlottery.models import load as models

    if settings.start == "scratch":
        return models.from_config(settings.model, settings.seed, settings.dtype, settings.device)
    place = (settings.device, settings.device_map, settings.max_memory)
    return models.load(settings.model, settings.revision, settings.dtype, *place)


def _earlier(path: Path) -> Record | None:
    """The record at ``path``; None where there is none, or none that can be read."""
    from swlottery.find import record as records

    with contextlib.suppress(BadInput):
        return records.load(path)
    return None


def _ours(usual: Path, weights_sha256: str) -> Path:
    """Where the record of these weights goes: to its ``usual`` place; with a part of their hash in its name where that
    holds anything else."""
    for digits in (0, 8, 16):
        path = usual.with_stem(f"{usual.stem}-{weights_sha256[:digits]}") if digits else usual
        if not os.path.exists(path) or (_earlier(path) or {}).get("weights_sha256") == weights_sha256:
            break
    return path


def _check_record(settings: FindSettings, path: Path) -> int:
    from swlottery.find import record as records

    record = records.load(path)
    loaded = load(settings)
    records.check_lineage(record, loaded.weights_sha256, loaded.name)
    print(f"{one_line(path)} belongs to {one_line(loaded.name)}: weights {loaded.weights_sha256[:12]}…, as loaded")
    return DONE


def _check_outputs(record: Any, plots: Any) -> None:
    if record is not None:
        check_file(Path(record))
    if plots is not None:
        check_folder(Path(plots))
