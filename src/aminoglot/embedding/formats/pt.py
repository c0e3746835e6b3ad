"""A folder of fair-esm ``.pt`` files, one a protein, for programs that read what ``esm-extract`` writes.

Each holds ``label``, and ``representations`` (layer to [L, D]), ``mean_representations`` or ``bos_representations``
(layer to [D]). They are pickles, because that format is; they are read with torch's restricted reader.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.checkpoints import safe_pickle
from aminoglot.embedding.formats.base import Array, Batch, Layout, Store
from aminoglot.embedding.formats.h5 import escape
from aminoglot.errors import OutputError

MARK = "aminoglot.json"
_POOLED = {"mean": "mean_representations", "cls": "bos_representations", "max": "max_representations"}
_LONGEST_NAME = 240


def file_name(name: str) -> str:
    """The file of one protein.

    Raises:
        OutputError: when no file can be called that.
    """
    found = f"{escape(name)}.pt"
    if len(found.encode()) > _LONGEST_NAME:
        raise OutputError(f"id {name[:60]!r}...: too long for a file name; choose .h5 or .parquet instead")
    return found


class PtWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout
        self._ids: list[str] = []
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
        buffer = io.BytesIO()  # so that any name will do, and a full disk is an OSError
        torch.save(content, buffer)
        (self._path / file_name(name)).write_bytes(buffer.getbuffer())
        self._ids.append(name)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        text = json.dumps({"provenance": provenance, "ids": self._ids}, indent=1) + "\n"
        (self._path / MARK).write_text(text, encoding="utf-8")

    def abort(self) -> None:
        return


class PtStore(Store):
    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / MARK).is_file():
            raise OutputError(f"{path}: no {MARK} in this folder; not written by aminoglot, or not finished")
        try:
            written = json.loads((path / MARK).read_text(encoding="utf-8"))
            self.provenance, self._ids = written["provenance"], list(written["ids"])
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path / MARK}: damaged, so this folder cannot be read ({error})") from error

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def __getitem__(self, name: str) -> Array:
        """Residues where the folder has them, else pooled vectors."""
        return self.contents(name)[0]

    def contents(self, name: str) -> tuple[Array, ...]:
        self._row(name)
        content = safe_pickle.load(self.path / file_name(name))
        keys = ("representations", _POOLED[self.provenance["pool"]])
        return tuple(self._array(content[key]) for key in keys if key in content)

    def _array(self, by_layer: Mapping[int, torch.Tensor]) -> Array:
        rows = [by_layer[layer].numpy() for layer in self.provenance["layers"]]
        return np.stack(rows) if self.provenance["several_layers"] else rows[0]

    def close(self) -> None:
        return
