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


def tiny_model(name: str, seed: int = 0) -> Any:
    """The model, in evaluation mode, from a seed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, changes = CONFIGS[name]
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes)).eval().requires_grad_(False)
