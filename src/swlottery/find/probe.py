"""The probe: the fixed prompts that are run through the model to look for spikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.data.vocabulary import check_rows, tokenizing, unknown_share
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
"""With fewer tokens in all a median over tokens means nothing."""
MAX_TOKENS = 1 << 20
"""With their padding."""


@dataclass(frozen=True)
class Batch:
    """Some consecutive prompts, padded to the longest of them.

    ids, valid: as in Probe. first: how many of the probe's tokens come before this batch's ``count`` tokens.
    """

    ids: Tensor
    valid: Tensor
    first: int
    count: int


@dataclass(frozen=True)
class Probe:
    """Prompts as one batch, padded on the right.

    No attention mask is needed: in a causal model what comes after a token cannot change it.

    ids: ``[prompts, longest]``. valid: which entries are tokens, flattened to ``[prompts · longest]``.
    prompts, with_bos, tokens: of each row its text, whether it begins with BOS, and its tokens as text. cut: how many
    prompts are longer than the model's context, and cut to it. unknown: the fraction of their tokens that are unknown.
    """

    ids: Tensor
    valid: Tensor
    prompts: tuple[str, ...]
    with_bos: tuple[bool, ...]
    tokens: tuple[tuple[str, ...], ...]
    cut: int = 0
    unknown: float = 0.0

    def batches(self, most: int) -> list[Batch]:
        """The prompts in their order, in batches of at most ``most`` tokens with their padding (or one long prompt)."""
        valid = self.valid.view_as(self.ids)
        lengths = valid.sum(dim=1).clamp_min(1).tolist()
        starts, longest = [0], 0
        for nth, length in enumerate(lengths):
            longest = max(longest, length)
            if nth > starts[-1] and longest * (nth + 1 - starts[-1]) > most:
                starts.append(nth)
                longest = length
        batches, first = [], 0
        for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True):
            longest = max(lengths[start:end])
            flat = valid[start:end, :longest].flatten()
            batches.append(Batch(self.ids[start:end, :longest], flat, first, int(flat.sum())))
            first += batches[-1].count
        return batches

    def place(self, flat: int) -> tuple[int, int]:
        """(prompt, position) of the n-th valid token."""
        index = int(self.valid.nonzero()[flat])
        return divmod(index, self.ids.shape[1])

    def describe(self, prompt: int, position: int) -> str:
        """A token for a person: ``token 0 'Apple' of prompt 1, without BOS``."""
        bos = ", after BOS" if self.with_bos[prompt] else ""
        number = list(dict.fromkeys(self.prompts)).index(self.prompts[prompt]) + 1
        return f"token {position} {self.tokens[prompt][position]!r} of prompt {number}{bos}"


def build(
    tokenizer: Any,
    prompts: Sequence[str],
    context: int,
    bos: str = "both",
    device: Any = "cpu",
    rows: int | None = None,
) -> Probe:
    """Tokenise the prompts, each of them once, and cut them to the context.

    Args:
        tokenizer: a transformers tokenizer.
        context: the most tokens that the model takes.
        bos: ``with`` the tokenizer's beginning-of-sequence token in front, ``without`` it, or ``both`` (each prompt
            is then run twice). A tokenizer that has none always goes without.
        rows: those of the model's embedding; None: enough.

    Raises:
        BadInput: a prompt without a token or with only unknown ones, a token without a row, or fewer than MIN_TOKENS
            tokens in all.
    """
    import torch

    bos_token = tokenizer.bos_token_id
    modes = {"both": (False, True), "with": (True,), "without": (False,)}[bos if bos_token is not None else "without"]
    room = context - (True in modes)
    tokens, cut = dict[str, list[int]](), 0
    prompts = list(dict.fromkeys(prompts))
    for prompt in prompts:
        with tokenizing("a prompt"):
            ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        if not prompt.strip():
            raise BadInput("an empty prompt: every --prompt and every line of --prompt-file needs some text")
        if unknown_share(ids, tokenizer) == 1:
            raise BadInput(
                f"the tokenizer knows nothing of the prompt {prompt[:60]!r}: give prompts and a text that it knows "
                "(find --prompt and --eval-text; train --super-weights none goes without prompts)"
            )
        cut += len(ids) > room
        tokens[prompt] = ids[:room]
        if len(modes) * len(prompts) * (longest := len(tokens[prompt])) > MAX_TOKENS:
            raise BadInput(
                f"{len(prompts):,} prompts, one of them of {longest:,} tokens: filled up to that length they are more "
                f"than {MAX_TOKENS:,} tokens; give fewer (a long text is for --eval-text)"
            )
    asked = [(with_bos, prompt) for with_bos in modes for prompt in prompts]
    sequences = [[*([bos_token] if with_bos else []), *tokens[prompt]] for with_bos, prompt in asked]
    if rows is not None:
        largest = max(max(ids) for ids in sequences)
        check_rows(largest, rows, tokenizer, "a prompt" + " after BOS (see --bos)" * (largest == bos_token))
    lengths = [len(ids) for ids in sequences]
    longest = max(lengths)
    if sum(lengths) < MIN_TOKENS:
        raise BadInput(
            f"the prompts hold {sum(lengths)} tokens; medians over tokens need at least {MIN_TOKENS}: give a longer "
            "prompt or several"
        )
    padded = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in sequences], device=device)
    valid = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).flatten().to(device)
    decoded = {token: tokenizer.decode([token]) for token in {token for ids in sequences for token in ids}}
    words = tuple(tuple(decoded[token] for token in ids) for ids in sequences)
    unknown = unknown_share([token for ids in tokens.values() for token in ids], tokenizer)
    with_bos, texts = zip(*asked, strict=True)
    return Probe(padded, valid, texts, with_bos, words, cut, unknown)
