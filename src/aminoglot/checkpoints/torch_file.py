"""What torch.save writes: where in a file each storage of numbers lies, and tensors that are mapped from there.

Since torch 1.6 a zip file whose entries are not compressed: ``data.pkl`` says what there is, ``data/0`` and so on are
the storages. Before, a row of pickles with the storages behind them.
"""

from __future__ import annotations

import math
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from aminoglot.checkpoints.archive import Sparing, forget

STORAGES = {
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}
"""torch's classes for storages, and the numbers in them."""
_OLD = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""How files from before torch 1.6 begin: a number as a pickle."""
_LOCAL = struct.Struct("<4s22xHH")
_MOST_DIRECTORY = 16 << 20
"""Bytes of a zip file's list of its entries; ESM-2 15B has a tenth of a megabyte."""
_LARGE = 64 << 20
_MOST_SHARED = 8
"""Tensors may share storages (a tied head); all of them together are not larger than so many times the file."""


class Outline(NamedTuple):
    """A tensor without its numbers: their type, the storage's key, and where in it they are, in numbers."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Place(NamedTuple):
    """Where in the file a storage lies, in bytes, and the CRC-32 that the file states, if it does."""

    start: int
    length: int
    crc: int | None = None


class TorchFile:
    """What a torch file holds.

    Args:
        content: with outlines in the place of tensors.
        memory: the file, mapped, uint8.
        places: of storages, by their keys.
    """

    def __init__(self, content: Any, memory: Tensor, places: Mapping[str, Place]) -> None:
        self.content, self._memory, self._places = content, memory, places
        self._left = _MOST_SHARED * len(memory)
        self._storages: dict[str, torch.UntypedStorage] = {}

    def tensor(self, outline: Outline) -> Tensor:
        """The tensor, mapped.

        Raises:
            EOFError: when the file has fewer numbers than it would have.
        """
        count, last = math.prod(outline.size), outline.offset
        last += sum((length - 1) * step for length, step in zip(outline.size, outline.stride, strict=True) if length)
        place = self._places.get(outline.key)
        if place is None:
            raise EOFError(f"the numbers of storage {outline.key[:20]} are missing")
        there = place.length // outline.dtype.itemsize
        self._left -= count * outline.dtype.itemsize
        if self._left < 0 or (count and (count > there or last >= there)):
            raise EOFError(f"storage {outline.key[:20]} has {there:,} numbers, fewer than a tensor in it")
        storage = self._storage(outline.key, place, outline.dtype.itemsize)
        return torch.empty(0, dtype=outline.dtype).set_(storage, outline.offset, outline.size, outline.stride)

    def _storage(self, key: str, place: Place, itemsize: int) -> torch.UntypedStorage:
        if key not in self._storages:
            first = self._memory.storage_offset() + place.start
            values = self._memory.untyped_storage()[first : first + place.length]
            self._storages[key] = values
            if values.data_ptr() % itemsize:
                self._storages[key] = values.clone()
                forget(values)
        return self._storages[key]


Read = Callable[[BinaryIO], tuple[Any, Mapping[str, torch.dtype]]]
"""Unpickles one object of a stream: with :class:`Outline` in the place of tensors, and the storages that it names."""


def opened(stream: BinaryIO, memory: Tensor, read: Read) -> TorchFile:
    """Find what lies where in a torch file.

    Args:
        stream: over the file.
        memory: the same, mapped.
        read: unpickles what is in it.

    Raises:
        UnpicklingError: when it is no torch file.
        EOFError: when it is cut short, or its numbers are not those that it was saved with.
    """
    if zipfile.is_zipfile(stream):
        stream.seek(0)
        return _zipped(stream, memory, read)
    stream.seek(0)
    start = stream.read(len(_OLD))
    if start == _OLD:
        return _old(stream, memory, read)
    stream.seek(0)
    _only_pickle(stream, read)
    raise pickle.UnpicklingError("it does not begin as torch's files do")


def _only_pickle(stream: BinaryIO, read: Read) -> None:
    """A pickle that torch did not write is refused anyway; if for what it asks of Python, that is said."""
    try:
        read(stream)
    except pickle.UnpicklingError:
        raise
    except Exception:  # text and torn files surface as nearly anything
        return


# ------------------------------------------------------------------------------------------------------------ since 1.6


def _zipped(stream: BinaryIO, memory: Tensor, read: Read) -> TorchFile:
    with zipfile.ZipFile(cast(BinaryIO, Sparing(stream, _MOST_DIRECTORY, 2 * _MOST_DIRECTORY))) as file:
        entries = {entry.filename: _place(entry, memory) for entry in file.infolist()}
    if sum(place.length for place in entries.values()) > len(memory):
        raise EOFError("its entries overlap")
    found = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise pickle.UnpicklingError("there is no data.pkl in it" if not found else "several data.pkl in it")
    folder = found[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and (order.length > 16 or _bytes(memory, order) not in (sys.byteorder.encode(), b"")):
        raise pickle.UnpicklingError("its numbers are those of another kind of computer (big-endian)")
    _compare(entries, memory)
    stream.seek(entries[found[0]].start)
    places = {
        name.removeprefix(f"{folder}data/"): one for name, one in entries.items() if name.startswith(f"{folder}data/")
    }
    return TorchFile(read(stream)[0], memory, places)


def _place(entry: zipfile.ZipInfo, memory: Tensor) -> Place:
    """Where an entry's bytes are: behind its own header, which has the name again and some filling."""
    if entry.header_offset < 0:
        raise EOFError(f"{entry.filename[:100]} lies before the beginning")
    header = _bytes(memory, Place(entry.header_offset, _LOCAL.size))
    mark, name, more = _LOCAL.unpack(header)
    place = Place(entry.header_offset + _LOCAL.size + name + more, entry.file_size, entry.CRC)
    if mark != b"PK\x03\x04" or place.start + place.length > len(memory):
        raise EOFError(f"{entry.filename[:100]} lies beyond the end")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise pickle.UnpicklingError(f"{entry.filename[:100]} in it is compressed")  # torch never does
    return place


def _bytes(memory: Tensor, place: Place) -> bytes:
    found: bytes = memory[place.start : place.start + place.length].numpy().tobytes()
    return found


def _compare(entries: Mapping[str, Place], memory: Tensor) -> None:
    """Hold all bytes against the file's own check sums; torch can be told to write none, which are zeros then."""

    def fits(place: Place) -> bool:
        return not place.crc or zlib.crc32(memory[place.start : place.start + place.length].numpy().data) == place.crc

    with ThreadPoolExecutor(2) as pool:
        fitting = list((pool.map if len(memory) > _LARGE else map)(fits, entries.values()))
    wrong = [name for name, fit in zip(entries, fitting, strict=True) if not fit]
    if wrong:
        raise EOFError(f"{wrong[0][:100]} in it is not what it was when it was saved: its check sum differs")


# ----------------------------------------------------------------------------------------------------------- before 1.6


def _old(stream: BinaryIO, memory: Tensor, read: Read) -> TorchFile:
    read(stream)  # the number of the format's version
    system, _ = read(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise pickle.UnpicklingError("its numbers are those of another kind of computer")
    content, storages = read(stream)
    keys, _ = read(stream)
    places: dict[str, Place] = {}
    at = stream.tell()
    for key in keys:
        (count,) = struct.unpack("=q", _bytes(memory, Place(at, 8)))
        places[key] = Place(at + 8, count * storages[key].itemsize)
        at += 8 + places[key].length
        if count < 0 or at > len(memory):
            raise EOFError("it ends within its numbers")
    return TorchFile(content, memory, places)
