"""The model card of a final ticket: the README.md in ``final/``, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from swlottery.config import OPERATIONAL, TrainSettings
from swlottery.models.names import PRESETS, is_path
from swlottery.report.logs import tables
from swlottery.report.logs.tables import Event
from swlottery.report.words import count, number, one_line, percent, perplexity
from swlottery.version import __version__

CARD = """\
---
{metadata}---

# The final ticket of {run}

A causal language model whose smallest weights were pruned, to study which weights survive that: a *lottery ticket*
([Frankle & Carbin 2019](https://arxiv.org/abs/1803.03635)), made by swlottery {version}. The weights are those of the
last of {trainings}, under mask {last}: {masked} of the {total} weights in scope are masked, a sparsity of {sparsity},
and {remaining} remain. A masked weight is exactly zero here.

{facts}

Nothing is claimed of what it writes. Mind the licenses of the model and of the text that it was made from.

## Losses

In nats a token, on the run's training text, and on {sequences} of it that were held out. Each row is a mask, and the
network trained under it; the last row is this model.

{losses}

`swlottery evaluate {run}` gives perplexities on other text, beside those of the network of round 1. For tasks,
lm-evaluation-harness loads this folder as it is.

## How to load it

From the folder that has the run's folder in it:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{run}/final")
tokenizer = AutoTokenizer.from_pretrained("{run}/final")
```

The masks are in the run's folder, one of each prune. A weight that is zero need not be masked, so take them from there.
By the parameter's name they are bool tensors in its shape; `True` remains.

```python
import swlottery

masks = swlottery.load_masks("{run}", {last})
swlottery.apply(masks, model)  # changes nothing here; in a training of your own it keeps masked weights at zero
```

## How it was made

`swlottery train --config FILE` makes it again from these settings:

```yaml
{settings}```
"""


def card(run: Path, settings: TrainSettings, history: Sequence[Event]) -> str:
    """The card of the run in this folder. history: its events, up to the end of the last training."""
    given = {name: value for name, value in dataclasses.asdict(settings).items() if name not in OPERATIONAL}
    (start,) = (event for event in history if event["event"] == "start")
    rows = [event for event in history if event["event"] == "round"]
    last, name = rows[-1], settings.model
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lottery-ticket", "pruning", "super-weights"],
    }
    if settings.start == "pretrained" and name not in PRESETS and not is_path(name):
        metadata["base_model"] = name
    facts = {what: "; ".join(text.split("\n")) for what, text in tables.header(given, start).items() if text}
    losses = ["| mask | remaining | sparsity | training | held out | perplexity |", "|---|---|---|---|---|---|"]
    for row in rows:
        sizes = number(row["remaining"], 0), percent(row["sparsity"])
        cells = *sizes, number(row["train_loss"]), number(row["val_loss"]), perplexity(row["val_perplexity"])
        losses.append(f"| {row['round']} | {' | '.join(cells)} |")
    return CARD.format(
        metadata=yaml.safe_dump(metadata),
        run=run.name,
        version=__version__,
        trainings=count(len(rows), "training"),
        last=last["round"],
        masked=number(last["total"] - last["remaining"], 0),
        total=number(last["total"], 0),
        sparsity=percent(last["sparsity"]),
        remaining=percent(last["remaining_fraction"]),
        facts="\n".join(f"- {what}: {one_line(text)}" for what, text in facts.items()),
        sequences=count(settings.eval_sequences, "sequence"),
        losses="\n".join(losses),
        settings=yaml.safe_dump(given, allow_unicode=True, sort_keys=False),
    )
