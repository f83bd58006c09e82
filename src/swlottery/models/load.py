"""Load a causal language model by its name, or build one with random weights.

A name is a preset (``smollm2``), a GGUF file, a local folder, or a hub id. Whatever it is, what comes back is a
`Loaded`: finite weights, all of them from the checkpoint, a known architecture, causal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.models import pretrained, tokenizers
from swlottery.models.loaded import Loaded, context_of, prepare
from swlottery.models.names import locate, slug
from swlottery.models.room import Room
from swlottery.runtime.hardware import pick_device

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12},
    "gpt2-medium": {"n_layer": 24, "n_embd": 1024, "n_head": 16},
    "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20},
    "gpt2-xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25},
    "gpt2-mini": {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": 256},
    "llama-mini": {
        "model_type": "llama",
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
}
"""What can be built from scratch: entries of a config, of GPT-2 where no ``model_type`` says otherwise. The shapes of
OpenAI's GPT-2 (Radford et al. 2019), and two small ones for a CPU; llama-mini's networks can have a super weight
(docs/formation.md)."""


def load(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    max_memory: str | None = None,
) -> Loaded:
    """Load a pretrained model.

    Args:
        name: ``smollm2``, a ``.gguf`` file, a folder written by ``save_pretrained``, or a hub id.
        revision: a branch, tag or commit of the hub.
        dtype: the precision to run in; ``auto`` is the one that the weights are stored in, or float32 on a CPU without
            units for 16 bits.
        device: ``cpu``, ``cuda``, ``cuda:1``, … or ``auto``.
        device_map: where the weights are; None: all on the device. ``auto``: on the GPUs, then in CPU memory, then on
            disk. ``cpu``: in CPU memory, then on disk. ``disk``: on disk.
        max_memory: the bytes of weights in memory (on GPUs on each), as ``600MB`` or ``24GiB``.

    Raises:
        BadInput: no such model, no network, damaged or incomplete or non-finite weights, not a causal LM.
    """
    picked = pick_device(device)
    where, note = locate(name, revision)
    if isinstance(where, Path) and where.is_file():
        from swlottery.models import gguf

        where = gguf.converted_folder(where)
    room = Room(device_map, max_memory, picked, dtype) if device_map else None
    model, tokenizer = pretrained.read(where, revision, room)
    commit = getattr(model.config, "_commit_hash", None) or revision
    return prepare(model, tokenizer, name, commit, room.dtype if room else dtype, picked, note, placed=room is not None)


def load_tokenizer(name: str, revision: str | None = None) -> tuple[Any, int]:
    """A pretrained model's tokenizer, and the longest sequence that the model takes; its weights are not read.

    Raises `BadInput` where there is no such model.
    """
    tokenizer, config = tokenizers.load(locate(name, revision)[0], revision, name)
    return tokenizer, context_of(config)


def shape(name: str, **changes: Any) -> Any:
    """The config of a known shape; ``changes`` override its entries. Raises `BadInput` for another name."""
    from transformers import AutoConfig

    if name not in SHAPES:
        raise BadInput(f"no config named '{name}' to start from scratch (known: {', '.join(SHAPES)})")
    return AutoConfig.for_model(**{"model_type": "gpt2", **SHAPES[name], **changes})


def from_config(
    name: str, seed: int = 0, dtype: str = "auto", device: str = "auto", tokenizer: Any = None, **changes: Any
) -> Loaded:
    """Build a model of a known shape with random weights; ``changes`` override the config's entries.

    Without a ``tokenizer`` it is a small one trained on the built-in text, so that nothing has to be fetched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from swlottery.data.tokenizer import builtin_tokenizer

    picked = pick_device(device)
    tokenizer = tokenizer or builtin_tokenizer()
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = shape(name, **{"vocab_size": len(tokenizer), **ends, **changes})
    # Only the CPU's state is kept: the model is built there, and to save those of several GPUs gives a warning.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    note = f"random initialisation, seed {seed}: nothing was learned"
    loaded = prepare(model, tokenizer, name, None, dtype, picked, note)
    loaded.slug = f"{slug(name)}-scratch-{seed}"
    return loaded
