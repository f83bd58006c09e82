"""Models that are larger than one device's memory: over several GPUs, in CPU memory, and in a folder on disk.

accelerate brings the weights of a module to the device just before it runs, and lets go of them afterwards. So such a
module's parameters hold nothing: what they would hold is read with `stored_weight`, and `changed` changes what is
loaded, at every load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from swlottery.models.room import Room


class Weights(Mapping[str, "Tensor"]):
    """The weights that are not in place, by the names of their parameters: what accelerate loads.

    Norms and biases stay in memory once they were loaded.

    tied: the names of all parameters, those of one weight together. names: for each the one that it is stored under.
    dtype: the precision to load in; None: as stored. changes: by name what differs from what is stored, each (index,
    values).
    """

    def __init__(self, stored: Any, tied: list[list[str]], room: Room | None) -> None:
        self.stored, self.tied, self.room = stored, tied, room
        there = set(stored)
        groups = [(group, name) for group in tied if (name := next((one for one in group if one in there), None))]
        self.names = {name: under for group, under in groups for name in group}
        self.dtype: torch.dtype | None = None
        self.changes: dict[str, list[tuple[Any, Tensor]]] = {}
        self.small: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str, number: int | None = None) -> Tensor:
        """One weight as it is now, or the ``number``-th matrix of it alone."""
        name = self.names[name]
        tensor: Tensor = self.small[name] if name in self.small else self.stored[name]
        if name not in self.small and tensor.ndim < 2:
            tensor = self.small[name] = tensor.clone()
        changes = self.changes.get(name, [])
        if number is not None:
            tensor = tensor[number]
            changes = [(index[1:], values) for index, values in changes if index[0] == number]
        tensor = tensor.to(self.dtype or tensor.dtype, copy=bool(changes))
        for index, values in changes:
            tensor[index] = values.to(tensor.device)
        return tensor


def take_over(model: Any, room: Room | None = None) -> None:
    """Let accelerate load what `Weights` gives; nothing where all weights of the model are in place."""
    hooks = [hook for module in model.modules() if (hook := _hook(module))]
    if not hooks or isinstance(hooks[0].weights_map.dataset, Weights):
        return
    stored = hooks[0].weights_map.dataset
    weights = Weights(stored, _tied(model, stored), room)
    for hook in hooks:
        hook.weights_map.dataset = weights


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Store another tensor for a parameter that is not in place: the same in another precision."""
    from safetensors.torch import save_file

    weights = weights_of(model)
    assert weights is not None
    name = weights.names[name]
    if name in weights.stored.state_dict:
        weights.stored.state_dict[name] = tensor
        return
    entry = weights.stored.index[name]
    entry["dtype"] = str(tensor.dtype).removeprefix("torch.")
    save_file({entry["weight_name"]: tensor.contiguous()}, entry["safetensors_file"])


def _tied(model: nn.Module, stored: Any = None) -> list[list[str]]:
    """The names of all parameters, those of one weight together.

    stored: what is not in place. Of that transformers ties nothing that is stored twice, and accelerate's passes untie.
    """
    if (weights := weights_of(model)) is not None:
        return weights.tied
    import torch

    ties: dict[str, str] = getattr(model, "all_tied_weights_keys", {}) if stored is not None else {}
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = ties.get(name, name)
        both = parameter.is_meta and other != name and other in stored.index
        once = both and (name not in stored.index or torch.equal(stored[name], stored[other]))
        groups.setdefault(id(model.get_parameter(other) if once else parameter), []).append(name)
    return list(groups.values())


def _hook(module: nn.Module) -> Any:
    """accelerate's hook that loads the module's own weights; None where they are in place."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])
    return next((one for one in hooks if getattr(one, "offload", False) and one.weights_map is not None), None)


def weights_of(model: nn.Module) -> Weights | None:
    """The weights that are not in place; None where all are."""
    hook = next((hook for module in model.modules() if (hook := _hook(module))), None)
    return hook.weights_map.dataset if hook is not None and isinstance(hook.weights_map.dataset, Weights) else None


def stored_weight(module: nn.Module, name: str, number: int | None = None) -> Tensor:
    """A weight of a module by its name there, without its gradient, or the ``number``-th matrix of it alone.

    Where it is in place it is the model's own memory. Else it is loaded for the caller, and only `changed` changes it.
    """
    weight: Tensor = getattr(module, name).data
    if weight.is_meta and (hook := _hook(module)):
        weights: Weights = hook.weights_map.dataset
        loaded = weights.read(hook.weights_map.prefix + name, number)
        return loaded.to(hook.execution_device, weight.dtype)
    return weight if number is None else weight[number]


@contextmanager
def changed(module: nn.Module, name: str, index: tuple[Any, ...], values: Tensor) -> Iterator[None]:
    """Entries of a module's weight with other ``values`` inside a ``with`` block; then bit for bit as before.

    index: into the weight as it is stored; of a stack of matrices the number of one comes first.
    """
    weight: Tensor = getattr(module, name).data
    if weight.is_meta and (hook := _hook(module)):
        weights: Weights = hook.weights_map.dataset
        changes = weights.changes.setdefault(weights.names[hook.weights_map.prefix + name], [])
        entry = (index, values)
        changes.append(entry)
        try:
            yield
        finally:
            changes[:] = [one for one in changes if one is not entry]
        return
    before = weight[index]
    try:
        weight[index] = values
        yield
    finally:
        weight[index] = before


def stored_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's name and values, in the order of the names and one at a time; tied ones once."""
    for name in sorted(group[0] for group in _tied(model)):
        module, _, own = name.rpartition(".")
        yield name, stored_weight(model.get_submodule(module), own)


def device_of(module: nn.Module) -> torch.device:
    """The device that a module runs on: its weights' own, or the one that they are brought to."""
    import torch

    for one in module.modules():
        if (hook := getattr(one, "_hf_hook", None)) is not None:
            return torch.device(getattr(hook, "hooks", [hook])[0].execution_device)
        if (parameter := next(one.parameters(recurse=False), None)) is not None:
            return parameter.device
    return torch.device("cpu")


def where(model: nn.Module) -> dict[str, int]:
    """The bytes of the weights by the place where they are: a device, ``cpu``, or ``disk``."""
    weights, found = weights_of(model), dict[str, int]()
    for group in _tied(model):
        parameter = model.get_parameter(group[0])
        place = str(parameter.device)
        if parameter.is_meta and weights is not None:
            place = "cpu" if weights.names[group[0]] in weights.stored.state_dict else "disk"
        found[place] = found.get(place, 0) + parameter.nbytes
    return found
