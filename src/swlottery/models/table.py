"""The architectures that are known: one table, one row each.

A row says what differs from Llama, which is what the defaults describe. To add an architecture, add a row here and a
tiny model of it to tests/tiny.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from swlottery.errors import BadInput


@dataclass(frozen=True)
class Row:
    """One architecture. Paths are dotted module paths; all but ``blocks`` and ``embeddings`` start from a block.

    blocks: the list of transformer blocks, from the causal LM.
    attention: the attention matrices.
    mlp_in: the matrices that lead into the MLP's intermediate channels.
    down: the MLP's down-projection (role ``mlp-out``).
    embeddings: token and position embeddings, from the causal LM.
    in_out: the weight is stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]`` (nn.Linear).
    post_norm: a norm between the down-projection and the residual stream (gemma, olmo2), or "".
    experts: ``down`` is a module with a 3-D parameter ``down_proj[expert, out, in]``.
    overwritten: the block adds to the stream in the tensor that the down-projection returned (Falcon). Whoever reads it
        afterwards has to copy it.
    """

    blocks: str = "model.layers"
    attention: Sequence[str] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    mlp_in: Sequence[str] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    embeddings: Sequence[str] = ("model.embed_tokens",)
    in_out: bool = False
    post_norm: str = ""
    experts: bool = False
    overwritten: bool = False

    @property
    def down_matrix(self) -> str:
        """The path of the down-projection's weight, without ``.weight``."""
        return self.down + (".down_proj" if self.experts else "")


_LLAMA = Row()
_POST_NORM = Row(post_norm="post_feedforward_layernorm")
_BLOOM = Row(
    blocks="transformer.h",
    attention=("self_attention.query_key_value", "self_attention.dense"),
    mlp_in=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    embeddings=("transformer.word_embeddings",),
)
_GPT2_EMBEDDINGS = ("transformer.wte", "transformer.wpe")
_SEPARATE = ("q_proj", "k_proj", "v_proj", "out_proj")

ROWS: dict[str, Row] = {
    "gpt2": Row(
        blocks="transformer.h",
        attention=("attn.c_attn", "attn.c_proj"),
        mlp_in=("mlp.c_fc",),
        down="mlp.c_proj",
        embeddings=_GPT2_EMBEDDINGS,
        in_out=True,
    ),
    "gpt_neo": Row(
        blocks="transformer.h",
        attention=tuple(f"attn.attention.{name}" for name in _SEPARATE),
        mlp_in=("mlp.c_fc",),
        down="mlp.c_proj",
        embeddings=_GPT2_EMBEDDINGS,
    ),
    "gpt_neox": Row(
        blocks="gpt_neox.layers",
        attention=("attention.query_key_value", "attention.dense"),
        mlp_in=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        embeddings=("gpt_neox.embed_in",),
    ),
    "gptj": Row(
        blocks="transformer.h",
        attention=tuple(f"attn.{name}" for name in _SEPARATE),
        mlp_in=("mlp.fc_in",),
        down="mlp.fc_out",
        embeddings=("transformer.wte",),
    ),
    "opt": Row(
        blocks="model.decoder.layers",
        attention=tuple(f"self_attn.{name}" for name in _SEPARATE),
        mlp_in=("fc1",),
        down="fc2",
        embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    ),
    "bloom": _BLOOM,
    "falcon": replace(_BLOOM, overwritten=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Row(mlp_in=("mlp.experts.gate_up_proj",), down="mlp.experts", experts=True),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    # The multimodal wrapper. Its vision tower has layers with an MLP too; only the language model's blocks are ours.
    "gemma3": replace(
        _POST_NORM, blocks="model.language_model.layers", embeddings=("model.language_model.embed_tokens",)
    ),
    "phi": Row(
        attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"),
        mlp_in=("mlp.fc1",),
        down="mlp.fc2",
    ),
    "phi3": Row(attention=("self_attn.qkv_proj", "self_attn.o_proj"), mlp_in=("mlp.gate_up_proj",)),
    "olmo2": _POST_NORM,
    "stablelm": _LLAMA,
    "starcoder2": Row(mlp_in=("mlp.c_fc",), down="mlp.c_proj"),
}


def row_of(model_type: str) -> Row:
    """The row for ``config.model_type``. Raises `BadInput` where there is none: it is never guessed."""
    if model_type not in ROWS:
        raise BadInput(
            f"no row for the architecture '{model_type}' in swlottery/models/table.py (known: "
            f"{', '.join(sorted(ROWS))}); a row needs: the path of the blocks, the attention and mlp-in matrices, "
            "the down-projection and its storage order, the norm behind the MLP if there is one, the embeddings"
        )
    return ROWS[model_type]
