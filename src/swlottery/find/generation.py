"""What the network writes with and without the weights: greedy continuations of fixed prompts.

A loss says little of how a network writes: one whose perplexity rises by half may only repeat itself. So each
continuation comes with the part of its 4-grams that it had written before (seq-rep-4 of Welleck et al. 2020,
arXiv:1908.04319).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.data.evaluation import start_tokens
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate, scaled

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = 4
TOKENS = 48
"""Of a continuation."""


@dataclass(frozen=True)
class Generation:
    """How the network goes on with ``coordinates`` at zero; intact where there are none.

    repeated_4grams: mean over the prompts. text: behind the first prompt. tokens: of each continuation.
    """

    coordinates: tuple[Coordinate, ...]
    repeated_4grams: float
    text: str
    tokens: int


def beginnings(tokenizer: Any, prompts: Iterable[str], context: int) -> Tensor:
    """The first `PROMPTS` prompts, all cut to the shortest, which leaves nothing to be padded: ``[prompts, tokens]``.

    Each begins as the tokenizer begins a text. They take at most half of the context.
    """
    import torch

    start = start_tokens(tokenizer)
    some = list(dict.fromkeys(prompts))[:PROMPTS]
    ids = [start + tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"] for prompt in some]
    length = min(context // 2, *map(len, ids))
    return torch.tensor([row[:length] for row in ids])


def taken(ids: Tensor, context: int) -> int:
    """The forward tokens of one continuation of the ``ids`` of `beginnings`: the last token that is made is not run."""
    return ids.numel() + len(ids) * (count_of(ids, context) - 1)


def count_of(ids: Tensor, context: int) -> int:
    """How many tokens each continuation has."""
    return min(TOKENS, context - ids.shape[1])


def generations(
    model: Any,
    downs: Sequence[DownProjection],
    tokenizer: Any,
    ids: Tensor,
    context: int,
    sets: Iterable[Sequence[Coordinate]],
) -> Iterator[Generation]:
    """One after the other with each of the ``sets`` of weights at zero; the weights are intact at every yield."""
    count = count_of(ids, context)
    for coordinates in sets:
        with scaled(downs, coordinates):
            made = greedy(model, ids, count).tolist()
        known = [token for token in made[0] if token < len(tokenizer)]  # an embedding may have more rows
        repeated = sum(map(repeated_4grams, made)) / len(made)
        yield Generation(tuple(coordinates), repeated, tokenizer.decode(known), count)


def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """The ``count`` most likely tokens, one after the other: ``[prompts, count]``.

    Not by ``generate``, which follows what the model's files ask for, such as a penalty on repetition.
    """
    import torch

    cache, made = None, ids
    with torch.no_grad():
        for _ in range(count):
            try:
                now = made if cache is None else made[:, -1:]
                output = model(input_ids=now, past_key_values=cache, use_cache=True)
            except ValueError:  # transformers' cache of a network without attention does not know its length
                output = model(input_ids=made, use_cache=False)
            cache = output.past_key_values
            made = torch.cat([made, output.logits[:, -1:].argmax(-1)], dim=1)
    return made[:, ids.shape[1] :]


def repeated_4grams(tokens: Sequence[int]) -> float:
    """The part of the 4-grams that stand earlier in the text; 0 where there is none."""
    grams = list(zip(*(tokens[first:] for first in range(4)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
