"""Data sets on the Hugging Face hub: their names, their splits, and the texts of their rows as they are streamed."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, cast

from swlottery.errors import BadInput

HUB_SETS = {"wikitext": "Salesforce/wikitext:wikitext-2-raw-v1", "openwebtext": "Skylion007/openwebtext"}
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(:[^\s/]+)?")  # owner/name or owner/name:config
TEXT_SUFFIXES = (".txt", ".md", ".rst")

Rows = Iterable[Mapping[str, Any]]


def hub_id(source: str) -> str:
    """The data set that ``source`` names: ``owner/name`` or ``owner/name:config``, or a short name of `HUB_SETS`.

    Raises `BadInput` for what cannot be a data set, such as a misspelt path, without asking the hub.
    """
    name = HUB_SETS.get(source, source)
    if not HUB_ID.fullmatch(name) or name.lower().endswith(TEXT_SUFFIXES):
        raise BadInput(
            f"no such file or folder: {source!r} (a source of text is 'builtin', a file, a folder, "
            f"{', '.join(map(repr, HUB_SETS))}, or a hub data set as owner/name or owner/name:config)"
        )
    return name


def newest(hub_id: str) -> str | None:
    """The newest commit of a data set; None where the hub cannot be asked."""
    from huggingface_hub import HfApi

    with contextlib.suppress(Exception):  # no network, no such set: `open_set` reports it
        return HfApi().dataset_info(hub_id.partition(":")[0], timeout=10).sha
    return None


def open_set(hub_id: str, revision: str | None = None) -> Mapping[str, Rows]:
    """The splits of a data set, streamed. revision: the commit to read; None: the newest.

    Raises `BadInput` for a data set that cannot be reached or read.
    """
    from datasets import load_dataset

    name, _, config = hub_id.partition(":")
    at = {} if revision is None else {"revision": revision}
    with _in_one_line(hub_id):
        return cast("Mapping[str, Rows]", load_dataset(name, config or None, streaming=True, **at))


def choose_split(hub_id: str, splits: Mapping[str, Rows], *wanted: str) -> str:
    """The first of the splits ``wanted`` that the data set has. Raises `BadInput` where it has none of them."""
    for split in wanted:
        if split in splits:
            return split
    raise BadInput(f"data set {hub_id} has no split {wanted[0]}, only {', '.join(splits)}: give a file instead")


class Texts:
    """The texts of a split's rows: the column ``text``, or the only one that holds strings."""

    def __init__(self, hub_id: str, rows: Rows) -> None:
        self.hub_id, self.rows = hub_id, rows
        self.column = ""

    def read(self) -> Iterator[str]:
        """The text of row after row, empty ones too, from the first row or from where `go_to` went.

        Raises `BadInput` for rows without such a column, and for rows that cannot be read.
        """
        with _in_one_line(self.hub_id):
            for row in self.rows:
                self.column = self.column or self._text_column(row)
                if not isinstance(text := row[self.column] or "", str):
                    kind = type(text).__name__
                    raise BadInput(
                        f"data set {self.hub_id} has {kind}s in its column {self.column!r}: save text as a file"
                    )
                yield text

    def place(self) -> dict[str, Any] | None:
        """The place after the last row that was read, for `go_to`; None where the library cannot give one."""
        if not self.column or not hasattr(self.rows, "state_dict"):
            return None
        return {"datasets": version("datasets"), "column": self.column, "rows": self.rows.state_dict()}

    def go_to(self, place: Any) -> bool:
        """Let the next `read` begin at a `place`. Returns False for none, or one of another version of the library."""
        with contextlib.suppress(KeyError, TypeError):
            if place["datasets"] == version("datasets") and hasattr(self.rows, "load_state_dict"):
                self.column = place["column"]
                self.rows.load_state_dict(place["rows"])
                return True
        return False

    def _text_column(self, row: Mapping[str, Any]) -> str:
        if "text" in row:
            return "text"
        strings = [name for name, value in row.items() if isinstance(value, str)]
        if len(strings) != 1:
            raise BadInput(f"data set {self.hub_id} has no column 'text' among {', '.join(row)}: save one as a file")
        return strings[0]


@contextlib.contextmanager
def _in_one_line(hub_id: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # network, hub, login, file formats: the library has no common exception for them
        load = f"datasets.load_dataset({', '.join(repr(part) for part in hub_id.split(':', 1))})"
        raise BadInput(
            f"data set {hub_id} cannot be read ({textwrap.shorten(str(error), 250)}): check its name, and your login "
            f"if it is gated; without network give a file, a folder or 'builtin', or run {load} on the login node "
            f"and then set HF_HUB_OFFLINE=1"
        ) from error
