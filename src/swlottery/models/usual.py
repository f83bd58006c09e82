"""The row of an architecture that is not in the table, by the names that its parts usually have.

Such a row is a guess until `proof` has shown that it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models.table import Row

if TYPE_CHECKING:
    from torch import nn

MIXERS = (
    "self_attn", "attn", "attention", "self_attention", "self_att",
    "linear_attn", "mamba", "conv", "short_conv", "temporal_block", "mixer",
)  # fmt: skip
"""Attention, or what mixes tokens in its place."""

MLPS = ("mlp.", "feed_forward.", "ffn.", "block_sparse_moe.", "moe.", "")
DOWN = ("down_proj", "fc2", "c_proj", "fc_out", "dense_4h_to_h", "output_linear", "w2", "Wo")
INTO = (
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "fc1",
    "c_fc",
    "fc_in",
    "dense_h_to_4h",
    "input_linear",
    "w1",
    "w3",
    "Wi",
)
GROUPS = ("", "experts.", "shared_expert.", "shared_experts.", "shared_mlp.")
"""Where an MLP's matrices lie: in itself, or as those of experts. Those that every token enters come last."""

POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm", "post_norm2")


def usual_row(model: nn.Module) -> Row:
    """The row by usual names. Raises `BadInput` where they do not say where the parts are."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kind = str(model.config.model_type)  # type: ignore[union-attr]
    path, blocks = _blocks(model, kind)

    def there(names: Iterable[str]) -> list[str]:
        return [name for name in names if any(has(block, name) is not None for block in blocks)]

    down = there(_names(DOWN))
    for nth, block in enumerate(blocks):
        if all(has(block, name) is None for name in down):
            inside = ", ".join(name for name, _ in block.named_children())
            raise BadInput(f"{_unknown(kind)}: block {nth} has no MLP with a usual name (it has {inside})")
    matrices = {name: None for block in blocks for name in _mixing(block)}
    downs = [module for block in blocks for name in down if isinstance(module := has(block, name), nn.Module)]
    body = path.rpartition(".")[0] + "."
    embeddings = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return Row(
        blocks=path,
        attention=tuple(matrices),
        mlp_in=tuple(there(_names(INTO))),
        down=tuple(down),
        embeddings=tuple(name for name in embeddings if name.startswith(body) and not name.startswith(f"{path}.")),
        in_out=any(isinstance(module, Conv1D) for module in downs),
        post_norm=next(iter(there(POST_NORMS)), ""),
    )


def has(block: nn.Module, name: str) -> Any:
    """The module or parameter of a block by its dotted path; None where there is none."""
    found: Any = block
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _unknown(kind: str) -> str:
    return (
        f"no row for the architecture '{kind}' in swlottery/models/table.py, and its parts have other names than usual"
    )


def _names(names: tuple[str, ...]) -> list[str]:
    return [f"{mlp}{group}{name}" for group in GROUPS for mlp in MLPS for name in names]


def _blocks(model: nn.Module, kind: str) -> tuple[str, list[nn.Module]]:
    """The one list of as many modules as the config has layers, in the part of the model that reads text."""
    from torch import nn

    reader: Any = model
    count = reader.config.get_text_config().num_hidden_layers
    decoder = reader.get_decoder() if hasattr(reader, "get_decoder") else None
    found: list[tuple[str, list[nn.Module]]] = []
    for part in (decoder, reader.base_model):
        of_part = set() if part is None else set(part.modules())
        found = found or [
            (path, list(module))
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count and module in of_part
        ]
    lists = [one for one in found if not any(one[0].startswith(f"{other}.") for other, _ in found)]
    if len(lists) != 1:
        names = ", ".join(path for path, _ in lists) or "none"
        raise BadInput(f"{_unknown(kind)}: one list of {count} blocks is expected ({names})")
    return lists[0]


def _mixing(block: nn.Module) -> Iterator[str]:
    """The matrices of a block's attention, or of what mixes tokens in its place."""
    for mixer in MIXERS:
        if (module := has(block, mixer)) is not None:
            for name, parameter in module.named_parameters():
                if parameter.ndim == 2 and name.endswith(".weight"):
                    yield f"{mixer}.{name.removesuffix('.weight')}"
