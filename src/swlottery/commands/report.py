"""``swlottery report``: one page on many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swlottery.commands.outputs import check_file, check_folder, check_temporary
from swlottery.errors import DONE


def report(runs: Sequence[Path], out: Path, markdown: Path | None = None) -> int:
    """Write the page, and the same as Markdown where that is asked for; their tables and figures go beside them.

    runs: folders of runs, folders of such folders, or of the tables of an earlier report.

    Raises:
        BadInput: no run there; a page that cannot be written.
    """
    check_temporary()
    for path in filter(None, (out, markdown)):
        check_file(path)
    check_folder(out.with_name(f"{out.stem}_tables"))
    if markdown:
        check_folder(markdown.with_suffix(""))
    from swlottery.report.page.make import make

    for written in make(list(runs), out, markdown):
        print(f"wrote    {written}")
    return DONE
