"""The log of ``swlottery evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swlottery.report.logs.log import Log
from swlottery.report.words import number, one_line, percent, perplexity, table
from swlottery.version import __version__


class EvaluateLog(Log):
    """Prints the losses as a table, and what one network costs against the other."""

    def losses(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """entries: of `commands.evaluate.measure`."""
        first = entries[0]
        self.line(f"swlottery {__version__} evaluate: how well does it predict the text?\n")
        facts = {
            one["network"]: f"{one_line(one['model'])}, run in {one['dtype']} on {one['device']}\n"
            f"sha256 {one['weights_sha256']}"
            for one in entries
        }
        facts |= {
            "text": f"{one_line(first['eval_text'])}\nsha256 {first['eval_text_sha256']}",
            "documents": f"protocol {first['protocol']}: {first['documents']} of {first['context']:,} tokens",
        }
        self.facts(facts, 2 + max(map(len, facts)))
        heads = ["network", "sparsity", "nats a token", "perplexity", "of a word", "bits a byte"]
        cells = []
        for one in entries:
            perplexities = [perplexity(one[name]) for name in ("baseline_perplexity", "word_perplexity")]
            nll, bits = number(one["baseline_nll"]), number(one["bits_per_byte"])
            cells.append([one["network"], percent(one["sparsity"]), nll, *perplexities, bits])
        self.lines(["", *table(heads, cells)])
        if "nll_difference" in first:
            low, high = first["nll_difference_interval"]
            self.paragraph(
                f"{first['network']} against {entries[1]['network']}: {first['nll_difference']:+.4f} nats a token "
                f"(paired; 95 % interval over the documents {low:+.4f} to {high:+.4f}), perplexity "
                f"×{first['perplexity_ratio']:.4f}"
            )
        for note in dict.fromkeys(one["note"] for one in entries if one["note"]):
            self.paragraph(f"note: {one_line(note)}")

    def written(self, path: Path) -> None:
        """Where the numbers are."""
        self.line(f"wrote {one_line(path)}")
