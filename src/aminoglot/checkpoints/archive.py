"""Folders and tar files of weights and settings: their files by name. None is ever unpacked under a name of its own."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import shutil
import tarfile
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from aminoglot.errors import AminoglotWarning, ModelError

_GZIP = b"\x1f\x8b"
_MOST_MEMBERS = 10_000
_MOST_HEADER, _MOST_HEADERS = 1 << 20, 8 << 20
_DEPTH = 4
_MOST_TEXT = 256 << 10
_MOST_INDEX = 8 << 20
_MOST_GROWTH = 20
"""Weights hardly shrink when packed; what grows more than so many times is made to fill a disk."""
_SPARE = 1 << 30
_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Mapped files by the address of their first byte."""
_CHUNK = 8 << 20


class Files(ABC):
    """Some files by name, in a folder or an archive.

    Attributes:
        names: of all regular files, with ``/`` between folders and without a leading ``./``.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        self._path, self._sizes = path, sizes
        self.names = list(sizes)

    def bytes(self, name: str, most: int = _MOST_INDEX) -> bytes:
        """All of a small file.

        Raises:
            ModelError: when there is none of that name, or it is larger than ``most`` bytes.
        """
        if self.size(name) > most:
            raise ModelError(f"{self._path}: {name} is {self.size(name):,} bytes long, far too long for what it is")
        return self.part(name)[0].read()

    def text(self, name: str) -> str:
        """A small text file; see :meth:`bytes`."""
        try:
            return self.bytes(name, _MOST_TEXT).decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._path}: {name} is not text") from error

    def size(self, name: str) -> int:
        if name not in self._sizes:
            raise ModelError(f"{self._path}: there is no {name} in it")
        return self._sizes[name]

    def part(self, name: str, start: int = 0, length: int | None = None) -> tuple[BinaryIO, Tensor]:
        """Some bytes of one file: a stream over them, and the same mapped, uint8.

        What is mapped may be used after the files were closed.
        """
        length = self.size(name) - start if length is None else length
        if start < 0 or length < 0 or start + length > self.size(name):
            raise ModelError(f"{self._path}: {name} is cut short; get it again")
        file, memory, begin = self._place(name)
        stream = io.BufferedReader(_Part(file, begin + start, length))
        return cast(BinaryIO, stream), memory[begin + start : begin + start + length]

    @abstractmethod
    def _place(self, name: str) -> tuple[BinaryIO, Tensor, int]:
        """An open file, the same mapped, and where in it the named one begins."""


class Archive(Files):
    """A plain tar file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file, self._members, self._memory = file, _members(path, file), mapped(file)
        super().__init__(path, {name: member.size for name, member in self._members.items()})

    def _place(self, name: str) -> tuple[BinaryIO, Tensor, int]:
        return self._file, self._memory, self._members[name].offset_data


class Folder(Files):
    """A folder; links and whatever else is no regular file do not count, nor what lies deeper than a model's files."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._stack, self._opened = stack, dict[str, tuple[BinaryIO, Tensor]]()
        files = sorted(islice(_regular(path, _DEPTH), _MOST_MEMBERS + 1))
        if len(files) > _MOST_MEMBERS:
            raise ModelError(f"{path}: more than {_MOST_MEMBERS:,} files; name the model's own folder")
        super().__init__(path, {file.relative_to(path).as_posix(): file.stat().st_size for file in files})

    def _place(self, name: str) -> tuple[BinaryIO, Tensor, int]:
        if name not in self._opened:
            file = self._stack.enter_context((self._path / name).open("rb"))
            self._opened[name] = (file, mapped(file))
        return *self._opened[name], 0


def _regular(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and depth > 1:
            yield from _regular(path, depth - 1)


def mapped(file: BinaryIO) -> Tensor:
    """A file's bytes, uint8; what is written into them stays in memory."""
    if not os.fstat(file.fileno()).st_size:
        return torch.empty(0, dtype=torch.uint8)
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    values = np.frombuffer(memory, dtype=np.uint8)
    _MAPS[values.ctypes.data] = memory
    return torch.from_numpy(values)


def forget(storage: torch.UntypedStorage) -> None:
    """Let the system have back what was read of a mapped file for numbers that were copied; they may be read again."""
    for start, memory in list(_MAPS.items()):
        first, last = storage.data_ptr() - start, storage.data_ptr() - start + storage.nbytes()
        first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
        if 0 <= first < last <= len(memory) and hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_DONTNEED, first, last - first)


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """Open a folder or a tar file; one that is gzipped is unpacked first, into a file without a name.

    Raises:
        ModelError: for anything but an archive of regular files with proper names, for one that is damaged, and where
            the disk has no room for what is to be unpacked.
    """
    with ExitStack() as stack:
        if path.is_dir():
            yield Folder(path, stack)
            return
        file: BinaryIO = stack.enter_context(path.open("rb"))
        packed = file.read(2) == _GZIP
        file.seek(0)
        if packed:
            whole = stack.enter_context(tempfile.TemporaryFile())
            _unpack(path, file, whole)
            file = whole
        yield Archive(path, file)


def is_archive(path: Path) -> bool:
    """Whether a file is a tar, or a gzipped something."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    return start[:2] == _GZIP or start[257:262] == b"ustar"


def _unpack(path: Path, packed: BinaryIO, into: BinaryIO) -> None:
    size = os.fstat(packed.fileno()).st_size
    room = shutil.disk_usage(tempfile.gettempdir()).free - _SPARE
    if size > room:
        raise ModelError(_no_room(path, size, room))
    if size > _SPARE:
        warnings.warn(
            f"{path.name}: is gzipped and has to be unpacked every time, {size / 1e9:,.1f} GB into "
            f"{tempfile.gettempdir()}; gunzip it once, or set TMPDIR to another folder",
            AminoglotWarning,
            stacklevel=2,
        )
    written = 0
    try:
        with gzip.open(packed) as stream:
            while chunk := stream.read(_CHUNK):
                written += len(chunk)
                if written > max(_MOST_GROWTH * size, _CHUNK):
                    raise ModelError(f"{path}: unpacks to more than {_MOST_GROWTH} times its size; weights do not")
                if written > room:
                    raise ModelError(_no_room(path, written, room))
                into.write(chunk)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ModelError(f"{path}: cut short or damaged ({error}); get the file again") from error
    into.seek(0)


def _no_room(path: Path, needed: int, room: int) -> str:
    return (
        f"{path}: unpacks to more than {needed / 1e9:,.1f} GB, and {max(0, room) / 1e9:,.1f} GB are free in "
        f"{tempfile.gettempdir()}; set TMPDIR to a folder with more room, or unpack it yourself"
    )


def _members(path: Path, file: BinaryIO) -> dict[str, tarfile.TarInfo]:
    """Regular files by name.

    Raises:
        ModelError: naming the first member that is anything else than a file or folder, or leads out of the archive.
    """
    found: dict[str, tarfile.TarInfo] = {}
    end = os.fstat(file.fileno()).st_size
    try:
        headers = Sparing(file, _MOST_HEADER, _MOST_HEADERS)
        with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:") as tar:
            for count, member in enumerate(tar):
                name = PurePosixPath(member.name)
                if sum(map(len, tar.pax_headers.values())) > tarfile.BLOCKSIZE:  # every member would have a copy
                    raise ModelError(f"{path}: it says more of all its members than an archive of weights does")
                if count == _MOST_MEMBERS:
                    raise ModelError(f"{path}: more than {_MOST_MEMBERS:,} members; a model has some dozens")
                if name.is_absolute() or ".." in name.parts:
                    raise ModelError(f"{path}: member {member.name!r} leads out of the archive")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ModelError(f"{path}: member {member.name!r} is neither a file nor a folder")
                if member.offset_data + member.size > end:
                    raise ModelError(f"{path}: cut short within {member.name!r}; get the file again")
                if str(name) in found:
                    raise ModelError(f"{path}: holds {str(name)!r} twice")
                found[str(name)] = member
    except tarfile.TarError as error:
        raise ModelError(f"{path}: not a tar archive, or damaged ({error})") from error
    return found


class Sparing:
    """A file for whoever looks for what is in it only: no name and no list in it takes much memory.

    Args:
        file: the file.
        most: bytes that may be read at once.
        whole: bytes that may be read altogether.
    """

    def __init__(self, file: BinaryIO, most: int, whole: int) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self._most, self._left = most, whole

    def read(self, size: int = -1) -> bytes:
        """As a file's own.

        Raises:
            TarError: when it is too much.
        """
        data = self._file.read(size if 0 <= size <= self._most else self._most + 1)
        self._left -= len(data)
        if size > self._most or len(data) > self._most or self._left < 0:
            raise tarfile.TarError("the names of what is in it are far too long")
        return data


class _Part(io.RawIOBase):
    """Some bytes of a file as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        data = self._file.read(min(len(view), max(0, self._size - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
