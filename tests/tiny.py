"""A tiny random model of every architecture in the table: `hidden` channels, twice as many intermediate ones."""

from __future__ import annotations

from typing import Any

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 64, 128, 3, 211

_LLAMA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_GPT2 = {
    "n_embd": HIDDEN,
    "n_inner": INTERMEDIATE,
    "n_layer": LAYERS,
    "n_head": 4,
    "vocab_size": VOCABULARY,
    "n_positions": 128,
}
_FALCON = {
    "hidden_size": HIDDEN,
    "ffn_hidden_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": VOCABULARY,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global"], LAYERS]],
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 128,
        },
    ),
    "gpt_neox": ("gpt_neox", _LLAMA),
    "gpt_neox-sequential": ("gpt_neox", {**_LLAMA, "use_parallel_residual": False}),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 4}),
    "opt": ("opt", {**_LLAMA, "ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN}),
    "opt-350m": (
        "opt",
        {**_LLAMA, "ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN, "do_layer_norm_before": False},
    ),
    "bloom": ("bloom", {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCABULARY}),
    "falcon": ("falcon", _FALCON),
    "falcon-sequential": ("falcon", {**_FALCON, "parallel_attn": False, "bias": True}),
    "falcon-new": ("falcon", {**_FALCON, "new_decoder_architecture": True}),
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", _LLAMA),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granite", {**_LLAMA, "residual_multiplier": 0.22}),
    "granitemoe": (
        "granitemoe",
        {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "residual_multiplier": 0.22},
    ),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _LLAMA),
    "gemma2": ("gemma2", _LLAMA),
    "gemma3_text": ("gemma3_text", _LLAMA),
    "gemma3": ("gemma3", {"text_config": _LLAMA, "vision_config": _VISION, "mm_tokens_per_image": 4}),
    "phi": ("phi", _LLAMA),
    "phi3": ("phi3", _LLAMA),
    "olmo2": ("olmo2", _LLAMA),
    "stablelm": ("stablelm", _LLAMA),
    "starcoder2": ("starcoder2", _LLAMA),
}


SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "hidden_dim", "dim", "emb_dim"), HIDDEN),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff", "dim_ff"), INTERMEDIATE),
    **dict.fromkeys(
        ("decoder_ffn_dim", "encoder_ffn_dim", "intermediate_size_mlp", "mlp_dim", "ffn_hidden_size"), INTERMEDIATE
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "n_words"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 128),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "hidden_size_per_layer_input", "mamba_d_state"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),  # a text is padded to a multiple of it
    "head_dim": 16,
    "v_head_dim": 16,
    "rotary_dim": 4,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 80,
    "shared_intermediate_size": 80,
    "n_shared_experts": 2,
    "zero_expert_num": 2,
    "image_size": 28,
    "patch_size": 14,
    "interleave_moe_layer_step": 2,
}
"""What makes a config small, by the names that its entries have in one family or another."""

OPTIONAL = {"head_dim", "num_key_value_heads", "num_experts_per_tok", "moe_intermediate_size", "n_routed_experts"}
"""Entries that are made anew where they are empty."""

CHANGES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_experts": 16},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8, "kv_n_heads": 2}},
    "dots1": {"n_shared_experts": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "qwen4_exp_text": {"indexer_budget": 32, "indexer_compress_ratio": 4},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs besides."""


def shrunk(kind: str, **more: Any) -> Any:
    """A small config of any model type of transformers, made from its default one by the names of its entries.

    more: other entries of the config that reads text.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    whole = CONFIG_MAPPING[kind]()
    text = whole.get_text_config()
    parts = {name: getattr(whole, name) for name in whole.sub_configs if getattr(whole, name, None) is not None}
    changes = {name: _smaller(part.to_dict()) | {"model_type": part.model_type} for name, part in parts.items()}
    if text is whole:
        return CONFIG_MAPPING[kind](**{**changes, **_smaller(text.to_dict()), **CHANGES.get(kind, {}), **more})
    for name, part in parts.items():
        if part is text:
            changes[name] |= more
    return CONFIG_MAPPING[kind](**changes)


def _smaller(entries: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in entries.items():
        if key in SIZES and (isinstance(value, int) or (value is None and key in OPTIONAL)):
            changes[key] = SIZES[key]
        elif isinstance(value, list) and len(value) == entries.get("num_hidden_layers"):
            changes[key] = [value[0], *value[1 - LAYERS :]]
        elif key.endswith("token_id") and isinstance(value, int):
            changes[key] = min(value, 1)
        elif key.endswith("multiplier") and value == 1 and isinstance(value, float):
            changes[key] = 0.5  # a scale of 1 would hide
    if "kv_lora_rank" in entries:  # keys of their own for each head, in two parts
        changes |= {"num_key_value_heads": 4}
        changes.pop("head_dim", None)
    return changes


def shrunk_model(kind: str, seed: int = 0, **more: Any) -> Any:
    """A small random model of any model type. No parameter is left at 0 or 1, which would hide what it does."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(shrunk(kind, **more)).float().eval().requires_grad_(False)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim > 1:
            parameter.copy_(0.05 * noise)
        else:
            parameter.add_(0.1 * noise)
    return model


def tiny_model(name: str, seed: int = 0) -> Any:
    """The model, in evaluation mode, from a seed; of a type that is not in `CONFIGS`, of its shrunk config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if name not in CONFIGS:
        return shrunk_model(name, seed)
    kind, changes = CONFIGS[name]
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes)).eval().requires_grad_(False)
