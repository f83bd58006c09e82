"""What each parameter of a language model is, by the row of its architecture in table.py.

Everything that differs between architectures is answered here and nowhere else: where the blocks are, what the
down-projection is called, whether its weight is stored ``[out, in]`` or ``[in, out]``, whether a norm follows the MLP.
The rest of the package speaks of ``(layer, out, in)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models.table import row_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Inputs:
    """What enters one down-projection matrix: ``values[n, in]`` for the flat token positions ``tokens[n]``.

    For an expert the router's weight is already multiplied in, so that contributions add up to the module's output.
    """

    expert: int | None
    tokens: Tensor
    values: Tensor


@dataclass(frozen=True)
class DownProjection:
    """The down-projection of one block, addressed as ``(out, in)`` whatever its storage order."""

    layer: int
    path: str
    block: nn.Module
    module: nn.Module
    weight: nn.Parameter
    in_out: bool
    experts: int | None
    post_norm: nn.Module | None
    overwritten: bool
    stream_norm: nn.Module | None
    """A norm that the block applies after the addition (OPT-350M): the residual stream is what enters it."""

    @property
    def bias(self) -> Tensor | None:
        """The bias over output channels, without its gradient; or None."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in): the channels of its matrix, or of each expert's."""
        out, in_ = self.weight.shape[-2:]
        return (in_, out) if self.in_out else (out, in_)

    def matrix(self, expert: int | None = None) -> Tensor:
        """The weight as ``[out, in]``: a view, so writing to it writes to the model."""
        weight = self.weight.data if expert is None else self.weight.data[expert]
        return weight.t() if self.in_out else weight

    def matrices(self) -> list[tuple[int | None, Tensor]]:
        """Every ``(expert, matrix)`` of this block; one pair with expert None where there are no experts."""
        if self.experts is None:
            return [(None, self.matrix())]
        return [(expert, self.matrix(expert)) for expert in range(self.experts)]

    def inputs(self, args: Sequence[Tensor], tokens: Tensor) -> list[Inputs]:
        """What enters the matrices at the flat token positions ``tokens``, from the arguments of the hooked module.

        The experts of a mixture are one parameter and have no module each. So what enters each of them is computed
        again from what the experts' module was given: hidden states, chosen experts, router weights.
        """
        if self.experts is None:
            return [Inputs(None, tokens, args[0].reshape(-1, args[0].shape[-1])[tokens])]
        from torch.nn import functional

        hidden, chosen, router = (argument.reshape(-1, argument.shape[-1])[tokens] for argument in args[:3])
        found = []
        for expert in range(self.experts):
            rows, slot = (chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                experts: Any = self.module
                gate, up = functional.linear(hidden[rows], experts.gate_up_proj[expert]).chunk(2, dim=-1)
                values = experts.act_fn(gate) * up * router[rows, slot, None]
                found.append(Inputs(expert, tokens[rows], values))
        return found


class Roles:
    """The blocks and down-projections of one model, and the role of each of its parameters.

    Raises ``BadInput`` for an architecture without a row, or where the model does not look as its row says.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.row = row_of(config.model_type)
        try:
            blocks: Any = model.get_submodule(self.row.blocks)
            self.blocks: list[nn.Module] = list(blocks)
            self.downs = [self._down(layer, block, config) for layer, block in enumerate(self.blocks)]
        except AttributeError as error:
            raise BadInput(
                f"this '{config.model_type}' model is not built as its row in swlottery/models/table.py says: {error}"
            ) from None
        text_config = config.get_text_config()
        self.hidden = int(text_config.hidden_size)
        for down in self.downs:
            if down.shape[0] != self.hidden:
                raise BadInput(
                    f"{down.path} maps to {down.shape[0]} channels, but the hidden size is {self.hidden}: "
                    f"the row for '{config.model_type}' in swlottery/models/table.py does not fit this model"
                )

    def _down(self, layer: int, block: nn.Module, config: Any) -> DownProjection:
        row = self.row
        module: Any = block.get_submodule(row.down)
        # OPT-350M alone puts its norms behind the additions; what a block returns is then no longer the stream.
        normed_after = config.model_type == "opt" and not config.do_layer_norm_before
        return DownProjection(
            layer=layer,
            path=f"{row.blocks}.{layer}.{row.down_matrix}",
            block=block,
            module=module,
            weight=module.down_proj if row.experts else module.weight,
            in_out=row.in_out,
            experts=int(module.down_proj.shape[0]) if row.experts else None,
            post_norm=block.get_submodule(row.post_norm) if row.post_norm else None,
            overwritten=row.overwritten,
            stream_norm=block.get_submodule("final_layer_norm") if normed_after else None,
        )

    def role_of(self, name: str, parameter: Tensor) -> str:
        """The role of a parameter by its full name.

        One of: attention, mlp-in, mlp-out, embedding, norm, head, bias, router, other (not part of the language
        model, as gemma3's vision tower).
        """
        row = self.row
        module, _, kind = name.rpartition(".")
        if module in row.embeddings:
            return "embedding"
        body = row.blocks.rpartition(".")[0]
        if module != "lm_head" and not name.startswith(body + "."):
            return "other"
        if kind == "bias":
            return "bias"
        if module == "lm_head":
            return "head"
        if name.startswith(row.blocks + "."):
            inside = name.removeprefix(row.blocks + ".").partition(".")[2].removesuffix(".weight")
            known = {
                row.down_matrix: "mlp-out",
                **dict.fromkeys(row.attention, "attention"),
                **dict.fromkeys(row.mlp_in, "mlp-in"),
            }
            return known.get(inside, "norm" if parameter.ndim == 1 else "router")
        return "norm" if parameter.ndim == 1 else "other"
