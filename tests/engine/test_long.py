"""Proteins over the model's limit: every policy against a plain recomputation with transformers."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from aminoglot.engine import Model
from aminoglot.engine.pieces import Piece, pieces
from aminoglot.errors import AminoglotWarning, InputError
from aminoglot.settings import Long, Pool
from tests.engine.conftest import Array, Reference
from tests.engine.proteins import MIXED, protein

LONG = protein(2_500)
HUGE = protein(35_000)
"""As long as titin, the longest human protein."""


def windows_by_hand(reference: Reference, text: str, limit: int) -> tuple[Array, Array]:
    """What the documentation promises, in plain Python.

    Windows of the limit, half overlapping, the last aligned to the end; cls and eos at the protein's true ends only;
    overlaps averaged with equal weight.

    Returns:
        Residues [L + 1, length, D], and the cls token [L + 1, D].
    """
    ids, size = reference.ids(text), len(text)
    starts = []
    start = 0
    while start + limit < size:
        starts.append(start)
        start += limit // 2
    starts.append(size - limit)
    total: Array | None = None
    count = np.zeros(size)
    cls: Array | None = None
    for start in starts:
        tokens = list(ids[start : start + limit])
        first, last = start == 0, start + limit == size
        hidden = reference.hidden(
            [reference.tokenizer.cls_token_id] * first + tokens + [reference.tokenizer.eos_token_id] * last
        )
        if total is None:
            total = np.zeros((len(hidden), size, hidden.shape[2]))
        if first:
            cls = hidden[:, 0]
        for residue in range(limit):
            total[:, start + residue] += hidden[:, residue + first]
            count[start + residue] += 1
    assert total is not None
    assert cls is not None
    assert count.min() >= 1
    return (total / count[:, None]).astype(np.float32), cls


# -------------------------------------------------------------------------------------------------------------- window


def test_windows_equal_the_plain_recomputation(model: Model, reference: Reference) -> None:
    expected, _ = windows_by_hand(reference, LONG, 1022)
    found = model.embed([LONG], per="both", layer="all", long="window")
    assert found.residue[0].shape == (3, 2_500, 32)
    np.testing.assert_allclose(found.residue[0], expected, rtol=0, atol=5e-5)
    np.testing.assert_allclose(found.protein[0], expected.mean(1), rtol=0, atol=5e-5)


@pytest.mark.parametrize("length", [21, 29, 30, 31, 40, 41, 53])
@pytest.mark.parametrize("pool", ["mean", "max", "cls"])
def test_small_windows_of_every_remainder(length: int, pool: Pool, model: Model, reference: Reference) -> None:
    model.limit = 20
    text = protein(length)
    expected, cls = windows_by_hand(reference, text, 20)
    by_hand = {"mean": expected.mean(1), "max": expected.max(1), "cls": cls}[pool]
    found = model.embed([text], per="both", layer="all", pool=pool, long="window")
    np.testing.assert_allclose(found.residue[0], expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.protein[0], by_hand, rtol=0, atol=2e-5)


def test_windows_among_short_proteins_and_in_small_batches(model: Model, reference: Reference) -> None:
    model.limit = 20
    texts = [MIXED[1], protein(53), MIXED[2], protein(31), MIXED[5]]
    expected = [
        windows_by_hand(reference, text, 20)[0][2] if len(text) > 20 else reference.layers(text)[2, 1:-1]
        for text in texts
    ]
    for budget in (1, 45, 10_000):
        model.budget = budget
        for mine, theirs in zip(model.embed(texts, per="residue", long="window"), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5)


def test_logits_come_in_windows_too(model: Model) -> None:
    """A masked residue near the end is seen by the last window only, together with that end."""
    model.limit = 20
    text = protein(24) + "<mask>" + protein(5)
    found = model.logits([text], long="window")[0]
    assert found.shape == (30, 33)
    alone = model.logits([protein(24)[10:] + "<mask>" + protein(5)])[0]
    assert np.abs(found[-5:] - alone[-5:]).max() > 1e-3, "the last window has no cls, a protein alone has"


@pytest.mark.parametrize("limit", [1, 2, 3, 20, 21, 1022])
def test_windows_cover_every_residue(limit: int, model: Model) -> None:
    model.limit = limit
    request = model.request("residue", -1, "mean", "window")
    for length in {1, limit, limit + 1, limit + limit // 2, 2 * limit, 3 * limit + 1, 10 * limit + 7}:
        cut = pieces(7, length, request)
        assert {piece.owner for piece in cut} == {7}
        if length <= limit:
            assert cut == [Piece(7, 0, length)]
            continue
        assert all(piece.length == limit for piece in cut)
        assert (cut[0].start, cut[-1].stop) == (0, length)
        step = max(1, limit // 2)
        steps = [after.start - before.start for before, after in pairwise(cut)]
        assert all(found == step for found in steps[:-1])
        assert 0 < steps[-1] <= step
        assert [piece.cls for piece in cut] == [True] + [False] * (len(cut) - 1)
        assert [piece.eos for piece in cut] == [False] * (len(cut) - 1) + [True]


# ------------------------------------------------------------------------------------------------------------ truncate


def test_truncate_embeds_the_first_residues_and_says_so(model: Model) -> None:
    with pytest.warns(AminoglotWarning, match=r"2 of 3 sequences have more than 1,022 residues") as caught:
        found = model.embed([MIXED[0], LONG, protein(1_023)], per="both")
    assert "the first is sequence 1" in str(caught[0].message)
    assert caught[0].filename == __file__, "the warning points at the caller"
    expected = model.embed([MIXED[0], LONG[:1022], protein(1_023)[:1022]], per="both")
    assert found.protein.tobytes() == expected.protein.tobytes()
    assert [len(rows) for rows in found.residue] == [33, 1022, 1022]
    assert [rows.tobytes() for rows in found.residue] == [rows.tobytes() for rows in expected.residue]


@pytest.mark.parametrize("long", ["truncate", "window", "full", "skip", "error"])
def test_at_the_limit_every_policy_is_the_same(long: Long, model: Model) -> None:
    """Warnings are errors here: 1,022 residues are not too many."""
    text = protein(1_022)
    assert model.embed([text], long=long).tobytes() == model.embed([text]).tobytes()


def test_logits_and_contacts_are_truncated_alike(model: Model) -> None:
    model.limit = 20
    with pytest.warns(AminoglotWarning, match="1 of 1"):
        logits = model.logits([protein(30)])[0]
    with pytest.warns(AminoglotWarning, match="1 of 1"):
        contacts = model.contacts([protein(30)])[0]
    assert logits.tobytes() == model.logits([protein(30)[:20]])[0].tobytes()
    assert contacts.tobytes() == model.contacts([protein(30)[:20]])[0].tobytes()


# ----------------------------------------------------------------------------------------------------------- the others


def test_full_equals_transformers(model: Model, reference: Reference) -> None:
    found = model.embed([LONG, MIXED[0]], per="both", layer="all", long="full")
    expected = reference.layers(LONG)[:, 1:-1]
    np.testing.assert_allclose(found.residue[0], expected, rtol=0, atol=5e-5)
    np.testing.assert_allclose(found.protein[0], expected.mean(1), rtol=0, atol=5e-5)
    windowed, _ = windows_by_hand(reference, LONG, 1022)
    assert np.abs(windowed - expected).max() > 1e-2, "else this test could not tell full from window"


def test_error_names_the_long_ones(model: Model) -> None:
    texts = [MIXED[0], LONG, MIXED[1], protein(1_023)]
    for call in (model.embed, model.logits, model.contacts):
        with pytest.raises(InputError, match="2 sequences over 1,022 residues") as raised:
            call(texts, long="error")
        assert "sequence 1: 2,500 residues" in str(raised.value)
        assert "sequence 3: 1,023 residues" in str(raised.value)


def test_skip_is_for_jobs(model: Model) -> None:
    """A list with holes in it would no longer line up with the caller's."""
    with pytest.raises(InputError, match="leave the long sequences out"):
        model.embed([MIXED[0], LONG], long="skip")


@pytest.mark.parametrize("long", ["window", "skip"])
def test_contacts_need_a_protein_whole(long: str, model: Model) -> None:
    with pytest.raises(InputError, match=f"long='{long}'"):
        model.contacts([MIXED[0]], long=cast("Long", long))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- titin


def test_a_huge_protein_truncated_and_refused(model: Model) -> None:
    with pytest.warns(AminoglotWarning, match="truncated"):
        found = model.embed([HUGE])
    assert found.tobytes() == model.embed([HUGE[:1022]]).tobytes()
    with pytest.raises(InputError, match="sequence 0: 35,000 residues"):
        model.embed([HUGE], long="error")
    with pytest.raises(InputError, match="skip"):
        model.embed([HUGE], long="skip")


def test_a_huge_protein_in_windows(model: Model, reference: Reference) -> None:
    """Its end is seen by the last window alone, which ends with eos and does not begin with cls."""
    found = model.embed([HUGE], per="both", long="window")
    assert found.residue[0].shape == (35_000, 32)
    assert np.isfinite(found.residue[0]).all()
    np.testing.assert_allclose(found.protein[0], found.residue[0].astype(np.float64).mean(0), rtol=0, atol=1e-5)
    ids = reference.ids(HUGE)
    first = reference.hidden([reference.tokenizer.cls_token_id, *ids[:1022]])[2, 1:]
    last = reference.hidden([*ids[-1022:], reference.tokenizer.eos_token_id])[2, :-1]
    np.testing.assert_allclose(found.residue[0][:511], first[:511], rtol=0, atol=5e-5)
    before = 35_000 - 1022 - (35_000 - 1022) // 511 * 511  # the window before the last overlaps all but these
    np.testing.assert_allclose(found.residue[0][-before:], last[-before:], rtol=0, atol=5e-5)


@pytest.mark.slow
def test_a_huge_protein_in_full(model: Model) -> None:
    """35,000 x 35,000 scores a head would be 5 GB; the kernel never holds them."""
    found = model.embed([HUGE, MIXED[0]], per="both", long="full")
    assert found.residue[0].shape == (35_000, 32)
    assert np.isfinite(found.residue[0]).all()
    np.testing.assert_allclose(found.protein[0], found.residue[0].astype(np.float64).mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.protein[1], model.embed([MIXED[0]])[0], rtol=0, atol=1e-5)
