"""Parquet: one row a protein, for tables, databases and millions of proteins.

Columns: id, original_id, length, residues_embedded, replaced_letters, sequence_sha256, embedding. The embedding is a
fixed-size list per protein, a list of such per residue; several layers are one more list around.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aminoglot.embedding.formats.base import Array, Batch, Layout, Store
from aminoglot.errors import OutputError

_OURS = b"aminoglot"


class ParquetWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        (self._kind,) = layout.kinds
        self._layout = layout
        self._vector = pa.list_(pa.from_numpy_dtype(layout.dtype), layout.hidden)
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("original_id", pa.string()),
                ("length", pa.int64()),
                ("residues_embedded", pa.int64()),
                ("replaced_letters", pa.int64()),
                ("sequence_sha256", pa.string()),
                ("embedding", self._embedding_type()),
            ]
        )
        self._file = pq.ParquetWriter(path, self._schema, compression="none", use_dictionary=False)

    def _embedding_type(self) -> pa.DataType:
        kind = self._vector if self._kind == "protein" else pa.large_list(self._vector)
        return pa.large_list(kind) if self._layout.several else kind

    def write(self, batch: Batch) -> None:
        columns = [
            pa.array(batch.ids),
            pa.array(batch.original_ids),
            pa.array(batch.lengths),
            pa.array(batch.rows),
            pa.array(batch.replaced),
            pa.array([bytes(digest).hex() for digest in batch.digests]),
            self._embedding(batch),
        ]
        self._file.write_batch(pa.record_batch(columns, schema=self._schema))

    def _embedding(self, batch: Batch) -> pa.Array:
        arrays = batch.arrays(self._kind)
        if isinstance(arrays, np.ndarray):
            flat = np.ascontiguousarray(arrays).reshape(-1)
        else:
            flat = np.concatenate([np.ascontiguousarray(array).reshape(-1) for array in arrays])
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=self._vector)
        depth = len(self._layout.layers) if self._layout.several else 1
        if self._kind == "residue":
            column = _nested(column, np.repeat(batch.rows, depth))
        if self._layout.several:
            column = _nested(column, np.full(len(batch.ids), depth))
        return column

    def finish(self, provenance: Mapping[str, Any]) -> None:
        shape = {"kind": self._kind, "several": self._layout.several, "hidden": self._layout.hidden}
        self._file.add_key_value_metadata({_OURS: json.dumps(provenance), b"aminoglot.layout": json.dumps(shape)})
        self._file.close()

    def abort(self) -> None:
        self._file.close()


def _nested(values: pa.Array, sizes: Any) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(sizes)))), values)


class ParquetStore(Store):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{path}: not a readable Parquet file, or cut short ({error})") from error
        try:
            metadata = self._file.metadata.metadata or {}
            self.provenance = json.loads(metadata[_OURS])
            self._shape = json.loads(metadata[b"aminoglot.layout"])
        except (KeyError, ValueError) as error:
            self._file.close()
            raise OutputError(f"{path}: a Parquet file, but not of embeddings that aminoglot wrote") from error
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate(([0], np.cumsum(groups))).astype(int)
        self._cached: tuple[int, pa.Array] | None = None

    @cached_property
    def ids(self) -> Sequence[str]:
        ids: list[str] = self._file.read(columns=["id"]).column("id").to_pylist()
        return ids

    def __getitem__(self, name: str) -> Array:
        row = self._row(name)
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._array(self._group(group)[row - int(self._starts[group])])

    def _group(self, group: int) -> pa.Array:
        if self._cached is None or self._cached[0] != group:
            column = self._file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
            self._cached = (group, column)
        return self._cached[1]

    def _array(self, scalar: pa.Scalar) -> Array:
        """A nested list scalar as an array: its values lie end to end, only the shape is missing."""
        values = scalar.values
        leading = [len(values)] if self._shape["several"] else []
        while isinstance(values.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            values = values.flatten()
        flat: Array = values.to_numpy(zero_copy_only=False)
        residues = [] if self._shape["kind"] == "protein" else [-1]
        return flat.reshape(*leading, *residues, self._shape["hidden"])

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        for group in range(self._file.num_row_groups):
            start = int(self._starts[group])
            for offset, scalar in enumerate(self._group(group)):
                yield self.ids[start + offset], self._array(scalar)

    def close(self) -> None:
        self._file.close()
