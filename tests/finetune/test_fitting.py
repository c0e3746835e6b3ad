"""Fitting: copies are independent, the best epoch is kept, and a run that was stopped goes on to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aminoglot.errors import JobError
from aminoglot.finetune.fitting import Rows, Schedule, batches, fit, order
from aminoglot.finetune.heads import Head, HeadName
from aminoglot.finetune.problems import Labelled, OnFeatures

SCHEDULE = Schedule(epochs=6, rate=0.01, warmup=2, batch=16)


def problem(name: HeadName = "perceptron", seeds: tuple[int, ...] = (0,), rows: int = 60) -> OnFeatures:
    """Numbers that depend on features, with noise."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 5)).astype(np.float32)
    y = x[:, 0] - 2 * x[:, 1] + generator.normal(size=rows) * 0.1
    cut = rows * 2 // 3
    train, held_out = Labelled(x[:cut], y[:cut]), Labelled(x[cut:], y[cut:])
    return OnFeatures(Head(name, 5, 1, seeds), train, held_out, "number")


def weights(of: OnFeatures) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in of.module.named_parameters()}


def test_copies_fitted_side_by_side_are_as_each_alone() -> None:
    """Without dropout, whose draws depend on how many there are. The best epoch is each copy's own."""
    both = problem("linear", (1, 2))
    history = fit(both, SCHEDULE, copies=2)
    for place, seed in enumerate((1, 2)):
        alone = problem("linear", (seed,))
        one = fit(alone, SCHEDULE)
        for name, found in weights(alone).items():
            torch.testing.assert_close(found[0], weights(both)[name][place], atol=1e-6, rtol=1e-5)
        assert history.best[place] == one.best[0]
        np.testing.assert_allclose([losses[place] for losses in history.train], np.ravel(one.train), rtol=1e-5)


def test_it_learns() -> None:
    made = problem()
    history = fit(made, Schedule(epochs=60, rate=0.01, batch=16))
    assert history.validation[-1][0] < 0.2 * history.validation[0][0]


def test_the_best_epoch_is_kept() -> None:
    """What is left in the module scores as the best line of the history, not as the last."""
    made = problem()
    history = fit(made, Schedule(epochs=12, rate=0.3, floor=0.3, batch=8))
    assert history.best[0] < 11  # such a rate gets worse again
    with torch.no_grad():
        assert made.validate()[0] == pytest.approx(min(np.ravel(history.validation)), rel=1e-6)


def test_patience_ends_it() -> None:
    made = problem()
    history = fit(made, Schedule(epochs=200, rate=0.3, floor=0.3, batch=8, patience=2))
    assert len(history.train) == history.best[0] + 1 + 3


class Memory:
    """A keeper that holds every state, and stops a run after some epochs."""

    def __init__(self, start: dict[str, Any] | None = None, stop: int | None = None) -> None:
        self.start, self.stop, self.states = start, stop, list[dict[str, Any]]()

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.start)

    def save(self, state: dict[str, Any]) -> None:
        self.states.append(copy.deepcopy(state))
        if len(self.states) == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", range(1, 7))
def test_it_goes_on_to_the_bit(stop: int) -> None:
    """Weights, moments, order and dropout are functions of the state and the epoch."""
    whole = problem("perceptron")
    expected = fit(whole, SCHEDULE, seed=5)
    begun, memory = problem("perceptron"), Memory(stop=stop)
    with pytest.raises(KeyboardInterrupt):
        fit(begun, SCHEDULE, seed=5, keeper=memory)
    after = problem("perceptron")
    done: list[int] = []
    history = fit(after, SCHEDULE, seed=5, done=done.append, keeper=Memory(memory.states[-1]))
    assert history == expected
    assert sum(done) == 6 * whole.rows
    for name, one in weights(whole).items():
        assert torch.equal(one, weights(after)[name])


class InParts(OnFeatures):
    """The same loss, a row at a time."""

    def parts(self, rows: Rows) -> Iterator[Tensor]:
        for row in rows:
            yield self.loss(np.array([row])) / len(rows)


def test_parts_add_up() -> None:
    """Gradients of the parts of a loss are those of the whole."""
    whole = problem("linear")
    parted = problem("linear")
    parted.__class__ = InParts
    first, second = fit(whole, SCHEDULE), fit(parted, SCHEDULE)
    np.testing.assert_allclose(first.train, second.train, rtol=1e-4)
    for name, one in weights(whole).items():
        torch.testing.assert_close(one, weights(parted)[name], atol=1e-4, rtol=1e-3)


def test_a_loss_that_is_no_number_ends_it() -> None:
    made = problem()
    made.train.labels[3] = np.nan
    with pytest.raises(JobError, match=r"epoch 1: the loss is \[nan\]; a lower rate may help"):
        fit(made, SCHEDULE)


def test_a_validation_that_is_no_number_ends_it() -> None:
    """NumPy would take that epoch for the best, and keep it."""
    made = problem()
    made.held_out.labels[3] = np.nan
    with pytest.raises(JobError, match=r"epoch 1: the loss on validation is \[nan\]"):
        fit(made, SCHEDULE)


def test_every_row_once_an_epoch() -> None:
    found = np.concatenate(list(batches(10, 4, seed=1, epoch=2)))
    assert sorted(found) == list(range(10))
    assert np.array_equal(found, order(10, 1, 2))
    assert not np.array_equal(found, order(10, 1, 3))
    assert not np.array_equal(found, order(10, 2, 2))


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(rate=1.0, floor=0.1, warmup=3)
    factors = [schedule.factor(step, 10) for step in range(10)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(factors[3:]))
    assert factors[-1] == pytest.approx(0.1 + 0.9 / 7)
