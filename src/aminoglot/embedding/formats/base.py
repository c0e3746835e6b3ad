"""What every format shares: the batch that writers take, and the store that readers are.

Shapes: n proteins of a batch, C layers (the axis is absent where one layer was asked for), L residues, D hidden.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import InputError, plural

Kind = Literal["protein", "residue"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """What a writer will be given.

    Attributes:
        kinds: the kinds of arrays, one but for ``.pt`` folders.
        pool: how proteins were pooled.
        layers: layer numbers.
        several: whether arrays have the layer axis.
        hidden: D.
        dtype: float32 or float16.
        proteins: how many proteins will come.
        residues: how many embedded residues they have.
    """

    kinds: tuple[Kind, ...]
    pool: str
    layers: tuple[int, ...]
    several: bool
    hidden: int
    dtype: np.dtype[Any]
    proteins: int
    residues: int


@dataclass
class Batch:
    """Some proteins with their results, in output order.

    Attributes:
        ids: names they are written under.
        original_ids: names as in the input.
        lengths: residues, int64 [n].
        rows: residues embedded, int64 [n].
        replaced: letters that became X, int64 [n].
        digests: SHA-256 of the sequences, uint8 [n, 32].
        protein: [n, D] or [n, C, D].
        residue: n arrays [L, D] or [C, L, D].
    """

    ids: list[str]
    original_ids: list[str]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    replaced: NDArray[np.int64]
    digests: NDArray[np.uint8]
    protein: Array | None = None
    residue: list[Array] | None = None

    def arrays(self, kind: Kind) -> Sequence[Array]:
        """One array a protein."""
        found = self.protein if kind == "protein" else self.residue
        assert found is not None
        return found  # type: ignore[return-value]


class Writer(Protocol):
    """Writes batches; nothing is complete before :meth:`finish`."""

    def write(self, batch: Batch) -> None: ...

    def finish(self, provenance: Mapping[str, Any]) -> None: ...

    def abort(self) -> None:
        """Close without finishing."""
        ...


class ContentDigest:
    """A digest of (id, array) pairs that does not depend on their order: the sum of their BLAKE2b hashes.

    It tells a whole file from a damaged one; it is no protection against a forger.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, name: str, array: Array) -> None:
        hashed = hashlib.blake2b(f"{name}\0{array.dtype.str}{array.shape}".encode(), digest_size=16)
        hashed.update(np.ascontiguousarray(array).data)
        self._sum = (self._sum + int.from_bytes(hashed.digest(), "little")) % (1 << 128)

    def __str__(self) -> str:
        return f"{self._sum:032x}"


class Store(ABC):
    """Embeddings in a file: a mapping from id to array that reads only what is asked for.

    Attributes:
        path: the file, or the folder of ``.pt`` files.
        provenance: how they were made; empty for files of other tools.
    """

    path: Path
    provenance: Mapping[str, Any]

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """All ids, in the file's order."""

    @abstractmethod
    def __getitem__(self, name: str) -> Array:
        """One protein: [D], or [L, D] per residue; several layers are a leading axis.

        Raises:
            KeyError: when the file does not hold it.
        """

    @abstractmethod
    def close(self) -> None: ...

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        """Place of each protein in the file's order."""
        return {name: row for row, name in enumerate(self.ids)}

    def _row(self, name: str) -> int:
        if name not in self._rows:
            raise self._missing(name)
        return self._rows[name]

    def _missing(self, name: str) -> KeyError:
        return KeyError(f"{name}: not in {self.path.name}, which holds {plural(len(self), 'protein')}")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def contents(self, name: str) -> tuple[Array, ...]:
        """All arrays the file holds of one protein; one, but for folders with both kinds."""
        return (self[name],)

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        """Pairs of id and array, in the file's order."""
        for name in self.ids:
            yield name, self[name]

    def matrix(self) -> Array:
        """All proteins as one array, [N, D] or [N, C, D], in the order of ``ids``.

        Raises:
            InputError: for a file with one row a residue, whose proteins have different shapes.
        """
        arrays = [array for _, array in self]
        if not arrays:
            several = (len(self.provenance["layers"]),) if self.provenance.get("several_layers") else ()
            return np.zeros((0, *several, self.provenance.get("hidden", 0)), self.provenance.get("dtype", "float32"))
        if len({array.shape for array in arrays}) > 1:
            raise InputError("this file holds one row a residue; iterate over it, or pool first")
        return np.stack(arrays)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<aminoglot.Store of {len(self):,} proteins>"
