"""A model ready to be examined: its weights finite and hashed, its architecture known, and causal.

Causal: it predicts each token from the earlier ones alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models import offload
from swlottery.models.architectures import Roles
from swlottery.models.lineage import sha256
from swlottery.models.names import slug
from swlottery.models.refusals import words
from swlottery.models.running import evaluating
from swlottery.models.stored import most_frequent
from swlottery.runtime import hardware

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class Loaded:
    """A model ready to be examined, and where it came from.

    weights_sha256: of the weights as they are stored (see lineage.py). stored_dtype, dtype: the precision that they are
    stored in, and the one that the model runs in. note: what kind of model it is, where that needs to be said.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    slug: str
    revision: str | None
    weights_sha256: str
    stored_dtype: str
    dtype: str
    device: str
    note: str = ""

    @property
    def context(self) -> int:
        """The longest sequence in tokens that the model was made for."""
        return context_of(self.model.config)


def embedding_rows(model: Any) -> int:
    """How many tokens the embedding has a row for."""
    return int(model.get_input_embeddings().weight.shape[0])


def context_of(config: Any) -> int:
    """The longest sequence in tokens that a model with this config was made for."""
    config = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if getattr(config, key, None):
            return int(getattr(config, key))
    return 2048  # BLOOM and Falcon use ALiBi: no length is fixed, 2048 is what they were trained with


def wrap(model: Any, tokenizer: Any, name: str = "") -> Loaded:
    """A model that is loaded already, ready to be examined where it is and in the precision that it is in.

    The model stays as it is: neither its weights nor its mode or its device change.

    Args:
        model: a transformers causal language model; its parameters on one device, or where accelerate put them.
        tokenizer: the tokenizer that it was trained with.
        name: what the record calls it; the name that it was loaded by unless given.

    Raises:
        BadInput: weights that are not finite, not a causal LM, an architecture that is neither in models/table.py nor
            proved (see proof.py).
    """
    name = name or str(getattr(model.config, "_name_or_path", "")) or str(model.config.model_type)
    offload.take_over(model)
    lineage = _lineage(model, name)
    dtype = _dtype_of(model)
    with evaluating(model):
        _check_behaviour(model, name, dtype)
    return Loaded(model, tokenizer, name, slug(name), None, lineage, dtype, dtype, str(offload.device_of(model)))


def prepare(
    model: Any,
    tokenizer: Any,
    name: str,
    revision: str | None,
    dtype: str,
    device: torch.device,
    note: str,
    placed: bool = False,
) -> Loaded:
    """As `wrap`, for a model that was read just now: frozen, cast to ``dtype``, and moved to ``device``.

    placed: its weights are where they are to be.
    """
    import torch

    model.eval().requires_grad_(False)
    stored = _dtype_of(model)
    lineage = _lineage(model, name)
    run_dtype = _fast_dtype(model, stored, device) if dtype == "auto" else dtype
    for parameter in model.parameters():  # buffers keep their precision: rotary frequencies in bfloat16 are wrong
        parameter.data = parameter.data.to(getattr(torch, run_dtype))
    if (elsewhere := offload.weights_of(model)) is not None:
        elsewhere.dtype = getattr(torch, run_dtype)
    elif not placed:
        model.to(device)
    _check_behaviour(model, name, run_dtype)
    return Loaded(model, tokenizer, name, slug(name), revision, lineage, stored, run_dtype, str(device), note)


def _dtype_of(model: Any) -> str:
    found = most_frequent((parameter.dtype, parameter.numel()) for parameter in model.parameters())
    return str(found).removeprefix("torch.")


def _lineage(model: Any, name: str) -> str:
    """The hash of the weights, each read once. Raises `BadInput` for one that is not finite."""
    import torch

    def finite() -> Iterator[tuple[str, torch.Tensor]]:
        for parameter_name, values in offload.stored_parameters(model):
            if not all(torch.isfinite(end) for end in torch.aminmax(values)):
                raise BadInput(f"the weights of {name} are not finite: {parameter_name} holds NaN or infinity")
            yield parameter_name, values

    return sha256(finite())


def _check_behaviour(model: Any, name: str, dtype: str) -> None:
    """Finite, causal, and of a known architecture. Causal is a check of behaviour, not of names.

    Changing the last token must leave the earlier logits alone.
    """
    import torch

    try:
        vocabulary, context = model.config.get_text_config().vocab_size, context_of(model.config)
        if context < 2:
            raise BadInput(f"{name} takes {context} token at a time: nothing can be predicted from the token before")
        tokens = torch.arange(min(8, context), device=offload.device_of(model)).remainder(vocabulary).repeat(2, 1)
        tokens[1, -1] = vocabulary - 1
        with torch.no_grad():
            logits = model(tokens, use_cache=False).logits.float()
    except (AttributeError, ValueError) as error:  # an encoder, a body without a head, a model of sound
        raise BadInput(f"{name} does not predict tokens from tokens alone ({words(error)})") from None
    except (IndexError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        damaged = f"its config.json is damaged ({type(error).__name__}: {words(error)})"
        raise BadInput(f"{name} cannot be run: {damaged}") from error
    if not bool(torch.isfinite(logits).all()):
        if dtype == "float16":
            raise BadInput(f"{name} overflows in float16: use --dtype bfloat16 or float32")
        raise BadInput(f"{name} answers with NaN or infinity: its weights or its config.json are damaged")
    first, second = logits[:, :-1]
    # Experts sum in another order when other tokens share them, so equality holds to rounding only.
    tolerance = 1e-4 if dtype == "float32" else 5e-2
    if (first - second).abs().max() > tolerance * first.abs().max().clamp_min(1e-6):
        raise BadInput(
            f"{name} ({model.config.model_type}) is not a causal language model: changing the last token changes the "
            "predictions before it"
        )
    Roles(model)  # refuses an architecture that it does not know


def _fast_dtype(model: Any, stored: str, device: torch.device) -> str:
    """The stored precision; float32 in place of 16 bits that a CPU has no units for, if the memory is there for it."""
    fast = hardware.fast_dtype(stored, device)
    needed = 4 * sum(parameter.numel() for parameter in model.parameters())
    return fast if fast == stored or needed < 0.8 * hardware.available_memory() else stored
