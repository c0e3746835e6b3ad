"""FASTA files of labels, as FLIP publishes them: a letter a residue under the protein's id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aminoglot.errors import InputError
from aminoglot.sequences import Source, protein_id, sources


class Annotation(NamedTuple):
    """A FASTA record, whatever stands in its lines.

    Attributes:
        header: its words; the first is the id.
        letters: its lines joined: one a residue.
        line: where it begins.
    """

    header: list[str]
    letters: str
    line: int

    @property
    def words(self) -> dict[str, str]:
        """``KEY=value`` of the header, the key in capitals. Values hold any character but blanks (a class's "/")."""
        found = (word.partition("=") for word in self.header[1:])
        return {key.upper(): value for key, equals, value in found if equals}


def records(source: Source) -> Iterator[Annotation]:
    """The records of a FASTA file.

    Raises:
        InputError: for what is no FASTA, is cut short, or is no text.
    """
    header: list[str] | None = None
    lines: list[str] = []
    start = 0
    with source.open() as stream:
        try:
            for number, raw in enumerate(stream, 1):
                text = raw.decode().strip()
                if text.startswith(">"):
                    if header is not None:
                        yield Annotation(header, "".join(lines), start)
                    header, lines, start = text[1:].split(), [], number
                    if not header:
                        raise InputError(f"{source.name}, line {number:,}: a header without an id")
                elif text and header is None:
                    raise InputError(
                        f"{source.name}, line {number:,}: a FASTA file starts with '>'; is this another file?"
                    )
                elif text:
                    lines.append(text)
        except UnicodeDecodeError as error:
            raise InputError(f"{source.name}: no text ({error.reason}); get it again") from error
    if header is None:
        raise InputError(f"{source.name}: the file is empty")
    yield Annotation(header, "".join(lines), start)


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read a FASTA file of labels or masks, by the ids in its headers.

    Raises:
        InputError: when it is none, or an id is there twice.
    """
    (source,), _ = sources([path], path)
    found: dict[str, Annotation] = {}
    for one in records(source):
        name = protein_id(one.header[0])
        if name in found:
            raise InputError(f"{source.name}, line {one.line:,}: {name!r} is there twice")
        found[name] = one
    return found
