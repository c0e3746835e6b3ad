"""Any computed protein, by its position in the plan, read from its shard.

Shapes: C layers, L residues embedded, D hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import JobError
from aminoglot.jobs import Plan, ShardReader

_OPEN_FILES = 256


class Results:
    """Reads from all shards of a finished job, in any order, with few files open.

    Attributes:
        rows: residues embedded of every computed protein, int64 by position.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        found = [self._rows(shard) for shard in range(plan.shards)]
        if [len(rows) for rows in found] != np.diff(plan.starts).tolist():
            raise JobError(f"{plan.folder.path}: its shards do not hold the proteins that were planned; start anew")
        self.rows: NDArray[np.int64] = np.concatenate([np.zeros(0, dtype=np.int64), *found])
        self._ends = np.concatenate(([0], np.cumsum(self.rows)))

    def _rows(self, shard: int) -> NDArray[np.int64]:
        """A shard that was set aside has no file, and its proteins, which have failed, no rows."""
        if not self._plan.folder.shard(shard).exists():
            return np.zeros(int(self._plan.starts[shard + 1] - self._plan.starts[shard]), np.int64)
        rows: NDArray[np.int64] = self._shard(shard).all("rows")
        return rows

    def proteins(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Vectors of many proteins, [n, C, D], fetched shard by shard."""
        shards = np.searchsorted(self._plan.starts, positions, side="right") - 1
        order = np.argsort(shards, kind="stable")
        cuts = np.flatnonzero(np.diff(shards[order])) + 1
        parts = [
            self._shard(int(shards[group[0]])).take("protein", positions[group] - self._plan.starts[shards[group[0]]])
            for group in np.split(order, cuts)
        ]
        vectors = np.concatenate(parts)
        vectors[order] = vectors.copy()
        return vectors

    def residue(self, position: int) -> NDArray[Any]:
        """[C, L, D]."""
        shard, first = self._place(position)
        start, stop = self._ends[[position, position + 1]] - self._ends[first]
        return self._shard(shard).rows("residue", int(start), int(stop)).swapaxes(0, 1)

    def _place(self, position: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._plan.starts, position, side="right")) - 1
        return shard, int(self._plan.starts[shard])

    def _shard(self, shard: int) -> ShardReader:
        reader = self._open.get(shard)
        if reader is None:
            if len(self._open) == _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            reader = self._open[shard] = ShardReader(self._plan.folder.shard(shard))
        else:
            self._open.move_to_end(shard)
        return reader

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._open.values():
            reader.close()
        self._open.clear()
