"""Numbers that are computed look as if they were drawn; an order that is computed is a permutation."""

from __future__ import annotations

import numpy as np
import pytest

from aminoglot.corpus.draws import Order, below, draws, mixed, threshold


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097])
def test_every_one_comes_once(count: int) -> None:
    order = Order(count, mixed(1, 2))
    assert sorted(order[i] for i in range(count)) == list(range(count))


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {key: [Order(500, mixed(*key))[i] for i in range(500)] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[0, 0] == [Order(500, mixed(0, 0))[i] for i in range(500)]
    for one in orders.values():
        assert sum(a == b for a, b in zip(one, range(500), strict=True)) < 8


def test_places_are_uniform() -> None:
    """Where the first of 64 comes in 6,400 epochs: chi-square with 63 degrees, 99.9 % below 104."""
    counts = np.bincount([Order(64, mixed(7, epoch))[0] for epoch in range(6_400)], minlength=64)
    assert ((counts - 100) ** 2 / 100).sum() < 104


def test_neighbours_are_no_neighbours_after() -> None:
    order = Order(10_000, 0)
    steps = np.abs(np.diff([order[i] for i in range(10_000)]))
    assert 3_100 < steps.mean() < 3_600, "a third of the count, as of a random order"


def test_the_largest_set() -> None:
    order = Order(65_182_365, 3)
    assert len({order[i] for i in range(10_000)}) == 10_000
    assert 0 <= order[65_182_364] < 65_182_365


@pytest.mark.parametrize("index", [-1, 5, 6])
def test_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        Order(5, 0)[index]


# ---------------------------------------------------------------------------------------------------------- numbers


def test_draws_are_those_of_splitmix64() -> None:
    """The first numbers of the generator with seed 1234567, as its authors' C code prints them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert draws(1234567, 5).tolist() == known


def test_more_draws_begin_with_the_same() -> None:
    assert draws(9, 100)[:10].tolist() == draws(9, 10).tolist()
    assert len(draws(9, 0)) == 0


def test_draws_of_neighbouring_keys_are_uniform_and_apart() -> None:
    """Chi-square with 255 degrees, 99.9 % below 331; correlation of neighbours within five standard deviations."""
    rows = np.stack([draws(mixed(0, 0, index), 64) for index in range(2_000)])
    counts = np.bincount((rows >> np.uint64(56)).astype(int).ravel(), minlength=256)
    expected = rows.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 331
    shares = rows / 2.0**64
    assert abs(np.corrcoef(shares[:-1].ravel(), shares[1:].ravel())[0, 1]) < 5 / np.sqrt(rows.size)
    assert abs(np.corrcoef(shares[:, :-1].ravel(), shares[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(rows.size)


def test_below_and_thresholds() -> None:
    found = [below(int(draw), 7) for draw in draws(3, 70_000)]
    counts = np.bincount(found, minlength=7)
    assert len(counts) == 7
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 22.5
    assert below(2**64 - 1, 7) == 6
    assert abs((draws(4, 100_000) < threshold(0.15)).mean() - 0.15) < 0.006
    assert threshold(0) == 0
    assert threshold(1) == 2**64 - 1


def test_keys_depend_on_order_and_sign() -> None:
    assert len({mixed(1, 2), mixed(2, 1), mixed(1), mixed(1, 0), mixed(0, 1), mixed(-1)}) == 6
