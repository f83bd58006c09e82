"""What each parameter of a language model is: one table, one row an architecture.

Everything that differs between architectures (where the blocks are, what the down-projection is called, whether its
weight is stored ``[out, in]`` or ``[in, out]``, whether a norm stands behind the MLP) is answered here and nowhere
else. The rest of the package speaks of ``(layer, out, in)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Row:
    """One architecture. Paths are dotted module paths; all but ``blocks`` and ``embeddings`` start from a block.

    blocks: the list of transformer blocks, from the causal LM.
    attention: the attention matrices. mlp_in: the matrices that lead into the MLP's intermediate channels.
    down: the MLP's down-projection (role ``mlp-out``).
    embeddings: token and position embeddings, from the causal LM.
    in_out: the weight is stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]`` (nn.Linear).
    post_norm: a norm between the down-projection and the residual stream (gemma, olmo2), or "".
    experts: ``down`` is the 3-D parameter ``down_proj[expert, out, in]`` of the module named here.
    overwritten: the block adds to the stream in the very tensor that the down-projection returned (Falcon), so that who wants to
    see it afterwards has to copy it.
    """

    blocks: str
    attention: Sequence[str]
    mlp_in: Sequence[str]
    down: str
    embeddings: Sequence[str]
    in_out: bool = False
    post_norm: str = ""
    experts: bool = False
    overwritten: bool = False


_QKVO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
_LLAMA = Row("model.layers", _QKVO, _GATED, "mlp.down_proj", ("model.embed_tokens",))
_GEMMA = Row(
    "model.layers",
    _QKVO,
    _GATED,
    "mlp.down_proj",
    ("model.embed_tokens",),
    post_norm="post_feedforward_layernorm",
)

ROWS: dict[str, Row] = {
    "gpt2": Row(
        "transformer.h",
        ("attn.c_attn", "attn.c_proj"),
        ("mlp.c_fc",),
        "mlp.c_proj",
        ("transformer.wte", "transformer.wpe"),
        in_out=True,
    ),
    "gpt_neo": Row(
        "transformer.h",
        tuple(f"attn.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
        ("mlp.c_fc",),
        "mlp.c_proj",
        ("transformer.wte", "transformer.wpe"),
    ),
    "gpt_neox": Row(
        "gpt_neox.layers",
        ("attention.query_key_value", "attention.dense"),
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("gpt_neox.embed_in",),
    ),
    "gptj": Row(
        "transformer.h",
        ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
        ("mlp.fc_in",),
        "mlp.fc_out",
        ("transformer.wte",),
    ),
    "opt": Row(
        "model.decoder.layers",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ("fc1",),
        "fc2",
        ("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    ),
    "bloom": Row(
        "transformer.h",
        ("self_attention.query_key_value", "self_attention.dense"),
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("transformer.word_embeddings",),
    ),
    "falcon": Row(
        "transformer.h",
        ("self_attention.query_key_value", "self_attention.dense"),
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("transformer.word_embeddings",),
        overwritten=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Row(
        "model.layers",
        _QKVO,
        ("mlp.experts.gate_up_proj",),
        "mlp.experts",
        ("model.embed_tokens",),
        experts=True,
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    # The multimodal wrapper. Its vision tower also has layers with an mlp; only the language model's blocks are ours.
    "gemma3": Row(
        "model.language_model.layers",
        _QKVO,
        _GATED,
        "mlp.down_proj",
        ("model.language_model.embed_tokens",),
        post_norm="post_feedforward_layernorm",
    ),
    "phi": Row(
        "model.layers",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"),
        ("mlp.fc1",),
        "mlp.fc2",
        ("model.embed_tokens",),
    ),
    "phi3": Row(
        "model.layers",
        ("self_attn.qkv_proj", "self_attn.o_proj"),
        ("mlp.gate_up_proj",),
        "mlp.down_proj",
        ("model.embed_tokens",),
    ),
    "olmo2": _GEMMA,
    "stablelm": _LLAMA,
    "starcoder2": Row("model.layers", _QKVO, ("mlp.c_fc",), "mlp.c_proj", ("model.embed_tokens",)),
}


def row_of(model_type: str) -> Row:
    """The table's row for ``config.model_type``; ``BadInput`` where there is none, never a guess."""
    if model_type not in ROWS:
        raise BadInput(
            f"no row for the architecture '{model_type}' in swlottery/roles.py (known: {', '.join(sorted(ROWS))}); "
            "a row needs: the path of the blocks, the attention and mlp-in matrices, the down-projection and its "
            "storage order, the norm behind the MLP if there is one, the embeddings"
        )
    return ROWS[model_type]


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
        """The bias over output channels, or None."""
        return getattr(self.module, "bias", None)

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

        A mixture's experts are one parameter without a module of their own, so what enters each is computed again
        from what the experts' module was given: hidden states, chosen experts, router weights.
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
                f"this '{config.model_type}' model is not built as its row in swlottery/roles.py says: {error}"
            ) from None
        text_config = config.get_text_config()
        self.hidden = int(text_config.hidden_size)
        for down in self.downs:
            if down.matrix(None if down.experts is None else 0).shape[0] != self.hidden:
                raise BadInput(
                    f"{down.path} maps to {down.matrix().shape[0]} channels, but the hidden size is {self.hidden}: "
                    f"the row for '{config.model_type}' in swlottery/roles.py does not fit this model"
                )

    def _down(self, layer: int, block: nn.Module, config: Any) -> DownProjection:
        row = self.row
        module: Any = block.get_submodule(row.down)
        # OPT-350M alone puts its norms behind the additions; what a block returns is then no longer the stream.
        normed_after = config.model_type == "opt" and not config.do_layer_norm_before
        return DownProjection(
            layer=layer,
            path=f"{row.blocks}.{layer}.{row.down}" + (".down_proj" if row.experts else ""),
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
        module_name, _, kind = name.rpartition(".")
        if name.startswith(row.blocks + "."):
            inside = module_name[len(row.blocks) + 1 :].partition(".")[2]
            if kind == "bias":
                return "bias"
            if row.experts and f"{inside}.{kind}" == f"{row.down}.down_proj":
                return "mlp-out"
            if inside == row.down and not row.experts:
                return "mlp-out"
            if inside in row.attention:
                return "attention"
            if inside in row.mlp_in or f"{inside}.{kind}" in row.mlp_in:
                return "mlp-in"
            return "norm" if parameter.ndim == 1 else "router"
        if module_name in row.embeddings:
            return "embedding"
        base = row.blocks.rpartition(".")[0]
        if module_name == "lm_head":
            return "bias" if kind == "bias" else "head"
        if name.startswith(base + "."):
            return "bias" if kind == "bias" else "norm" if parameter.ndim == 1 else "other"
        return "other"
