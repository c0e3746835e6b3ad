"""What npz and safetensors share: all arrays stacked into one, with ids and offsets beside it.

embeddings          [N, D] per protein, [R, D] per residue (R rows of all proteins end to end); several layers are
                    one more axis before D, so that it can be written as it comes
offsets             first row of each protein, and R at the end: int64 [N + 1] (per residue only)
length, residues_embedded, replaced_letters    int64 [N]
ids, original_ids   text
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.embedding.formats.base import Array, Batch, Kind, Layout, Store


def stacked_shape(layout: Layout) -> tuple[int, ...]:
    """Shape of ``embeddings``."""
    (kind,) = layout.kinds
    rows = layout.proteins if kind == "protein" else layout.residues
    return (rows, *((len(layout.layers),) if layout.several else ()), layout.hidden)


def stacked_rows(batch: Batch, kind: Kind, several: bool) -> Array:
    """A batch's rows of ``embeddings``."""
    if kind == "protein":
        assert batch.protein is not None
        return np.ascontiguousarray(batch.protein)
    residues = batch.arrays("residue")
    return np.concatenate([array.swapaxes(0, 1) if several else array for array in residues])


class SmallColumns:
    """Everything of a stacked file but the embeddings, gathered while those are written."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.original_ids: list[str] = []
        self._numbers: dict[str, list[NDArray[np.int64]]] = {
            "length": [],
            "residues_embedded": [],
            "replaced_letters": [],
        }

    def add(self, batch: Batch) -> None:
        self.ids += batch.ids
        self.original_ids += batch.original_ids
        for name, values in zip(self._numbers, (batch.lengths, batch.rows, batch.replaced), strict=True):
            self._numbers[name].append(values)

    def arrays(self, kind: Kind) -> dict[str, NDArray[np.int64]]:
        empty = [np.zeros(0, dtype=np.int64)]
        found = {name: np.concatenate(values or empty).astype("<i8") for name, values in self._numbers.items()}
        if kind == "residue":
            found["offsets"] = np.concatenate(([0], np.cumsum(found["residues_embedded"]))).astype("<i8")
        return found


class StackedStore(Store):
    """A store over ``embeddings`` and ``offsets``; subclasses say where they come from."""

    _offsets: NDArray[np.int64] | None
    _several: bool

    @abstractmethod
    def _slice(self, start: int, stop: int) -> Array:
        """Rows of ``embeddings``."""

    def __getitem__(self, name: str) -> Array:
        row = self._row(name)
        if self._offsets is None:
            vector: Array = self._slice(row, row + 1)[0]
            return vector
        array = self._slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        return array.swapaxes(0, 1) if self._several else array


def several(provenance: Mapping[str, Any]) -> bool:
    """Whether the arrays of a file have a layer axis."""
    return bool(provenance["several_layers"])


def as_text(names: Sequence[str]) -> bytes:
    """Names as UTF-8 lines; ids hold no control characters."""
    return "\n".join(names).encode()
