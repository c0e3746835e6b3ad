"""A shard's arrays on disk: one safetensors file, read back row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.storage import write_whole

_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def write_shard(folder: JobFolder, shard: int, arrays: Mapping[str, NDArray[Any]], failed: dict[int, str]) -> Entry:
    """Write a shard whole or not at all, and say what was written."""
    path = folder.shard(shard)
    data = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    # a worker that was given up for lost may still be at it, while another computes the shard again
    write_whole(path, lambda temporary: _write(temporary, data), alone=False)
    folder.keep(path)
    return Entry(shard, hashlib.sha256(data).hexdigest(), len(data), failed)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class ShardReader:
    """Rows of a shard's arrays, read (not mapped) so that memory stays with what is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        size = int.from_bytes(self._file.read(8), "little")
        self._header = json.loads(self._file.read(size))
        self._data = 8 + size

    def close(self) -> None:
        self._file.close()

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of one array."""
        dtype, shape, at = self._array(name)
        width = dtype.itemsize * int(np.prod(shape[1:]))
        self._file.seek(at + start * width)
        raw = self._file.read((stop - start) * width)
        return np.frombuffer(raw, dtype=dtype).reshape(stop - start, *shape[1:])

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Any rows of one array, through a map that is gone afterwards."""
        return np.asarray(self.mapped(name)[rows])

    def mapped(self, name: str) -> NDArray[Any]:
        """One array, whose numbers are read when they are looked at."""
        dtype, shape, at = self._array(name)
        return np.memmap(self._path, dtype=dtype, mode="r", offset=at, shape=shape)

    def _array(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
        info = self._header[name]
        return np.dtype(_DTYPES[info["dtype"]]), tuple(info["shape"]), self._data + info["data_offsets"][0]

    def all(self, name: str) -> NDArray[Any]:
        """One array whole."""
        return self.rows(name, 0, self._header[name]["shape"][0])
