"""The architectures that are known: one table, one row each.

A row says what differs from Llama, which is what the defaults describe. An architecture whose parts have the usual
names needs none: `usual` makes its row, and `proof` shows on the model that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Row:
    """One architecture. Paths are dotted module paths; all but ``blocks`` and ``embeddings`` start from a block.

    blocks: the list of transformer blocks, from the causal LM.
    attention: the attention matrices.
    mlp_in: the matrices that lead into the MLP's intermediate channels.
    down: the MLP's down-projections (role ``mlp-out``), of which each block has some: a module with a weight, or a 3-D
        parameter ``[expert, out, in]``, whose module is given hidden states, chosen experts and router weights.
    embeddings: token and position embeddings, from the causal LM.
    in_out: the weight is stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]`` (nn.Linear).
    post_norm: a norm between the down-projection and the residual stream (gemma, olmo2), or "".
    multiplier: the entry of the config by which the attention's and the MLP's output are multiplied before they are
        added to the residual stream, or "".
    adds: the module whose output is what attention adds, where that is not the attention module's own; or "".
    overwritten: the block adds to the stream in the tensor that the down-projection returned (Falcon). Whoever reads it
        afterwards has to copy it.
    """

    blocks: str = "model.layers"
    attention: Sequence[str] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    mlp_in: Sequence[str] = ("mlp.gate_proj", "mlp.up_proj")
    down: Sequence[str] = ("mlp.down_proj",)
    embeddings: Sequence[str] = ("model.embed_tokens",)
    in_out: bool = False
    post_norm: str = ""
    multiplier: str = ""
    adds: str = ""
    overwritten: bool = False


_LLAMA = Row()
_POST_NORM = Row(post_norm="post_feedforward_layernorm")
_BLOOM = Row(
    blocks="transformer.h",
    attention=("self_attention.query_key_value", "self_attention.dense"),
    mlp_in=("mlp.dense_h_to_4h",),
    down=("mlp.dense_4h_to_h",),
    embeddings=("transformer.word_embeddings",),
    adds="self_attention.dense",
)
_GRANITE_MOE = Row(
    mlp_in=("block_sparse_moe.experts.gate_up_proj",),
    down=("block_sparse_moe.experts.down_proj",),
    multiplier="residual_multiplier",
)
_GPT2_EMBEDDINGS = ("transformer.wte", "transformer.wpe")
_SEPARATE = ("q_proj", "k_proj", "v_proj", "out_proj")

ROWS: dict[str, Row] = {
    "gpt2": Row(
        blocks="transformer.h",
        attention=("attn.c_attn", "attn.c_proj"),
        mlp_in=("mlp.c_fc",),
        down=("mlp.c_proj",),
        embeddings=_GPT2_EMBEDDINGS,
        in_out=True,
    ),
    "gpt_neo": Row(
        blocks="transformer.h",
        attention=tuple(f"attn.attention.{name}" for name in _SEPARATE),
        mlp_in=("mlp.c_fc",),
        down=("mlp.c_proj",),
        embeddings=_GPT2_EMBEDDINGS,
    ),
    "gpt_neox": Row(
        blocks="gpt_neox.layers",
        attention=("attention.query_key_value", "attention.dense"),
        mlp_in=("mlp.dense_h_to_4h",),
        down=("mlp.dense_4h_to_h",),
        embeddings=("gpt_neox.embed_in",),
    ),
    "gptj": Row(
        blocks="transformer.h",
        attention=tuple(f"attn.{name}" for name in _SEPARATE),
        mlp_in=("mlp.fc_in",),
        down=("mlp.fc_out",),
        embeddings=("transformer.wte",),
    ),
    "opt": Row(
        blocks="model.decoder.layers",
        attention=tuple(f"self_attn.{name}" for name in _SEPARATE),
        mlp_in=("fc1",),
        down=("fc2",),
        embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    ),
    "bloom": _BLOOM,
    "falcon": replace(_BLOOM, adds="", overwritten=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Row(mlp_in=("mlp.experts.gate_up_proj",), down=("mlp.experts.down_proj",)),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": Row(multiplier="residual_multiplier"),
    "granite_swa": Row(multiplier="residual_multiplier"),
    "hyperclovax": Row(post_norm="post_norm2", multiplier="residual_multiplier"),
    "granitemoe": _GRANITE_MOE,
    "granitemoe_swa": _GRANITE_MOE,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    # The multimodal wrapper. Its vision tower has layers with an MLP too; only the language model's blocks are ours.
    "gemma3": replace(
        _POST_NORM, blocks="model.language_model.layers", embeddings=("model.language_model.embed_tokens",)
    ),
    "phi": Row(
        attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"),
        mlp_in=("mlp.fc1",),
        down=("mlp.fc2",),
    ),
    "phi3": Row(attention=("self_attn.qkv_proj", "self_attn.o_proj"), mlp_in=("mlp.gate_up_proj",)),
    "olmo2": _POST_NORM,
    "stablelm": _LLAMA,
    "starcoder2": Row(mlp_in=("mlp.c_fc",), down=("mlp.c_proj",)),
}
