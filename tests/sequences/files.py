"""What the tests of input share: compressions, one line that reads files, and the shared real data."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aminoglot.errors import InputError
from aminoglot.sequences import BadRecord, Columns, Protein, Reader, sources

USUAL = Columns()
"""The columns that are found without being named."""

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Real proteins, beside the repository where they are at hand."""


def zstd(data: bytes) -> bytes:
    """One zstd frame, written as a stream, whose length the frame does not tell beforehand."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
"""By suffix; each makes one whole member."""


def parquet(columns: Mapping[str, object], **options: object) -> bytes:
    """A Parquet file's bytes."""
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink, **options)
    return sink.getvalue()


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def read(paths: Path | Sequence[Path], columns: Columns = USUAL) -> tuple[list[Protein | BadRecord], list[str]]:
    """All records of some files, and what a user would be told."""
    named = [paths] if isinstance(paths, Path) else list(paths)
    found, notes = sources(named, named[0].parent / "unused copy of standard input")
    reader = Reader(found, columns, notes)
    return list(reader), reader.notes


def attempt(path: Path) -> tuple[list[Protein | BadRecord], str]:
    """All records of a file, or what was said instead."""
    try:
        return read(path)[0], ""
    except InputError as error:
        return [], str(error)


def proteins(paths: Path | Sequence[Path], columns: Columns = USUAL) -> list[Protein]:
    """All records, of which none may be bad."""
    records, _ = read(paths, columns)
    bad = [str(record) for record in records if isinstance(record, BadRecord)]
    assert not bad
    return [record for record in records if isinstance(record, Protein)]


def pairs(paths: Path | Sequence[Path], columns: Columns = USUAL) -> list[tuple[str, str]]:
    """Ids and sequences of all records, of which none may be bad."""
    return [(protein.id, protein.sequence.decode()) for protein in proteins(paths, columns)]


def only_bad(path: Path) -> BadRecord:
    """The one bad record of a file."""
    (bad,) = [record for record in read(path)[0] if isinstance(record, BadRecord)]
    return bad


def shared(name: str) -> Path:
    """A file of the shared real data; the test is skipped where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data: ../shared/data/{name} is not beside the repository")
    return path
