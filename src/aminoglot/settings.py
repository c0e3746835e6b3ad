"""The words users speak, the same in Python and on the command line. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Literal, get_args

from aminoglot.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Per = Literal["protein", "residue", "both"]
Pool = Literal["mean", "cls", "max"]
Long = Literal["truncate", "window", "full", "skip", "error"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
BackendChoice = Literal["auto", "torch", "openvino"]
DType = Literal["float32", "float16"]
Workers = int | Literal["auto"]
"""How many processes compute; ``auto`` asks the machine."""
BadRecords = Literal["error", "skip"]
Duplicates = Literal["error", "number"]
Layer = int | str | Sequence[int] | Sequence[str]
"""A layer's number (0 to L, or -1 for the last, -2 for the one before ...), several of them, or ``"all"``."""


@dataclass(frozen=True)
class Request:
    """What to compute for each protein.

    Attributes:
        per: one vector a protein, one a residue, or both.
        layers: layer numbers from 0 to L.
        several: whether results keep a leading axis for layers (a list or ``all`` was asked, even of one).
        pool: how residues become a protein: their mean, their largest values, or the cls token.
        long: what becomes of sequences over ``limit`` residues.
        limit: the model card's limit, in residues.
    """

    per: Per
    layers: tuple[int, ...]
    several: bool
    pool: Pool
    long: Long
    limit: int

    def __post_init__(self) -> None:
        known("per", self.per, Per)
        known("pool", self.pool, Pool)
        known("long", self.long, Long)

    @property
    def wants_protein(self) -> bool:
        return self.per in ("protein", "both")

    @property
    def wants_residue(self) -> bool:
        return self.per in ("residue", "both")

    def embedded(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many residues of proteins of these lengths get an embedding."""
        if self.long == "truncate":
            return lengths.clip(max=self.limit)
        return lengths if self.long in ("window", "full") else lengths * (lengths <= self.limit)

    def vectors(self, residues: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many vectors a layer yields for proteins of which so many residues get an embedding."""
        return self.wants_protein + residues * self.wants_residue


def check_workers(workers: Workers | None) -> None:
    """Refuse a number of workers that is none.

    Raises:
        InputError: saying so.
    """
    if isinstance(workers, int) and workers < 1:
        raise InputError(f"workers {workers}: there must be one at least")


def known(name: str, value: object, words: Any) -> None:
    """Refuse a value that is not among the words of a Literal, which Python does not check.

    Raises:
        InputError: with the words there are.
    """
    if value not in get_args(words):
        raise InputError(f"{name}={value!r}: choose {', '.join(get_args(words))}")


def resolve_layers(layer: Layer, count: int) -> tuple[tuple[int, ...], bool]:
    """Turn what a user typed into layer numbers.

    Args:
        layer: see :data:`Layer`.
        count: the model's number of layers, L.

    Returns:
        Numbers from 0 to L, and whether several were asked for.

    Raises:
        InputError: for a layer that the model does not have.
    """
    if isinstance(layer, str) and layer == "all":
        return tuple(range(count + 1)), True
    several = isinstance(layer, Iterable) and not isinstance(layer, str)
    numbers = []
    for value in layer if isinstance(layer, Iterable) and not isinstance(layer, str) else [layer]:
        try:
            number = int(value) if isinstance(value, str) else index(value)
        except (ValueError, TypeError):
            raise InputError(f"layer {value!r} is neither a number nor 'all'") from None
        if not -count - 1 <= number <= count:
            raise InputError(f"layer {number}: this model has layers 0 to {count} (or -1, the last, to {-count - 1})")
        numbers.append(number % (count + 1))
    if not numbers:
        raise InputError("no layer was named")
    return tuple(numbers), several
