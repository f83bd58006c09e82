"""Scope: which weights may be pruned, by role, so that it means the same in every architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swlottery.errors import BadInput
from swlottery.models.architectures import Roles

if TYPE_CHECKING:
    from torch import nn

SCOPES: dict[str, tuple[str, ...]] = {
    "attn+c_proj": ("attention", "mlp-out"),
    "linear": ("attention", "mlp-in", "mlp-out"),
    "mlp": ("mlp-in", "mlp-out"),
    "all": ("attention", "mlp-in", "mlp-out", "embedding", "norm", "head", "router"),
}
"""``all`` prunes embeddings and norm gains too, as the first results' scripts did. Biases are never in scope."""


def in_scope(model: nn.Module, roles: Roles, scope: str) -> dict[str, nn.Parameter]:
    """The parameters that may be pruned, by name, in the model's order. Tied parameters count once."""
    wanted = SCOPES[scope]
    found = {name: p for name, p in model.named_parameters() if roles.role_of(name, p) in wanted}
    if not found:
        raise BadInput(f"--scope {scope} holds no weight of this model: choose from {', '.join(SCOPES)}")
    return found
