"""The compiled encoder is the torch network: every layer, in rectangles of any size."""

from __future__ import annotations

import importlib.util
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine import Model, choose
from aminoglot.engine import openvino as compiled
from aminoglot.errors import InputError, ModelError
from tests.engine.proteins import MIXED, protein
from tests.reference import randomised


@pytest.fixture(scope="module")
def deep() -> Checkpoint:
    """Six layers, twenty heads, random weights in which nothing is zero or one."""
    return randomised("esm2-8m")


def both(checkpoint: Checkpoint) -> tuple[Model, Model]:
    return Model(checkpoint, choose("cpu", "fp32", "torch")), Model(checkpoint, choose("cpu", "fp32", "openvino"))


def test_every_layer_is_torchs(deep: Checkpoint) -> None:
    texts = [*MIXED, protein(300), protein(1022)]
    ours, theirs = both(deep)
    expected = ours.embed(texts, per="residue", layer="all")
    for mine, other in zip(theirs.embed(texts, per="residue", layer="all"), expected, strict=True):
        for layer in range(7):
            bound = max(1e-4, 2e-5 * np.abs(other[layer]).max())
            np.testing.assert_allclose(mine[layer], other[layer], rtol=0, atol=bound)


@pytest.mark.parametrize("layer", [0, 1, 3, -1, [3, 1], [0, 6], [3, 3, -1], "all"])
def test_layers_and_rectangles_change_nothing(layer: Any, deep: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*MIXED, *[protein(40, seed) for seed in range(9)]]
    expected = both(deep)[0].embed(texts, layer=layer)
    monkeypatch.setattr(compiled, "_RECTANGLE", 100)
    model = both(deep)[1]
    np.testing.assert_allclose(model.embed(texts, layer=layer), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("filled", [0, 10**6])
@pytest.mark.parametrize("layer", [2, "all"])
def test_fillers_change_nothing(filled: int, layer: Any, deep: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without fillers: every length modulo a register, neighbours of other lengths, short and long."""
    texts = [protein(length, length) for length in (*range(1, 40), 126, 127, 300, 302, 303)]
    expected = both(deep)[0].embed(texts, per="residue", layer=layer)
    monkeypatch.setattr(compiled, "_FILLED", filled)
    for mine, other in zip(both(deep)[1].embed(texts, per="residue", layer=layer), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_stands_in_fillers_does_not_matter(
    precision: Any, deep: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [protein(length, length) for length in (20, 33, 60)]
    model = Model(deep, choose("cpu", precision, "openvino"))
    expected = model.embed(texts)
    zeros = torch.Tensor.new_zeros
    monkeypatch.setattr(torch.Tensor, "new_zeros", lambda tensor, *shape: zeros(tensor, *shape) + 3)
    np.testing.assert_array_equal(model.embed(texts), expected)


def test_other_layers_are_compiled_anew(checkpoint: Checkpoint) -> None:
    ours, theirs = both(checkpoint)
    for layer in (-1, 1, [0, 2], -1):
        np.testing.assert_allclose(
            theirs.embed(MIXED, layer=layer),  # type: ignore[arg-type]
            ours.embed(MIXED, layer=layer),  # type: ignore[arg-type]
            rtol=0,
            atol=1e-5,
        )


def test_bf16_is_about_as_close_as_torchs(deep: Checkpoint) -> None:
    """It rounds elsewhere, not more: half as much again at most, with what all vectors share taken off."""
    texts = [protein(length, length) for length in range(60, 300, 12)]
    exact = both(deep)[0].embed(texts)

    def error(backend: Any) -> float:
        found = Model(deep, choose("cpu", "bf16", backend)).embed(texts)
        return float(np.median(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact - exact.mean(0), axis=1)))

    assert 0 < error("openvino") < 1.5 * error("torch")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_files_in_half_precision(dtype: torch.dtype, backend: Any, checkpoint: Checkpoint) -> None:
    """Everything works, and both backends see the same weights."""
    halved = {key: tensor.to(dtype) for key, tensor in checkpoint.tensors.items()}
    wide = {key: tensor.float() for key, tensor in halved.items()}
    narrow = Model(Checkpoint("half", "untrained", checkpoint.config, halved), choose("cpu", "fp32", backend))
    exact = Model(Checkpoint("wide", "untrained", checkpoint.config, wide), choose("cpu", "fp32", "torch"))
    np.testing.assert_allclose(narrow.embed(MIXED), exact.embed(MIXED), rtol=0, atol=1e-5)
    for call in ("logits", "contacts"):
        for mine, other in zip(getattr(narrow, call)(MIXED), getattr(exact, call)(MIXED), strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError("std::bad_alloc")])
def test_a_failed_compilation_leaves_nothing_behind(
    error: Any, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that does not suffice for the model is no protein's fault."""
    model = both(checkpoint)[1]
    before = model.embed(MIXED)

    def failing(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "_graph", failing)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ModelError):
            model.embed(MIXED, layer=1)
    assert model.embed(MIXED).tobytes() == before.tobytes()


@pytest.mark.parametrize("depth", [0, 10**6])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_finite_is_not_hidden(
    precision: Any, bad: float, depth: int, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad value must reach the output, also through what makes OpenVINO take its kernel for long sums."""
    monkeypatch.setattr(compiled, "_DEEP", depth)
    tensors = dict(checkpoint.tensors)
    tensors["layers.0.down.bias"] = tensors["layers.0.down.bias"].clone()
    tensors["layers.0.down.bias"][3] = bad
    broken = Model(Checkpoint("broken", "untrained", checkpoint.config, tensors), choose("cpu", precision, "openvino"))
    with pytest.raises(ModelError, match="not finite"):
        broken.embed(MIXED)


@pytest.mark.parametrize("layer", [1, -1, "all"])
def test_the_kernel_for_long_sums_is_torchs(layer: Any, deep: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_DEEP", 0)
    ours, theirs = both(deep)
    np.testing.assert_allclose(theirs.embed(MIXED, layer=layer), ours.embed(MIXED, layer=layer), rtol=0, atol=1e-4)


def test_weights_are_not_changed(checkpoint: Checkpoint) -> None:
    before = {key: tensor.clone() for key, tensor in checkpoint.tensors.items()}
    Model(checkpoint, choose("cpu", "bf16", "openvino")).embed(MIXED)
    assert all(torch.equal(tensor, before[key]) for key, tensor in checkpoint.tensors.items())


def test_where_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu").backend == "openvino"
    assert choose("cpu", backend="torch").backend == "torch"
    monkeypatch.setattr("aminoglot.engine.hardware.find_spec", lambda _: None)
    assert choose("cpu").backend == "torch"
    with pytest.raises(InputError, match=r"pip install 'aminoglot\[openvino\]'"):
        choose("cpu", backend="openvino")
    with pytest.raises(InputError, match="backend='onnx': choose auto, torch, openvino"):
        choose("cpu", backend="onnx")  # type: ignore[arg-type]


def test_narrow_networks_are_torchs(checkpoint: Checkpoint, deep: Checkpoint) -> None:
    """unless the user says otherwise."""
    assert Model(checkpoint, choose("cpu")).hardware.backend == "torch"
    assert Model(checkpoint, choose("cpu", backend="openvino")).hardware.backend == "openvino"
    assert Model(deep, choose("cpu")).hardware.backend == "openvino"


def test_a_gpu_never_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 0))
    assert importlib.util.find_spec("openvino") is not None
    assert choose("auto").backend == "torch"
    with pytest.raises(InputError, match="backend openvino computes on the CPU, not on cuda"):
        choose("cuda", backend="openvino")


def test_ctrl_c_waits_while_a_native_module_starts() -> None:
    """A module that is interrupted at its start cannot be imported, which says nothing of Ctrl-C."""
    reached: list[str] = []

    def start() -> None:
        with compiled.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert reached == ["the end"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: compiled.uninterrupted().__enter__()).result() is None
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with compiled.uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
