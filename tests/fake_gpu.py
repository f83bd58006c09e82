"""A GPU that is none: tensors say ``fakegpu:0`` and have their data on the CPU, and the rules of CUDA are kept.

- A tensor on the CPU that meets one on the GPU is an error, but for what CUDA takes: a number (0-dim) as an operand,
  indices on the CPU of something on the GPU, and copies.
- What would make the host wait for the device is counted, with the line of the package that waited.
- Operations that CUDA refuses in strict determinism are refused in it here.
- Autocast turns matrix products to bfloat16 and keeps norms and losses in float32.

It cannot show times, numbers of real kernels, streams, several GPUs, or what a branch on ``is_cuda`` does.

Made of torch's own parts for backends in Python: a tensor subclass that holds the CPU tensor, whose operations come to
`_run`; and kernels for what makes a tensor out of nothing. It is registered once a process, at first use, and then lies
idle: nothing else changes while no test uses it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

NAME = "fakegpu"

FACTORIES = (
    "arange",
    "arange.start",
    "arange.start_step",
    "empty.memory_format",
    "empty_strided",
    "eye",
    "eye.m",
    "linspace",
    "rand",
    "rand.generator",
    "randint",
    "randint.low",
    "randint.generator",
    "randint.low_generator",
    "randn",
    "randn.generator",
    "randperm",
    "randperm.generator",
    "tril_indices",
    "triu_indices",
)
"""What makes a tensor out of nothing: torch's own ways would let an empty one grow, which a wrapper cannot follow."""

INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
ALIKE = {
    "aten::cat",
    "aten::stack",
    "aten::gather",
    "aten::scatter",
    "aten::index_add_",
    "aten::index_add",
    "aten::index_copy_",
    "aten::index_select",
    "aten::take",
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
}
"""Of these CUDA takes not even a number from the CPU, nor does anything fused."""

READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::unique_consecutive",
    "aten::masked_select",
    "aten::bincount",
    "aten::repeat_interleave",
}
"""The host waits for a number, or for the size of the result."""

NOT_DETERMINISTIC = {
    "aten::median.dim",
    "aten::median.dim_values",
    "aten::nanmedian.dim",
    "aten::kthvalue",
    "aten::kthvalue.values",
    "aten::put_",
    "aten::nll_loss2d_forward",
}
"""What torch refuses on CUDA in strict determinism; and ``cumsum`` and ``histc`` of fractions."""

PRODUCTS = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
PRECISE = (
    "layer_norm",
    "cross_entropy_loss",
    "nll_loss",
    "nll_loss_nd",
    "exp",
    "log",
    "rsqrt",
    "pow.Tensor_Scalar",
    "softmax.int",
    "log_softmax.int",
)
"""Of what CUDA's autocast casts, as far as language models use it."""


_REAL_GENERATOR = torch.Generator


class MixedDevices(RuntimeError):
    """A CPU tensor met one on the GPU."""


class Waits:
    """How often the host waited for the device, by what it did (``read``, ``upload``) and where."""

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str) -> None:
        """Count one wait where the package asked for it; what only tests ask for is not counted."""
        if place := _place():
            self.places[kind, place] += 1

    def count(self, kind: str = "") -> int:
        """How many waits there were, of one kind or all."""
        return sum(number for (what, _), number in self.places.items() if kind in ("", what))

    @contextlib.contextmanager
    def inside(self) -> Iterator[Waits]:
        """The waits inside a ``with`` block alone; they are counted outside as well."""
        outer, self.places = self.places, Counter()
        found = Waits()
        try:
            yield found
        finally:
            found.places, self.places = self.places, outer + self.places

    def __str__(self) -> str:
        return "\n".join(f"{number:5d} {kind} {place}" for (kind, place), number in self.places.most_common())


def _place() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        _, found, name = frame.f_code.co_filename.rpartition("/swlottery/")
        if found:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@dataclass
class _Machine:
    """What holds while a test uses the GPU. pinned: storages by address; generators: those of the device, by address.
    Both are kept, so that nothing else comes to their addresses."""

    on: bool = False
    waits: Waits = field(default_factory=Waits)
    pinned: dict[int, Any] = field(default_factory=dict)
    generators: dict[int, torch.Generator] = field(default_factory=dict)


MACHINE = _Machine()


class Gpu(torch.Tensor):
    """A tensor on the device; ``inner``: the CPU tensor with its data."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Gpu:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Gpu({self.inner!r})"

    def tolist(self) -> Any:
        """One copy to the host, as on CUDA; torch refuses it to subclasses."""
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refused in the words of CUDA."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *args: Any) -> Any:
        return self.numpy()

    @property
    def data(self) -> Any:  # type: ignore[override]
        """As on CUDA; setting it gives this wrapper other data."""
        return self.detach()

    @data.setter
    def data(self, new: Gpu) -> None:
        torch._C.TensorBase.data.__set__(self, new)  # type: ignore[attr-defined]
        self.inner = new.inner

    # Torch puts a module's tensors into their new places in one way for wrappers, which keeps Parameters the same
    # objects, as CUDA's way does: for it a wrapper has to say what it wraps.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: Any, size: Any, stride: Any) -> Gpu:
        return Gpu(inner["inner"])


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation with a tensor on the GPU among its arguments: on their data, if CUDA would do it."""
    name = func._schema.name
    if name == "aten::copy_":
        return _copy(args[0], args[1], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    given: list[Any] = []

    def plain(one: Any) -> Any:
        if isinstance(one, (torch.Tensor, torch._C.Generator)):
            given.append(one)
            return one.inner if isinstance(one, Gpu) else one
        return torch.device("cpu") if isinstance(one, torch.device) and one.type == NAME else one

    inner_args, inner_kwargs = _each(plain, args), _each(plain, kwargs)
    target = kwargs.get("device")
    to_host = target is not None and torch.device(target).type != NAME
    if name == "aten::_to_copy":
        if to_host:
            MACHINE.waits.add("read")
    else:
        _check_devices(func, args, given)
        _check_determinism(func, given)
        _count_waits(name, args)
    back = {id(one.inner): one for one in given if isinstance(one, Gpu)}
    if name == "aten::histc" and not inner_args[0].is_floating_point():  # the CPU counts no whole numbers
        out = func(inner_args[0].float(), *inner_args[1:]).to(inner_args[0].dtype)
    else:
        out = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable:
        for one in back.values():
            if one.shape != one.inner.shape:
                raise NotImplementedError(f"{name} has changed a tensor's shape, which its wrapper cannot follow")
    return _each(lambda one: _wrapped(one, back, to_host), out)


def _each(do: Callable[[Any], Any], nested: Any) -> Any:
    """What ``do`` makes of everything in an operation's arguments or results; torch's own way takes thrice as long."""
    if isinstance(nested, (list, tuple)):
        made = [_each(do, one) for one in nested]
        return made if isinstance(nested, list) else tuple(made)
    if isinstance(nested, dict):
        return {name: _each(do, one) for name, one in nested.items()}
    return do(nested)


def _wrapped(one: Any, back: dict[int, Gpu], to_host: bool) -> Any:
    """A result: what was changed in place is what was given, and what is new is on the GPU."""
    if not isinstance(one, torch.Tensor) or to_host:
        return one
    return back[id(one)] if id(one) in back else Gpu(one)


def _copy(to: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    ends = [one.inner if isinstance(one, Gpu) else one for one in (to, source)]
    if isinstance(to, Gpu) != isinstance(source, Gpu):
        host = source if isinstance(to, Gpu) else to
        if not (non_blocking and _is_pinned(host)):
            MACHINE.waits.add("upload" if isinstance(to, Gpu) else "read")
    ends[0].copy_(ends[1])
    return to


def _check_devices(func: Any, args: tuple[Any, ...], given: list[Any]) -> None:
    name = func._schema.name
    free: set[int] = set()
    if name in INDEXING and isinstance(args[0], Gpu):
        free = {id(index) for index in args[1] if index is not None}
    alike = name in ALIKE or "_fused_" in name
    for one in given:
        if _is_cpu_generator(one):
            raise MixedDevices(f"{func}: a generator of the CPU")
        if isinstance(one, torch.Tensor) and not isinstance(one, Gpu) and id(one) not in free and (one.dim() or alike):
            raise MixedDevices(f"{func}: all tensors have to be on one device: {NAME}:0, and cpu {tuple(one.shape)}")


def _check_determinism(func: Any, given: list[Any]) -> None:
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if not strict:
        return
    name = str(func).replace("aten.", "aten::").removesuffix(".default")
    of_fractions = ("cumsum" in name or "histc" in name) and given[0].is_floating_point()
    if name in NOT_DETERMINISTIC or of_fractions:
        raise RuntimeError(f"{func} has no deterministic implementation on CUDA")


def _count_waits(name: str, args: tuple[Any, ...]) -> None:
    if name in READS:
        MACHINE.waits.add("read")
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        fills = "put" in name and args[2].numel() == 1 and len(indices) == 1  # becomes masked_fill
        if any(isinstance(index, Gpu) and index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
            MACHINE.waits.add("read")
        for index in indices:
            if not isinstance(index, Gpu):
                MACHINE.waits.add("upload")


def _generator(device: Any = "cpu") -> torch.Generator:
    """`torch.Generator`, which torch does not make for a backend in Python: one of the CPU that is marked."""
    if torch.device(device).type != NAME:
        return _REAL_GENERATOR(device)
    made = _REAL_GENERATOR("cpu")
    MACHINE.generators[made._cdata] = made
    return made


def _is_cpu_generator(one: Any) -> bool:
    return isinstance(one, torch._C.Generator) and one._cdata not in MACHINE.generators


def _made(op: Any, *args: Any, **kwargs: Any) -> Gpu:
    """A factory's tensor, on the device."""
    if any(_is_cpu_generator(one) for one in (*args, *kwargs.values())):
        raise MixedDevices(f"{op}: a generator of the CPU")
    return Gpu(op(*args, **{**kwargs, "device": "cpu", "pin_memory": False}))


def _cast(op: Any, keys: Any, dtype: torch.dtype | None, *args: Any, **kwargs: Any) -> Any:
    """An operation in autocast; dtype: to which its fractions are cast, None: that of the matrix products."""

    def cast(one: Any) -> Any:
        fraction = isinstance(one, torch.Tensor) and one.is_floating_point() and one.dtype != torch.float64
        return one.to(dtype or torch.get_autocast_dtype(NAME)) if fraction else one

    with torch._C._ExcludeDispatchKeyGuard(keys):
        return op(*_each(cast, args), **_each(cast, kwargs))


@functools.cache
def _registered() -> list[torch.library.Library]:
    """Register the backend with torch. What is returned has to live."""
    from torch.utils import backend_registration as backends

    class Module(backends._DummyBackendModule):
        def is_available(self) -> bool:
            return MACHINE.on

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def get_rng_state(self, device: Any = 0) -> torch.Tensor:
            return torch.zeros(1, dtype=torch.uint8)

        def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
            pass

    class Hook(backends._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return MACHINE.on

    # Autograd starts a thread a device at its first use, and a process with such threads must not be forked, as other
    # tests do. So its first use is before there is this device; `gpu` has it go without threads.
    torch.ones(1, requires_grad=True).sum().backward()
    backends._setup_privateuseone_for_python_backend(NAME, Module(), Hook())
    kernels, casts = torch.library.Library("aten", "IMPL"), torch.library.Library("aten", "IMPL")
    for name in FACTORIES:
        kernels.impl(name, functools.partial(_made, _overload(name)), "PrivateUse1")
    kernels.impl("copy_", lambda to, source, non_blocking=False: _copy(to, source, non_blocking), "PrivateUse1")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    for names, dtype in ((PRODUCTS, None), (PRECISE, torch.float32)):
        for name in names:
            casts.impl(name, functools.partial(_cast, _overload(name), keys, dtype), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [kernels, casts, others]


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _is_pinned(host: torch.Tensor) -> bool:
    return host.untyped_storage().data_ptr() in MACHINE.pinned


def _pin_memory(self: torch.Tensor, *args: Any) -> torch.Tensor:
    pinned = self.clone()
    storage = pinned.untyped_storage()
    MACHINE.pinned[storage.data_ptr()] = storage
    return pinned


@contextlib.contextmanager
def gpu() -> Iterator[Waits]:
    """A machine with such a GPU, which ``auto`` picks, for a ``with`` block; the waits are counted."""
    import safetensors
    import safetensors.torch
    from transformers import PreTrainedModel

    from swlottery.models import load as models

    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no backends in Python")
    _registered()
    with pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        for name, value in vars(_Machine(on=True)).items():
            patch.setattr(MACHINE, name, value)
        patch.setattr(models, "pick_device", lambda device: torch.device(NAME, 0))
        patch.setattr(torch, "Generator", _generator)
        patch.setattr(torch.Tensor, "pin_memory", _pin_memory)
        patch.setattr(torch.Tensor, "is_pinned", lambda self, *args: _is_pinned(self))
        patch.setattr(safetensors, "safe_open", _Opened)
        patch.setattr(safetensors.torch, "load_file", _load_file)
        patch.setattr(PreTrainedModel, "save_pretrained", _save_pretrained)
        yield MACHINE.waits


class _Opened:
    """`safetensors.safe_open`, which has a list of the devices that it knows."""

    real = staticmethod(__import__("safetensors").safe_open)

    def __init__(self, path: Any, framework: str, device: Any = "cpu") -> None:
        self.to_gpu = torch.device(device).type == NAME
        self.opened = self.real(path, framework, **({} if self.to_gpu else {"device": device}))

    def __enter__(self) -> _Opened:
        self.file = self.opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self.opened.__exit__(*error)

    def get_tensor(self, name: str) -> Any:
        tensor = self.file.get_tensor(name)
        return tensor.to(NAME) if self.to_gpu else tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _load_file(path: Any, device: Any = "cpu") -> dict[str, torch.Tensor]:
    with _Opened(path, "pt", device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


_real_save_pretrained = __import__("transformers").PreTrainedModel.save_pretrained


def _save_pretrained(self: Any, folder: Any, *args: Any, **kwargs: Any) -> None:
    """By a copy on the CPU: transformers looks at storages, and a wrapper has none."""
    plain = type(self)(self.config)
    mine = dict(self.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(mine[name].cpu())
    plain.tie_weights()
    _real_save_pretrained(plain, folder, *args, **kwargs)
