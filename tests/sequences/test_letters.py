"""The letter policy: nothing but A to Z comes out, and nothing is dropped or shifted in silence."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot.sequences import LetterError, clean

LETTERS = string.ascii_letters.encode()


@pytest.mark.parametrize(
    ("text", "sequence", "replaced"),
    [
        (b"MKTAYIAK", b"MKTAYIAK", 0),
        (b"mkTayIak", b"MKTAYIAK", 0),
        (b"MKV*", b"MKV", 0),
        (b"mkv*", b"MKV", 0),
        (b"MJKJ", b"MXKX", 2),
        (b"mjk", b"MXK", 1),
        (b"M*KV", b"MXKV", 1),
        (b"M*K*", b"MXK", 1),
        (b"MK**", b"MKX", 1),
        (b"*MK", b"XMK", 1),
        (b"**", b"X", 1),
        (b"XBUZO", b"XBUZO", 0),
        (b"A", b"A", 0),
    ],
)
def test_accepts(text: bytes, sequence: bytes, replaced: int) -> None:
    """One trailing * goes; J and every other * become X and are counted; X B U Z O stay what they are."""
    assert clean(text) == (sequence, replaced)


def test_every_letter_but_j_is_kept() -> None:
    """A letter lost from the accepted set would refuse real proteins (selenocysteine U, pyrrolysine O)."""
    expected = string.ascii_uppercase.replace("J", "X").encode()
    assert clean(string.ascii_lowercase.encode()) == (expected, 1)


@pytest.mark.parametrize(
    ("text", "position", "shown", "hint"),
    [
        (b"MK-V", 3, "'-'", "gap"),
        (b"MK.V", 3, "'.'", "gap"),
        (b"~MKV", 1, "'~'", "gap"),
        (b"MKV9", 4, "'9'", "digit"),
        (b"1 MKV", 1, "'1'", "digit"),
        (b"MK VA", 3, "' '", "space"),
        (b"MK\tVA", 3, r"'\t'", "space"),
        (b"M<mask>K", 2, "'<'", "<mask>"),
        (b"M[K]", 2, "'['", "no residue"),
        (b"MK?", 3, "'?'", "write X"),
        (b"MK_V", 3, "'_'", "write X"),
        (b"MK+V", 3, "'+'", "A to Z"),
        (b"MK\0V", 3, r"'\x00'", "A to Z"),
        ("MKéV".encode(), 3, "'é'", "A to Z"),
        ("MK\u00a0V".encode(), 3, r"'\xa0'", "A to Z"),
        ("\u0410KV".encode(), 1, "'\u0410'", "A to Z"),  # a Cyrillic letter that looks like A
        (b"MK\xe9V", 3, "'\ufffd'", "A to Z"),  # é in Latin-1
        (b"mk-*", 3, "'-'", "gap"),
    ],
)
def test_refuses(text: bytes, position: int, shown: str, hint: str) -> None:
    """The message names the character, where it is, counted from 1, and what to do."""
    with pytest.raises(LetterError) as caught:
        clean(text)
    message = str(caught.value)
    assert f"{shown} at position {position} " in message
    assert hint in message


@pytest.mark.parametrize("text", [b"", b"*"])
def test_refuses_nothing(text: bytes) -> None:
    """A protein without residues has no embedding."""
    with pytest.raises(LetterError, match="empty"):
        clean(text)


@given(st.lists(st.sampled_from(string.ascii_letters + "*"), min_size=2, max_size=50))
@settings(deadline=None)
def test_changes_only_what_it_says(letters: list[str]) -> None:
    """Position by position against the policy as one would say it aloud."""
    text = "".join(letters).upper()
    kept = text[:-1] if text.endswith("*") else text
    expected = ["X" if letter in "J*" else letter for letter in kept]
    sequence, replaced = clean("".join(letters).encode())
    assert sequence.decode() == "".join(expected)
    assert replaced == sum(letter in "J*" for letter in kept)


@given(st.one_of(st.binary(max_size=30), st.lists(st.sampled_from([*LETTERS, ord("*")]), max_size=30).map(bytes)))
@settings(max_examples=300, deadline=None)
def test_is_idempotent(text: bytes) -> None:
    """Whatever bytes come in: capital letters without J come out, and cleaning those again changes nothing."""
    try:
        sequence, _ = clean(text)
    except LetterError:
        return
    assert sequence
    assert set(sequence) <= set(string.ascii_uppercase.replace("J", "").encode())
    assert clean(sequence) == (sequence, 0)


@given(
    st.lists(st.sampled_from([*LETTERS, ord("*")]), max_size=40).map(bytes),
    st.characters(exclude_categories=["Cs"]).filter(lambda c: c not in string.ascii_letters + "*"),
    st.binary(max_size=20),
)
@settings(max_examples=300, deadline=None)
def test_names_the_first_offence(before: bytes, offence: str, after: bytes) -> None:
    """Any character of Unicode after any residues is refused at its own place, whatever follows."""
    with pytest.raises(LetterError) as caught:
        clean(before + offence.encode() + b"." + after)
    assert str(caught.value).startswith(f"{offence!r} at position {len(before) + 1} is ")
