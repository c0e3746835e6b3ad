"""FASTA files of labels, as FLIP publishes them: a letter a residue under the protein's id."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.sequences import protein_id, sources

_WORD = re.compile(r"(\w+)=(\S*)")


@dataclass
class Annotation:
    """What is said of one protein.

    Attributes:
        letters: one a residue.
        words: of its header, as SET=train, the word before the = in capitals.
    """

    letters: str
    words: dict[str, str] = field(default_factory=dict)


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read a FASTA file of labels or masks, by the ids in its headers.

    Raises:
        InputError: when it is none, or an id is there twice.
    """
    (source,), _ = sources([path], path)
    found: dict[str, Annotation] = {}
    here: Annotation | None = None
    with source.open() as stream:
        for number, raw in enumerate(stream, 1):
            line = _text(raw, f"{source.name}, line {number:,}")
            if line.startswith(">"):
                name, _, rest = line[1:].strip().partition(" ")
                name = protein_id(name)
                if name in found:
                    raise InputError(f"{source.name}, line {number:,}: {name!r} is there twice")
                here = found[name] = Annotation("", {key.upper(): value for key, value in _WORD.findall(rest)})
            elif line and here is None:
                raise InputError(f"{source.name}, line {number:,}: a FASTA file of labels starts with '>'")
            elif here is not None:
                here.letters += line
    if not found:
        raise InputError(f"{source.name}: no labels in this file")
    return found


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text") from None
