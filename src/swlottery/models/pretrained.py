"""Reading a checkpoint with transformers: whole, in the precision that it is stored in, and without running its code.

transformers gets a config and tensors, never the folder: there it would also take adapters, other formats of weights,
and files that its entries name.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models import configuration, offload, stored, tokenizers
from swlottery.models.refusals import in_one_line, words
from swlottery.models.room import Room

if TYPE_CHECKING:
    import torch


def read(where: str | Path, revision: str | None, room: Room | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or a hub id, each weight as it is stored, and in the ``room`` that is given.

    Raises `BadInput` for what cannot be had, is damaged or quantised, or does not hold exactly the model's weights.
    """
    local = isinstance(where, Path)
    options: dict[str, Any] = {"revision": revision, "local_files_only": local}
    with in_one_line(str(where), local):
        if isinstance(where, Path) and (where / "adapter_config.json").is_file():
            raise BadInput(f"{where} holds an adapter, which is not applied: merge it into its model, and save that")
        config = configuration.read(where, options)
        options["revision"] = config._commit_hash  # all from one commit
        tokenizer = tokenizers.read(where, config, options)
        with stored.tensors(where, options, copied=room is not None) as tensors:
            model = _model(str(where), config, tensors, room)
        _take_generation_config(model, where, options)
    return model, tokenizer


def empty(where: str, config: Any) -> Any:
    """The causal language model of a config, without weights: on the device ``meta``.

    Raises `BadInput` where there is none.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"config.json of {where} makes no model that transformers knows: {words(error)}") from None


def _model(where: str, config: Any, tensors: dict[str, Any], room: Room | None) -> Any:
    """The model with exactly these tensors, each in the precision that it is stored in.

    transformers loads all in one precision: that of most entries, so that loading needs no more memory than the model.
    Then the parameters of another precision get their tensors as they are. Where tensors become one parameter (the
    experts of a layer) and are of another precision, all are loaded in one that holds each; it gets the widest of its
    own.
    """
    import torch

    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(tensors):  # billions of them would be built
        raise BadInput(f"config.json of {where} says {layers} layers, but its weights are {len(tensors)} tensors")
    bare = empty(where, config)
    kinds = stored.dtypes(tensors)
    targets = _targets(bare, tensors)
    if unused := [name for name, (target, _) in targets.items() if not target]:
        raise BadInput(
            f"the checkpoint {where} holds weights that the model of its config.json does not have ({_some(unused)}): "
            "the config belongs to another model, or this is no plain causal language model"
        )
    dtype = stored.most_frequent((kinds[name], math.prod(stored.shape(tensor))) for name, tensor in tensors.items())
    merged: dict[str, set[torch.dtype]] = defaultdict(set)
    for name, (target, is_merged) in targets.items():
        if is_merged:
            merged[target].add(kinds[name])
    if any(several != {dtype} for several in merged.values()):
        dtype = functools.reduce(torch.promote_types, kinds.values())
    options = {"config": bare.config, "state_dict": tensors, "dtype": dtype, "output_loading_info": True}
    if room is not None:
        options |= room.options(bare, dtype)
    model, info = type(bare).from_pretrained(None, **options)
    model.config.name_or_path = where
    if missing := [*sorted(info["missing_keys"]), *sorted(map(str, info["mismatched_keys"]))]:
        raise BadInput(
            f"the checkpoint {where} lacks weights of the model ({_some(missing)}): it is incomplete, or not a causal "
            "language model"
        )
    as_stored = {target: name for name, (target, _) in targets.items() if target not in merged and kinds[name] != dtype}
    offload.take_over(model, room)
    for target, parameter in model.named_parameters(remove_duplicate=False):  # a tied one is stored under either name
        if target in as_stored:
            tensor = tensors[as_stored[target]][...]
            if parameter.is_meta:
                offload.put(model, target, tensor)
            parameter.data = tensor.to(parameter.device)
        elif target in merged:
            parameter.data = parameter.data.to(functools.reduce(torch.promote_types, merged[target]))
    return model


def _some(names: list[str]) -> str:
    return names[0] + (" …" if len(names) > 1 else "")


def _targets(model: Any, names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """For each stored name the model's, or "" where it has none; and whether other tensors become part of it.

    Not from what transformers says that it did not use: it hides what fits some patterns, and those fit weights too.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    prefix, state = model.base_model_prefix, model.state_dict()
    targets = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state:
            target, pattern = rename_source_key(name, [], [], prefix, state)
        targets[name] = (target if target in state else "", pattern is not None)
    return targets


def _take_generation_config(model: Any, where: str | Path, options: dict[str, Any]) -> None:
    """What a run's final folder passes on; one that cannot be read or saved is left out, as nothing here uses it."""
    from transformers import GenerationConfig

    with suppress(Exception):
        found = GenerationConfig.from_pretrained(where, **options)
        found.validate(strict=True)
        model.generation_config = found
