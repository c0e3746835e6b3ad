"""Sequences on disk: letters end to end in one file, headers in another, and where each begins.

Opening them maps four files and reads nothing, however many sequences there are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aminoglot.errors import OutputError, reason
from aminoglot.sequences import protein_id

LETTERS, STARTS = "letters.bin", "starts.u64"
HEADERS, HEADER_STARTS = "headers.bin", "header-starts.u64"
NUMBER = np.dtype("<u8")
_BLOCK = 1 << 16
"""Sequences that are written at once."""
NAMES_SCHEMA = pa.schema([("id", pa.string()), ("digest", pa.uint64())])

Rows = NDArray[np.uint64]


class SequenceWriter:
    """Writes sequences one after the other; use it as a context manager.

    Args:
        folder: a new one.
        names: Parquet to write besides, ids and 64-bit digests of sequences: what joining needs, and nothing later.

    Raises:
        OutputError: when the disk is full.
    """

    def __init__(self, folder: Path, names: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = {name: (folder / name).open("wb") for name in (LETTERS, STARTS, HEADERS, HEADER_STARTS)}
        self._names = pq.ParquetWriter(names, NAMES_SCHEMA, compression="zstd")
        self._texts: list[bytes] = []
        self._headers: list[bytes] = []
        self._ids: list[str] = []
        self._ends = {LETTERS: 0, HEADERS: 0}
        self.count = self.residues = 0
        for name in (STARTS, HEADER_STARTS):
            self._files[name].write(np.zeros(1, NUMBER).tobytes())

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._names.close()
            for file in self._files.values():
                file.close()

    def add(self, name: str, header: str, sequence: bytes) -> None:
        """Append one sequence.

        Args:
            name: its id.
            header: what :func:`header_of` makes of the id as it was written, and the rest of the header.
            sequence: its residues.
        """
        self._ids.append(name)
        self._headers.append(header.encode())
        self._texts.append(sequence)
        self.count += 1
        self.residues += len(sequence)
        if len(self._ids) == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._texts:
            return
        digests = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in self._texts]
        try:
            for data, starts, texts in ((LETTERS, STARTS, self._texts), (HEADERS, HEADER_STARTS, self._headers)):
                ends = self._ends[data] + np.cumsum([len(text) for text in texts], dtype=NUMBER)
                self._files[data].write(b"".join(texts))
                self._files[starts].write(ends.tobytes())
                self._ends[data] = int(ends[-1])
            table = pa.Table.from_arrays([pa.array(self._ids), pa.array(digests, pa.uint64())], schema=NAMES_SCHEMA)
            self._names.write_table(table)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {reason(error)}") from error
        self._texts, self._headers, self._ids = [], [], []


class Sequences:
    """Reads what :class:`SequenceWriter` wrote. May be pickled and sent to other processes, which map the files anew.

    Args:
        folder: where they are.

    Raises:
        OutputError: when the files are not there, or do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._letters, self._starts = _mapped(folder, LETTERS, STARTS)
        self._headers, self._header_starts = _mapped(folder, HEADERS, HEADER_STARTS)
        if len(self._starts) != len(self._header_starts):
            raise OutputError(f"{folder}: {STARTS} and {HEADER_STARTS} are not of the same sequences")

    def __reduce__(self) -> tuple[Any, ...]:
        return Sequences, (self.folder,)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> bytes:
        """The residues of one sequence, in capital letters."""
        start, stop = self._bounds(row)
        return self._letters[start:stop].tobytes()

    def part(self, row: int, first: int, last: int) -> bytes:
        """Residues ``first`` to ``last`` of one sequence: of a long one no more is read."""
        start, stop = self._bounds(row)
        return self._letters[start + first : min(start + last, stop)].tobytes()

    def length(self, row: int) -> int:
        start, stop = self._bounds(row)
        return stop - start

    def _bounds(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self._starts) - 1:
            raise IndexError(f"row {row:,} of {len(self):,}")
        return int(self._starts[row]), int(self._starts[row + 1])

    def lengths(self, first: int, last: int) -> NDArray[np.int64]:
        """Lengths of some neighbours, int64."""
        starts = self._starts[first : last + 1].astype(np.int64)
        return starts[1:] - starts[:-1]

    @property
    def residues(self) -> int:
        return int(self._starts[-1])

    def header(self, row: int) -> str:
        """What :func:`header_of` made: an id as it was written, and a tab before a description, if there is one."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row:,} of {len(self):,}")
        start, stop = int(self._header_starts[row]), int(self._header_starts[row + 1])
        try:
            return self._headers[start:stop].tobytes().decode()
        except UnicodeDecodeError as error:
            raise OutputError(f"{self.folder / HEADERS}: damaged; remove the corpus and build it again") from error

    def name(self, row: int) -> str:
        """Its id; of UniProt's ``sp|P12345|NAME`` the accession."""
        return protein_id(self.header(row).split("\t", 1)[0])

    def description(self, row: int) -> str:
        """What the header says after the id."""
        return self.header(row).partition("\t")[2]


def header_of(original_id: str, description: str = "") -> str:
    """One text of both, which can be told apart: ids hold no control characters, but may hold blanks."""
    return f"{original_id}\t{description}" if description else original_id


def _mapped(folder: Path, data: str, starts: str) -> tuple[NDArray[np.uint8], Rows]:
    """Two files as plain arrays: a slice of a memmap would run Python code."""
    try:
        begins = np.asarray(np.memmap(folder / starts, NUMBER, "r"))
        size = (folder / data).stat().st_size
        content = np.asarray(np.memmap(folder / data, np.uint8, "r")) if size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder}: no sequences of a corpus here ({error})") from error
    if int(begins[-1]) != size:
        raise OutputError(f"{folder}: {data} has {size:,} bytes, {starts} says {int(begins[-1]):,}")
    return content, begins
