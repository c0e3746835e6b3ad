"""Several batches at once: the same results, in the same order, and no lane's trouble becomes another's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from aminoglot.engine import Model
from aminoglot.engine.forward import Forward
from aminoglot.engine.pieces import Piece
from aminoglot.packing import Packed
from tests.engine.proteins import MIXED, protein

MANY = [protein(length, seed) for seed, length in enumerate([90, 71, 70, 33, 33, 20, 12, 5, 1] * 4)]


def with_lanes(model: Model, lanes: int) -> Model:
    model.hardware = replace(model.hardware, lanes=lanes)
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


def test_the_same_lanes_give_the_same_bytes(model: Model) -> None:
    model = with_lanes(model, 3)
    first = model.embed(MANY, per="both", long="window")
    for _ in range(3):
        again = model.embed(MANY, per="both", long="window")
        assert again.protein.tobytes() == first.protein.tobytes()
        assert [rows.tobytes() for rows in again.residue] == [rows.tobytes() for rows in first.residue]


def test_batches_really_run_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches meet at a barrier that neither could pass alone."""
    barrier = threading.Barrier(2, timeout=30)
    real = model._encoder.representations

    def met(batch: Packed, layers: Sequence[int]) -> Tensor:
        barrier.wait()
        return real(batch, layers)

    monkeypatch.setattr(model._encoder, "representations", met)
    with_lanes(model, 2).embed([protein(80, seed) for seed in range(4)])


def test_an_error_in_a_lane_reaches_the_caller(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = model._encoder.representations

    def broken(batch: Packed, layers: Sequence[int]) -> Tensor:
        if max(batch.lengths) == 35:
            raise RuntimeError("a bug in a lane")
        return real(batch, layers)

    monkeypatch.setattr(model._encoder, "representations", broken)
    with pytest.raises(RuntimeError, match="a bug in a lane"):
        with_lanes(model, 3).embed(MANY)


def test_what_does_not_fit_beside_another_lane_is_tried_again_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that another lane holds is back when that lane is done."""
    expected = model.embed(MANY)
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
    found = with_lanes(model, 3).embed(MANY)
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
    outcomes = forward(pieces, texts, work)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before


def test_the_process_keeps_its_threads(model: Model) -> None:
    before = torch.get_num_threads()
    with_lanes(model, 2).embed(MIXED)
    assert torch.get_num_threads() == before
