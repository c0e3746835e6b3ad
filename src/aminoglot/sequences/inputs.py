"""Which files are the input, and their bytes: plain, gzip, bz2, xz or zstd, told apart by content."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from aminoglot.errors import InputError, listing, reason
from aminoglot.object_store import ObjectStore, is_stored

STDIN = "-"
"""The path that means standard input."""

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".fsa", ".pep", ".mpfa", ".aa")
SUFFIXES = (*FASTA_SUFFIXES, ".csv", ".tsv", ".tab", ".parquet", ".pq")
"""What a folder's files must end in to be read, before any suffix of compression."""
RESULTS = ".proteins.tsv"
"""Ends the name of the table beside an output of ours; neither is taken for sequences."""
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
        if start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5:  # a skippable frame: pzstd writes one first
            return "zstd"
        return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)

    @contextmanager
    def open(self, watch: Callable[[BinaryIO], object] = lambda _: None) -> Iterator[io.BufferedReader]:
        """Its bytes, decompressed.

        Args:
            watch: is given the file as it lies on disk, whose position shows how far reading is.

        Raises:
            InputError: when the compressed data ends early or is damaged, however late that shows.
        """
        kind = self.compression()
        try:
            with self.path.open("rb") as raw, _decompressed(raw, kind) as stream:
                watch(raw)
                yield stream
        except EOFError as error:
            raise InputError(
                f"{self.name}: the {kind} data ends early; the file was cut short, get it again"
            ) from error
        except (zlib.error, lzma.LZMAError) as error:
            raise InputError(f"{self.name}: the {kind} data is damaged ({error}); get it again") from error
        except OSError as error:
            if kind is None:
                raise InputError(f"{self.name}: cannot be read ({error.strerror or error})") from error
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
        plain: Any
        if kind == "gzip":
            plain = gzip.GzipFile(fileobj=raw)
        else:
            plain = _Members(raw, {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[kind])
        with plain:
            yield io.BufferedReader(plain, _BUFFER)


class _Members(io.RawIOBase):
    """All members of a bz2 or xz file.

    Python's own readers take whatever follows a whole member and is none itself for garbage, and drop it and all
    that comes after in silence. Here it is an error; only zeros, which pad xz files, are passed over.
    """

    def __init__(self, raw: BinaryIO, new: Callable[[], Any]) -> None:
        self._raw, self._new, self._member, self._rest = raw, new, new(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if not self._rest and (self._member is None or self._member.needs_input):
                self._rest = self._raw.read(_BUFFER)
                if not self._rest:
                    if self._member is None:
                        return 0
                    raise EOFError
            if self._member is None:
                self._rest = self._rest.lstrip(b"\0")
                if not self._rest:
                    continue
                self._member = self._new()
            data = self._member.decompress(self._rest, len(buffer))
            self._rest = b""
            if self._member.eof:
                self._rest, self._member = self._member.unused_data, None
            if data:
                buffer[: len(data)] = data
                return len(data)


def sources(paths: Sequence[str | Path], stdin_copy: Path, skip: Sequence[Path] = ()) -> tuple[list[Source], list[str]]:
    """Resolve what the user named: files, folders (their sequence files, sorted by name), or ``-``.

    Standard input, and objects of a store, are copied to ``stdin_copy`` or beside it first, so that they can be read
    twice like a file.

    Returns:
        The files in order, and notes for the user (files of a folder that were not read).

    Raises:
        InputError: when a file is missing or unreadable, or a folder holds no sequence file.
    """
    found: list[Source] = []
    notes: list[str] = []
    ours = {path.absolute() for path in skip}
    for number, given in enumerate(paths):
        path = Path(given)
        if str(given) == "":
            raise InputError("an empty file name; is a variable of the shell not set?")
        if str(given) == STDIN:
            found.append(_save_stdin(stdin_copy))
            continue
        if "://" in str(given) and not is_stored(given):
            raise InputError(f"{given}: of stores only s3://... is known; fetch the file first")
        if is_stored(given):
            found += _save_objects(str(given), stdin_copy.with_name(f"{stdin_copy.name}-{number}"))
            continue
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            inside = _inside(path, ours)
            chosen = [p for p in inside if _is_sequence_file(p) and not p.is_dir()]
            if not chosen:
                raise InputError(f"{path}: no sequence file in this folder; looked for {' '.join(SUFFIXES)}")
            if len(chosen) < len(inside):
                read = set(chosen)
                others = [p.name + "/" * p.is_dir() for p in inside if p not in read]
                notes.append(f"{path}: not read in this folder, which is not searched deeper:\n{listing(others)}")
            found += [_source(p) for p in chosen]
        elif not stat.S_ISREG(mode):
            found.append(_save_pipe(path, stdin_copy.with_name(f"{stdin_copy.name}-{number}")))
        else:
            found.append(_source(path))
    if not found:
        raise InputError("no input: name a file, a folder, or - for standard input")
    for source in found:
        _check_readable(source)
    return found, notes


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _inside(folder: Path, skip: set[Path]) -> list[Path]:
    """What is in a folder, by name, but for hidden files, ``skip``, and results with their tables of proteins."""
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.absolute() not in skip)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    results = {p.name.removesuffix(RESULTS) for p in found if p.name.endswith(RESULTS)}
    return [p for p in found if not any(p.name == name or p.name.startswith(f"{name}.") for name in results)]


def _source(path: Path) -> Source:
    """A file under a name that can be written anywhere, though the system's may be no UTF-8."""
    return Source(os.fsencode(path).decode(errors="backslashreplace"), path)


def _save_pipe(path: Path, copy: Path) -> Source:
    """A pipe, such as the shell's <(...), can be read only once."""
    try:
        with path.open("rb") as pipe, copy.open("wb") as file:
            shutil.copyfileobj(pipe, file, _BUFFER)
    except OSError as error:
        raise InputError(f"{path}: cannot be kept in {copy}: {reason(error)}") from error
    return Source(str(path), copy)


def _save_objects(url: str, copy: Path) -> list[Source]:
    """An object of a store; or, where the address ends with a slash, the sequence files right below."""
    if not url.endswith("/"):
        place = ObjectStore(url)
        if place.parent.get(place.name, copy, InputError):
            return [Source(url, copy)]
        raise InputError(f"{url}: there is no such object, or no such bucket; a folder's address ends with a slash")
    place = ObjectStore(url.rstrip("/"))
    names = sorted(
        name for name in place.sizes(InputError) if _is_sequence_file(Path(name)) and not name.endswith(RESULTS)
    )
    if not names:
        raise InputError(f"{url}: no sequence file there; looked for {' '.join(SUFFIXES)}")
    copies = [copy.with_name(f"{copy.name}-{name}") for name in names]
    for name, path in zip(names, copies, strict=True):
        place.get(name, path, InputError)
    return [Source(f"{url}{name}", path) for name, path in zip(names, copies, strict=True)]


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
    try:
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, _BUFFER)
    except OSError as error:
        raise InputError(f"standard input cannot be kept in {copy}: {reason(error)}") from error
    return Source("standard input", copy)


def input_digest(found: Sequence[Source]) -> str:
    """SHA-256 over the files' bytes as they lie on disk, in order; names and paths do not count."""
    whole = hashlib.sha256()
    for source in found:
        try:
            with source.path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InputError(f"{source.name}: cannot be read ({error.strerror or error})") from error
    return whole.hexdigest()
