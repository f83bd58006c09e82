"""A store: the folder with the shards of one source under one tokenizer; and how its missing shards are made.

Where a shard ends depends only on the text. So a store is the same whoever made it, in whatever steps it grew, and
however often that was interrupted. A run reads its first tokens.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from swlottery.data.shards import Shard
from swlottery.data.sources import Piece, Stream, no_text
from swlottery.data.tokenize import Counted, Encoder, Task
from swlottery.data.workers import InProcess, Processes
from swlottery.errors import BadInput
from swlottery.runtime import files, sums

SMALL, LARGE = 1 << 23, 1 << 25  # characters of text in a shard, at least; the tokens take about half as many bytes
FEW = 16  # the number of small shards, which come first, so that a run that needs little does not wait long
CHARACTERS_A_TOKEN = 4  # about; a guess for as long as no token is made
PATIENCE = 0.2  # seconds between two calls of `progress`, so that it can stop the work
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

    def files(self) -> Iterator[tuple[Path, Shard | None]]:
        """Every file with a shard's name, and the shard where it is one."""
        for path in sorted(self.folder.glob("*-*.safetensors")):
            part, _, number = path.stem.partition("-")
            yield path, self.shard(part, int(number) if number.isdecimal() else -1)

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
            files.write_json(self.path(part, number).with_suffix(".json"), sums.sealed(content))

    def read_place(self, part: str, number: int, read: int) -> Any:
        """What `write_place` kept; None where there is nothing, or nothing that fits."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = sums.read_sealed(self.path(part, number).with_suffix(".json"))
            if (kept["key"], kept["read"]) == (self.key, read):
                return kept["place"]
        return None


def is_enough(shards: list[Shard], wanted: Wanted) -> bool:
    """Whether these first shards have as many tokens as are wanted, or all of the source."""
    if shards and shards[-1].about["last"]:
        return True
    want = wanted(shards[0] if shards else None)
    return want is not None and sum(map(len, shards)) >= want


class Extension:
    """The making of a part's missing shards. about: what their metadata should have besides what is known here."""

    def __init__(self, store: Store, part: str, wanted: Wanted, about: dict[str, Any]) -> None:
        self.store, self.part, self.wanted, self.about = store, part, wanted, about
        self.shards, _ = store.shards(part, wanted)
        self.ahead: dict[int, Shard] = {}  # complete, but one before them is missing
        self.making = 0  # shards
        self.made = sum(map(_counted, self.shards), Counted())
        self.characters = self.made.characters  # of what is made and of what is handed out
        self.makers: InProcess | Processes | None = None

    def run(self, stream: Stream, encoder: Encoder, cores: int, progress: Callable[[Counted], None]) -> None:
        """Make shards until there are as many tokens as are wanted, or the text ends.

        cores: how many processes share the work, if it is worth it. progress: called several times a second with all
        that there is; an exception from it ends the work, which can be continued later.

        Raises `BadInput` where the text cannot be read or there is none, `OSError` where a shard cannot be written.
        """
        cuts = self._cuts(stream)
        try:
            while not is_enough(self.shards, self.wanted):
                self._give(cuts, encoder, cores)
                self._take()
                progress(self.made)
        finally:
            if self.makers is not None:
                self.makers.close()

    def _give(self, cuts: Iterator[tuple[Task, Any]], encoder: Encoder, cores: int) -> None:
        """Hand out the text of shards, no more than is wanted as far as can be estimated."""
        while (self.makers is None or self.makers.wants()) and (lacking := self._lacking()) > 0:
            if (cut := next(cuts, None)) is None:
                return
            task, place = cut
            if not task.pieces and self.part == "train":
                raise no_text(self.store.name)
            self.characters += sum(len(text) for text, _ in task.pieces)
            old = self.store.shard(self.part, task.number)
            if old is not None and old.about["read"] == task.about["read"] and old.is_intact():
                self.ahead[task.number] = old  # of an earlier start, after one that was not finished
                self.made += _counted(old)
                return
            self.store.folder.mkdir(exist_ok=True)
            self.store.write_place(self.part, task.number, task.about["read"], place)
            if self.makers is None:  # a text of one shard is not worth the start of processes
                count = 1 if task.about["last"] else math.ceil(min(lacking / SMALL, cores))
                self.makers = Processes(encoder, count) if count > 1 else InProcess(encoder)
            self.makers.give(task)
            self.making += 1

    def _take(self) -> None:
        """Take what was made, and put complete shards in their order."""
        if not self.making and len(self.shards) not in self.ahead:
            raise BadInput(
                f"{self.store.name} ends before the tokens in {self.store.folder} do: it is another text now; "
                f"remove that folder"
            )
        for number, added in self.makers.answers(PATIENCE) if self.makers is not None and self.making else ():
            if added is not None:
                self.made += added
                continue
            self.making -= 1
            if (shard := self.store.shard(self.part, number)) is None:
                raise OSError(0, "it does not hold what was written", str(self.store.path(self.part, number)))
            self.ahead[number] = shard
        while (following := self.ahead.pop(len(self.shards), None)) is not None:
            self.shards.append(following)

    def _lacking(self) -> float:
        """How many characters are wanted besides those handed out, at the characters a token of what is made."""
        want, made = self.wanted(self.shards[0] if self.shards else None), self.made
        if want is None:
            return math.inf
        length = made.characters / made.tokens if made.tokens else CHARACTERS_A_TOKEN
        return (want - made.tokens) * length - (self.characters - made.characters)

    def _cuts(self, stream: Stream) -> Iterator[tuple[Task, Any]]:
        """The text after the last shard, cut into shards, each with `Stream.place` at its end. No text is one shard."""
        number, read = len(self.shards), self.shards[-1].about["read"] if self.shards else 0
        pieces = stream.pieces(read, self.store.read_place(self.part, number - 1, read))
        following = next(pieces, None)
        while following is not None or number == 0:
            taken: list[Piece] = []
            size, enough = 0, SMALL if number < FEW else LARGE
            while following is not None:
                taken.append(following)
                size += len(following[0])
                if size >= enough:
                    break
                following = next(pieces, None)
            read, place = read + len(taken), stream.place()
            following = next(pieces, None)
            own = {"key": self.store.key, "part": self.part, "number": number, "read": read, "last": following is None}
            yield Task(number, taken, self.store.path(self.part, number), self.about | own), place
            number += 1


def _counted(shard: Shard) -> Counted:
    return Counted(len(shard), shard.about["characters"], shard.about["bytes"])
