"""Which device and precision are chosen, why, and what is refused."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any, cast

import pytest
import torch

from aminoglot.engine import choose, hardware
from aminoglot.errors import InputError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch would describe a machine with two Volta cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))


@pytest.mark.parametrize(
    ("capabilities", "precision", "reason"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16", "this CPU multiplies bf16 natively"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16", "this CPU multiplies bf16 natively"),
        ({"avx512_bf16": False, "amx_bf16": False}, "fp32", "this CPU has no native bf16"),
        ({}, "fp32", "this CPU has no native bf16"),
    ],
)
def test_auto_on_a_cpu_is_bf16_where_the_cpu_has_it(
    capabilities: dict[str, bool], precision: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    hardware = choose("cpu", "auto")
    assert (hardware.kind, hardware.precision, hardware.reason) == ("cpu", precision, reason)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_was_asked_is_done(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    hardware = choose("cpu", precision)
    assert (hardware.precision, hardware.reason) == (precision, "as asked")


def test_a_precision_that_the_cpu_has_not_is_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would refuse it, but only when the network is compiled."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose("cpu", "bf16").backend == "torch"
    assert choose("cpu", "fp32").backend == choose("cpu", "bf16", "openvino").backend == "openvino"


def test_where_openvino_is_missing_its_worth_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu").advice is None
    monkeypatch.setattr("aminoglot.engine.hardware.find_spec", lambda _: None)
    advice = choose("cpu").advice
    assert advice is not None
    assert "pip install 'aminoglot[openvino]'" in advice
    assert choose("cpu", backend="torch").advice is None, "who asks for torch knows"


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_preferred_and_judged_by_their_age(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose().device == choose("cuda").device == torch.device("cuda", 1), "the one that the process uses"
    assert (choose().precision, choose().reason) == ("fp16", "this GPU multiplies fp16 natively, but not bf16")
    with pytest.raises(InputError, match=r"precision bf16 is not for cuda:1, where there is fp16 and fp32"):
        choose("cuda", "bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert choose().precision == "fp32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert (choose().precision, choose().reason) == ("bf16", "this GPU multiplies bf16 natively")
    with pytest.raises(InputError, match="precision fp8 is not for cuda"):
        choose("cuda", "fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert choose("cuda", "fp8").precision == "fp8"
    assert choose("cuda").precision == "bf16", "8 bits are never chosen for a user"
    assert choose("cuda:1", "fp32").device == torch.device("cuda", 1)
    assert choose("cpu", "fp32").kind == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InputError, match="there are 2 CUDA devices, counted from 0"):
        choose("cuda:2")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_without_cuda(device: str) -> None:
    with pytest.raises(InputError, match="torch sees no CUDA device"):
        choose(device)


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "meta", "xpu", "cpu:zero"])
def test_nonsense_lists_the_choices(device: str) -> None:
    with pytest.raises(InputError, match="choose auto, cpu, cuda, cuda:N or mps"):
        choose(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has mps")
def test_mps_without_mps() -> None:
    with pytest.raises(InputError, match="mps: not available"):
        choose("mps")


def test_mps_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (choose("mps").precision, choose("mps").reason) == ("fp32", "nothing else was tried on mps")
    with pytest.raises(InputError, match="fp32"):
        choose("mps", "bf16")


@pytest.mark.parametrize("precision", ["fp16", "fp8", "int8", "FP32", "bfloat16", "", None])
def test_a_precision_nobody_knows_is_refused(precision: Any) -> None:
    """fp16 on a CPU above all: its range is too small for ESM-2."""
    with pytest.raises(InputError, match="fp32"):
        choose("cpu", cast("Any", precision))


@pytest.mark.parametrize(
    "trouble", [OSError("no C library by that name"), AttributeError("mallopt"), TypeError("None")]
)
def test_memory_is_kept_where_the_c_library_can(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has no mallopt, macOS none, Windows no library without a name: training goes on without."""
    asked: list[str | None] = []

    def library(name: str | None) -> object:
        asked.append(name)
        raise trouble

    monkeypatch.setattr(hardware.ctypes, "CDLL", library)
    hardware.keep_freed_memory()
    assert asked == [None]


def test_memory_is_kept() -> None:
    """In a process of its own, for it cannot be taken back: what was freed is used again, not given to the system."""
    code = (
        "import resource, torch\n"
        "from aminoglot.engine.hardware import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(20_000_000)\n"
        "before = faults()\n"
        "for _ in range(20):\n"
        "    torch.ones(20_000_000)\n"
        "print(faults() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if platform.libc_ver()[0] == "glibc":
        assert int(done.stdout) < 20_000, "20 times 80 MB are 390,000 pages of 4 KiB"


def test_kernels_are_remembered_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference needs few; what the user has set himself stays."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what they were is put back
        monkeypatch.delenv(name)
    hardware.choose("cpu")
    assert [os.environ[name] for name in names] == ["32", "32"]
    hardware.remember_kernels()
    hardware.choose("cpu")
    assert [os.environ[name] for name in names] == ["1024", "1024"]
    for name in names:
        monkeypatch.delenv(name)
    hardware.choose("cpu")
    assert [os.environ[name] for name in names] == ["32", "32"]
    monkeypatch.setenv(names[0], "7")
    hardware.remember_kernels()
    assert os.environ[names[0]] == "7"
