"""``--tracker``: a process beside the run that sends to a tracker what a checkpoint covers, from the run's files.

It is another process so that a tracker that fails, hangs or prints changes nothing of the run. It ends when the run's
process has ended, however that was; what it could not send then, the next start sends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from swlottery.config import OPERATIONAL
from swlottery.report.global_steps import GlobalSteps
from swlottery.report.run_files import read_settings
from swlottery.report.words import one_line
from swlottery.runtime import checkpoint, child, folder, stop, sums, tracker

PATIENCE = 60
"""How many seconds it has to send the rest when the run has ended."""


class Follower:
    """The process that follows a run, as the run sees it. name: of the tracker; ``none`` starts nothing."""

    def __init__(self, run: Path, name: str) -> None:
        self.name, self._printed = name, run / tracker.FOLDER / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = ""
        if name == "none":
            return
        try:
            self._printed.parent.mkdir(exist_ok=True)
            with open(self._printed, "wb") as output, stop.blocked():  # a stop is meant for the run, which it outlives
                self._process = subprocess.Popen(
                    child.command("swlottery.commands.tracker", str(run), name),
                    stdin=subprocess.PIPE,  # closed when this process ends
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=child.variables(os.environ),
                )
        except OSError as error:
            self._failed = str(error)

    def notes(self) -> list[str]:
        """What the reader of the log should know, once."""
        if self._process is not None and self._process.poll() is not None:
            if self._process.returncode:
                self._failed = f"code {self._process.returncode}"
                with suppress(OSError):
                    lines = self._printed.read_text(encoding="utf-8", errors="replace").split("\n")
                    self._failed = next(filter(str.strip, reversed(lines)), self._failed)
            self._process = None
        failed, self._failed = self._failed, ""
        if not failed:
            return []
        again = f"all that it said is in {self._printed}; the same command, given again, sends what is missing"
        return [one_line(f"note: the tracker {self.name} has ended ({shorten(failed, 200)}): {again}")]

    def close(self, patience: float) -> list[str]:
        """Have the rest sent; a tracker that takes longer is ended. Returns the last `notes`."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                self._process, self._failed = None, f"it did not take the rest within {patience:g} seconds"
        return self.notes()


def covered(run: Path) -> tuple[dict[str, int], dict[str, str]]:
    """How many bytes of each table are safe, and their hashes: those that the newest checkpoint covers, or, of a
    finished run, all."""
    if folder.is_finished(run):
        return {name: (run / name).stat().st_size for name in ("metrics.jsonl", "watch.csv")}, {}
    try:
        state = sums.read_sealed(checkpoint.manifests(run / "checkpoints")[0])
        return state["tables"], state.get("hashes", {})
    except (FileNotFoundError, IndexError, ValueError):  # there is none yet, or the run has just removed it
        return {}, {}


def main() -> int:
    """Follow a run until standard input is closed. Arguments: its folder, the name of the tracker."""
    run, name = Path(sys.argv[1]), sys.argv[2]
    settings = {key: value for key, value in read_settings(run).items() if key not in OPERATIONAL}
    ended = threading.Event()

    def watch() -> None:
        select.select([sys.stdin], [], [])
        signal.alarm(PATIENCE)  # ends this process wherever it hangs
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    # A process of a start that was killed may still be sending.
    with folder.held(run / tracker.FOLDER, patience=PATIENCE + 5):
        steps, sender, last = GlobalSteps(run), tracker.Tracker(name, run, settings), False
        while not last:
            last = ended.wait(1)
            for step, numbers in sorted(steps.new(*covered(run)).items()):
                sender.log(step, numbers)
        sender.finish()
    return 0
