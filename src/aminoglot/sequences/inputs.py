"""Which files are the input, and their bytes: plain, gzip, bz2, xz or zstd, told apart by content."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from aminoglot.errors import InputError

STDIN = "-"
"""The path that means standard input."""

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".fsa", ".pep", ".mpfa", ".aa")
SUFFIXES = (*FASTA_SUFFIXES, ".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq")
"""What a folder's files must end in to be read, before any suffix of compression."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """One input file. ``name`` is what messages call it, ``path`` where its bytes are."""

    name: str
    path: Path

    def compression(self) -> str | None:
        """The compression its first bytes announce, whatever the file is called."""
        with self.path.open("rb") as file:
            start = file.read(8)
        return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Its bytes, decompressed.

        Raises:
            InputError: when the compressed data ends early or is damaged, however late that shows.
        """
        kind = self.compression()
        try:
            with self.path.open("rb") as raw, _decompressed(raw, kind) as stream:
                yield stream
        except EOFError as error:
            raise InputError(
                f"{self.name}: the {kind} data ends early; the file was cut short, get it again"
            ) from error
        except (zlib.error, lzma.LZMAError) as error:
            raise InputError(f"{self.name}: the {kind} data is damaged ({error}); get it again") from error
        except OSError as error:
            if kind is None:
                raise
            raise InputError(f"{self.name}: the {kind} data is damaged or cut short ({error}); get it again") from error


@contextmanager
def _decompressed(raw: BinaryIO, kind: str | None) -> Iterator[io.BufferedReader]:
    if kind is None:
        yield io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)
    elif kind == "zstd":
        import pyarrow as pa

        with pa.CompressedInputStream(raw, "zstd") as stream:
            yield io.BufferedReader(stream, _BUFFER)
    else:
        opener: Any = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind]
        with opener(raw, "rb") as stream:
            yield io.BufferedReader(stream, _BUFFER)


def sources(paths: Sequence[str | Path], stdin_copy: Path) -> tuple[list[Source], list[str]]:
    """Resolve what the user named: files, folders (their sequence files, sorted by name), or ``-``.

    Standard input is copied to ``stdin_copy`` first, so that it can be read twice like a file.

    Returns:
        The files in order, and notes for the user (files of a folder that were not read).

    Raises:
        InputError: when a file is missing or unreadable, or a folder holds no sequence file.
    """
    found: list[Source] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if str(path) == STDIN:
            found.append(_save_stdin(stdin_copy))
        elif path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            chosen = [p for p in inside if _is_sequence_file(p)]
            if not chosen:
                raise InputError(f"{path}: no sequence file in this folder; looked for {' '.join(SUFFIXES)}")
            if len(chosen) < len(inside):
                others = ", ".join(p.name for p in inside if p not in chosen)
                notes.append(f"{path}: {len(inside) - len(chosen)} other files in this folder were not read: {others}")
            found += [Source(str(p), p) for p in chosen]
        else:
            found.append(Source(str(path), path))
    if not found:
        raise InputError("no input: name a file, a folder, or - for standard input")
    for source in found:
        _check_readable(source)
    return found, notes


def _is_sequence_file(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in SUFFIXES


def _check_readable(source: Source) -> None:
    try:
        with source.path.open("rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"{source.name}: no such file") from None
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error.strerror})") from error


def _save_stdin(copy: Path) -> Source:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal; pipe a file into it, as in: zcat proteins.fasta.gz | ... -")
    with copy.open("wb") as file:
        while block := sys.stdin.buffer.read(_BUFFER):
            file.write(block)
    return Source("standard input", copy)


def input_digest(found: Sequence[Source]) -> str:
    """SHA-256 over the files' bytes as they lie on disk, in order; names and paths do not count."""
    whole = hashlib.sha256()
    for source in found:
        with source.path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
