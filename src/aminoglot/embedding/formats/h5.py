"""HDF5 as the field reads it and UniProt publishes it: one dataset a protein at the root, key = id.

Datasets are created through h5py's low-level interface: four times faster than ``create_dataset``, same file.
Proteins to which something happened carry a mark: ``length`` and ``residues_embedded`` where a protein was shortened,
``replaced_letters`` where letters became X.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t

from aminoglot.embedding.formats.base import Array, Batch, Layout, Store
from aminoglot.errors import OutputError

_COMPACT = 32 << 10
_METADATA_CACHE = 8 << 20
_OURS = "aminoglot"


def escape(name: str) -> str:
    """An id as an HDF5 key: ``/`` would open a group and ``.`` alone is the group itself, so they are escaped."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return name.replace("%", "%25").replace("/", "%2F")


def unescape(key: str) -> str:
    return key.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


class H5Writer:
    def __init__(self, path: Path, layout: Layout) -> None:
        (self._kind,) = layout.kinds
        self._file = h5py.File(path, "w", track_order=True)  # proteins are listed as they came, not by name
        self._stored = h5t.IEEE_F32LE if layout.dtype == np.float32 else h5t.IEEE_F16LE
        self._memory = h5t.py_create(layout.dtype, logical=True)
        self._scalar = h5s.create(h5s.SCALAR)
        self._creation = {True: _creation(h5d.COMPACT), False: _creation(h5d.CONTIGUOUS)}
        self._spaces: dict[tuple[int, ...], Any] = {}
        self._string = h5t.py_create(h5py.string_dtype(), logical=True)
        self._layout = layout
        _widen_cache(self._file)

    def write(self, batch: Batch) -> None:
        try:
            self._write(batch)
        except RuntimeError as error:
            raise OSError(str(error)) from error

    def _write(self, batch: Batch) -> None:
        group = self._file.id
        for i, array in enumerate(batch.arrays(self._kind)):
            space = self._spaces.get(array.shape)
            if space is None:
                space = h5s.create_simple(array.shape)
                if self._kind == "protein":
                    self._spaces[array.shape] = space
            creation = self._creation[array.nbytes <= _COMPACT]
            dataset = h5d.create(group, escape(batch.ids[i]).encode(), self._stored, space, creation)
            dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array), self._memory)
            self._text(dataset, b"original_id", batch.original_ids[i])
            if batch.rows[i] != batch.lengths[i]:
                self._number(dataset, b"length", batch.lengths[i])
                self._number(dataset, b"residues_embedded", batch.rows[i])
            if batch.replaced[i]:
                self._number(dataset, b"replaced_letters", batch.replaced[i])

    def _text(self, dataset: Any, name: bytes, text: str) -> None:
        h5a.create(dataset, name, self._string, self._scalar).write(np.array(text, dtype=object))

    def _number(self, dataset: Any, name: bytes, value: np.int64) -> None:
        h5a.create(dataset, name, h5t.STD_I64LE, self._scalar).write(np.array(value), h5t.NATIVE_INT64)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        try:
            self._finish(provenance)
        except RuntimeError as error:  # what HDF5 says of a disk that is full when it flushes
            raise OSError(str(error)) from error

    def _finish(self, provenance: Mapping[str, Any]) -> None:
        attributes = self._file.attrs
        attributes[_OURS] = np.bytes_(json.dumps(provenance))  # fixed length: on HDF5's heap, damage can hang it
        attributes["model_name"] = provenance["model"]
        attributes["dtype"] = self._layout.dtype.name
        attributes["layer"] = list(self._layout.layers)
        attributes["version"] = provenance["aminoglot"]
        if self._kind == "protein":
            attributes["pooling"] = provenance["pool"]
        self._file.close()

    def abort(self) -> None:
        with suppress(OSError, RuntimeError):
            self._file.close()


def _widen_cache(file: Any) -> None:
    """Give HDF5 room for the metadata of a large group: a tenth less time a protein at a million of them."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = _METADATA_CACHE
    config.max_size = 2 * _METADATA_CACHE
    file.id.set_mdc_config(config)


def _creation(layout: int) -> Any:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(layout)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same job gives the same bytes
    return properties


class H5Store(Store):
    """An h5 of ours, or any with one dataset a protein at the root, such as UniProt's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise OutputError(f"{path}: not a readable HDF5 file, or cut short ({error})") from error
        try:
            raw = self._file.attrs.get(_OURS)
            self.provenance = json.loads(raw) if raw is not None else {}
        except Exception as error:  # damage surfaces as nearly anything
            self._file.close()
            raise OutputError(f"{path}: its provenance is damaged ({error})") from error

    @cached_property
    def ids(self) -> Sequence[str]:
        return [unescape(key) if self.provenance else key for key in self._file]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._file

    def _key(self, name: str) -> str:
        return escape(name) if self.provenance else name

    def __getitem__(self, name: str) -> Array:
        try:
            found = self._file[self._key(name)]
        except KeyError:
            raise self._missing(name) from None
        if not isinstance(found, h5py.Dataset):
            raise OutputError(f"{self.path}: {name!r} is a group, not an embedding")
        array: Array = found[()]
        return array

    def close(self) -> None:
        self._file.close()
