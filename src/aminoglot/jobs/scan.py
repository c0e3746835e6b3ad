"""One pass over the input: every record judged, digested and written down, and duplicates found.

Memory is about 80 bytes a record, whatever its length; sequences and names go to disk.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aminoglot.errors import LISTED, InputError, listing, plural
from aminoglot.sequences import BadRecord, Protein
from aminoglot.settings import Duplicates

BATCH = 8192
"""Records a batch of the record file."""

RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("original_id", pa.string()),
        ("replaced", pa.int32()),
        ("place", pa.string()),
        ("why", pa.string()),
    ]
)
SEQUENCES = pa.schema([("sequence", pa.large_binary())])


class Status(IntEnum):
    """What becomes of a record; the audit adds FAILED."""

    WRITTEN = 0
    MERGED = 1
    SKIPPED = 2
    FAILED = 3


@dataclass
class Scan:
    """What one pass found; arrays have one entry a record, in input order.

    Attributes:
        lengths: residues, 0 for a bad record.
        digests: SHA-256 of the cleaned sequence, uint8 [N, 32].
        bad: how many records were no protein.
        bad_listed: the first of them, in words.
        replaced: how many letters became X, in how many proteins.
    """

    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    id_digests: NDArray[np.uint8]
    bad: int
    bad_listed: list[str]
    replaced: tuple[int, int]


def scan(records: Iterable[Protein | BadRecord], record_file: Path, sequence_file: Path) -> Scan:
    """Read everything once, and write cleaned records and sequences to two Arrow files in input order."""
    lengths, digests, id_digests = array("q"), bytearray(), bytearray()
    bad_listed: list[str] = []
    bad = letters = proteins = 0
    with _Columns(record_file, RECORDS) as names, _Columns(sequence_file, SEQUENCES) as sequences:
        for record in records:
            if isinstance(record, BadRecord):
                bad += 1
                if bad <= LISTED:
                    bad_listed.append(str(record))
                sequence, why, original, replaced = b"", record.why, record.id, 0
            else:
                sequence, why, original, replaced = record.sequence, None, record.original_id, record.replaced
                if replaced:
                    letters += replaced
                    proteins += 1
            lengths.append(len(sequence))
            digests += hashlib.sha256(sequence).digest()
            id_digests += hashlib.blake2b(record.id.encode(), digest_size=16).digest()
            names.append((record.id, original, replaced, f"{record.source}, line {record.line:,}", why))
            sequences.append((sequence,))
    return Scan(
        np.frombuffer(lengths, dtype=np.int64),
        np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32),
        np.frombuffer(bytes(id_digests), dtype=np.uint8).reshape(-1, 16),
        bad,
        bad_listed,
        (letters, proteins),
    )


class _Columns:
    """Rows gathered into Arrow batches of :data:`BATCH`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[tuple[object, ...]]()
        self._file = pa.ipc.new_file(path, schema)

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def append(self, row: tuple[object, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [pa.array(c, t) for c, t in zip(zip(*self._rows, strict=True), self._schema.types, strict=True)]
            self._file.write_batch(pa.record_batch(columns, schema=self._schema))
            self._rows.clear()


@dataclass
class Duplication:
    """Which records are the same.

    Attributes:
        first_id: index of the first record with this id and sequence; itself where there is none before.
        first_sequence: index of the first good record with this sequence.
        renamed: new ids, by record, under ``--duplicates number``.
    """

    first_id: NDArray[np.int64]
    first_sequence: NDArray[np.int64]
    renamed: dict[int, str] = field(default_factory=dict)


def find_duplicates(found: Scan, record_file: Path, duplicates: Duplicates) -> Duplication:
    """Find equal ids and equal sequences.

    Raises:
        InputError: when one id has different sequences and ``duplicates`` is ``error``; both places are named.
    """
    good = np.flatnonzero(found.lengths)
    both = np.concatenate((found.id_digests[good], found.digests[good, :16]), axis=1)
    first_id = np.arange(len(found.lengths))
    first_sequence = first_id.copy()
    first_id[good] = good[_first_of(both)]
    first_sequence[good] = good[_first_of(found.digests[good])]
    result = Duplication(first_id, first_sequence)
    kept = good[first_id[good] == good]
    first_of_id = kept[_first_of(found.id_digests[kept])]
    again = first_of_id != kept
    clashes = list(zip(first_of_id[again].tolist(), kept[again].tolist(), strict=True))
    if clashes:
        with RecordFile(record_file) as names:
            if duplicates == "error":
                named = [f"{names.id(a)!r}: {names.place(a)} and {names.place(b)}" for a, b in clashes[:LISTED]]
                raise InputError(
                    f"{plural(len(clashes), 'id')} used again for another sequence:\n{listing(named, len(clashes))}\n"
                    "Rename them, or keep all with --duplicates number (P1, P1_2, P1_3, ...)"
                )
            result.renamed = _numbered(clashes, names, found.id_digests)
    return result


def _numbered(clashes: list[tuple[int, int]], names: RecordFile, id_digests: NDArray[np.uint8]) -> dict[int, str]:
    """Ids P1_2, P1_3 ... for the later records of each clash, leaving out any that exist already."""
    taken = {bytes(row) for row in id_digests}
    count: dict[int, int] = {}
    renamed: dict[int, str] = {}
    for first, index in clashes:
        while True:
            count[first] = count.get(first, 1) + 1
            name = f"{names.id(first)}_{count[first]}"
            digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
            if digest not in taken:
                break
        taken.add(digest)
        renamed[index] = name
    return renamed


def _first_of(keys: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For every row of ``keys`` the index of the first row equal to it."""
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    words = np.ascontiguousarray(keys).view(np.uint64)
    order = np.lexsort(words.T)  # stable: equal keys stay in input order
    ordered = words[order]
    starts = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


class RecordFile:
    """Random access to the record file, mapped."""

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        self._file = pa.ipc.open_file(self._map)
        self.batches: int = self._file.num_record_batches

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def batch(self, number: int) -> pa.RecordBatch:
        return self._file.get_batch(number)

    def id(self, index: int) -> str:
        """The id as read, before any numbering."""
        return str(self._cell(index, "id"))

    def place(self, index: int) -> str:
        return str(self._cell(index, "place"))

    def _cell(self, index: int, column: str) -> object:
        return self.batch(index // BATCH).column(column)[index % BATCH].as_py()
