"""Where the workers of this machine compute: one a GPU, or each on cores of its own."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch

from aminoglot.engine.hardware import MOST_LANES
from aminoglot.engine.model import Model
from aminoglot.errors import InputError
from aminoglot.jobs.processes import Place
from aminoglot.settings import Workers

_BESIDE_WEIGHTS = 1_000_000_000
"""Bytes that a worker needs beside its weights: libraries, a shard, and what a batch takes."""
_BYTES = {"fp32": 4.0, "bf16": 2.2, "fp16": 2.2, "fp8": 1.2}
"""Bytes of memory that a parameter takes once it is prepared."""


def places(workers: Workers, device: str, model: Model) -> list[Place]:
    """A place for each worker.

    Raises:
        InputError: for more workers than there are GPUs or cores, or than memory suffices for.
    """
    hardware = model.hardware
    if hardware.kind == "cuda":
        return _with_memory(_gpus(workers, device), model)
    if hardware.kind != "cpu":
        return [Place(hardware.kind)] if workers in ("auto", 1) else _refuse(f"device {hardware.kind} is one device")
    return _cores(workers, model)


def _gpus(workers: Workers, device: str) -> list[Place]:
    count = 1 if ":" in device else torch.cuda.device_count()
    wanted = count if workers == "auto" else workers
    if wanted > count:
        return _refuse(f"--workers {wanted}: a worker takes a GPU, and there {'is' if count == 1 else 'are'} {count}")
    return [Place(device if ":" in device else f"cuda:{number}") for number in range(wanted)]


def _cores(workers: Workers, model: Model) -> list[Place]:
    """Neighbouring cores for each; ``auto`` makes as many as give each the most lanes that one process has."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    wanted = max(1, len(cores) // MOST_LANES) if workers == "auto" else workers
    if wanted > len(cores):
        return _refuse(f"--workers {wanted}: there are {len(cores)} cores")
    ends = [len(cores) * number // wanted for number in range(wanted + 1)]
    return _with_memory([Place("cpu", tuple(cores[start:stop])) for start, stop in pairwise(ends)], model)


def _with_memory(found: list[Place], model: Model) -> list[Place]:
    """These places, if this machine's memory suffices; what goes to a GPU goes through it."""
    need, there = memory_of(model), available_memory()
    if there is not None and len(found) * need > there:
        enough = int(there // need)
        return _refuse(
            f"--workers {len(found)}: {model.name} takes about {need / 1e9:.1f} GB a worker, and {there / 1e9:.1f} GB "
            f"are free; {f'--workers {enough} would do' if enough else 'take a smaller model'}"
        )
    return found


def memory_of(model: Model) -> float:
    """Bytes that a worker will take, about; files of weights that are mapped are shared and not counted."""
    return model.config.parameters * _BYTES[model.hardware.precision] + _BESIDE_WEIGHTS


def available_memory() -> float | None:
    """Bytes of memory that can still be had, of this machine or of what a container or a Slurm job has of it."""
    found = []
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found.append(next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, StopIteration, ValueError, IndexError):
        own = next(
            line for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines() if line[:3] == "0::"
        )
        group = Path("/sys/fs/cgroup") / own[3:].lstrip("/")
        found.append(float((group / "memory.max").read_text()) - float((group / "memory.current").read_text()))
    return min(found, default=None)


def _refuse(why: str) -> list[Place]:
    raise InputError(why)
