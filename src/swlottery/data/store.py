"""A store: the shards of one source under one tokenizer, in a folder; made as far as they are wanted, and no further.

Where a shard ends depends on the text alone, so a store is the same however many processes made it, however often they
were stopped, and in whatever steps it grew. A run reads a prefix.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.data.shards import Shard
from swlottery.data.sources import Piece, Stream
from swlottery.data.tokenize import Counted
from swlottery.data.workers import Makers
from swlottery.errors import BadInput
from swlottery.runtime import files

SMALL, LARGE = 1 << 23, 1 << 25  # characters of text in a shard, at least; the tokens take about half as many bytes
FEW = 16  # so many small shards come first: a run that needs little waits for little
ABANDONED = 600.0  # seconds without a write, after which an unfinished file counts as left behind
PATIENCE = 0.2  # seconds between two looks at whether to stop


@dataclass(frozen=True)
class Cut:
    """The text of one shard."""

    number: int
    pieces: list[Piece]
    read: int  # pieces of the stream up to its end
    last: bool  # whether the stream ends with it
    place: Any  # see `Stream.place`


Wanted = Callable[[Shard | None], int | None]
"""How many tokens are wanted, given the first shard where it is there; None: all there are."""


class Store:
    """The folder. name: of the source; key: the hash of what decides the tokens, which every shard carries."""

    def __init__(self, folder: Path, key: str, name: str) -> None:
        self.folder, self.key, self.name = folder, key, name

    def path(self, part: str, number: int) -> Path:
        """The file of a shard. part: ``train`` or ``validation``."""
        return self.folder / f"{part}-{number:05d}.safetensors"

    def shard(self, part: str, number: int) -> Shard | None:
        """A shard; None where there is none, or none that is whole."""
        with contextlib.suppress(OSError, ValueError):
            shard = Shard(self.path(part, number))
            if (shard.about.get("key"), shard.about.get("part"), shard.about.get("number")) == (self.key, part, number):
                return shard
        return None

    def shards(self, part: str, wanted: Wanted) -> tuple[list[Shard], bool]:
        """Those that are there, from the first one on without a gap, as many as are wanted; and whether that is enough."""
        found: list[Shard] = []
        tokens = 0
        while not (enough := _is_enough(found, tokens, wanted)):
            shard = self.shard(part, len(found))
            if shard is None or (found and shard.about["revision"] != found[0].about["revision"]):
                break
            found.append(shard)
            tokens += len(shard)
        return found, enough

    def extend(
        self,
        part: str,
        stream: Stream,
        makers: Makers,
        wanted: Wanted,
        tell: Callable[[Counted], None],
        about: dict[str, Any],
    ) -> None:
        """Make shards until there are as many tokens as are wanted, or the text has ended.

        No more text is handed out than that will take, so far as can be told. tell: called with all that there is so
        far. about: what every shard says of itself beside what it holds.

        Raises `BadInput` where the text cannot be read or there is none, `OSError` where a shard cannot be written.
        """
        there, _ = self.shards(part, wanted)
        tokens = sum(map(len, there))
        progress = _Progress(there)
        cuts = self._cuts(part, stream, there)
        ahead: dict[int, Shard] = {}
        while not _is_enough(there, tokens, wanted):
            want = wanted(there[0] if there else None)
            while makers.wants() and progress.may_lack(want) and (cut := next(cuts, None)) is not None:
                if not cut.pieces and part == "train":
                    raise BadInput(f"{self.name} holds no text: give another file, folder or data set, or 'builtin'")
                old = self.shard(part, cut.number)
                if old is not None and old.about["read"] == cut.read and old.is_intact():
                    ahead[cut.number] = old  # of an earlier start, behind one that was not finished
                    progress.done(old)
                    break
                self.folder.mkdir(exist_ok=True)
                self._note_place(part, cut)
                own = {"key": self.key, "part": part, "number": cut.number, "read": cut.read, "last": cut.last}
                makers.give((cut.number, cut.pieces, self.path(part, cut.number), about | own))
                progress.making[cut.number] = (sum(len(text) for text, _ in cut.pieces), Counted())
            if not progress.making and len(there) not in ahead:
                raise BadInput(
                    f"{self.name} ends before the tokens in {self.folder} do: it is another text now; remove that folder"
                )
            for number, counted in makers.answers(PATIENCE) if progress.making else ():
                if counted is not None:
                    progress.making[number] = (progress.making[number][0], counted)
                    continue
                if (made := self.shard(part, number)) is None:
                    raise OSError(0, "it does not hold what was written", str(self.path(part, number)))
                ahead[number] = made
                progress.done(made)
            while (following := ahead.pop(len(there), None)) is not None:
                there.append(following)
                tokens += len(following)
            tell(progress.all())

    def unreadable(self) -> list[Path]:
        """Files that should be shards and are none."""
        return [path for path, shard in self._all() if shard is None]

    def revision(self) -> str | None:
        """The commit of the data set that the shards are of; None where it is not known."""
        revisions = (shard.about["revision"] for _, shard in self._all() if shard is not None)
        return next((str(one) for one in revisions if one), None)

    def of_others(self, revision: str | None) -> list[Path]:
        """Shards of another commit than this."""
        return [path for path, one in self._all() if one is not None and one.about["revision"] != revision]

    def remove_leftovers(self) -> None:
        """Files that a killed process has left unfinished. A shard is written in seconds."""
        for leftover in self.folder.glob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > ABANDONED:
                    leftover.unlink()

    def _all(self) -> Iterator[tuple[Path, Shard | None]]:
        """Every file that is named as a shard, and the shard where it is one."""
        for path in sorted(self.folder.glob("*-*.safetensors")):
            yield path, self.shard(*_part_and_number(path))

    def _cuts(self, part: str, stream: Stream, there: list[Shard]) -> Iterator[Cut]:
        """The stream from the end of the last shard on, in stretches of one shard."""
        number, read = len(there), there[-1].about["read"] if there else 0
        pieces = stream.begin(read, self._place(part, number, read))
        first = next(pieces, None)
        while first is not None or number == 0:
            taken = [] if first is None else [first]
            size = sum(len(text) for text, _ in taken)
            while first is not None and size < (SMALL if number < FEW else LARGE):
                if (piece := next(pieces, None)) is None:
                    break
                taken.append(piece)
                size += len(piece[0])
            read, place = read + len(taken), stream.place()
            first = next(pieces, None)
            yield Cut(number, taken, read, first is None, place)
            number += 1

    def _note_place(self, part: str, cut: Cut) -> None:
        """Where the text of the next shard begins; beside the shard, since two readings may word the same place differently."""
        if cut.place is not None:
            path = self.path(part, cut.number).with_suffix(".json")
            files.write_json(path, {"key": self.key, "read": cut.read, "place": cut.place})

    def _place(self, part: str, number: int, read: int) -> Any:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(self.path(part, number - 1).with_suffix(".json").read_text(encoding="utf-8"))
            if (noted["key"], noted["read"]) == (self.key, read):
                return noted["place"]
        return None


def _part_and_number(path: Path) -> tuple[str, int]:
    part, _, number = path.stem.partition("-")
    return part, int(number) if number.isdecimal() else -1


def _is_enough(there: list[Shard], tokens: int, wanted: Wanted) -> bool:
    if there and there[-1].about["last"]:
        return True
    want = wanted(there[0] if there else None)
    return want is not None and tokens >= want


class _Progress:
    """What is made, and what is in the making: of each shard the characters of its text, and how far it has come."""

    def __init__(self, there: list[Shard]) -> None:
        self._made = Counted()
        self.making: dict[int, tuple[int, Counted]] = {}
        for shard in there:
            self.done(shard)

    def done(self, shard: Shard) -> None:
        self.making.pop(shard.about["number"], None)
        self._made += Counted(len(shard), shard.about["characters"], shard.about["bytes"])

    def all(self) -> Counted:
        return sum((counted for _, counted in self.making.values()), self._made)

    def may_lack(self, want: int | None) -> bool:
        """Whether all this will be less than is wanted, if the rest has as many tokens a character as what is made."""
        if want is None:
            return True
        made = self.all()
        rate = made.tokens / made.characters if made.characters else 0.25
        rest = sum(characters - counted.characters for characters, counted in self.making.values())
        return made.tokens + rest * rate < want
