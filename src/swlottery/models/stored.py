"""The tensors in a checkpoint's files, under the names and in the precision that they are stored in."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models.refusals import in_one_line, refuse_pointer
from swlottery.runtime import files

if TYPE_CHECKING:
    import torch

_NOT_WEIGHTS = re.compile(
    r"(^|\.)((attn|attention|self_attn|self_attention|crossattention)\.(bias|masked_bias)"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)|attn\.embed_positions|position_ids)$"
)
"""What older versions of transformers stored beside the weights: causal masks, and tables of positions."""


class Copied:
    """A tensor of a safetensors file that is copied out of it each time: no page of the file stays mapped."""

    def __init__(self, path: Path, tensor: Any, name: str) -> None:
        self.path, self.name = path, name
        self.get_shape, self.get_dtype = tensor.get_shape, tensor.get_dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            tensor: torch.Tensor = file.get_slice(self.name)[index].clone()
        return tensor


@contextmanager
def tensors(where: str | Path, options: dict[str, Any], copied: bool = False) -> Iterator[dict[str, Any]]:
    """The tensors of a folder or a hub id by name, while the files are open; each is read when indexed with ``[...]``.

    Only from safetensors files, or from pickles that hold nothing but tensors: other pickles can run code. Causal masks
    and the like are left out. Raises `BadInput` for files that are missing, damaged, or not in the folder.

    copied: no views of mapped files, where memory is scarce.
    """
    with ExitStack() as stack:
        found: dict[str, Any] = {}
        for path, elsewhere in _files(where, options):
            if isinstance(where, Path):
                refuse_pointer(path)
            with in_one_line(f"{path.name} of {where}", local=True):
                content = _safetensors(path, stack, copied) if path.suffix == ".safetensors" else _pickled(path)
            found |= {name: tensor for name, tensor in content.items() if name not in elsewhere}
        yield {name: tensor for name, tensor in sorted(found.items()) if not _is_no_weight(name, shape(tensor))}


def shape(tensor: Any) -> tuple[int, ...]:
    """The shape of one of `tensors`."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def _is_no_weight(name: str, shape: tuple[int, ...]) -> bool:
    # A bias of an attention's own has one dimension, a causal mask of the same name four.
    return bool(_NOT_WEIGHTS.search(name)) and not (name.endswith(".bias") and len(shape) < 4)


def _files(where: str | Path, options: dict[str, Any]) -> list[tuple[Path, set[str]]]:
    """Each file of weights, and the tensors that are not to be read from it: the index says that another has them."""
    from transformers.utils import cached_file

    find = partial(cached_file, where, _raise_exceptions_for_missing_entries=False, **options)
    for plain in ("model.safetensors", "pytorch_model.bin"):
        if path := find(plain):
            return [(Path(path), set())]
        if index := find(f"{plain}.index.json"):
            return _shards(where, Path(index), find)
    cached = "" if isinstance(where, Path) else "; or the hub cannot be reached: fetch it first (hf download)"
    raise BadInput(
        f"{where} holds no weights that can be read: neither model.safetensors nor pytorch_model.bin, nor an index of "
        f"their shards{cached}"
    )


def _shards(where: str | Path, index: Path, find: Callable[[str], str | None]) -> list[tuple[Path, set[str]]]:
    if isinstance(where, Path):
        refuse_pointer(index)
    try:
        places: dict[str, str] = dict(files.read_json(index)["weight_map"])
        names = sorted(set(places.values()))
        outside = next((name for name in names if PurePath(name).is_absolute() or ".." in PurePath(name).parts), None)
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{index} is damaged: it has no weight_map that names a file for each tensor") from None
    if outside is not None:
        raise BadInput(f"{index} names a file outside of the model's folder ({outside}), which is not read")
    shards = []
    for name in names:
        if not (path := find(name)):
            raise BadInput(f"{index} names {name}, which is missing: get it again")
        shards.append((Path(path), {tensor for tensor, place in places.items() if place != name}))
    return shards


def _safetensors(path: Path, stack: ExitStack, copied: bool) -> dict[str, Any]:
    from safetensors import safe_open

    file = stack.enter_context(safe_open(path, framework="pt"))
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {name: Copied(path, tensor, name) for name, tensor in found.items()} if copied else found


def _pickled(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        # Copied, as two names may share the memory of one tensor.
        return {str(name): tensor.detach().clone() for name, tensor in content.items()}
    except Exception:  # torch's own words propose to run what is in the file
        raise BadInput(f"{path} is damaged, or holds more than tensors, which could be code: it is not read") from None


def dtypes(stored: Mapping[str, Any]) -> dict[str, torch.dtype]:
    """The precision of each tensor. Raises `BadInput` for one that is quantised."""
    import torch

    names = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    found = {}
    for name, tensor in stored.items():
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else names.get(tensor.get_dtype(), tensor.get_dtype())
        if kind not in names.values():
            raise BadInput(f"the weights are quantised ({name} is stored as {kind}): give them as they were before")
        found[name] = kind
    return found


def most_frequent(pairs: Iterable[tuple[torch.dtype, int]]) -> torch.dtype:
    """The precision of most entries, from that and the number of entries of each tensor; the widest of equals."""
    counts: Counter[torch.dtype] = Counter()
    for dtype, entries in pairs:
        counts[dtype] += entries
    return max(counts, key=lambda dtype: (counts[dtype], dtype.itemsize, str(dtype)))
