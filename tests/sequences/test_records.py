"""The id policy, and the two things a record can be."""

from __future__ import annotations

import pytest

from aminoglot.sequences import BadRecord, Protein, protein_id
from aminoglot.sequences.records import record


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("sp|P12345|NAME", "P12345"),
        ("tr|A0A1I9GEU1|A0A1I9GEU1_NEIME", "A0A1I9GEU1"),
        ("sp|P12345-2|NAME", "P12345-2"),
        ("P12345", "P12345"),
        ("UniRef90_UPI002AA79715", "UniRef90_UPI002AA79715"),
        ("gi|123|ref|NP_414543.1|", "gi|123|ref|NP_414543.1|"),
        ("xsp|P12345|NAME", "xsp|P12345|NAME"),
        ("sp|P12345", "sp|P12345"),
        ("sp||NAME", "sp||NAME"),
        ("sp|P12345|", "sp|P12345|"),
        ("0|beta-lactamase_P20P|1.58", "0|beta-lactamase_P20P|1.58"),
    ],
)
def test_protein_id(word: str, name: str) -> None:
    """Only what is UniProt's whole form is shortened; every other database's id stays as written."""
    assert protein_id(word) == name


def test_a_protein_keeps_its_original_id() -> None:
    """Both names are needed: one to write under, one to find the protein in the input again."""
    assert record("sp|P12345|NAME", b"mjk*", "a.fasta", 7) == Protein(
        "P12345", "sp|P12345|NAME", b"MXK", 1, "a.fasta", 7
    )


@pytest.mark.parametrize(
    ("word", "text", "why"),
    [
        ("", b"MKV", "no id"),
        ("a\tb", b"MKV", "control character"),
        ("a\x7fb", b"MKV", "control character"),
        ("a\0b", b"MKV", "control character"),
        ("a", b"MK-V", "position 3"),
        ("a", b"", "empty"),
    ],
)
def test_bad_records(word: str, text: bytes, why: str) -> None:
    """What cannot be used keeps its place and says why."""
    found = record(word, text, "a.fasta", 7)
    assert isinstance(found, BadRecord)
    assert (found.source, found.line) == ("a.fasta", 7)
    assert found.id == word or not word.isprintable()
    assert why in found.why


def test_a_bad_record_in_words() -> None:
    """File, line, id and reason in one sentence."""
    assert str(BadRecord("P1", "a.fasta", 7, "it is empty")) == "a.fasta, line 7, id 'P1': it is empty"


def test_a_control_character_in_words() -> None:
    """Written out once, as people know it, and never sent to a terminal."""
    found = record("a\nb\x1b[31m", b"MKV", "a.csv", 7)
    assert str(found).startswith("a.csv, line 7, id 'a\\nb\\x1b[31m': ")


def test_a_protein_in_words() -> None:
    """The place that messages use."""
    assert Protein("P1", "P1", b"MK", 0, "a.fasta", 7).place == "a.fasta, line 7, id 'P1'"
