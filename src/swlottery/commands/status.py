"""``swlottery status``: the state of all runs in a folder, or of all points of a study."""

from __future__ import annotations

from pathlib import Path

from swlottery.errors import DONE, BadInput
from swlottery.report.logs.status import counts, runs, study_table, table
from swlottery.study.states import states


def status(folder: Path) -> int:
    """Print the table of the runs in a folder and a line a study below it, or the table of the study that it is.

    Raises:
        BadInput: a study's file is damaged, or Slurm does not answer.
    """
    if (folder / "study.json").is_file():
        print(study_table(states(folder)))
        return DONE
    print(table(runs(folder)))
    for path in sorted(folder.glob("*/study.json")):
        try:
            summary = counts(states(path.parent))
        except BadInput as error:
            summary = str(error)
        print(f"study {path.parent}: {summary}")
    return DONE
