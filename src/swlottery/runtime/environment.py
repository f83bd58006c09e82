"""What the bits of a run depend on besides its settings: threads, versions, hardware, and torch's choice of kernels."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from swlottery.version import __version__

if TYPE_CHECKING:
    import torch


def describe(threads: int, device: torch.device | None = None) -> dict[str, Any]:
    """Threads, versions, processor and GPU, as in ``environment.json``. device: that of the run.

    Not torch's ``collect_env``, which runs a dozen programs and returns a text.
    """
    import torch
    import transformers

    from swlottery.runtime import hardware

    return {
        "threads": threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "swlottery": __version__,
        },
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "gpu": hardware.gpu(device) if device is not None else None,
    }


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Make torch compute the same bits each time on this machine. Another number of threads gives other bits.

    torch only warns of an operation without a deterministic form; `swlottery.runtime.deterministic` is stricter.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It would only help to find bugs, and costs a tenth of a step's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards torch's threads and modes, and the variables of the environment, are as before `pin`."""
    import torch

    threads, variables = torch.get_num_threads(), dict(os.environ)
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = tf32
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)
