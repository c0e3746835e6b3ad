"""One residue is one token, with fair-esm's ids."""

from __future__ import annotations

import json
import string

import esm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot.errors import InputError
from aminoglot.sequences import LetterError, clean
from aminoglot.tokens import ESM2_ALPHABET, MASK, Alphabet
from tests.sequences.files import shared

GOLDEN = "golden/fair_esm_tokens.json"

BARE = Alphabet(tokens=("<pad>", "A", "C", "</s>", "?"), cls=None, eos=3, mask=None, unknown=4)
"""A family without a first token and without a mask, as ProtT5nv is."""


def test_golden_tokens() -> None:
    """Ids recorded from fair-esm's own tests: masks, spaces between residues, and truncation before eos."""
    golden = json.loads(shared(GOLDEN).read_text())
    assert (ESM2_ALPHABET.cls, ESM2_ALPHABET.eos, ESM2_ALPHABET.mask) == (golden["cls"], golden["eos"], golden["mask"])
    assert ESM2_ALPHABET.tokens.index("<pad>") == golden["pad"]
    assert golden["cases"]
    for case in golden["cases"]:
        residues = case["sequence"].replace(" ", "").encode().replace(b"<mask>", MASK)
        framed = ESM2_ALPHABET.framed(residues[: case.get("truncation_seq_length")])
        assert ESM2_ALPHABET.encode([framed]).tolist() == case["tokens"], case


def test_every_token_is_fair_esms() -> None:
    """The whole vocabulary, id by id, against fair-esm's alphabet of the ESM-1b family, which ESM-2 uses."""
    theirs = esm.data.Alphabet.from_architecture("ESM-1b")
    assert list(ESM2_ALPHABET.tokens) == theirs.all_toks
    assert (ESM2_ALPHABET.cls, ESM2_ALPHABET.eos, ESM2_ALPHABET.mask) == (
        theirs.cls_idx,
        theirs.eos_idx,
        theirs.mask_idx,
    )
    assert ESM2_ALPHABET.tokens[ESM2_ALPHABET.unknown] == "X"


@given(st.text("LAGVSERTIDPKQNFYMHWCXBUZO", min_size=1, max_size=40))
@settings(deadline=None)
def test_residues_encode_as_fair_esm_encodes_them(residues: str) -> None:
    """Against an independent tokenizer, on any sequence."""
    theirs = esm.data.Alphabet.from_architecture("ESM-1b")
    expected = [theirs.cls_idx, *theirs.encode(residues), theirs.eos_idx]
    assert ESM2_ALPHABET.encode([ESM2_ALPHABET.framed(residues.encode())]).tolist() == expected


@given(st.binary(max_size=30))
@settings(deadline=None)
def test_whatever_is_clean_has_tokens(text: bytes) -> None:
    """No sequence that the letter policy lets through may fail later, in the middle of a job."""
    try:
        sequence, _ = clean(text)
    except LetterError:
        return
    assert len(ESM2_ALPHABET.encode([sequence])) == len(sequence)


@pytest.mark.parametrize("alphabet", [ESM2_ALPHABET, BARE])
def test_one_residue_is_one_token(alphabet: Alphabet) -> None:
    """Every capital letter has exactly one token; one that the family lacks is the unknown one."""
    ids = alphabet.encode([string.ascii_uppercase.encode()])
    expected = [
        alphabet.tokens.index(letter) if letter in alphabet.tokens else alphabet.unknown
        for letter in string.ascii_uppercase
    ]
    assert ids.dtype == np.uint8
    assert ids.tolist() == expected


def test_j_becomes_x() -> None:
    """ESM-2 has no token for J; were it <unk>, the network would see what training never showed it."""
    assert ESM2_ALPHABET.encode([b"J"]).tolist() == ESM2_ALPHABET.encode([b"X"]).tolist() == [24]


@pytest.mark.parametrize("text", [b"mk", b"M K", b"MK*", b"MK-", b"MK.", b"MK1", b"\0", b"M\xc3\xa9", b"\xff", b"<"])
def test_refuses_what_is_not_clean(text: bytes) -> None:
    """Dots and gaps are in the vocabulary, yet no residues: they must not slip through."""
    with pytest.raises(InputError, match="without a token"):
        ESM2_ALPHABET.encode([b"MKV", text])


def test_refuses_special_tokens_that_the_family_lacks() -> None:
    """No mask, no id for it: an error, not some other token."""
    with pytest.raises(InputError):
        BARE.encode([MASK])


def test_framing() -> None:
    """Special tokens stand only at a protein's true ends, and only those that the family has."""
    pieces = [
        ESM2_ALPHABET.framed(b"AC"),
        ESM2_ALPHABET.framed(b"AC", end=False),
        ESM2_ALPHABET.framed(b"AC", start=False, end=False),
        ESM2_ALPHABET.framed(b"AC", start=False),
        ESM2_ALPHABET.framed(b""),
    ]
    a, c = (ESM2_ALPHABET.tokens.index(letter) for letter in "AC")
    assert ESM2_ALPHABET.encode(pieces).tolist() == [0, a, c, 2, 0, a, c, a, c, a, c, 2, 0, 2]
    assert BARE.encode([BARE.framed(b"AC"), BARE.framed(b"A", end=False)]).tolist() == [1, 2, 3, 1]
    assert (ESM2_ALPHABET.prefix_length, BARE.prefix_length) == (1, 0)


def test_nothing_encodes_to_nothing() -> None:
    """An empty batch is a batch."""
    assert ESM2_ALPHABET.encode([]).tolist() == []
