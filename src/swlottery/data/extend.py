"""A store is extended: the missing shards of one of its parts are made, in order, by this process or by several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from swlottery.data import store as stores
from swlottery.data.shards import Shard
from swlottery.data.sources import Piece, Stream, no_text
from swlottery.data.store import Store, Wanted, is_enough
from swlottery.data.tokenize import Counted, Encoder, Task
from swlottery.data.workers import InProcess, Processes
from swlottery.errors import BadInput

PATIENCE = 0.2  # seconds between two calls of `progress`, so that it can stop the work


class Extension:
    """The making of a part's missing shards. about: what their metadata should have besides what is known here."""

    def __init__(self, store: Store, part: str, wanted: Wanted, about: dict[str, Any]) -> None:
        self.store, self.part, self.wanted, self.about = store, part, wanted, about
        self.shards, _ = store.shards(part, wanted)
        self.ahead: dict[int, Shard] = {}  # complete, but one before them is missing
        self.making: dict[int, tuple[int, Counted]] = {}  # the characters of a shard's text, and what is made of it
        self.made = sum(map(_counted, self.shards), Counted())
        self.makers: InProcess | Processes | None = None

    def run(self, stream: Stream, encoder: Encoder, processes: int, progress: Callable[[Counted], None]) -> None:
        """Make shards until there are as many tokens as are wanted, or the text ends.

        processes: how many share the work, if it is worth it. progress: called several times a second with all that
        there is; an exception from it ends the work, which can be continued later.

        Raises `BadInput` where the text cannot be read or there is none, `OSError` where a shard cannot be written.
        """
        cuts = self._cuts(stream)
        try:
            while not is_enough(self.shards, self.wanted):
                self._give(cuts, encoder, processes)
                self._take()
                progress(self._all())
        finally:
            if self.makers is not None:
                self.makers.close()

    def _give(self, cuts: Iterator[tuple[Task, Any]], encoder: Encoder, processes: int) -> None:
        """Hand out the text of shards, no more than is wanted as far as can be estimated."""
        while (self.makers is None or self.makers.wants()) and self._may_lack():
            if (cut := next(cuts, None)) is None:
                return
            task, place = cut
            if not task.pieces and self.part == "train":
                raise no_text(self.store.name)
            old = self.store.shard(self.part, task.number)
            if old is not None and old.about["read"] == task.about["read"] and old.is_intact():
                self._complete(old)  # of an earlier start, after one that was not finished
                return
            self.store.folder.mkdir(exist_ok=True)
            self.store.write_place(self.part, task.number, task.about["read"], place)
            if self.makers is None:  # a text of one shard is not worth the start of processes
                alone = processes < 2 or task.about["last"]
                self.makers = InProcess(encoder) if alone else Processes(encoder, processes)
            self.makers.give(task)
            self.making[task.number] = (sum(len(text) for text, _ in task.pieces), Counted())

    def _take(self) -> None:
        """Take what was made, and put complete shards in their order."""
        if not self.making and len(self.shards) not in self.ahead:
            raise BadInput(
                f"{self.store.name} ends before the tokens in {self.store.folder} do: it is another text now; "
                f"remove that folder"
            )
        for number, counted in self.makers.answers(PATIENCE) if self.makers is not None and self.making else ():
            if counted is not None:
                self.making[number] = (self.making[number][0], counted)
            elif (shard := self.store.shard(self.part, number)) is not None:
                self._complete(shard)
            else:
                raise OSError(0, "it does not hold what was written", str(self.store.path(self.part, number)))
        while (following := self.ahead.pop(len(self.shards), None)) is not None:
            self.shards.append(following)

    def _complete(self, shard: Shard) -> None:
        self.making.pop(shard.about["number"], None)
        self.ahead[shard.about["number"]] = shard
        self.made += _counted(shard)

    def _all(self) -> Counted:
        return sum((counted for _, counted in self.making.values()), self.made)

    def _may_lack(self) -> bool:
        """Whether the shards in the making may leave less than is wanted, at the tokens a character of what is made."""
        want = self.wanted(self.shards[0] if self.shards else None)
        if want is None:
            return True
        counted = self._all()
        rate = counted.tokens / counted.characters if counted.characters else 0.25
        left = sum(characters - made.characters for characters, made in self.making.values())
        return counted.tokens + left * rate < want

    def _cuts(self, stream: Stream) -> Iterator[tuple[Task, Any]]:
        """The text after the last shard, cut into shards, each with `Stream.place` at its end. No text is one shard."""
        number, read = len(self.shards), self.shards[-1].about["read"] if self.shards else 0
        pieces = stream.pieces(read, self.store.read_place(self.part, number - 1, read))
        following = next(pieces, None)
        while following is not None or number == 0:
            taken: list[Piece] = []
            size, enough = 0, stores.SMALL if number < stores.FEW else stores.LARGE
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
