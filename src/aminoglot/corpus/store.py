"""Sequences on disk: letters end to end in one file, where each begins in another, names in a third.

Opening one maps two files and reads nothing, however many sequences there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aminoglot.errors import OutputError, reason

LETTERS, STARTS, NAMES = "letters.bin", "starts.u64", "names.parquet"
NUMBER = np.dtype("<u8")
_GROUP = 1 << 16
"""Names in a row group: as many are read to find one."""
_SCHEMA = pa.schema([("id", pa.string()), ("header", pa.string()), ("digest", pa.uint64())])

Rows = NDArray[np.uint64]


class Name(NamedTuple):
    """What a sequence is called, and the rest of its header."""

    id: str
    header: str


class SequenceWriter:
    """Writes sequences one after the other; use it as a context manager.

    Raises:
        OutputError: when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._letters = (folder / LETTERS).open("wb")
        self._starts = (folder / STARTS).open("wb")
        self._names = pq.ParquetWriter(folder / NAMES, _SCHEMA, compression="zstd")
        self._texts: list[bytes] = []
        self._columns: tuple[list[str], list[str], list[int]] = ([], [], [])
        self._end = 0
        self.count = 0
        self._starts.write(np.zeros(1, NUMBER).tobytes())

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            for file in (self._names, self._starts, self._letters):
                file.close()

    @property
    def residues(self) -> int:
        """How many letters there are so far."""
        return self._end + sum(map(len, self._texts))

    def add(self, name: str, header: str, sequence: bytes) -> int:
        """Append one sequence; its row."""
        ids, headers, digests = self._columns
        ids.append(name)
        headers.append(header)
        digests.append(int.from_bytes(hashlib.blake2b(sequence, digest_size=8).digest(), "little"))
        self._texts.append(sequence)
        self.count += 1
        if len(ids) == _GROUP:
            self._flush()
        return self.count - 1

    def _flush(self) -> None:
        if not self._texts:
            return
        starts = self._end + np.cumsum([len(text) for text in self._texts], dtype=NUMBER)
        try:
            self._letters.write(b"".join(self._texts))
            self._starts.write(starts.tobytes())
            ids, headers, digests = self._columns
            columns = [pa.array(ids), pa.array(headers), pa.array(digests, pa.uint64())]
            self._names.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), row_group_size=_GROUP)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {reason(error)}") from error
        self._end = int(starts[-1])
        self._texts, self._columns = [], ([], [], [])


class Sequences:
    """Reads what :class:`SequenceWriter` wrote. May be pickled and sent to other processes, which map the files anew.

    Args:
        folder: where they are.

    Raises:
        OutputError: when the files are not there, or do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._starts: Rows = np.memmap(folder / STARTS, NUMBER, "r")
            size = (folder / LETTERS).stat().st_size
            self._letters = np.memmap(folder / LETTERS, np.uint8, "r") if size else np.empty(0, np.uint8)
        except (OSError, ValueError) as error:
            raise OutputError(f"{folder}: no sequences of a corpus here ({error})") from error
        if int(self._starts[-1]) != size:
            raise OutputError(f"{folder}: {LETTERS} has {size:,} letters, {STARTS} says {int(self._starts[-1]):,}")

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
        if not 0 <= row < len(self):
            raise IndexError(f"row {row:,} of {len(self):,}")
        return int(self._starts[row]), int(self._starts[row + 1])

    def lengths(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        """Lengths of some neighbours, int64."""
        last = len(self) if last is None else last
        return np.diff(self._starts[first : last + 1].astype(np.int64))

    def blocks(self, size: int = 1 << 20) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """All lengths, so many rows at a time: the first row of each block, and its lengths."""
        for first in range(0, len(self), size):
            yield first, self.lengths(first, min(first + size, len(self)))

    @property
    def residues(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _names(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / NAMES)

    def name(self, row: int) -> Name:
        """What a sequence is called."""
        group, place = divmod(row, _GROUP)
        ids, headers = self._group(group)
        return Name(ids[place].as_py(), headers[place].as_py())

    @lru_cache(maxsize=8)  # noqa: B019  a handful of these objects live as long as the process
    def _group(self, group: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        table = self._names.read_row_group(group, columns=["id", "header"])
        return table["id"], table["header"]

    def names(self) -> Iterator[Name]:
        """All names, in order."""
        for batch in self._names.iter_batches(_GROUP, columns=["id", "header"]):
            for one, header in zip(batch["id"].to_pylist(), batch["header"].to_pylist(), strict=True):
                yield Name(one, header)
