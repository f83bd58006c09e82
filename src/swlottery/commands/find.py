"""``swlottery find``: search a model, and write the log (stdout), the record and the figures."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.outputs import check_file, check_folder, check_temporary
from swlottery.config import FindSettings
from swlottery.errors import DONE, BadInput

if TYPE_CHECKING:
    from swlottery.find.events import Event
    from swlottery.models.loaded import Loaded


def find(settings: FindSettings, root: Path) -> int:
    """Search, verify, and write what was found. Returns the exit code.

    root: where the record and the figures go by default.

    Raises:
        BadInput: settings or a model that cannot be used; outputs that could not be written. Nothing is written then.
    """
    check(settings)
    check_temporary()
    given = prompts(settings)
    if settings.check:
        return _check_record(settings, Path(settings.check))
    _check_outputs(settings.out, settings.plots)
    started = time.monotonic()

    from swlottery.data.evaluation import read_text
    from swlottery.find import record as records
    from swlottery.find.events import Prepared
    from swlottery.find.run import examine
    from swlottery.runtime import hardware

    # A missing text is refused before torch is imported, a GPU that cannot be used before anything is written.
    text = None if settings.eval_text == "builtin" else read_text(settings.eval_text)
    hardware.make_current(hardware.pick_device(settings.device))
    loaded = load(settings)
    out = Path(settings.out or root / "super_weights" / f"{loaded.slug}.json")
    plots = Path(settings.plots or root / "plots" / loaded.slug)
    _check_outputs(out, plots)
    before = None
    with contextlib.suppress(BadInput):  # there is none, or it cannot be read
        before = records.load(out)
    from swlottery.report.logs.find import FindLog

    log = FindLog(bars=sys.stderr.isatty())

    def observe(event: Event) -> None:
        if isinstance(event, Prepared):
            log.header(loaded, event.probe, event.text, event.windows, settings, time.monotonic() - started)
        else:
            log.event(event)

    record = examine(loaded, settings, text, given, observe)
    log.compare(record, before)
    records.save(record, out)
    from swlottery.report.figures.find import draw

    figures = draw(records.load(out), plots)
    log.footer(record, out, figures, time.monotonic() - started)
    return DONE


def check(settings: FindSettings) -> None:
    """Raise `BadInput` for a value out of its limits, or a model's file or folder that is not there."""
    settings.check_limits()
    from swlottery.models.names import path_of

    if settings.start != "scratch":
        path_of(settings.model)


def prompts(settings: FindSettings) -> list[str]:
    """The prompts that the settings give. `BadInput` for an empty one, or a file that cannot be read."""
    given = list(settings.prompt)
    if settings.prompt_file is not None:
        try:
            lines = Path(settings.prompt_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read --prompt-file {settings.prompt_file}: {error}") from None
        given += lines or [""]
    if any(not prompt.strip() for prompt in given):
        raise BadInput("an empty prompt: every --prompt and every line of --prompt-file needs some text")
    return given


def load(settings: FindSettings) -> Loaded:
    """The model that the settings name."""
    from swlottery.models import load as models

    if settings.start == "scratch":
        return models.from_config(settings.model, settings.seed, settings.dtype, settings.device)
    return models.load(settings.model, settings.revision, settings.dtype, settings.device)


def _check_record(settings: FindSettings, path: Path) -> int:
    from swlottery.find import record as records

    record = records.load(path)
    loaded = load(settings)
    records.check_lineage(record, loaded.weights_sha256, loaded.name)
    print(f"{path} belongs to {loaded.name}: weights {loaded.weights_sha256[:12]}…, as loaded")
    return DONE


def _check_outputs(record: Any, plots: Any) -> None:
    if record is not None:
        check_file(Path(record))
    if plots is not None:
        check_folder(Path(plots))
