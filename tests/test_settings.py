"""Layers as users write them, and how many residues each policy embeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aminoglot.errors import InputError
from aminoglot.settings import Request, resolve_layers


@pytest.mark.parametrize(
    ("layer", "numbers", "several"),
    [
        (-1, (6,), False),
        (6, (6,), False),
        (0, (0,), False),
        (-7, (0,), False),
        (-2, (5,), False),
        ("3", (3,), False),
        ("-1", (6,), False),
        ("all", (0, 1, 2, 3, 4, 5, 6), True),
        ([3], (3,), True),
        ([6, 0, -2], (6, 0, 5), True),
        (["6", "0"], (6, 0), True),
        ((1, 2), (1, 2), True),
        (range(3), (0, 1, 2), True),
        (np.arange(2), (0, 1), True),
        (np.int64(4), (4,), False),
    ],
    ids=repr,
)
def test_layers(layer: Any, numbers: tuple[int, ...], several: bool) -> None:
    assert resolve_layers(layer, 6) == (numbers, several)


@pytest.mark.parametrize("layer", [7, -8, [0, 7], "7", [-8]], ids=repr)
def test_a_layer_that_is_not_there(layer: Any) -> None:
    with pytest.raises(InputError, match=r"layers 0 to 6 \(or -1, the last, to -7\)"):
        resolve_layers(layer, 6)


@pytest.mark.parametrize("layer", ["last", "", "1.5", "1,2", [""], [1.7], 1.5, None], ids=repr)
def test_what_is_no_layer(layer: Any) -> None:
    """1.7 is not layer 1."""
    with pytest.raises(InputError, match="layer"):
        resolve_layers(layer, 6)


@pytest.mark.parametrize("layer", [[], (), range(0)], ids=repr)
def test_no_layer_at_all(layer: Any) -> None:
    with pytest.raises(InputError, match="no layer"):
        resolve_layers(layer, 6)


@pytest.mark.parametrize(
    ("long", "embedded"),
    [
        ("truncate", {5: 5, 10: 10, 11: 10, 99: 10}),
        ("window", {5: 5, 10: 10, 11: 11, 99: 99}),
        ("full", {5: 5, 10: 10, 11: 11, 99: 99}),
        ("skip", {5: 5, 10: 10, 11: 0, 99: 0}),
        ("error", {5: 5, 10: 10, 11: 0, 99: 0}),
    ],
)
def test_residues_embedded(long: Any, embedded: dict[int, int]) -> None:
    request = Request("both", (6,), False, "mean", long, 10)
    lengths = np.array(list(embedded))
    assert request.embedded(lengths).tolist() == list(embedded.values())
    assert lengths.tolist() == list(embedded), "the lengths given are left as they were"


@pytest.mark.parametrize(("per", "vectors"), [("protein", [1, 1, 1]), ("residue", [5, 1, 0]), ("both", [6, 2, 1])])
def test_vectors(per: Any, vectors: list[int]) -> None:
    """What an output holds of each protein, for one layer."""
    request = Request(per, (6,), False, "mean", "truncate", 10)
    assert request.vectors(np.array([5, 1, 0])).tolist() == vectors


@pytest.mark.parametrize(
    ("per", "wants"), [("protein", (True, False)), ("residue", (False, True)), ("both", (True, True))]
)
def test_what_is_wanted(per: Any, wants: tuple[bool, bool]) -> None:
    request = Request(per, (6,), False, "mean", "truncate", 10)
    assert (request.wants_protein, request.wants_residue) == wants
