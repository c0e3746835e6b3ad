"""The embedding task: a shard of proteins to arrays.

Arrays of a shard: ``protein`` [n, C, D] and ``residue`` [R, C, D] as asked for, ``rows`` [n], the residues embedded of
each protein. C layers, D hidden, R rows of all its proteins end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.embedding.reuse import Reuse
from aminoglot.engine import Embedded, Model
from aminoglot.jobs import ShardLimits, ShardResult
from aminoglot.jobs.task import Done
from aminoglot.settings import Request

_COST = {"cpu": 5e12}
_COST_ON_A_GPU = 1e15
"""Floating-point operations a shard: some ten seconds of a laptop, or of a large GPU."""
_OVERHEAD = 2.5e5
"""What a token costs beside its arithmetic, for each head of each layer, in operations: small models feel it most."""


class EmbeddingTask:
    """Computes embeddings; proteins that an older file holds are taken from there."""

    def __init__(self, model: Model, request: Request, dtype: np.dtype[Any], reuse: Reuse | None = None) -> None:
        self.model, self.request, self.dtype, self.reuse = model, request, dtype, reuse
        self.limits = ShardLimits(cost=_COST.get(model.hardware.kind, _COST_ON_A_GPU))

    def cost(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        tokens = self.request.embedded(lengths)
        windowed = (lengths > self.request.limit) & (self.request.long == "window")
        context = np.where(windowed, self.request.limit, tokens)
        overhead = _OVERHEAD * self.model.config.layers * self.model.config.heads
        flops: NDArray[np.float64] = tokens * (self.model.config.flops_per_token(context) + overhead)
        return np.where(windowed, 2 * flops, flops)

    def output(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of the arrays, as float32 (they are computed before they are narrowed)."""
        return (
            self.request.vectors(self.request.embedded(lengths))
            * len(self.request.layers)
            * self.model.config.hidden
            * 4
        )

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        known = self.reuse.find(sequences) if self.reuse is not None else {}
        new = [slot for slot in range(len(sequences)) if slot not in known]
        computed = self.model.embed_cleaned([sequences[slot] for slot in new], self.request, done)
        result = self._placed(computed, new, sequences) if known else computed
        for slot, name in known.items():
            assert self.reuse is not None
            self.reuse.fetch(name, result, slot)
            done(int(result.rows[slot]))
        return self._narrowed(result)

    def _placed(self, computed: Embedded, slots: list[int], sequences: Sequence[bytes]) -> Embedded:
        """Spread what was computed over all of the shard's proteins."""
        rows = self.request.embedded(np.array([len(s) for s in sequences], dtype=np.int64))
        shape = (len(self.request.layers), self.model.config.hidden)
        whole = Embedded(
            np.zeros((len(rows), *shape), np.float32) if computed.protein is not None else None,
            np.zeros((int(rows.sum()), *shape), np.float32) if computed.residue is not None else None,
            rows,
            {slots[index]: why for index, why in computed.failed.items()},
        )
        for index, slot in enumerate(slots):
            if whole.protein is not None and computed.protein is not None:
                whole.protein[slot] = computed.protein[index]
            if whole.residue is not None:
                whole.residues_of(slot)[:] = computed.residues_of(index)
        return whole

    def _narrowed(self, result: Embedded) -> ShardResult:
        """The arrays in the output's type. What does not fit float16 fails its protein; it never becomes an inf."""
        arrays: dict[str, NDArray[Any]] = {"rows": result.rows}
        for name, wide in (("protein", result.protein), ("residue", result.residue)):
            if wide is None:
                continue
            with np.errstate(over="ignore"):
                arrays[name] = narrow = wide.astype(self.dtype, copy=False)
            overflown = np.flatnonzero(np.isinf(narrow).any(axis=(1, 2)))
            ends = np.cumsum(result.rows) if name == "residue" else np.arange(1, len(result.rows) + 1)
            for slot in np.unique(np.searchsorted(ends, overflown, side="right")).tolist():
                result.failed[slot] = f"a value beyond {self.dtype.name}'s range; use --dtype float32"
        return ShardResult(arrays, result.failed)
