"""Logits and contacts: transformers' own, and where ``<mask>`` may stand."""

from __future__ import annotations

import numpy as np
import pytest

from aminoglot.engine import Model
from aminoglot.errors import InputError
from tests.engine.conftest import Reference
from tests.engine.proteins import MIXED, protein

MASKED = [
    "M<mask>TVRQ<mask><mask>G",
    "<mask>",
    "<mask><mask><mask>",
    protein(50) + "<mask>",
    "<mask>" + protein(8),
    protein(9),
]


def test_logits_equal_transformers(model: Model, reference: Reference) -> None:
    found = model.logits(MASKED)
    assert [rows.shape for rows in found] == [(9, 33), (1, 33), (3, 33), (51, 33), (9, 33), (9, 33)]
    for text, mine in zip(MASKED, found, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, reference.logits(text), rtol=0, atol=5e-5)


def test_columns_of_logits_are_the_alphabet(model: Model, reference: Reference) -> None:
    assert list(model.alphabet.tokens) == reference.tokenizer.convert_ids_to_tokens(range(33))


def test_a_mask_hides_its_residue_and_no_other(model: Model) -> None:
    hidden, shown, shifted = model.logits(["MK<mask>TAY", "MKWTAY", "M<mask>KTAY"])
    assert np.abs(hidden - shown).max() > 1e-3
    assert np.abs(hidden - shifted).max() > 1e-3


def test_masks_stand_where_they_were_written(model: Model, reference: Reference) -> None:
    """Small letters and a final stop around them move nothing."""
    found = model.logits(["mk<mask>tay*", "<mask>*", "*"[:0] + "M<mask>"])
    for text, mine in zip(["MK<mask>TAY", "<mask>", "M<mask>"], found, strict=True):
        np.testing.assert_allclose(mine, reference.logits(text), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), ("M<MASK>K", "position 2"), ("M<mas>K", "position 2"), ("M<mask>-", "gap")]
)
def test_what_is_no_mask_is_refused(text: str, said: str, model: Model) -> None:
    with pytest.raises(InputError, match=said):
        model.logits([text])


def test_logits_do_not_depend_on_neighbours(model: Model) -> None:
    """The factor for masks is each protein's own."""
    together = model.logits(MASKED)
    for text, mine in zip(MASKED, together, strict=True):
        np.testing.assert_allclose(mine, model.logits([text])[0], rtol=0, atol=1e-5)


def test_contacts_equal_transformers(model: Model, reference: Reference) -> None:
    found = model.contacts(MIXED)
    for text, mine in zip(MIXED, found, strict=True):
        assert mine.shape == (len(text), len(text))
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, reference.contacts(text), rtol=0, atol=2e-5)
        np.testing.assert_allclose(mine, mine.T, rtol=0, atol=1e-6)
        assert ((mine >= 0) & (mine <= 1)).all()
    assert np.ptp(found[0]) > 1e-3, "a map of one value would prove nothing"


def test_contacts_of_a_long_protein_in_full(model: Model, reference: Reference) -> None:
    model.limit = 50
    found = model.contacts([protein(80)], long="full")[0]
    np.testing.assert_allclose(found, reference.contacts(protein(80)), rtol=0, atol=2e-5)
