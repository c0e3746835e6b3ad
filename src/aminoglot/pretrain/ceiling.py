"""What a device can do at best."""

from __future__ import annotations

import time

import torch

_SIDE = 4096
_PASSES = 3


def ceiling(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one large matrix product on this device: the best of some."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side = _SIDE if device.type == "cuda" else _SIDE // 2
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(_PASSES):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best
