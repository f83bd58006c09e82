"""What each parameter of a language model is, by the row of its architecture in table.py.

Everything that differs between architectures is answered here and nowhere else: where the blocks are, what the
down-projection is called, whether its weight is stored ``[out, in]`` or ``[in, out]``, whether a norm follows the MLP.
The rest of the package speaks of ``(layer, out, in)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from swlottery.errors import BadInput
from swlottery.models.down import DownProjection as DownProjection
from swlottery.models.down import Part
from swlottery.models.offload import device_of
from swlottery.models.proof import prove
from swlottery.models.table import ROWS, Row
from swlottery.models.usual import has, usual_row

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROVED: WeakKeyDictionary[nn.Module, Row] = WeakKeyDictionary()
"""The rows by usual names of the models at hand: making one takes as long as a pass of a small model."""


def row_of(model: nn.Module) -> Row:
    """The model's row: of the table, or by usual names. Raises `BadInput` where the names do not say what is where."""
    config: Any = model.config
    return ROWS.get(config.model_type) or _PROVED.get(model) or usual_row(model)


class Roles:
    """The blocks and down-projections of one model, and the role of each of its parameters.

    A model whose row is by usual names is proved the first time, by forward passes (see proof.py); one without weights
    cannot run, and is not.

    Raises `BadInput` for an architecture that is not known, and where the model does not look as its row says.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.row = row_of(model)
        self.in_table = config.model_type in ROWS
        try:
            blocks: Any = model.get_submodule(self.row.blocks)
            self.blocks: list[nn.Module] = list(blocks)
            self.downs = [self._down(layer, block, config) for layer, block in enumerate(self.blocks)]
        except AttributeError as error:
            raise BadInput(
                f"this '{config.model_type}' model is not built as its row in swlottery/models/table.py says: {error}"
            ) from None
        self.hidden = int(config.get_text_config().hidden_size)
        for down in self.downs:
            inside = set(down.output_module.modules())
            for part in down.parts:
                if part.shape[0] != self.hidden:
                    raise BadInput(
                        f"{part.path} maps to {part.shape[0]} channels, but the hidden size is {self.hidden}: "
                        f"the row for '{config.model_type}' in swlottery/models/table.py does not fit this model"
                    )
                if part.module not in inside:
                    raise BadInput(
                        f"{part.path} is in another module than {down.path}: how the block adds them up is not known"
                    )
        if not self.in_table and model not in _PROVED and device_of(model).type != "meta":
            prove(model, self.row, self.blocks, self.downs)
            _PROVED[model] = self.row

    def _down(self, layer: int, block: nn.Module, config: Any) -> DownProjection:
        row = self.row
        # OPT-350M alone puts its norms behind the additions; what a block returns is then no longer the stream.
        normed_after = config.model_type == "opt" and not config.do_layer_norm_before
        parts = self._parts(layer, block, config.get_text_config())
        alone = len(parts) == 1 and parts[0].experts is None
        post_norm = row.post_norm if self.in_table or has(block, row.post_norm or ".") else ""
        return DownProjection(
            layer=layer,
            block=block,
            output_module=parts[0].module if alone else block.get_submodule(row.down[0].partition(".")[0]),
            parts=parts,
            multiplier=float(getattr(config, row.multiplier)) if row.multiplier else 1.0,
            post_norm=block.get_submodule(post_norm) if post_norm else None,
            overwritten=row.overwritten,
            stream_norm=block.get_submodule("final_layer_norm") if normed_after else None,
        )

    def _parts(self, layer: int, block: nn.Module, config: Any) -> list[Part]:
        """The down-projections that this block has: some blocks of a mixture have no experts."""
        from torch import nn

        found = [(path, weight) for path in self.row.down if (weight := has(block, path)) is not None]
        if not found:
            block.get_submodule(self.row.down[0])  # raises what is missing
        parts: list[Part] = []
        number = 0
        for path, weight in found:
            single = isinstance(weight, nn.Module)
            parent, _, name = path.rpartition(".")
            module: Any = weight if single else block.get_submodule(parent)
            if single and weight.weight.ndim != 2:
                raise BadInput(f"{self.row.blocks}.{layer}.{path} is not one matrix: how it is used is not known")
            count = 1 if single else len(weight)
            parts.append(
                Part(
                    module=module,
                    name="weight" if single else name,
                    path=f"{self.row.blocks}.{layer}.{path}",
                    experts=None if single and len(found) == 1 else range(number, number + count),
                    entered=1 if single else int(getattr(config, "num_experts_per_tok", 2)),
                    in_out=self.row.in_out if single else bool(getattr(module, "is_transposed", True)),
                    gate=has(block, f"{parent}_gate") if single and len(found) > 1 else None,
                )
            )
            number += count
        return parts

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
            for role, names in (("mlp-in", row.mlp_in), ("attention", row.attention), ("mlp-out", row.down)):
                if inside in names:
                    return role
            return "norm" if parameter.ndim == 1 else "router"
        return "norm" if parameter.ndim == 1 else "other"
