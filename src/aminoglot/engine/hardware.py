"""Which device and which precision a model runs in, and the reason, in words."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal

import torch

from aminoglot.errors import InputError
from aminoglot.models.linear import Precision
from aminoglot.settings import BackendChoice, PrecisionChoice, known

Backend = Literal["torch", "openvino"]
MOST_LANES = 8
_MOST_LONE_LANES = 64
NARROW = 128
"""Networks of less width than this compute so little a call that calling them is what takes time."""

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_FEW_KERNELS = "32"


@dataclass(frozen=True)
class Hardware:
    """A device, a precision, and why that precision.

    Attributes:
        backend: who computes the encoder: torch, or OpenVINO (on CPUs).
        asked: whether the user named that backend.
        lanes: batches computed at once. On a GPU two: one is packed and taken away while the other is computed.
        threads: cores a lane.
    """

    device: torch.device
    precision: Precision
    reason: str
    backend: Backend = "torch"
    lanes: int = 1
    threads: int = 1
    asked: bool = False

    @property
    def kind(self) -> str:
        return self.device.type

    @property
    def advice(self) -> str | None:
        """What would make it faster, where something is missing."""
        if self.kind == "cpu" and self.backend == "torch" and not self.asked and find_spec("openvino") is None:
            return "on a CPU OpenVINO is faster than torch: pip install 'aminoglot[openvino]'"
        return None

    def fitted(self, hidden: int) -> Hardware:
        """This, for a network of such a width: OpenVINO is not chosen for one so narrow that calling it costs most."""
        return self if self.asked or hidden >= NARROW else replace(self, backend="torch")


def choose(device: str = "auto", precision: PrecisionChoice = "auto", backend: BackendChoice = "auto") -> Hardware:
    """Choose where and how to compute.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: ``auto``, ``fp32`` (exact everywhere), ``bf16``, and on CUDA ``fp16`` (Volta) and ``fp8`` (Hopper).
            Never fp16 on a CPU.
        backend: ``auto`` (OpenVINO on a CPU where it is installed and has that precision, else torch), ``torch`` or
            ``openvino``.

    Raises:
        InputError: for a device or backend that is not there, or a precision that the device does not have.
    """
    known("precision", precision, PrecisionChoice)
    known("backend", backend, BackendChoice)
    where = _device(device)
    _bound_kernel_caches()
    offered, why = _offered(where)
    lanes, threads = _lanes(where.type, torch.get_num_threads())
    if precision == "auto":
        precision = offered[0]
    elif precision not in offered:
        raise InputError(f"precision {precision} is not for {where}, where there is {' and '.join(offered)}")
    else:
        why = "as asked"
    engine = _backend(where, backend, native=precision in ("fp32", offered[0]))
    if where.type == "cpu" and engine == "torch" and precision == "fp32":
        # the last digits of these products depend on how many threads share one
        lanes, threads = min(lanes * threads, _MOST_LONE_LANES), 1
    return Hardware(where, precision, why, engine, lanes, threads, backend != "auto")


def _lanes(kind: str, cores: int) -> tuple[int, int]:
    """How many lanes, and cores for each; few cores or none are left over."""
    if kind != "cpu":
        return (2, 1) if kind == "cuda" else (1, 1)
    threads = -(-cores // MOST_LANES)
    return cores // threads, threads


def _backend(device: torch.device, backend: BackendChoice, native: bool) -> Backend:
    """Who computes; OpenVINO has only precisions that the CPU itself has."""
    there = find_spec("openvino") is not None
    if backend == "openvino" and device.type != "cpu":
        raise InputError(f"backend openvino computes on the CPU, not on {device.type}")
    if backend == "openvino" and not there:
        raise InputError("backend openvino is not installed: pip install 'aminoglot[openvino]'")
    if backend == "auto" and there and device.type == "cpu" and native:
        return "openvino"
    return "openvino" if backend == "openvino" else "torch"


def _bound_kernel_caches() -> None:
    """Keep torch's CPU product library from remembering a thousand batch shapes.

    It keeps a compiled kernel for every shape it meets, 1,024 of them by default, and packed batches hardly ever have
    the same number of tokens twice: 300 MB for nothing. A forward pass needs a handful. Set these variables yourself
    to override.
    """
    _remember_kernels(_FEW_KERNELS)


def remember_kernels() -> None:
    """Let it remember them after all: training goes through some hundreds of shapes again and again.

    Heeded where nothing was computed in this process before, and then for the rest of it.
    """
    for name in _CACHES:
        if os.environ.get(name) == _FEW_KERNELS:
            del os.environ[name]
    _remember_kernels("1024")


def _remember_kernels(count: str) -> None:
    for name in _CACHES:
        os.environ.setdefault(name, count)


def keep_freed_memory() -> None:
    """Tell the C library to keep what is freed (glibc; elsewhere nothing happens), for the rest of the process.

    Training frees and takes tens of megabytes thousands of times an update. glibc gives such blocks back to the system
    at once, and the system fills each new page with zeros again when it is first touched.
    """
    most_mapped, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    try:
        change = ctypes.CDLL(None).mallopt
        change(most_mapped, 0)
        change(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError, TypeError):
        return


def _device(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r}: choose auto, cpu, cuda, cuda:N or mps") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here (a CPU-only build of torch, or no driver?)")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if where.type == "cuda" and where.index is None:  # a lane's thread has a current device of its own
        where = torch.device("cuda", torch.cuda.current_device())
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: not available here")
    if where.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r}: choose auto, cpu, cuda, cuda:N or mps")
    return where


def _offered(device: torch.device) -> tuple[list[Precision], str]:
    """The precisions of a device, what auto takes first, and the reason in words."""
    if device.type == "mps":
        return ["fp32"], "nothing else was tried on mps"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (9, 0):
            return ["bf16", "fp32", "fp16", "fp8"], "this GPU multiplies bf16 natively"
        if capability >= (8, 0):
            return ["bf16", "fp32", "fp16"], "this GPU multiplies bf16 natively"
        if capability >= (7, 0):
            return ["fp16", "fp32"], "this GPU multiplies fp16 natively, but not bf16"
        return ["fp32"], "this GPU multiplies neither bf16 nor fp16 natively"
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        return ["bf16", "fp32"], "this CPU multiplies bf16 natively"
    return ["fp32", "bf16"], "this CPU has no native bf16"


class _Exactness:
    """Settings of the whole process, changed while at least one thread computes in fp32."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = Lock(), 0, list[str]()

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = [backend.fp32_precision for backend in self._backends()]
                self._set(["ieee"] * len(self._before))

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._set(self._before)

    def _set(self, settings: list[str]) -> None:
        for backend, setting in zip(self._backends(), settings, strict=True):
            backend.fp32_precision = setting

    @staticmethod
    def _backends() -> tuple[Any, ...]:
        return torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]


_EXACTNESS = _Exactness()


@contextmanager
def exact(hardware: Hardware) -> Iterator[None]:
    """Forbid TF32 and bf16 products in fp32, whatever was allowed elsewhere in the process."""
    if hardware.precision != "fp32":
        yield
        return
    _EXACTNESS.enter()
    try:
        yield
    finally:
        _EXACTNESS.leave()
