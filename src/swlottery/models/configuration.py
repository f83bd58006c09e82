"""A model's config.json: what it may say, and what it may not decide."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.models.refusals import refuse_pointer, words
from swlottery.runtime import files

_NOT_THE_FILES = {
    "auto_map",  # names code to run
    "configuration_files",  # any other files
    "transformers_weights",
    "fusion_config",
    "attn_implementation",  # may name code on the hub
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "dtype",  # the weights' own is read from their files
    "torch_dtype",
    "return_dict",  # what `forward` returns
    "use_return_dict",
    "torchscript",
    "output_attentions",
    "output_hidden_states",
}
"""Entries that say how to run a model, or where else to look, instead of which model it is: left out."""


def read(where: str | Path, options: dict[str, Any]) -> Any:
    """The config of a folder or a hub id, as transformers' class for its ``model_type``.

    A number or a truth value that stands there as text, and a whole number that stands there as a fraction, are what
    they can only mean. Raises `BadInput` for quantised weights, and for an architecture that transformers has no code
    for; errors of transformers for values that it cannot use.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    if not (found := cached_file(where, "config.json", **options)):
        raise BadInput(f"{where} holds no model: there is no config.json in it (of GGUF files, give one as a file)")
    file = Path(found)
    refuse_pointer(file)
    try:
        # transformers writes an infinite number as {"__float__": "Infinity"}
        entries = dict(PreTrainedConfig._decode_special_floats(files.read_json(file)))
    except (ValueError, TypeError) as error:
        raise BadInput(f"config.json of {where} is damaged: {words(error)}") from None
    kind = entries.get("model_type")
    for part in _parts(entries):
        for name in ("quantization_config", "compression_config"):
            if method := part.pop(name, None):
                method = method.get("quant_method", name) if isinstance(method, dict) else name
                raise BadInput(
                    f"the weights of {where} are quantised ({method}): give the model that they were made from, "
                    "with its weights as they were"
                )
        for name in _NOT_THE_FILES & part.keys():
            del part[name]
    if kind == "mistral" and "layer_types" in entries:  # as transformers' AutoConfig does
        kind = "ministral"
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise BadInput(
            f"transformers has no code for the model_type {kind!r} in config.json of {where}; code that lies beside "
            "the weights is not run: give a model of another architecture, or update transformers"
        )
    config = _built(CONFIG_MAPPING[kind], entries, where)
    config.name_or_path = str(where)
    commit = None if isinstance(where, Path) else extract_commit_hash(str(file), None)
    config._commit_hash = commit or options["revision"]
    for part in (config, config.get_text_config()):
        pad, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", 0)
        if pad is not None and not -rows <= pad < rows:
            part.pad_token_id = None  # no token of the model's; and nothing is padded with it
    return config


def _parts(entries: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries themselves, and those of the configs in them, such as text_config."""
    return [entries, *(value for value in entries.values() if isinstance(value, dict))]


def _built(config_class: Any, entries: dict[str, Any], where: str | Path) -> Any:
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    while True:  # each turn mends one entry
        try:
            return config_class.from_dict(entries)
        except StrictDataclassFieldValidationError as error:
            said = str(error)
            name = re.findall(r"field '(\w+)'", said)[0]
            kinds = re.findall(r"expected (\w+), got", said)
            for part in _parts(entries):
                if (meant := _meant(part.get(name), kinds)) is not None:
                    part[name] = meant
                    break
            else:
                raise BadInput(f"config.json of {where}: {words(error).partition('TypeError: ')[2]}") from None


def _meant(value: Any, kinds: list[str]) -> int | float | None:
    """Another value, of one of the types' names, if that is all that ``value`` can mean; else None."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = files.parse_json(value.lower())
        if isinstance(value, bool) and "bool" in kinds:
            return value
    elif type(value).__name__ in kinds:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if "int" in kinds and float(value).is_integer():
        return int(value)
    if "float" in kinds:
        return float(value)
    return bool(value) if "bool" in kinds and value in (0, 1) else None
