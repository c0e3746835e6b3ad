"""What a job runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Done = Callable[[int], None]
"""Told how many residues were computed."""


@dataclass(frozen=True)
class ShardLimits:
    """How much goes into a shard: what is lost when a machine dies, and what must fit in memory.

    Attributes:
        cost: sum of :meth:`Task.cost`.
        output: sum of :meth:`Task.output`, in bytes.
        proteins: number of proteins.
    """

    cost: float
    output: int = 256 << 20
    proteins: int = 16384


@dataclass
class ShardResult:
    """Arrays of one shard, each by name with as many rows as the task likes, and why some proteins failed."""

    arrays: dict[str, NDArray[Any]]
    failed: dict[int, str] = field(default_factory=dict)


class Task(Protocol):
    """Maps a shard to arrays. The same shard must always give the same bytes."""

    limits: ShardLimits

    def cost(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Work that proteins of these lengths take, in any unit."""
        ...

    def output(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of their results."""
        ...

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        """Compute one shard. A protein that fails is named in the result, it does not raise."""
        ...
