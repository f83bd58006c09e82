"""What every log is made of: lines, titles, paragraphs, and a progress bar below them on a terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from swlottery.report.words import WIDTH

_COORDINATE = re.compile(r"\(\d+(, (expert )?\d+)+\)")
print_line: Callable[[str], None] = partial(print, flush=True)


class Log:
    """Lines of text, by ``write``. bars: whether there is a terminal to draw progress bars on (stderr)."""

    def __init__(self, bars: bool, write: Callable[[str], None] = print_line) -> None:
        self.bars, self.write = bars, write
        self.bar: Any = None

    def line(self, text: str = "") -> None:
        if self.bar is not None:
            self.bar.clear()
        self.write(text)

    def lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.line(text)

    def section(self, title: str) -> None:
        self.end_bar()
        self.line(f"\n{title}\n{'-' * len(title)}")

    def paragraph(self, text: str, indent: int = 4, head: str = "") -> None:
        """A sentence or a list behind its ``head``, over as many lines as it needs. No coordinate or word is broken."""
        joined = _COORDINATE.sub(lambda found: found[0].replace(" ", "\xa0"), text)
        whole: Any = {"break_on_hyphens": False, "break_long_words": False}
        for line in textwrap.wrap(joined, WIDTH, initial_indent=head, subsequent_indent=" " * indent, **whole):
            self.line(line.replace("\xa0", " "))

    def facts(self, facts: Mapping[str, str], indent: int) -> None:
        """Names and what they are, one below the other; those without a text are left out."""
        for name, text in facts.items():
            for part in text.split("\n") if text else []:
                self.paragraph(part, indent, f"{name:<{indent}}")
                name = ""

    def start_bar(self, total: int | None, what: str, unit: str, done: int = 0) -> None:
        self.end_bar()
        if self.bars:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=unit,
                unit_scale=unit == "token",
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )

    def move_bar(self, steps: int = 1) -> None:
        if self.bar is not None:
            self.bar.update(steps)

    def end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
