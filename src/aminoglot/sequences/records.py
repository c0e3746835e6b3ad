"""One record of the input: a protein, or the reason why it is none. And the id policy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aminoglot.sequences.letters import LetterError, clean

_UNIPROT = re.compile(r"(?:sp|tr)\|([A-Z0-9-]+)\|\S+")
LONGEST_ID = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Protein:
    """A protein as every later room sees it.

    Attributes:
        id: the name it is written under, see :func:`protein_id`.
        original_id: the first word of its header, or its table cell, as written.
        sequence: residues in capital ASCII letters, see :mod:`aminoglot.sequences.letters`.
        replaced: how many letters became ``X``.
        source: the file it came from.
        line: the line of its header or row, counted from 1 (rows for Parquet).
        description: the rest of its header.
        cells: of those other columns that were asked for; empty where a row is too short.
    """

    id: str
    original_id: str
    sequence: bytes
    replaced: int
    source: str
    line: int
    description: str = ""
    cells: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line:,}, id {self.id!r}"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no protein, and why."""

    id: str
    source: str
    line: int
    why: str

    def __str__(self) -> str:
        shown = repr(self.id if len(self.id) <= 60 else f"{self.id[:60]}...")
        shown = shown.replace("\\\\", "\\")  # control characters are written out in it already
        return f"{self.source}, line {self.line:,}, id {shown}: {self.why}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", _CONTROL.sub(lambda found: repr(found[0])[1:-1], self.id))


def protein_id(word: str) -> str:
    """The name a protein is written under: UniProt's ``sp|P12345|NAME`` becomes ``P12345``, all else stays."""
    match = _UNIPROT.fullmatch(word)
    return match[1] if match else word


def record(
    word: str, text: bytes, source: str, line: int, description: str = "", cells: tuple[str, ...] = ()
) -> Protein | BadRecord:
    """Judge one record: ``word`` is its id as written, ``text`` its residues as written."""
    if not word:
        return BadRecord("", source, line, "it has no id")
    if len(word) > LONGEST_ID:
        return BadRecord(word, source, line, f"its id has {len(word):,} characters, more than {LONGEST_ID:,}")
    if _CONTROL.search(word):
        return BadRecord(word, source, line, "its id holds a control character")
    try:
        sequence, replaced = clean(text)
    except LetterError as error:
        return BadRecord(word, source, line, str(error))
    return Protein(protein_id(word), word, sequence, replaced, source, line, description, cells)
