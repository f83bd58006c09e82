"""Load a causal language model, or build one from a config with random weights.

A name is a preset (``smollm2``), a GGUF file, a local folder, or a hub id. Whatever it is, what comes back has finite
weights, all of them from the checkpoint, and predicts each token from the earlier ones alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models.architectures import Roles
from swlottery.models.lineage import weights_sha256
from swlottery.runtime import hardware
from swlottery.runtime.hardware import pick_device

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES = ("auto", "float32", "bfloat16", "float16")

GPT2_SIZES = {
    "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12},
    "gpt2-medium": {"n_layer": 24, "n_embd": 1024, "n_head": 16},
    "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20},
    "gpt2-xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25},
    "gpt2-mini": {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": 256},
}
"""The shapes of OpenAI's GPT-2 (Radford et al. 2019), and a small one for a CPU."""


@dataclass
class Loaded:
    """A model ready to be examined, and where it came from."""

    model: nn.Module
    tokenizer: Any
    name: str
    slug: str
    revision: str | None
    weights_sha256: str
    stored_dtype: str
    dtype: str
    device: str
    note: str = ""

    @property
    def context(self) -> int:
        """The longest sequence in tokens that the model was made for."""
        return context_of(self.model.config)


def context_of(config: Any) -> int:
    """The longest sequence in tokens that a model with this config was made for."""
    config = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if getattr(config, key, None):
            return int(getattr(config, key))
    return 2048  # BLOOM and Falcon use ALiBi: no length is fixed, 2048 is what they were trained with


def slug(name: str) -> str:
    """A model's name as one safe path component: ``openai-community/gpt2`` → ``openai-community__gpt2``."""
    last = Path(name).name if is_path(name) else name.replace("/", "__")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", last.removesuffix(".gguf")).lstrip(".")
    return safe or "model"


def is_path(name: str) -> bool:
    """Whether a model's name means something on this machine's disk rather than on the hub."""
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1 or Path(name).exists()


def existing(name: str) -> Path:
    """The file or folder that a model's name means. Raises `BadInput` where there is none."""
    where = Path(name).expanduser()
    if not where.exists():
        raise BadInput(f"no such file or folder: {name}")
    return where


def load(name: str, revision: str | None = None, dtype: str = "auto", device: str = "auto") -> Loaded:
    """Load a pretrained model.

    Args:
        name: ``smollm2``, a ``.gguf`` file, a folder written by ``save_pretrained``, or a hub id.
        revision: a branch, tag or commit of the hub.
        dtype: the precision to run in; ``auto`` is the one that the weights are stored in, or float32 on a CPU without
            units for 16 bits.
        device: ``cpu``, ``cuda``, ``cuda:1``, … or ``auto``.

    Raises:
        BadInput: no such model, no network, damaged or incomplete or non-finite weights, not a causal LM.
    """
    picked = pick_device(device)
    where, note = _find(name)
    if isinstance(where, Path) and where.is_file():
        from swlottery.models import gguf

        where = gguf.converted_folder(where)
    model, tokenizer = _from_pretrained(where, revision)
    return _checked(
        model, tokenizer, name, getattr(model.config, "_commit_hash", None) or revision, dtype, picked, note
    )


def load_tokenizer(name: str, revision: str | None = None) -> tuple[Any, int]:
    """A pretrained model's tokenizer, and the longest sequence that the model takes; its weights are not read.

    Raises `BadInput` where there is no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    where, _ = _find(name)
    local = isinstance(where, Path)
    options: dict[str, Any] = {"revision": revision, "local_files_only": local}
    if isinstance(where, Path) and where.is_file():
        where, options = where.parent, {"gguf_file": where.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        return tokenizer, context_of(AutoConfig.from_pretrained(where, **options))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(_why_not_loaded(name, local, error)) from None


def _find(name: str) -> tuple[str | Path, str]:
    """What a model's name stands for: a GGUF file, a folder, a hub id; and a note on what it is, if there is one."""
    from swlottery.models import gguf

    if name == "gpt2-mini" and not Path(name).exists():
        raise BadInput("gpt2-mini exists from scratch only: add --start scratch")
    if name == "smollm2" and not Path(name).exists():
        return gguf.smollm2_file(), gguf.SMOLLM2_NOTE
    if not is_path(name):
        return name, ""
    where = existing(name)
    if where.is_file():
        if where.suffix != ".gguf":
            raise BadInput(f"{name} is a file, but not a GGUF file: give a folder, a .gguf file or a hub id")
    elif not (where / "config.json").is_file():
        raise BadInput(f"{name} holds no model: there is no config.json in it")
    return where, ""


def from_config(
    name: str, seed: int = 0, dtype: str = "auto", device: str = "auto", tokenizer: Any = None, **changes: Any
) -> Loaded:
    """Build a GPT-2 of a known shape with random weights; ``changes`` override the config's entries.

    Without a ``tokenizer`` it is a small one trained on the built-in text, so that nothing has to be fetched.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from swlottery.data.tokenizer import builtin_tokenizer

    if name not in GPT2_SIZES:
        raise BadInput(f"no config named '{name}' to start from scratch (known: {', '.join(GPT2_SIZES)})")
    picked = pick_device(device)
    tokenizer = tokenizer or builtin_tokenizer()
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(**{**GPT2_SIZES[name], "vocab_size": len(tokenizer), **ends, **changes})
    with torch.random.fork_rng(
        devices=[]
    ):  # it is built on the CPU, and two GPUs' states would be saved with a warning
        torch.default_generator.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    note = f"random initialisation, seed {seed}: nothing was learned"
    loaded = _checked(model, tokenizer, name, None, dtype, picked, note)
    loaded.slug = f"{slug(name)}-scratch-{seed}"
    return loaded


def _from_pretrained(where: str | Path, revision: str | None) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = isinstance(where, Path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, local_files_only=local)
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            local_files_only=local,
            dtype=_stored_dtype(where, revision, local),
            use_safetensors=True,  # a pickle can run code
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise BadInput(f"the weights of {where} are damaged ({error}): get them again") from None
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatch" not in str(error).lower():
            raise
        raise BadInput(f"the weights of {where} do not fit its config.json: get them again") from None
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(_why_not_loaded(str(where), local, error)) from None
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing:
        raise BadInput(
            f"the checkpoint {where} lacks weights of the model ({missing[0]}{' …' if len(missing) > 1 else ''}): "
            "it is incomplete, or not a causal language model"
        )
    return model, tokenizer


def _stored_dtype(where: str | Path, revision: str | None, local: bool) -> Any:
    """The precision of the checkpoint's first file, from its header. (``dtype="auto"`` would be the one that
    config.json names, and loading would cast to it before the weights are hashed.)"""
    import json
    from collections import Counter

    import torch
    from safetensors import safe_open
    from transformers.utils import cached_file

    def find(name: str) -> str | None:
        found: str | None = cached_file(
            where, name, revision=revision, local_files_only=local, _raise_exceptions_for_missing_entries=False
        )
        return found

    path = find("model.safetensors")
    if path is None and (index := find("model.safetensors.index.json")):
        path = find(next(iter(json.loads(Path(index).read_text())["weight_map"].values())))
    if path is None:
        return "auto"
    with safe_open(path, framework="pt") as file:
        kinds = Counter(file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118 (not a dict)
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return next((names[kind] for kind, _ in kinds.most_common() if kind in names), "auto")


def _why_not_loaded(where: str, local: bool, error: BaseException) -> str:
    """One line for the many ways in which transformers says that it could not load something."""
    kinds = set()
    cause: BaseException | None = error
    while cause is not None:
        kinds.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "GatedRepoError" in kinds:
        return f"the model '{where}' is gated: accept its licence on the hub and log in with `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"the model '{where}' has no such revision: {first}"
    if "RepositoryNotFoundError" in kinds:
        return f"there is no model '{where}' on the hub (or it is private): check the name"
    if local:
        return f"cannot load {where}: {first}"
    if kinds & {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ProxyError"} or (
        "couldn't connect" in str(error).lower() or "offline" in str(error).lower()
    ):
        return (
            f"cannot reach the hub for the model '{where}' and it is not in the local cache: check the name and the "
            "network, or fetch it first on a machine with network (hf download) and set HF_HUB_OFFLINE=1"
        )
    return f"cannot load the model '{where}': {first}"


def _checked(
    model: Any, tokenizer: Any, name: str, revision: str | None, dtype: str, device: torch.device, note: str
) -> Loaded:
    import torch

    if dtype not in DTYPES:
        raise BadInput(f"--dtype {dtype} is not one of {', '.join(DTYPES)}")
    model.eval().requires_grad_(False)
    stored = str(next(model.parameters()).dtype).removeprefix("torch.")
    for parameter_name, parameter in model.named_parameters():
        if not all(torch.isfinite(end) for end in torch.aminmax(parameter)):
            raise BadInput(f"the weights of {name} are not finite: {parameter_name} holds NaN or infinity")
    lineage = weights_sha256(model)
    run_dtype = _fast_dtype(model, stored, device) if dtype == "auto" else dtype
    for parameter in model.parameters():  # buffers keep their precision: rotary frequencies in bfloat16 are wrong
        parameter.data = parameter.data.to(getattr(torch, run_dtype))
    model.to(device)
    with torch.no_grad():
        logits = model(torch.zeros(1, 8, dtype=torch.long, device=device), use_cache=False).logits
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(f"{name} overflows in {run_dtype}: use --dtype bfloat16 or float32")
    if not is_causal(model):
        raise BadInput(
            f"{name} ({model.config.model_type}) is not a causal language model: changing the last token changes the "
            "predictions before it"
        )
    Roles(model)  # refuses an architecture that it does not know
    return Loaded(model, tokenizer, name, slug(name), revision, lineage, stored, run_dtype, str(device), note)


def _fast_dtype(model: Any, stored: str, device: torch.device) -> str:
    """The stored precision; float32 in place of 16 bits that a CPU has no units for, if the memory is there for it."""
    import psutil
    import torch

    if device.type != "cpu" or stored not in ("bfloat16", "float16"):
        return stored
    if stored == "bfloat16" and hardware.bfloat16(device)[0]:
        return stored
    if stored == "float16" and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()):
        return stored
    needed = 4 * sum(parameter.numel() for parameter in model.parameters())
    return "float32" if needed < 0.8 * psutil.virtual_memory().available else stored


def is_causal(model: Any) -> bool:
    """Whether changing the last token leaves the earlier logits alone: a check of behaviour, not of names."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.arange(8, device=model.device).remainder(vocabulary)[None]
    changed = tokens.clone()
    changed[0, -1] = vocabulary - 1
    with torch.no_grad():
        first, second = (model(ids, use_cache=False).logits[:, :-1].float() for ids in (tokens, changed))
    # Experts sum in another order when other tokens share them, so equality holds to rounding only.
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    return bool((first - second).abs().max() <= tolerance * first.abs().max().clamp_min(1e-6))


def wrap(model: Any, tokenizer: Any) -> Loaded:
    """A model that is loaded already, ready to be examined where it is and in the precision that it is in.

    Raises:
        BadInput: weights that are not finite, not a causal LM, an architecture without a row.
    """
    import torch

    name = str(getattr(model.config, "_name_or_path", "") or model.config.model_type)
    Roles(model)  # refuses an architecture that it does not know
    for parameter_name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise BadInput(f"the weights of {name} are not finite: {parameter_name} holds NaN or infinity")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        causal = is_causal(model)
    finally:
        for module, training in modes.items():
            module.training = training
    if not causal:
        raise BadInput(f"{name} is not a causal language model: its predictions change with later tokens")
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return Loaded(model, tokenizer, name, slug(name), None, weights_sha256(model), dtype, dtype, str(model.device))
