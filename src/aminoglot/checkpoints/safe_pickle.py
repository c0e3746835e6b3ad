"""The only reader of pickles: it makes tensors, plain containers and bags of settings, and calls nothing of a file's.

torch's own restricted reader runs nothing either, but it makes objects as large as a file asks for. Here a tensor is no
larger than what the file has of it, and is mapped, not copied.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from aminoglot.checkpoints import archive
from aminoglot.checkpoints.torch_file import STORAGES, Outline, TorchFile, opened
from aminoglot.errors import ModelError, first_line, is_allocation_failure

_MOST_PICKLE = 2 << 20
"""Bytes of what is not weights in a torch file: names, shapes and settings; ESM-2 15B has a tenth of a megabyte."""
_MOST_TENSORS = 50_000
_MOST_AXES = 8


def load(path: Path) -> Any:
    """Read a torch file without executing anything from it; tensors are mapped where the file allows.

    Raises:
        ModelError: when the file asks for anything but data, is cut short or damaged, or is no torch file.
    """
    with _guarded(str(path)), path.open("rb") as file:
        return _load(file, archive.mapped(file))


def load_part(where: str, stream: BinaryIO, memory: Tensor) -> Any:
    """Read a torch file that lies within another file, as :func:`load` does.

    Args:
        where: what messages call it.
        stream: over the torch file alone.
        memory: the same bytes, mapped, uint8.
    """
    with _guarded(where):
        return _load(stream, memory)


def load_index(where: str, data: bytes) -> Any:
    """Read the index of a torch distributed checkpoint: its records become :class:`Record`, and nothing is called.

    Raises:
        ModelError: when it asks for anything but those records.
    """
    with _guarded(where):
        return _Index(io.BytesIO(data), len(data)).load()


def _load(stream: BinaryIO, memory: Tensor) -> Any:
    def read(pickled: BinaryIO) -> tuple[Any, Mapping[str, torch.dtype]]:
        unpickler = _Weights(pickled, _MOST_PICKLE)
        return unpickler.load(), unpickler.storages

    file = opened(stream, memory, read)
    _fill(file)
    return file.content


def _fill(file: TorchFile) -> None:
    """Put tensors in the place of their outlines, wherever containers lie in containers; nothing is copied."""
    if isinstance(file.content, Outline):
        file.content = file.tensor(file.content)
    waiting = [file.content] if isinstance(file.content, dict | list) else []
    seen = {id(file.content)}
    while waiting:
        content = waiting.pop()
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            if isinstance(value, Outline):
                content[key] = file.tensor(value)
            elif isinstance(value, dict | list) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)


# --------------------------------------------------------------------------------------------------- what is allowed


class Bag:
    """A record of fields: ``argparse.Namespace`` in fair-esm's files."""


class Record(Bag):
    """One of the records in the index of a distributed checkpoint."""


class _Dictionary(dict[Any, Any]):
    """``collections.OrderedDict``; what beside its items was kept with it (``_metadata``) is not."""


def _dictionary(*items: Any) -> _Dictionary:
    if items:
        raise pickle.UnpicklingError("an OrderedDict that is made of something")
    return _Dictionary()


def _as_given(values: Any = (), *_: Any) -> Any:
    """A shape, or a tensor under another name."""
    return values


def _nothing(*_: Any) -> None:
    """What a type, a device, a layout or a path becomes: the tensors themselves say all that is wanted."""


_TYPES = {
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
}
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_EITHER: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _dictionary,
    ("torch", "Size"): _as_given,
    **{("torch", name): _nothing for name in _TYPES},
    ("torch", "device"): _nothing,
    ("torch.serialization", "_get_layout"): _nothing,
}
_IN_WEIGHTS: dict[tuple[str, str], Any] = {
    **_EITHER,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("argparse", "Namespace"): Bag,
    ("torch._utils", "_rebuild_parameter"): _as_given,
    ("torch._utils", "_rebuild_parameter_with_state"): _as_given,  # Megatron's have attributes
    ("torch", "Tensor"): _nothing,
    ("torch.nn.parameter", "Parameter"): _nothing,
    ("collections", "Counter"): _nothing,
    ("_io", "BytesIO"): Bag,  # TransformerEngine's _extra_state
    **{(module, name): _nothing for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")},
    ("_codecs", "encode"): _nothing,
}
_METADATA = "torch.distributed.checkpoint.metadata"
_IN_INDEX: dict[tuple[str, str], Any] = {
    **_EITHER,
    **{
        (_METADATA, name): Record
        for name in (
            *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata"),
            *("ChunkStorageMetadata", "TensorProperties", "StorageMeta"),
        )
    },
    **{("torch.distributed.checkpoint.filesystem", name): Record for name in ("_StorageInfo", "_StoragePrefix")},
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"): Record,  # where it was before torch 2.4
    (_METADATA, "_MEM_FORMAT_ENCODING"): _nothing,
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"): _nothing,
    **{(module, name): _nothing for module in ("pathlib", "pathlib._local") for name in _PATHS},
    **{(module, name): _as_given for module in ("builtins", "__builtin__") for name in ("list", "tuple")},
}


# ------------------------------------------------------------------------------------------------------ the unpicklers


class _Stream:
    """So many bytes of a stream and no more: Python's unpickler would read a line of any length."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read(size if 0 <= size <= self._left else self._left + 1))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise pickle.UnpicklingError("its names and settings are far too large for a model's")
        return data


def _build(unpickler: Any) -> None:
    """Fields of our own bags, shared and not copied; no other object of ours is touched."""
    state, instance = unpickler.stack.pop(), unpickler.stack[-1]
    if isinstance(instance, Bag):
        if isinstance(state, dict):  # a tensor's properties are a tuple; its own storage says them
            instance.__dict__ = state
    elif not isinstance(instance, _Dictionary):
        raise pickle.UnpicklingError(f"fields for a {type(instance).__name__}")


def _set(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.stack[-1][_key(key)] = value


def _set_many(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    found = unpickler.stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        found[_key(key)] = value


def _key(key: Any) -> Any:
    """Only what needs no hash of its parts: Python's own would follow a million tuples in tuples into a crash."""
    if not isinstance(key, str | int | Record | None):
        raise pickle.UnpicklingError("names that are neither text nor numbers")
    return key


_NEEDED = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.NEWOBJ),
    *(pickle.BINPERSID, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINBYTES),
    *(pickle.SHORT_BINBYTES, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT,),
)
"""What torch writes. The rest makes room of any size, objects of any class, or copies of what is there."""


class _Unpickler(pickle._Unpickler):
    """Knows the names that a file may hold, and gives each something harmless.

    Python's own unpickler, for the one in C makes room for as many objects as a file says that it has.
    """

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _NEEDED} | {
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set,
        pickle.SETITEMS[0]: _set_many,
    }
    names: Mapping[tuple[str, str], Any] = {}

    def __init__(self, stream: BinaryIO, most: int) -> None:
        super().__init__(_Stream(stream, most))

    def find_class(self, module: str, name: str) -> Any:
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("a name that is no text")
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"GLOBAL {module[:100]}.{name[:100]}")
        return self.names[module, name]


class _Index(_Unpickler):
    names = _IN_INDEX


class _Storage(NamedTuple):
    """Numbers of one type, by the name of where they are."""

    dtype: torch.dtype
    key: str


class _Weights(_Unpickler):
    """Tensors become outlines of themselves: where their numbers lie."""

    names = _IN_WEIGHTS

    def __init__(self, stream: BinaryIO, most: int) -> None:
        super().__init__(stream, most)
        self._tensors = 0
        self.storages: dict[str, torch.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return self._with_attributes
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or any(view):
            raise pickle.UnpicklingError("a storage of numbers that is none")
        self.storages[key] = dtype
        return _Storage(dtype, key)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Outline:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without numbers")
        self._tensors += 1
        sizes, strides = (tuple(numbers) if len(numbers) <= _MOST_AXES else () for numbers in (size, stride))
        wrong = [number for number in (offset, *sizes, *strides) if type(number) is not int or number < 0]
        if wrong or len(sizes) != len(size) or len(strides) != len(sizes) or self._tensors > _MOST_TENSORS:
            raise pickle.UnpicklingError("a tensor of no possible shape, or far too many of them")
        return Outline(storage.dtype, storage.key, offset, sizes, strides)

    def _with_attributes(self, function: Any, _type: Any, arguments: Any, *_: Any) -> Outline:
        if function != self._tensor:
            raise pickle.UnpicklingError("a tensor of a class of its own")
        return self._tensor(*arguments)


@contextmanager
def _guarded(where: str) -> Iterator[None]:
    """Complaints in words."""
    try:
        yield
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise ModelError(
                f"{where}: refused: the file asks Python for {asked[1]}; a checkpoint needs only tensors and settings"
            ) from error
        raise ModelError(f"{where}: not a torch checkpoint, or damaged ({first_line(error)})") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damage surfaces as nearly anything
        if is_allocation_failure(error):
            raise ModelError(f"{where}: there is not enough memory to read it") from error
        said = first_line(error) if isinstance(error, EOFError) else type(error).__name__  # others may say all of it
        raise ModelError(f"{where}: cut short or damaged ({said}); get the file again") from error
