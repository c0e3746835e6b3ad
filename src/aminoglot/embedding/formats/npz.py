"""npz: what ``numpy.load`` opens, without pickle. Written member by member, so that memory stays small."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from aminoglot.embedding.formats.base import Array, Batch, Layout
from aminoglot.embedding.formats.stacked import SmallColumns, StackedStore, several, stacked_rows, stacked_shape
from aminoglot.errors import OutputError

_OURS = "aminoglot"
_PIECE = 4096


class NpzWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        (self._kind,) = layout.kinds
        self._layout = layout
        self._small = SmallColumns()
        self._file = path.open("wb")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._embeddings = self._member("embeddings")
        header = {"descr": layout.dtype.newbyteorder("<").str, "fortran_order": False, "shape": stacked_shape(layout)}
        np.lib.format.write_array_header_2_0(self._embeddings, header)

    def _member(self, name: str) -> IO[bytes]:
        # ZipInfo's default date is 1980: outputs hold no times
        return self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

    def write(self, batch: Batch) -> None:
        self._small.add(batch)
        self._embeddings.write(stacked_rows(batch, self._kind, self._layout.several).data)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        self._embeddings.close()
        self._texts("ids", self._small.ids)
        self._texts("original_ids", self._small.original_ids)
        arrays: dict[str, Array] = dict(self._small.arrays(self._kind))
        arrays[_OURS] = np.array(json.dumps(provenance))
        for name, array in arrays.items():
            with self._member(name) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        self._zip.close()
        self._file.close()

    def _texts(self, name: str, texts: Sequence[str]) -> None:
        """Fixed-width text, in pieces: one long id makes the file larger, not the memory."""
        dtype = np.dtype(f"<U{max(map(len, texts), default=1)}")
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(texts),)}
        with self._member(name) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for start in range(0, len(texts), _PIECE):
                member.write(np.array(texts[start : start + _PIECE], dtype=dtype).data.cast("B"))

    def abort(self) -> None:
        with suppress(Exception):
            self._embeddings.close()
        self._zip.fp = None  # or it would try to finish the archive when it is collected
        self._file.close()


class NpzStore(StackedStore):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("rb")
        try:
            self._file = np.load(self._stream, allow_pickle=False)
            self.provenance = json.loads(str(self._file[_OURS]))
            self._several = several(self.provenance)
            self._offsets = self._file.get("offsets")
        except Exception as error:
            self._stream.close()
            raise OutputError(f"{path}: not an npz that aminoglot wrote, or cut short ({error})") from error

    @cached_property
    def _embeddings(self) -> Array:
        array: Array = self._file["embeddings"]
        return array

    @cached_property
    def ids(self) -> Sequence[str]:
        ids: list[str] = self._file["ids"].tolist()
        return ids

    def _slice(self, start: int, stop: int) -> Array:
        return self._embeddings[start:stop]

    def matrix(self) -> Array:
        return self._embeddings if self._offsets is None else super().matrix()

    def close(self) -> None:
        self._file.close()
        self._stream.close()
