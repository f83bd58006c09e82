"""Where the weights of a model go that does not fit on its device: over several GPUs, CPU memory, and disk.

The blocks are placed in their order, each device filled before the next one is. What is in place on no device that
computes is brought to the first one, module by module (see offload.py); room for the largest module stays free there.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.runtime import hardware

if TYPE_CHECKING:
    import torch
    from torch import nn

PART = 0.8
"""What of a device's free memory weights may take; the rest is for what is computed with them."""


class Room:
    """Where the weights of a model that is being loaded may be: `--device-map`, `--max-memory`, and the device.

    dtype: the precision to run in; set by `options` where it is ``auto``.
    """

    def __init__(self, device_map: str, max_memory: str | None, device: torch.device, dtype: str) -> None:
        self.device_map, self.device, self.dtype, self.max_memory = device_map, device, dtype, max_memory
        self.limit = None if max_memory is None else size_of(max_memory)
        self.main = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"

    def options(self, model: nn.Module, stored: torch.dtype) -> dict[str, Any]:
        """What `from_pretrained` has to know for a model that is empty yet.

        Raises `BadInput` where a module alone is larger than the limit, or the disk has no room.
        """
        import torch

        if self.dtype == "auto":
            self.dtype = hardware.fast_dtype(str(stored).removeprefix("torch."), self.device)
        width = getattr(torch, self.dtype).itemsize
        sizes = {name: width * sum(p.numel() for p in one.parameters()) for name, one in _units(model)}
        rooms = self._rooms()
        placed = _placed(model, sizes, rooms)
        if set(placed.values()) - set(rooms):
            own = {name: sum(p.numel() for p in one.parameters(recurse=False)) for name, one in model.named_modules()}
            name = max(own, key=own.__getitem__)
            largest = width * own[name]
            if self.limit is not None and largest > self.limit:
                raise BadInput(
                    f"--max-memory {self.max_memory}: {name} alone takes {gigabytes(largest)} in {self.dtype}, and is "
                    "loaded whole: allow more"
                )
            rooms[self.main] = rooms.get(self.main, 0) - largest  # for what is loaded to run
            placed = _placed(model, sizes, rooms)
        if self.main not in placed.values() and self.main != "cpu":  # accelerate computes where something is
            placed[min(sizes, key=sizes.__getitem__)] = self.main
        options: dict[str, Any] = {"device_map": placed}
        if on_disk := sum(sizes[name] for name, device in placed.items() if device == "disk"):
            options["offload_folder"] = self._folder(on_disk // width * stored.itemsize)
        return options

    def _rooms(self) -> dict[str, int]:
        """The devices that weights may be on, the first to be filled first, and the bytes for them on each."""
        import torch

        rooms = {}
        if self.device_map == "disk":
            return {self.main: self.limit or 0}
        if self.device_map == "auto" and self.device.type == "cuda":
            numbers = range(torch.cuda.device_count()) if self.device.index is None else [self.device.index]
            for number in numbers:
                free = torch.cuda.mem_get_info(number)[0]
                rooms[f"cuda:{number}"] = int(PART * free) if self.limit is None else self.limit
        limit = None if rooms else self.limit
        rooms["cpu"] = int(PART * hardware.available_memory()) if limit is None else limit
        return rooms

    def _folder(self, size: int) -> str:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < size:
            raise BadInput(
                f"{gigabytes(size)} of the weights are to be on disk, and {tempfile.gettempdir()} has room for "
                f"{gigabytes(free)}: set TMPDIR to a folder with room, or allow more memory"
            )
        folder = tempfile.mkdtemp(prefix="swlottery-weights-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # at the latest when the process ends
        return folder


def size_of(text: str) -> int:
    """Bytes of a size such as ``600MB`` or ``24GiB``. Raises `BadInput` for anything else."""
    from accelerate.utils import convert_file_size_to_int

    try:
        size = int(convert_file_size_to_int(text))
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise BadInput(f"--max-memory {text}: give a size such as 600MB or 24GiB")
    return size


def gigabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.3f} MB"


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What is placed as a whole, with its name: each block, as its parts add to one stream, and each module outside."""
    import torch

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        children = list(module.named_children())
        if own or not children or name.rpartition(".")[0] in lists:
            if own or any(True for _ in module.parameters()):
                yield name, module
            return
        for child, inside in children:
            yield from walk(f"{name}.{child}".lstrip("."), inside)

    lists = {name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    return walk("", model)


def _placed(model: nn.Module, sizes: Mapping[str, int], rooms: Mapping[str, int]) -> dict[str, str]:
    """The device of each unit, or ``disk``: in their order, each device filled before the next one is."""
    devices, left = [*rooms], dict(rooms)
    placed: dict[str, str] = {}
    device_of: dict[int, str] = {}
    for name, size in sizes.items():
        parameters = [id(parameter) for parameter in model.get_submodule(name).parameters()]
        if parameters and all(one in device_of for one in parameters):  # tied to what has a place
            placed[name] = device_of[parameters[0]]
            continue
        while devices and size > left[devices[0]]:
            del devices[0]
        placed[name] = devices[0] if devices else "disk" if size else next(iter(rooms))
        if devices:
            left[devices[0]] -= size
        device_of |= dict.fromkeys(parameters, placed[name])
    return placed
