"""The machine: which device a run uses, which precision is fast there, and what of a GPU decides the bits of a run.

There is no list of processors: torch, oneDNN and the driver are asked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import statistics
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput

if TYPE_CHECKING:
    import torch

_BFLOAT16_ISA = re.compile(r"BF16|AMX|FP16|AVX10|AVX2_VNNI_2|ALL|DEFAULT")
"""The values of ONEDNN_MAX_CPU_ISA with which oneDNN still has instructions for bfloat16."""

SLURM_GPUS = (
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "GPU_DEVICE_ORDINAL",
    "SLURM_GPUS",
    "SLURM_GPUS_ON_NODE",
    "SLURM_GPUS_PER_NODE",
    "SLURM_GPUS_PER_TASK",
)
"""Variables in which Slurm says that a job has GPUs."""

_NO_GPU = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES and of Slurm's variables that mean no GPU."""


def bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether a device multiplies bfloat16 faster than float32, and why, in a few words.

    A CPU needs units for it: emulated bfloat16 is up to 20 times slower than float32. Units that ONEDNN_MAX_CPU_ISA or
    ATEN_CPU_CAPABILITY switch off do not count.
    """
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, f"{name} has {'' if fast else 'no '}bfloat16 units"
    if device.type != "cpu":
        return False, f"unknown of {device.type}"
    capability = torch.backends.cpu.get_cpu_capability()
    usable = bool(torch.backends.mkldnn.is_available()) and bool(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    )
    if capability.startswith(("DEFAULT", "AVX")):  # x86, where oneDNN also says yes to emulation
        units = any(_torch_says(f"_is_{unit}_supported") for unit in ("avx512_bf16", "amx_tile"))
        allowed = _BFLOAT16_ISA.search((os.environ.get("ONEDNN_MAX_CPU_ISA") or "DEFAULT").upper()) is not None
        usable = usable and units and allowed and capability.startswith("AVX512")
    return usable, f"this CPU has {'' if usable else 'no '}bfloat16 units"


def _torch_says(name: str) -> bool:
    import torch

    ask = getattr(torch.cpu, name, None)  # private, and not in every version
    return bool(ask and ask())


def precision(asked: str, device: torch.device) -> tuple[str, str]:
    """The precision of matrix products for a setting (``auto``, ``float32``, ``bfloat16``), and why, for the log."""
    fast, why = bfloat16(device)
    if asked == "auto":
        return ("bfloat16" if fast else "float32"), why
    return asked, f"asked for; {how_slow(device)}" if asked == "bfloat16" and not fast else "asked for"


def fast_dtype(stored: str, device: torch.device) -> str:
    """The precision that weights are stored in; float32 in place of 16 bits that a CPU has no units for."""
    import torch

    if device.type != "cpu" or stored not in ("bfloat16", "float16"):
        return stored
    has_units = bfloat16(device)[0] if stored == "bfloat16" else bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return stored if has_units else "float32"


def available_memory() -> int:
    """The bytes that this process may still take: what the machine has left, and what its cgroup (a job's) allows."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    with contextlib.suppress(OSError):
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        group = Path("/sys/fs/cgroup", own.lstrip("/"))
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # without a limit a word stands there
                most, now = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                cached = re.search(r"^file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
                free.append(most - now + int(cached[1] if cached else 0))
    return max(0, min(free))


def how_slow(device: torch.device) -> str:
    """Why bfloat16 is slow on a device, and how slow it is."""
    return f"{bfloat16(device)[1]}, a matrix product takes {slowdown(device):.1f} times as long as in float32"


def slowdown(device: torch.device) -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32: medians of five, 50 ms in all."""
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(128, 512, dtype=dtype, device=device)
        right = torch.ones(512, 512, dtype=dtype, device=device)
        taken = []
        for _ in range(6):
            began = time.perf_counter()
            (left @ right)[0, 0].item()  # waits for a GPU
            taken.append(time.perf_counter() - began)
        seconds[dtype] = statistics.median(taken[1:])
    return seconds[torch.bfloat16] / max(seconds[torch.float32], 1e-9)


def pick_device(device: str) -> torch.device:
    """The device of ``--device``. ``auto`` is the GPU; the CPU only where no GPU was given.

    Raises:
        BadInput: there is no such device; or ``auto`` where a GPU was given that torch cannot use.
    """
    import torch

    unsupported = BadInput(f"--device {device} is not a device that is supported: use cpu, cuda, cuda:1 … or auto")
    try:
        picked = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:
        raise unsupported from None
    if picked.type not in ("cpu", "cuda"):
        raise unsupported
    if picked.type == "cpu":
        return picked
    works = _cuda_works()
    if works and (picked.index or 0) < torch.cuda.device_count():
        return picked
    if not works and (given := given_gpu()):
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BadInput(
            f"--device {device}: a GPU was given ({given}), but this torch ({torch.__version__}, {build}) cannot use "
            "it: install the build that fits the driver (SWLOTTERY_PIP hands options to pip; docs/slurm.md has the "
            "table), or run with --device cpu"
        )
    if device != "auto":
        raise BadInput(f"--device {device}: no such CUDA device on this machine: use --device cpu, or auto")
    return torch.device("cpu")


def make_current(device: torch.device) -> None:
    """Make ``device`` the current GPU: that of events, pinned memory and questions which name none."""
    import torch

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _cuda_works() -> bool:
    import torch

    with warnings.catch_warnings():  # of a driver that is too old; `pick_device` says so in its own words
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def given_gpu() -> str:
    """What says that this process was given a GPU: a variable, the driver. Empty where nothing does.

    CUDA_VISIBLE_DEVICES empty, -1 or NoDevFiles means that none was given, whatever else is there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in _NO_GPU:
        return ""
    names = ["CUDA_VISIBLE_DEVICES"] if visible is not None else []
    names += [name for name in SLURM_GPUS if os.environ.get(name, "").strip() not in (*_NO_GPU, "0")]
    given = [f"{name}={os.environ[name]}" for name in names[:1]]
    return ", ".join(filter(None, [*given, driver_says()]))


def driver_says() -> str:
    """The version of the NVIDIA driver and its newest CUDA, by ``nvidia-smi``; empty where none answers."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):  # OSError: also where there is no such program
        return ""
    said = done.stdout
    if done.returncode or not said.strip() or "No devices" in said:
        return ""
    version = re.search(r"Driver Version:\s*([\d.]+)", said) or re.search(r"\b(\d{3}\.\d[\d.]*)", said)
    newest = re.search(r"CUDA Version:\s*([\d.]+)", said)
    driver = f"driver {version[1]}" if version else "a driver that answers"
    return driver + (f" for CUDA up to {newest[1]}" if newest else "")


def gpu(device: torch.device) -> dict[str, Any] | None:
    """What of a GPU decides the bits of a run: the card's name and its libraries' versions; None for a CPU."""
    import torch

    if device.type != "cuda":
        return None
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None  # type: ignore[no-untyped-call]
    return {
        "name": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, nccl)) if nccl else None,
    }


def gpu_id(device: torch.device) -> str:
    """An identifier of one GPU among all machines; empty for a CPU."""
    import socket

    import torch

    if device.type != "cuda":
        return ""
    properties = torch.cuda.get_device_properties(device)
    return str(getattr(properties, "uuid", f"{socket.gethostname()} {torch.cuda.current_device()}"))


def check_compiler(device: torch.device) -> None:
    """Raise `BadInput` where torch.compile finds no compiler, before anything is trained."""
    if device.type == "cuda":
        variable, names = "CC", ["gcc", "clang", "cc"]
        if importlib.util.find_spec("triton") is None:
            raise BadInput("--compile on a GPU needs the package triton: install it, or leave --compile away")
    else:
        variable, names = "CXX", ["g++", "clang++", "c++"]
    names = shlex.split(os.environ.get(variable, ""))[:1] or names
    if not any(shutil.which(name) for name in names):
        raise BadInput(
            f"--compile needs a compiler ({', '.join(names)}), and there is none: load one, or leave --compile away"
        )
