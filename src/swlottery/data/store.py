"""A store: the folder with the shards of one source under one tokenizer.

Where a shard ends depends only on the text. So a store is the same whoever made it, in whatever steps it grew, and
however often that was interrupted. A run reads its first tokens.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from swlottery.data.shards import Shard
from swlottery.runtime import files

SMALL, LARGE = 1 << 23, 1 << 25  # characters of text in a shard, at least; the tokens take about half as many bytes
FEW = 16  # the number of small shards, which come first, so that a run that needs little does not wait long
ABANDONED = 600.0  # seconds without a write after which an unfinished file is removed; a shard is written in seconds

Wanted = Callable[[Shard | None], int | None]
"""How many tokens are wanted, given the first shard where it exists; None: all that the source has."""


class Store:
    """The folder. name: of the source. key: the hash of what decides the tokens, which every shard holds.

    A part is ``train`` or ``validation``.
    """

    def __init__(self, folder: Path, key: str, name: str) -> None:
        self.folder, self.key, self.name = folder, key, name

    def path(self, part: str, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{part}-{number:05d}.safetensors"

    def shard(self, part: str, number: int) -> Shard | None:
        """A shard; None where it is missing, incomplete, or another one."""
        with contextlib.suppress(OSError, ValueError):
            shard = Shard(self.path(part, number))
            if (shard.about.get("key"), shard.about.get("part"), shard.about.get("number")) == (self.key, part, number):
                return shard
        return None

    def shards(self, part: str, wanted: Wanted) -> tuple[list[Shard], bool]:
        """The shards without a gap from the first one on, as many as are wanted; and whether they are enough."""
        found: list[Shard] = []
        while not (enough := is_enough(found, wanted)):
            shard = self.shard(part, len(found))
            if shard is None or (found and shard.about["revision"] != found[0].about["revision"]):
                break
            found.append(shard)
        return found, enough

    def revision(self) -> str | None:
        """The commit of the data set that the shards are of; None where it is not known."""
        revisions = (shard.about["revision"] for _, shard in self._files() if shard is not None)
        return next((str(one) for one in revisions if one), None)

    def unreadable(self) -> list[Path]:
        """Files with a shard's name that are none."""
        return [path for path, shard in self._files() if shard is None]

    def of_others(self, revision: str | None) -> list[Path]:
        """Shards of another commit than this."""
        return [path for path, shard in self._files() if shard is not None and shard.about["revision"] != revision]

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of killed processes."""
        for leftover in self.folder.glob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > ABANDONED:
                    leftover.unlink()

    def write_place(self, part: str, number: int, read: int, place: Any) -> None:
        """Keep where the text after a shard begins (`Stream.place`). read: the pieces up to there.

        It is not in the shard, because two readings may describe the same place differently.
        """
        if place is not None:
            content = {"key": self.key, "read": read, "place": place}
            files.write_json(self.path(part, number).with_suffix(".json"), content)

    def read_place(self, part: str, number: int, read: int) -> Any:
        """What `write_place` kept; None where there is nothing, or nothing that fits."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self.path(part, number).with_suffix(".json").read_text(encoding="utf-8"))
            if (kept["key"], kept["read"]) == (self.key, read):
                return kept["place"]
        return None

    def _files(self) -> Iterator[tuple[Path, Shard | None]]:
        """Every file with a shard's name, and the shard where it is one."""
        for path in sorted(self.folder.glob("*-*.safetensors")):
            part, _, number = path.stem.partition("-")
            yield path, self.shard(part, int(number) if number.isdecimal() else -1)


def is_enough(shards: list[Shard], wanted: Wanted) -> bool:
    """Whether these first shards have as many tokens as are wanted, or all of the source."""
    if shards and shards[-1].about["last"]:
        return True
    want = wanted(shards[0] if shards else None)
    return want is not None and sum(map(len, shards)) >= want
