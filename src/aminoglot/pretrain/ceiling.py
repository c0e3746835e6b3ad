"""What a device can do at best."""

from __future__ import annotations

import time

import torch

_SIDE = 4096
_PASSES = 3


def ceiling(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one large matrix product on this device: the best of some.

    Its operands are random: hardware that multiplies constants draws less power, and runs faster than it ever will.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side = _SIDE if device.type == "cuda" else _SIDE // 2
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_PASSES):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def _wait(device: torch.device) -> None:
    """Until the device has computed what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
