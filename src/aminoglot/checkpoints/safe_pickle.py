"""The only reader of pickles: torch's restricted one, which builds tensors and plain containers and calls nothing.

One class beyond its own list is allowed, ``argparse.Namespace``, a bag of settings that fair-esm's files hold.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from aminoglot.errors import ModelError


def load(path: Path) -> Any:
    """Read a torch file without executing anything from it; tensors are mapped, not copied, where the file allows.

    Raises:
        ModelError: when the file asks for anything but data, is cut short, or is no torch file.
    """
    with _guarded(str(path)):
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 can only be read
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def load_part(where: str, stream: BinaryIO, memory: Tensor, start: int) -> Any:
    """Read a torch file that lies within another file, as :func:`load` does.

    Args:
        where: what messages call it.
        stream: over the torch file alone.
        memory: the outer file, mapped, uint8.
        start: where in it the torch file begins.
    """
    with _guarded(where):
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
        stream.seek(0)
        outline = _outline(stream)
        if outline is None:
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
        return _filled(outline, memory[start:])


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


_CHECKPOINT = "torch.distributed.checkpoint."
_RECORDS = {
    f"{_CHECKPOINT}metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "StorageMeta"),
    },
    f"{_CHECKPOINT}filesystem": {"_StorageInfo", "_StoragePrefix"},
}
_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


class _Index(pickle.Unpickler):
    """Knows the names that an index may hold, and gives each something harmless."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return Record
        if module == "torch" and name in _DTYPES:
            return _named
        if (module, name) in (("torch", "Size"), ("builtins", "list"), ("builtins", "tuple")):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) in (
            ("torch.serialization", "_get_layout"),
            (f"{_CHECKPOINT}metadata", "_MEM_FORMAT_ENCODING"),
            ("pathlib", "PosixPath"),
            ("pathlib", "PurePosixPath"),
        ):
            return _named
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
    """What was loaded without its values, with values that are mapped."""
    if isinstance(outline, Mapping):
        return {key: _filled(value, memory) for key, value in outline.items()}
    if not isinstance(outline, Tensor):
        return outline
    storage = outline.untyped_storage()
    start = storage._checkpoint_offset
    if start is None or start + storage.nbytes() > len(memory):
        raise EOFError("a tensor lies beyond the end")
    values = memory[start : start + storage.nbytes()]
    if values.data_ptr() % outline.element_size():
        values = values.clone()
    values = values.view(outline.dtype)
    return values.as_strided(outline.shape, outline.stride(), values.storage_offset() + outline.storage_offset())


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
