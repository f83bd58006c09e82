"""What the hardware is fast at. (A stand-in with the signature that is settled: the merge puts the whole one here.)"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether ``device`` multiplies bfloat16 natively, and why (not)."""
    import torch

    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, "the GPU has bfloat16 units" if fast else "the GPU has no bfloat16 units"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    told = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    allowed = not told or any(name in told for name in ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT"))
    capable = os.environ.get("ATEN_CPU_CAPABILITY", "avx512").lower().startswith("avx512")
    known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    fast = bool(native and allowed and capable and known)
    return fast, "the CPU has bfloat16 units" if fast else "the CPU has no bfloat16 units, or is told not to use them"
