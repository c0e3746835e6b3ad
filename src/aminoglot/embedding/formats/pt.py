"""A folder of fair-esm ``.pt`` files, one a protein, for programs that read what ``esm-extract`` writes.

Each holds ``label``, and ``representations`` (layer to [L, D]), ``mean_representations`` or ``bos_representations``
(layer to [D]). They are pickles, because that format is; they are read with torch's restricted reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.checkpoints import safe_pickle
from aminoglot.embedding.formats.base import Array, Batch, Layout, Store
from aminoglot.embedding.formats.h5 import escape, unescape
from aminoglot.errors import OutputError

_OURS = "aminoglot.json"
_POOLED = {"mean": "mean_representations", "cls": "bos_representations", "max": "max_representations"}
_LONGEST_NAME = 240


class PtWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout
        path.mkdir()

    def write(self, batch: Batch) -> None:
        for i, name in enumerate(batch.ids):
            content: dict[str, Any] = {"label": name}
            if batch.residue is not None:
                content["representations"] = self._by_layer(batch.residue[i])
            if batch.protein is not None:
                content[_POOLED[self._layout.pool]] = self._by_layer(batch.protein[i])
            self._save(name, content)

    def _by_layer(self, array: Array) -> dict[int, torch.Tensor]:
        rows = array if self._layout.several else array[None]
        return {layer: torch.from_numpy(np.array(row)) for layer, row in zip(self._layout.layers, rows, strict=True)}

    def _save(self, name: str, content: dict[str, Any]) -> None:
        file_name = f"{escape(name)}.pt"
        if len(file_name.encode()) > _LONGEST_NAME:
            raise OutputError(f"id {name[:60]!r}...: too long for a file name; choose .h5 or .parquet instead")
        torch.save(content, self._path / file_name)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        (self._path / _OURS).write_text(json.dumps(provenance, indent=1) + "\n")

    def abort(self) -> None:
        return


class PtStore(Store):
    def __init__(self, path: Path) -> None:
        self._path = path
        if not (path / _OURS).is_file():
            raise OutputError(f"{path}: no {_OURS} in this folder; not written by aminoglot, or not finished")
        self.provenance = json.loads((path / _OURS).read_text())

    @cached_property
    def ids(self) -> Sequence[str]:
        return [unescape(file.stem) for file in sorted(self._path.glob("*.pt"))]

    def __getitem__(self, name: str) -> Array:
        path = self._path / f"{escape(name)}.pt"
        if not path.is_file():
            raise KeyError(name)
        content = safe_pickle.load(path)
        key = "representations" if "representations" in content else _POOLED[self.provenance["pool"]]
        rows = [content[key][layer].numpy() for layer in self.provenance["layers"]]
        return np.stack(rows) if self.provenance["several_layers"] else rows[0]

    def close(self) -> None:
        return
