"""FASTA, CSV, TSV and Parquet into records. What a file is, its content decides."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import BinaryIO

from aminoglot.errors import InputError
from aminoglot.sequences.inputs import COMPRESSED, FASTA_SUFFIXES, Source
from aminoglot.sequences.nucleotides import Nucleotides
from aminoglot.sequences.records import BadRecord, Protein, record

SEQUENCE_COLUMNS = ("sequence", "sequences")
ID_COLUMNS = ("id", "name", "accession", "record_id", "record_name", "entry")
_LONGEST_CELL = 1 << 27
_FOREIGN = {
    b"@": "FASTQ, the reads of a sequencer",
    b"<": "a web page or XML",
    b"[": "JSON",
    b"{": "JSON",
}
"""What a file may be whose first character no FASTA file and no column's name begins with."""
_OFFICE = {
    b"PK\x03\x04": "a zip archive, or a workbook of Excel or LibreOffice: unpack it, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a document of an old Office: save its sheet as CSV",
}
_PARQUET_ROWS = 4096

Record = Protein | BadRecord


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are read.

    Attributes:
        id: the name of the id column, where it is not a usual one.
        sequence: the name of the sequence column, where it is not a usual one.
        others: names of more columns, whose cells become :attr:`Protein.cells`; FASTA has none.
    """

    id: str | None = None
    sequence: str | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Places:
    """Positions of a table's columns; None where there is no id column."""

    id: int | None
    sequence: int
    others: tuple[int, ...]


@dataclass(slots=True)
class Reader:
    """Reads sources into records, in order.

    Rows of tables without an id column are numbered through all sources. ``notes`` collects what a user should be
    told; whether all this looks like DNA, which is no error, it says after the last record.
    """

    sources: Sequence[Source]
    columns: Columns = Columns()
    notes: list[str] = field(default_factory=list)
    _row_numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _tables: int = 0
    _raw: BinaryIO | None = None

    def __iter__(self) -> Iterator[Record]:
        tally = Nucleotides()
        for source in self.sources:
            with source.open(self._watch) as stream:
                for record in self._records(source, stream):
                    if isinstance(record, Protein) and tally.add(record.sequence):
                        tally.first = tally.first or record.place
                    yield record
        if (note := tally.note()) is not None:
            self.notes.append(note)

    def _watch(self, raw: BinaryIO) -> None:
        self._raw = raw

    @property
    def position(self) -> int:
        """How many bytes of the present file, as it lies on disk, have been read."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def _records(self, source: Source, stream: io.BufferedReader) -> Iterator[Record]:
        if stream.peek(3)[:3] == b"\xef\xbb\xbf":
            stream.read(3)
        blank = 0
        while (start := stream.peek(4096)[:4096]) and not start.strip():
            blank += stream.read(len(start)).count(b"\n")
        if not start:
            raise InputError(f"{source.name}: the file is empty")
        if start.startswith(b"PAR1"):
            yield from self._parquet(source, stream)
            return
        _refuse_binary(source.name, start)
        first = start.lstrip()[:1]
        if first in (b">", b";"):
            named = self.columns.id is not None or self.columns.sequence is not None
            if named and not self._tables and source is self.sources[-1]:
                raise InputError(
                    f"{source.name}: a FASTA file has no columns, so --id-column and --sequence-column say nothing; "
                    "leave them out"
                )
            yield from _fasta(source.name, stream, 1 + blank)
        elif _named_fasta(source.name):
            raise InputError(f"{source.name}, line 1: a FASTA file starts with '>', this one with {_shown(start)}")
        elif first in _FOREIGN:
            raise InputError(f"{source.name}: this looks like {_FOREIGN[first]}, not like FASTA, CSV, TSV or Parquet")
        else:
            yield from self._table(source, stream, blank)

    def _table(self, source: Source, stream: io.BufferedReader, blank: int) -> Iterator[Record]:
        first = stream.peek(4096)[:4096].lstrip().split(b"\n")[0]
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        limit = csv.field_size_limit(_LONGEST_CELL)
        line = blank + 1
        try:
            rows = csv.reader(text, delimiter=_delimiter(first), strict=True)
            names = next((row for row in rows if row), [])
            places = self._find_columns(source.name, names)
            line = blank + rows.line_num + 1
            empty = True
            for row in rows:
                if row:
                    empty = False
                    yield self._row(source.name, line, row, places)
                line = blank + rows.line_num + 1
            if empty:
                raise InputError(f"{source.name}: a table without rows")
        except UnicodeDecodeError as error:
            raise InputError(f"{source.name}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
        except csv.Error as error:
            raise InputError(
                f"{source.name}: not a readable table from line {line:,} on ({error}); is a quote not closed?"
            ) from error
        finally:
            csv.field_size_limit(limit)
            text.detach()

    def _row(self, name: str, line: int, row: list[str], at: _Places) -> Record:
        word = f"row_{next(self._row_numbers)}" if at.id is None else "".join(row[at.id : at.id + 1]).strip()
        if len(row) <= at.sequence:
            return BadRecord(word, name, line, f"the row has {len(row)} cells, its sequence would be {at.sequence + 1}")
        cells = tuple("".join(row[other : other + 1]).strip() for other in at.others)
        return record(word, row[at.sequence].strip().encode(), name, line, cells=cells)

    def _parquet(self, source: Source, stream: io.BufferedReader) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(source.path if source.compression() is None else pa.BufferReader(stream.read()))
            names = file.schema_arrow.names
            at = self._find_columns(source.name, names)
            wanted = {names[one] for one in (at.id, at.sequence, *at.others) if one is not None}
            line = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=sorted(wanted)):
                texts = batch.column(names[at.sequence]).to_pylist()
                words = batch.column(names[at.id]).to_pylist() if at.id is not None else [None] * len(texts)
                others = [map(_cell, batch.column(names[other]).to_pylist()) for other in at.others]
                cells = zip(*others, strict=True) if others else repeat((), len(texts))
                for word, text, more in zip(words, texts, cells, strict=True):
                    line += 1
                    if at.id is None:
                        word = f"row_{next(self._row_numbers)}"
                    yield _parquet_record(source.name, line, word, text, more)
            if line == 0:
                raise InputError(f"{source.name}: a table without rows")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source.name}: not a readable Parquet file ({error})") from error

    def _find_columns(self, name: str, names: Sequence[str]) -> _Places:
        """Where a table's columns are.

        Raises:
            InputError: for a column that is not there, or there twice.
        """
        self._tables += 1
        sequence_at = _find(name, names, self.columns.sequence, SEQUENCE_COLUMNS)
        id_at = _find(name, names, self.columns.id, ID_COLUMNS)
        if sequence_at is None and any(_is_sequence(cell) for cell in names):
            raise InputError(
                f"{name}, line 1: a sequence where the names of the columns should be; write a line such as "
                "id,sequence above it (a FASTA file starts with '>')"
            )
        if sequence_at is None and len(names) == 1:
            raise InputError(
                f"{name}: neither FASTA, which starts with '>', nor a table with a column named "
                f"{' or '.join(SEQUENCE_COLUMNS)}; its first line is {_columns(names)}. If this is the name of a "
                "column of sequences, add --sequence-column"
            )
        if sequence_at is None:
            raise InputError(
                f"{name}, line 1: no column named {' or '.join(SEQUENCE_COLUMNS)}; the columns are "
                f"{_columns(names)}. Name yours with --sequence-column (a FASTA file starts with '>')"
            )
        others = tuple(at for one in self.columns.others if (at := _find(name, names, one, ())) is not None)
        for at in (id_at, sequence_at, *others):
            if at is not None and list(names).count(names[at]) > 1:
                raise InputError(f"{name}, line 1: more than one column is named {names[at]!r}; rename one")
        if id_at is None:
            self.notes.append(f"{name}: no id column ({', '.join(ID_COLUMNS)}), proteins are named row_1, row_2, ...")
        return _Places(id_at, sequence_at, others)


def _delimiter(first: bytes) -> str:
    """What separates the columns' names; spreadsheets of countries with decimal commas write semicolons."""
    if b"\t" in first:
        return "\t"
    return ";" if first.count(b";") > first.count(b",") else ","


def _is_sequence(cell: str) -> bool:
    """Whether this is a sequence rather than a column's name."""
    return len(cell) >= 20 and cell.isascii() and cell.isalpha() and cell.isupper()


def _find(name: str, names: Sequence[str], asked: str | None, usual: Sequence[str]) -> int | None:
    if asked is not None:
        if asked not in names:
            near = difflib.get_close_matches(asked.lower(), [one.lower() for one in names], 1)
            meant = next((f"; did you mean {one}?" for one in names if [one.lower()] == near), "")
            raise InputError(f"{name}, line 1: there is no column {asked!r}; the columns are {_columns(names)}{meant}")
        return list(names).index(asked)
    lowered = [column.strip().lower() for column in names]
    return next((lowered.index(column) for column in usual if column in lowered), None)


def _columns(names: Sequence[str]) -> str:
    """Names for a message: the first of them, none longer than a line."""
    shown = ", ".join(name if len(name) <= 60 else f"{name[:60]}..." for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20:,} more"


def _cell(value: object) -> str:
    """A value of a Parquet column as text; one that is missing is empty, lists are their values parted by commas."""
    if isinstance(value, list):
        return ",".join(map(_cell, value))
    return "" if value is None else str(value).strip()


def _parquet_record(name: str, line: int, word: object, text: object, cells: tuple[str, ...]) -> Record:
    shown = "" if word is None else (word.decode() if isinstance(word, bytes) else str(word)).strip()
    if not isinstance(text, str | bytes):
        return BadRecord(shown, name, line, f"the sequence is {'missing' if text is None else type(text).__name__}")
    return record(shown, text.strip().encode() if isinstance(text, str) else text.strip(), name, line, cells=cells)


def _fasta(name: str, stream: io.BufferedReader, first_line: int) -> Iterator[Record]:
    header: bytes | None = None
    header_line = 0
    lines: list[bytes] = []
    for number, line in enumerate(stream, first_line):
        first = line[:1]
        if first == b">":
            if header is not None:
                yield _fasta_record(name, header_line, header, lines)
            header, header_line, lines = line, number, []
        elif first != b";":
            lines.append(line.strip())
            if header is None and lines[-1]:
                raise InputError(f"{name}, line {number}: residues before the first '>' header: {_shown(line)}")
    if header is None:
        raise InputError(f"{name}: no protein in this file, only comments")
    yield _fasta_record(name, header_line, header, lines)


def _fasta_record(name: str, line: int, header: bytes, lines: list[bytes]) -> Record:
    words = header[1:].split(None, 1)
    if b"\r" in header.rstrip():
        word = words[0].decode(errors="replace") if words else ""
        return BadRecord(word, name, line, "a carriage return inside its header hides residues; mend its line ends")
    try:
        word = words[0].decode() if words else ""
    except UnicodeDecodeError:
        return BadRecord(words[0].decode(errors="backslashreplace"), name, line, "its header is not UTF-8 text")
    text = lines[0] if len(lines) == 1 else b"".join(lines)
    if not text:
        return BadRecord(word, name, line, "a header without a sequence")
    description = words[1].strip().decode(errors="replace") if len(words) > 1 else ""
    return record(word, text, name, line, description)


def _refuse_binary(name: str, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: UTF-16 text; save it as UTF-8")
    for magic, what in _OFFICE.items():
        if start.startswith(magic):
            raise InputError(f"{name}: {what}")
    controls = sum(byte < 9 or 13 < byte < 32 for byte in start)
    if controls > max(8, len(start) // 20) or (b"\0" in start and start.lstrip()[:1] not in (b">", b";")):
        raise InputError(f"{name}: a binary file, no FASTA, CSV, TSV or Parquet; it starts with {_shown(start)}")
    if b"\r" in start.strip() and b"\n" not in start:
        raise InputError(f"{name}: its lines end in a bare carriage return (old Mac); convert with tr '\\r' '\\n'")


def _shown(start: bytes) -> str:
    return repr(start.strip()[:16])[1:]


def _named_fasta(name: str) -> bool:
    lowered = name.lower()
    return any(lowered.endswith((suffix, *(suffix + end for end in COMPRESSED))) for suffix in FASTA_SUFFIXES)
