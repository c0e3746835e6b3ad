"""Results of an older output: proteins it holds, with the same model and options, need not be computed again."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aminoglot.embedding.export import outputs, table_path
from aminoglot.embedding.formats import reader
from aminoglot.embedding.formats.base import Store
from aminoglot.embedding.store import verify
from aminoglot.engine import Embedded
from aminoglot.errors import InputError, listing
from aminoglot.jobs import changes

DECIDING = (
    "model_digest",
    "per",
    "layers",
    "several_layers",
    "pool",
    "long",
    "limit",
    "precision",
    "device",
    "backend",
    "dtype",
    "token_dropout",
)
"""Entries of the provenance that must agree."""


class Reuse:
    """An older output, by sequence.

    Args:
        path: its file, or the name that ``--per both`` made two of; its table of proteins must lie beside it.
        provenance: what this job's output will say of its making.

    Raises:
        InputError: when the table is missing, or the file was made with another model or other options.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        files = outputs(path, provenance["per"])
        for file in files:
            if not file.exists():
                raise InputError(f"--reuse {file}: no such file")
            with reader(file) as old:
                different = changes(old.provenance, provenance, DECIDING)
            if different:
                raise InputError(
                    f"--reuse {file}: made in another way, so its results cannot be used:\n{listing(different)}"
                )
        self._several = bool(provenance["several_layers"])
        table = table_path(path)
        if not table.is_file():
            raise InputError(f"--reuse needs the table {table.name} that was written beside that file; it is not there")
        for file in files:
            verify(file, table)
        digests, self._ids = _read_table(table)
        self._kinds = [kind for kinds in files.values() for kind in kinds]
        self._stores: list[Store] = [reader(file) for file in files]
        self.residues = 0
        order = np.argsort(digests)
        self._digests, self._order = digests[order], order

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def find(self, sequences: Sequence[bytes]) -> dict[int, str]:
        """Ids in the old file, by index, of those sequences that it holds."""
        wanted = np.array([hashlib.sha256(sequence).hexdigest()[:32].encode() for sequence in sequences], dtype="S32")
        at = np.searchsorted(self._digests, wanted)
        at[at == len(self._digests)] = 0
        hits = np.flatnonzero(self._digests[at] == wanted) if len(self._digests) else np.zeros(0, dtype=int)
        hits = hits[np.argsort(self._order[at[hits]])]  # in the file's order, so that it is read through once
        return {int(i): self._ids[int(self._order[at[i]])].as_py() for i in hits}

    def fetch(self, name: str, into: Embedded, slot: int) -> None:
        """Copy one protein's result into place."""
        self.residues += int(into.rows[slot])
        arrays = [array for store in self._stores for array in store.contents(name)]
        for kind, array in zip(self._kinds, arrays, strict=True):
            layered = array if self._several else array[None]
            if kind == "residue":
                into.residues_of(slot)[:] = layered
            else:
                assert into.protein is not None
                into.protein[slot] = layered


def _read_table(path: Path) -> tuple[Any, pa.Array]:
    """Digests (first 32 hex digits) and ids of the proteins an output holds."""
    digests: list[bytes] = []
    ids: list[str] = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["status"] == "written":
                digests.append(row["sequence_sha256"][:32].encode())
                ids.append(row["id"])
    return np.array(digests, dtype="S32"), pa.array(ids, pa.string())
