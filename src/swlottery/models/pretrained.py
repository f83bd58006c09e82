"""Reading a checkpoint with transformers: in the precision that it is stored in, complete, and never by a pickle."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput

_UNREACHABLE = {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ProxyError"}


def read(where: str | Path, revision: str | None) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or a hub id, the weights as they are stored.

    Raises `BadInput` for what cannot be had, is damaged, or lacks weights.
    """
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
        if "mismatch" not in str(error).lower():
            raise
        raise BadInput(f"the weights of {where} do not fit its config.json: get them again") from None
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(_why_not_read(str(where), local, error)) from None
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing:
        raise BadInput(
            f"the checkpoint {where} lacks weights of the model ({missing[0]}{' …' if len(missing) > 1 else ''}): "
            "it is incomplete, or not a causal language model"
        )
    return model, tokenizer


def read_tokenizer(where: str | Path, revision: str | None, name: str) -> tuple[Any, Any]:
    """(tokenizer, config) of a GGUF file, a folder or a hub id. Raises `BadInput` where there is none.

    name: what the user called it.
    """
    from transformers import AutoConfig, AutoTokenizer

    local = isinstance(where, Path)
    options: dict[str, Any] = {"revision": revision, "local_files_only": local}
    if isinstance(where, Path) and where.is_file():
        where, options = where.parent, {"gguf_file": where.name}
    try:
        return AutoTokenizer.from_pretrained(where, **options), AutoConfig.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(_why_not_read(name, local, error)) from None


def _stored_dtype(where: str | Path, revision: str | None, local: bool) -> Any:
    """The most frequent precision of the checkpoint's first file, from its header.

    ``dtype="auto"`` would be the one that config.json names, and loading would cast to it before the weights are
    hashed.
    """
    import torch
    from safetensors import safe_open
    from transformers.utils import cached_file

    options = {"revision": revision, "local_files_only": local, "_raise_exceptions_for_missing_entries": False}
    find = partial(cached_file, where, **options)
    path = find("model.safetensors")
    if path is None and (index := find("model.safetensors.index.json")):
        path = find(next(iter(json.loads(Path(index).read_text())["weight_map"].values())))
    if path is None:
        return "auto"
    with safe_open(path, framework="pt") as file:
        kinds = Counter(file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118 (not a dict)
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return next((dtypes[kind] for kind, _ in kinds.most_common() if kind in dtypes), "auto")


def _why_not_read(where: str, local: bool, error: BaseException) -> str:
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
    if kinds & _UNREACHABLE or "couldn't connect" in str(error).lower() or "offline" in str(error).lower():
        return (
            f"cannot reach the hub for the model '{where}' and it is not in the local cache: check the name and the "
            "network, or fetch it first on a machine with network (hf download) and set HF_HUB_OFFLINE=1"
        )
    return f"cannot load the model '{where}': {first}"
