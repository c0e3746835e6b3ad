"""safetensors: stacked arrays in a file that can be mapped. Ids are UTF-8 lines in a uint8 tensor.

The header comes first but is known last, so room is left for it and filled at the end; the format allows blanks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from aminoglot.embedding.formats.base import Array, Batch, Layout
from aminoglot.embedding.formats.stacked import (
    SmallColumns,
    StackedStore,
    as_text,
    several,
    stacked_rows,
    stacked_shape,
)
from aminoglot.errors import OutputError

_HEADER = 16 << 10
_OURS = "aminoglot"
_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}


class SafetensorsWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        (self._kind,) = layout.kinds
        self._layout = layout
        self._small = SmallColumns()
        self._tensors: dict[str, Any] = {}
        self._file = path.open("wb")
        self._file.write(_HEADER.to_bytes(8, "little") + b" " * _HEADER)
        size = int(np.prod(stacked_shape(layout), dtype=np.int64)) * layout.dtype.itemsize
        self._note("embeddings", layout.dtype, stacked_shape(layout), 0, size)
        self._end = size

    def _note(self, name: str, dtype: np.dtype[Any], shape: Sequence[int], start: int, size: int) -> None:
        self._tensors[name] = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [start, start + size]}

    def write(self, batch: Batch) -> None:
        self._small.add(batch)
        self._file.write(stacked_rows(batch, self._kind, self._layout.several).data)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        arrays: dict[str, Array] = dict(self._small.arrays(self._kind))
        for name, texts in (("ids", self._small.ids), ("original_ids", self._small.original_ids)):
            arrays[name] = np.frombuffer(as_text(texts), dtype=np.uint8)
        for name, array in arrays.items():
            self._note(name, array.dtype, array.shape, self._end, array.nbytes)
            self._file.write(array.tobytes())
            self._end += array.nbytes
        header = json.dumps({"__metadata__": {_OURS: json.dumps(provenance)}, **self._tensors}).encode()
        assert len(header) <= _HEADER, "the header outgrew the room left for it"
        self._file.seek(8)
        self._file.write(header.ljust(_HEADER))
        self._file.close()

    def abort(self) -> None:
        self._file.close()


class SafetensorsStore(StackedStore):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            self.provenance = json.loads((self._file.metadata() or {})[_OURS])
            self._several = several(self.provenance)
            names = self._file.keys()
            self._offsets = self._file.get_tensor("offsets") if "offsets" in names else None
            self._embeddings = self._file.get_slice("embeddings")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise OutputError(f"{path}: not a safetensors file that aminoglot wrote, or cut short ({error})") from error

    @cached_property
    def ids(self) -> Sequence[str]:
        text = bytes(self._file.get_tensor("ids")).decode()
        return text.split("\n") if text else []

    def _slice(self, start: int, stop: int) -> Array:
        array: Array = self._embeddings[start:stop]
        return array

    def matrix(self) -> Array:
        return self._file.get_tensor("embeddings") if self._offsets is None else super().matrix()

    def close(self) -> None:
        self.__dict__.pop("_embeddings", None)
        self.__dict__.pop("_file", None)
