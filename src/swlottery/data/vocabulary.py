"""Whether tokens mean anything: those that the tokenizer does not know, and those that the embedding has no row for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from swlottery.errors import BadInput


def unknown_token(tokenizer: Any) -> int | None:
    """The token that stands for what the tokenizer does not know; None where it has no such token."""
    named: int | None = getattr(tokenizer, "unk_token_id", None)
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        if hasattr(backend.model, "unk_token"):  # what decides it, whatever the tokenizer's files name beside it
            unknown = backend.model.unk_token
            return None if unknown is None else backend.token_to_id(unknown)
    elif named is not None and named == tokenizer.eos_token_id:  # GPT-2's files name it so, and no text gives it
        return None
    return named


def unknown_share(tokens: Any, tokenizer: Any, aside: Any = ()) -> float:
    """The fraction of tokens (an array or a list) that are unknown to the tokenizer; 1 where there are none.

    aside: tokens that are not counted, such as those that end a document.
    """
    import numpy as np

    unknown = unknown_token(tokenizer)
    text = np.asarray(tokens)
    text = text[~np.isin(text, [token for token in aside if token != unknown])]
    return float(np.mean(text == unknown)) if len(text) and unknown is not None else float(not len(text))


def check_rows(largest: int, rows: int, tokenizer: Any, what: str) -> None:
    """Raise `BadInput` where the largest token of a text has no row in an embedding of so many ``rows``."""
    if largest >= rows:
        end = ", the end of a document," if largest == tokenizer.eos_token_id else ","
        raise BadInput(
            f"{what} has the token {tokenizer.convert_ids_to_tokens(largest)!r} ({largest}){end} but the model's "
            f"embedding has only {rows} rows: use the tokenizer that the model was trained with"
        )


@contextlib.contextmanager
def tokenizing(what: str) -> Iterator[None]:
    """Turn whatever a tokenizer raises for a text into one line."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library has no exceptions of its own, and its panics are no `Exception`
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"the tokenizer cannot make tokens of {what} ({why}): it has none for a part of it") from error
