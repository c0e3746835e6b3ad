"""Several batches at once: the same results, in the same order, and no lane's trouble becomes another's."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aminoglot.checkpoints import resolve
from aminoglot.engine import Model, choose
from aminoglot.engine.forward import Forward, Outcome, _streams
from aminoglot.engine.hardware import Hardware
from aminoglot.engine.openvino import OpenVINOEncoder
from aminoglot.engine.pieces import Piece, pieces
from aminoglot.packing import Packed
from aminoglot.settings import BackendChoice, PrecisionChoice
from tests.engine.proteins import protein

MANY = [protein(length, seed) for seed, length in enumerate([90, 71, 70, 33, 33, 20, 12, 5, 1] * 4)]


def with_lanes(model: Model, lanes: int) -> Model:
    """The same model with so many lanes; OpenVINO then has a stream for each."""
    model.hardware = replace(model.hardware, lanes=lanes)
    if isinstance(model._encoder, OpenVINOEncoder):
        del model._prepared
    model.budget = 100
    return model


@pytest.mark.parametrize("lanes", [2, 3, 8])
@pytest.mark.parametrize("long", ["full", "window"])
def test_lanes_change_no_result(lanes: int, long: str, model: Model) -> None:
    model.limit = 60
    alone = with_lanes(model, 1).embed(MANY, per="both", long=long)  # type: ignore[call-overload]
    several = with_lanes(model, lanes).embed(MANY, per="both", long=long)  # type: ignore[call-overload]
    np.testing.assert_allclose(several.protein, alone.protein, rtol=0, atol=1e-5)
    for mine, other in zip(several.residue, alone.residue, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "bf16"), ("openvino", "fp32"), ("torch", "bf16")])
def test_a_worker_with_fewer_cores_gives_the_same_bytes(backend: BackendChoice, precision: PrecisionChoice) -> None:
    """Of a network of real shape, on as many cores as one process has or as a few workers share."""
    checkpoint, found = resolve("random:esm2-8m"), set()
    for lanes, threads in ((1, 1), (2, 1), (1, 2), (2, 3)):
        hardware = replace(choose("cpu", precision, backend), lanes=lanes, threads=threads)
        model = Model(checkpoint, hardware)
        model.budget = 2000
        found.add(np.asarray(model.embed([*MANY, protein(700, 1), protein(1022, 2)])).tobytes())
    assert len(found) == 1


def test_the_same_lanes_give_the_same_bytes(model: Model) -> None:
    model = with_lanes(model, 3)
    first = model.embed(MANY, per="both", long="window")
    for _ in range(3):
        again = model.embed(MANY, per="both", long="window")
        assert again.protein.tobytes() == first.protein.tobytes()
        assert [rows.tobytes() for rows in again.residue] == [rows.tobytes() for rows in first.residue]


def test_batches_really_run_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches meet at a barrier that neither could pass alone."""
    model = with_lanes(model, 2)
    barrier = threading.Barrier(2, timeout=30)
    real = model._encoder.representations

    def met(batch: Packed, layers: Sequence[int]) -> Tensor:
        barrier.wait()
        return real(batch, layers)

    monkeypatch.setattr(model._encoder, "representations", met)
    model.embed([protein(80, seed) for seed in range(4)])


def test_an_error_in_a_lane_reaches_the_caller(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lanes(model, 3)
    real = model._encoder.representations

    def broken(batch: Packed, layers: Sequence[int]) -> Tensor:
        if max(batch.lengths) == 35:
            raise RuntimeError("a bug in a lane")
        return real(batch, layers)

    monkeypatch.setattr(model._encoder, "representations", broken)
    with pytest.raises(RuntimeError, match="a bug in a lane"):
        model.embed(MANY)


def test_what_does_not_fit_beside_another_lane_is_tried_again_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that another lane holds is back when that lane is done."""
    expected = model.embed(MANY)
    model = with_lanes(model, 3)
    busy = threading.Semaphore(1)
    refused = threading.Event()
    real = model._encoder.representations

    def one_at_a_time(batch: Packed, layers: Sequence[int]) -> Tensor:
        if not busy.acquire(blocking=False):
            refused.set()
            raise MemoryError
        try:
            refused.wait(0.2)  # long enough for another lane to come by
            return real(batch, layers)
        finally:
            busy.release()

    monkeypatch.setattr(model._encoder, "representations", one_at_a_time)
    found = model.embed(MANY)
    assert refused.is_set()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_outcomes_come_in_order_and_may_be_left(model: Model) -> None:
    """The first batch is the slowest; whoever stops listening leaves no thread behind."""
    model = with_lanes(model, 3)
    forward = Forward(model.alphabet, model.hardware, model.budget)
    texts = [text.encode() for text in MANY]
    pieces = [Piece(index, 0, len(text)) for index, text in enumerate(texts)]
    hold = threading.Event()

    def work(some: Sequence[Piece], batch: Packed) -> Tensor:
        if some[0].owner == 0:
            hold.wait(0.3)
        return batch.tokens_T

    owners = [piece.owner for outcome in forward(pieces, texts, work) for piece in outcome.pieces]
    assert owners == list(range(len(MANY)))
    before = threading.active_count()
    seen: list[int] = []
    outcomes = forward(pieces, texts, lambda some, batch: seen.append(some[0].owner) or batch.tokens_T)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before
    assert len(seen) <= 5, "batches that nobody waits for are not computed"


@pytest.mark.parametrize("ahead", [1, 3])
def test_nobody_waits_for_the_longest(ahead: int, model: Model) -> None:
    """While the first batch is in work, the other lane goes on, as far as its results may wait."""
    model = with_lanes(model, 2)
    forward = Forward(model.alphabet, model.hardware, 128)
    texts = [protein(100, seed).encode() for seed in range(12)]
    begun, enough = itertools.count(1), threading.Event()

    def work(some: Sequence[Piece], batch: Packed) -> Tensor:
        if some[0].owner == 0:
            assert enough.wait(30)
            time.sleep(0.2)
            assert next(begun) == 2 * ahead + 1, "the other lane has done all that may wait, and no more"
        elif next(begun) == 2 * ahead:
            enough.set()
        return batch.tokens_T

    pieces = [Piece(index, 0, len(text)) for index, text in enumerate(texts)]
    assert sum(len(outcome.pieces) for outcome in forward(pieces, texts, work, ahead)) == 12


def test_the_process_keeps_its_threads(model: Model) -> None:
    """Threads that are born later too: torch gives them what was set last, by whichever thread."""
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(torch.get_num_threads).result()
    model = with_lanes(model, 2)
    model.hardware = replace(model.hardware, threads=before + 3)
    model.embed(MANY)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cores", "lanes", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (12, 6, 2), (15, 7, 2), (16, 8, 2), (20, 6, 3)]
)
def test_lanes_use_the_cores(cores: int, lanes: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    hardware = choose("cpu")
    assert (hardware.lanes, hardware.threads) == (lanes, threads)


def test_values_that_are_filed_are_not_kept(model: Model) -> None:
    """Finished batches wait for their turn; with many layers each would be hundreds of megabytes."""
    held: list[int] = []
    real = Forward._halving

    def watched(self: Forward, *arguments: Any) -> Iterator[Outcome]:
        for outcome in real(self, *arguments):
            assert outcome.values is not None
            held.append(outcome.values.numel())
            yield outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "_halving", watched)
        with_lanes(model, 2).embed(MANY, layer="all")
    assert held
    assert not any(held)


def test_a_gpu_gets_whole_batches(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting few proteins up is for lanes."""
    monkeypatch.setattr(Hardware, "kind", "cuda")
    forward = Forward(model.alphabet, replace(model.hardware, lanes=1), 10_000)
    texts = [text.encode() for text in MANY]
    pieces = [Piece(index, 0, len(text)) for index, text in enumerate(texts)]
    assert len(list(forward(pieces, texts, lambda _, batch: batch.tokens_T))) == 1


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_each_lane_of_a_gpu_has_a_stream(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake: what a lane does on a GPU is set its stream, and wait for it before others see its values."""
    asked: list[str] = []
    of_thread = threading.local()
    made = itertools.count()

    def stream(_device: torch.device) -> Any:
        number = next(made)
        return SimpleNamespace(number=number, synchronize=lambda: asked.append(f"synchronize {number}"))

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: asked.append("device"))
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(of_thread, "stream", stream))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: of_thread.stream)
    _streams.cache_clear()
    hardware: Any = SimpleNamespace(kind="cuda", device=torch.device("cpu"), lanes=2, threads=1, precision="fp32")
    forward = Forward(model.alphabet, hardware, 64)
    texts = [b"MKTAYIAKQR" * 3] * 6
    cut = [piece for owner in range(6) for piece in pieces(owner, 30, model.request("protein", -1, "mean", "truncate"))]
    used: list[int] = []
    both = threading.Barrier(2, timeout=30)

    def work(_: Sequence[Piece], batch: Packed) -> Tensor:
        used.append(of_thread.stream.number)
        if len(used) <= 2:
            both.wait()
        return batch.tokens_T[None, :, None].float()

    for _ in range(2):
        outcomes = list(forward(cut, texts, work))
        assert [piece.owner for outcome in outcomes for piece in outcome.pieces] == list(range(6))
    assert asked.count("device") == 4
    assert set(used) == {0, 1}, "two streams, and the same in the second call"
    assert sorted(one for one in asked if one != "device") == sorted(f"synchronize {number}" for number in used)
    _streams.cache_clear()
