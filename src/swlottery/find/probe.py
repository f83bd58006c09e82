"""The probe: the fixed prompts that are run through the model to look for spikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_PROMPTS = (
    "Apple Inc. is a worldwide tech company.",  # the prompt of Yu et al. (2024)
    "Summer is hot. Winter is cold.",
    "The capital of France is Paris, and the river that flows through the middle of the city is the Seine.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "In 1905 a clerk in the patent office at Bern published four papers; each of them changed what physics was about.",
    "Q: What is the boiling point of water?\nA: 100 degrees Celsius, at the pressure of sea level.",
)

MIN_TOKENS = 12
"""Fewer tokens in all leave no median over tokens to compare with."""


@dataclass(frozen=True)
class Batch:
    """Some prompts that follow each other, padded to the longest of them.

    ids, valid: as in Probe. first: how many of the probe's tokens stand before this batch's ``count``.
    """

    ids: Tensor
    valid: Tensor
    first: int
    count: int


@dataclass(frozen=True)
class Probe:
    """Prompts as one right-padded batch. In a causal model what stands behind a token cannot change it, so no
    attention mask is needed.

    ids: ``[prompts, longest]``. valid: which entries are tokens, flattened to ``[prompts · longest]``.
    """

    ids: Tensor
    valid: Tensor
    prompts: tuple[str, ...]
    with_bos: tuple[bool, ...]
    tokens: tuple[tuple[str, ...], ...]

    def batches(self, most: int) -> list[Batch]:
        """The prompts in their order, in batches of at most ``most`` tokens with their padding (or one long prompt)."""
        valid = self.valid.view_as(self.ids)
        lengths = [1 + int(row.nonzero().max()) if bool(row.any()) else 1 for row in valid.cpu()]
        starts, longest = [0], 0
        for nth, length in enumerate(lengths):
            longest = max(longest, length)
            if nth > starts[-1] and longest * (nth + 1 - starts[-1]) > most:
                starts.append(nth)
                longest = length
        return list(self._cut(starts, lengths))

    def _cut(self, starts: Sequence[int], lengths: Sequence[int]) -> Iterator[Batch]:
        first, valid = 0, self.valid.view_as(self.ids)
        for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True):
            longest = max(lengths[start:end])
            flat = valid[start:end, :longest].flatten()
            count = int(flat.sum())
            yield Batch(self.ids[start:end, :longest], flat, first, count)
            first += count

    def place(self, flat: int) -> tuple[int, int]:
        """(prompt, position) of the n-th valid token."""
        index = int(self.valid.nonzero()[flat])
        return divmod(index, self.ids.shape[1])

    def describe(self, prompt: int, position: int) -> str:
        """A token for a person: ``token 0 'Apple' of prompt 1, without BOS``."""
        bos = ", after BOS" if self.with_bos[prompt] else ""
        text = self.prompts.index(self.prompts[prompt]) if prompt >= 0 else 0
        distinct = list(dict.fromkeys(self.prompts)).index(self.prompts[text]) + 1
        return f"token {position} {self.tokens[prompt][position]!r} of prompt {distinct}{bos}"


def build(tokenizer: Any, prompts: Sequence[str], context: int, bos: str = "both", device: Any = "cpu") -> Probe:
    """Tokenise the prompts.

    Args:
        bos: ``with`` the tokenizer's beginning-of-sequence token in front, ``without`` it, or ``both`` (each prompt
            is then run twice); a tokenizer that has none always goes without.

    Raises:
        BadInput: no prompt, an empty one, one longer than ``context`` tokens, or fewer than MIN_TOKENS in all.
    """
    import torch

    if not prompts:
        raise BadInput("no prompt: give at least one with --prompt or --prompt-file")
    first = tokenizer.bos_token_id
    modes = {"both": (False, True), "with": (True,), "without": (False,)}[bos if first is not None else "without"]
    sequences, texts, flags = [], [], []
    for with_bos in modes:
        for prompt in prompts:
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt.strip() else []
            if not ids:
                raise BadInput("an empty prompt: every --prompt and every line of --prompt-file needs some text")
            ids = ([first] if with_bos else []) + list(ids)
            if len(ids) > context:
                raise BadInput(f"a prompt of {len(ids)} tokens is longer than the model's context of {context}")
            sequences.append(ids)
            texts.append(prompt)
            flags.append(with_bos)
    if sum(map(len, sequences)) < MIN_TOKENS:
        raise BadInput(
            f"the prompts hold {sum(map(len, sequences))} tokens; medians over tokens need at least {MIN_TOKENS}: give "
            "a longer prompt or several"
        )
    longest = max(map(len, sequences))
    padded = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in sequences], device=device)
    lengths = torch.tensor([len(ids) for ids in sequences], device=device)
    valid = (torch.arange(longest, device=device)[None] < lengths[:, None]).flatten()
    words = tuple(tuple(tokenizer.decode([token]) for token in ids) for ids in sequences)
    return Probe(padded, valid, tuple(texts), tuple(flags), words)
