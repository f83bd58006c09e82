"""Writes docs/architectures.md: what the finder answers to a small model of every model type of transformers.

python tests/models/architectures_page.py        (minutes; as a test: pytest -m slow tests/models)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
HEAD = """# Architectures

Made by `python tests/models/architectures_page.py` from transformers {version}: every model type that it loads as a
causal language model, and what the finder answers to a small random model of it.

- **row**: the type has a row in `models/table.py`, which says where its parts are. A test proves each row, too.
- **proof**: its parts have the usual names, and forward passes on the model at hand prove it each time it is loaded
  (`models/proof.py`): what a block returns is what enters it, plus what attention adds, plus what the down-projection
  adds; that output is Σ W·x + b of the matrices that are addressed; and the network, run from a block in its middle on,
  predicts the same. A checkpoint whose config switches on something else is refused where another of its type is not.
- **refused**: neither; the table says why. Nothing is guessed.
- **not tried**: no small model of it could be made here. When one is loaded, it is proved or refused.

"Experts" has the number of matrices of one block in the small model; `+ shared` are experts that every token enters,
numbered after the routed ones. `train` takes models that store one down-projection a block, and whose
other matrices have usual names too.

Only weights that are stored as numbers of 16 or 32 bits are read. gpt_oss is published in MXFP4 and DeepSeek-V3 in FP8:
their structure is covered, but a checkpoint has to be dequantised first.

| model type | covered by | down-projection, or why not | experts |
|---|---|---|---|
"""


class Answer(NamedTuple):
    """One line of the table."""

    kind: str
    how: str
    what: str
    experts: str = ""

    def __str__(self) -> str:
        return "| " + " | ".join(self) + " |"


def kinds() -> list[str]:
    """The model types that the installed transformers loads as causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def answer(kind: str) -> Answer:
    """What loading a small model of this type answers."""
    from swlottery.errors import BadInput
    from swlottery.models.architectures import Roles
    from swlottery.models.loaded import wrap
    from tiny import tiny_model

    try:
        model = tiny_model(kind)
        wrap(model, None, kind)
        roles = Roles(model)
    except BadInput as error:
        how = "not tried" if error.__cause__ else "refused"  # no forward pass took the sizes that were chosen here
        return Answer(kind, how, _one_line(str(error.__cause__ or error)))
    except Exception as error:  # whatever a config or a model says of sizes that do not fit it
        return Answer(kind, "not tried", _one_line(str(error)))
    downs = [down for down in roles.downs if down.experts is not None] or roles.downs
    shared = " + shared" if len(downs[0].parts) > 1 else ""
    experts = f"{len(downs[0].parts[0].experts or ())}{shared}" if downs[0].experts is not None else ""
    path = ", ".join(dict.fromkeys(part.path.split(f".{downs[0].layer}.", 1)[1] for part in downs[0].parts))
    return Answer(kind, "row" if roles.in_table else "proof", f"`{path}`", experts)


def _one_line(reason: str) -> str:
    reason = reason.rpartition("is not proved: ")[2] or reason
    reason = " ".join(reason.replace(" in swlottery/models/table.py", "").replace("|", "/").split())
    return reason if len(reason) < 200 else reason[:197] + "…"


def page() -> str:
    """The whole page."""
    from transformers import __version__

    return HEAD.format(version=__version__) + "\n".join(str(answer(kind)) for kind in kinds()) + "\n"


def listed() -> dict[str, str]:
    """How each model type is covered, as the page says."""
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): row[1] for row in rows[1:]}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
