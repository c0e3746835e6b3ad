"""A task without a model, and a folder with a plan for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.jobs import JobFolder, Plan, Policy, ShardLimits, ShardResult, make_plan
from aminoglot.jobs.task import Done
from aminoglot.sequences import BadRecord, Protein


class CountingTask:
    """Maps each sequence to its length and its number of A's; remembers every shard it was given.

    Attributes:
        fails: sequences that have no result.
    """

    def __init__(self, limits: ShardLimits | None = None, fails: Sequence[bytes] = ()) -> None:
        self.limits = limits or ShardLimits(cost=100)
        self.fails = fails
        self.given: list[list[bytes]] = []

    def cost(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        return lengths.astype(float)

    def output(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(lengths), 8)

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        self.given.append(list(sequences))
        done(sum(map(len, sequences)))
        rows = np.array([len(s) for s in sequences], dtype=np.int64)
        values = np.array([[s.count(b"A"), len(s)] for s in sequences], dtype=np.float32)
        failed = {i: "it fails" for i, s in enumerate(sequences) if s in self.fails}
        return ShardResult({"rows": rows, "protein": values}, failed)


def records(sequences: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[Protein | BadRecord]:
    """Records as a reader gives them; an empty sequence stands for a bad one."""
    pairs = sequences.items() if isinstance(sequences, Mapping) else sequences
    return [
        Protein(name, name, text.encode(), 0, "a.fasta", line) if text else BadRecord(name, "a.fasta", line, "no good")
        for line, (name, text) in enumerate(pairs, 1)
    ]


def plan(
    folder: Path,
    sequences: Mapping[str, str] | Iterable[tuple[str, str]],
    task: Any = None,
    provenance: Mapping[str, Any] | None = None,
    **policy: Any,
) -> Plan:
    """A plan in a folder of its own."""
    job = JobFolder(folder / "x.h5")
    job.path.mkdir(exist_ok=True, parents=True)
    said = {"a": 1} if provenance is None else provenance
    return make_plan(job, records(sequences), task or CountingTask(), Policy(**policy), said, ["a note"])
