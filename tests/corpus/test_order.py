"""An order that is computed is a permutation, and looks like one drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from aminoglot.corpus.order import Order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097])
def test_every_one_comes_once(count: int) -> None:
    order = Order(count, (1, 2))
    assert sorted(order[i] for i in range(count)) == list(range(count))


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {key: [Order(500, key)[i] for i in range(500)] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[0, 0] == [Order(500, (0, 0))[i] for i in range(500)]
    for one in orders.values():
        assert sum(a == b for a, b in zip(one, range(500), strict=True)) < 8


def test_places_are_uniform() -> None:
    """Where the first of 64 comes in 6,400 epochs: chi-square with 63 degrees, 99.9 % below 104."""
    counts = np.bincount([Order(64, (7, epoch))[0] for epoch in range(6_400)], minlength=64)
    assert ((counts - 100) ** 2 / 100).sum() < 104


def test_neighbours_are_no_neighbours_after() -> None:
    order = Order(10_000, (0, 0))
    steps = np.abs(np.diff([order[i] for i in range(10_000)]))
    assert 3_100 < steps.mean() < 3_600, "a third of the count, as of a random order"


def test_the_largest_set_costs_no_more() -> None:
    order = Order(65_182_365, (0, 3))
    assert len({order[i] for i in range(10_000)}) == 10_000
    assert 0 <= order[65_182_364] < 65_182_365


@pytest.mark.parametrize("index", [-1, 5, 6])
def test_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        Order(5, (0, 0))[index]
