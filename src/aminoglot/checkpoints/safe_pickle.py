"""The only reader of pickles: torch's restricted one, which builds tensors and plain containers and calls nothing.

One class beyond its own list is allowed, ``argparse.Namespace``, a bag of settings that fair-esm's files hold.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from aminoglot.errors import ModelError

_MOST_PICKLE = 256 << 20
"""Bytes of what is not weights in a torch file: names, shapes and settings need some thousands."""


def load(path: Path) -> Any:
    """Read a torch file without executing anything from it; tensors are mapped, not copied, where the file allows.

    Raises:
        ModelError: when the file asks for anything but data, is cut short, or is no torch file.
    """
    with _guarded(str(path)):
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 can only be read
        if mapped:
            _look(zipfile.ZipFile(path))
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def load_part(where: str, stream: BinaryIO, memory: Tensor) -> Any:
    """Read a torch file that lies within another file, as :func:`load` does.

    Args:
        where: what messages call it.
        stream: over the torch file alone.
        memory: the same bytes, mapped, uint8.
    """
    with _guarded(where):
        ours = zipfile.is_zipfile(stream) and _look(zipfile.ZipFile(stream))
        stream.seek(0)
        outline = _outline(stream) if ours else None
        if outline is None:
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
        return _filled(outline, memory)


def _look(file: zipfile.ZipFile) -> bool:
    """Whether the numbers in a torch file are this machine's own, so that they can be mapped.

    Raises:
        UnpicklingError: for compressed entries, which torch never writes, and which could unpack to anything.
    """
    with file:
        for entry in file.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"{entry.filename} in it is compressed")
            if entry.filename.endswith(".pkl") and entry.file_size > _MOST_PICKLE:
                raise pickle.UnpicklingError(f"{entry.filename} in it has {entry.file_size:,} bytes")
        orders = [file.read(entry) for entry in file.infolist() if entry.filename.endswith("/byteorder")]
    return orders in ([], [sys.byteorder.encode()])


def load_index(where: str, data: bytes) -> Any:
    """Read the index of a torch distributed checkpoint: its records become :class:`Record`, and nothing is called.

    Raises:
        ModelError: when it asks for anything but those records.
    """
    with _guarded(where):
        return _Index(io.BytesIO(data)).load()


class Record:
    """One of the records in such an index: its fields are attributes."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


_RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "StorageMeta"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed._shard.sharded_tensor.metadata": {"TensorProperties"},  # where it was before torch 2.4
}
_PATHS = {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"}
_HARMLESS = {
    "torch": {
        *("float16", "bfloat16", "float32", "float64"),
        *("int8", "int16", "int32", "int64", "uint8", "bool"),
    },
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {"_MEM_FORMAT_ENCODING"},
    "torch.distributed._shard.sharded_tensor.metadata": {"MEM_FORMAT_ENCODING"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
}


class _Index(pickle._Unpickler):
    """Knows the names that an index may hold, and gives each something harmless.

    Python's own unpickler, for the one in C makes room for as many objects as a file says that it has.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return Record
        if name in _HARMLESS.get(module, ()):
            return _named
        if (module, name) in (("torch", "Size"), ("builtins", "list"), ("builtins", "tuple")):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def _named(*_: Any) -> None:
    """What a type, a layout or a path becomes: the tensors themselves say all that is wanted."""


def _outline(stream: BinaryIO) -> Any:
    """All but the values, which are where each tensor's storage says; None where this torch cannot tell."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:  # a private place, though torch's documentation names it for this
        return None
    with FakeTensorMode():
        return torch.load(stream, map_location="cpu", weights_only=True)


def _filled(outline: Any, memory: Tensor) -> Any:
    """A tensor, or a dictionary with tensors, that was loaded without its values: with values that are mapped."""
    if isinstance(outline, Tensor):
        return _mapped(outline, memory, {})
    if isinstance(outline, Mapping):
        copies: dict[int, torch.UntypedStorage] = {}
        return {
            key: _mapped(value, memory, copies) if isinstance(value, Tensor) else value
            for key, value in outline.items()
        }
    return outline


def _mapped(outline: Tensor, memory: Tensor, copies: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = outline.untyped_storage()
    start, size = storage._checkpoint_offset, storage.nbytes()
    if start is None or start + size > len(memory):
        raise EOFError("a tensor lies beyond the end")
    first = memory.storage_offset() + start
    values = copies.get(start) or memory.untyped_storage()[first : first + size]
    if values.data_ptr() % outline.element_size():
        values = copies[start] = values.clone()
    return torch.empty(0, dtype=outline.dtype).set_(values, outline.storage_offset(), outline.shape, outline.stride())


@contextmanager
def _guarded(where: str) -> Iterator[None]:
    """torch's restricted reader, and its complaints in words."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice is for programmers
            yield
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise ModelError(
                f"{where}: refused: the file asks Python for {asked[1]}; a checkpoint needs only tensors and settings"
            ) from error
        raise ModelError(f"{where}: not a torch checkpoint, or damaged ({_first_line(error)})") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damage surfaces as nearly anything
        raise ModelError(f"{where}: cut short or damaged ({_first_line(error)}); get the file again") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
