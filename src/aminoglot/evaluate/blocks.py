"""A set's labels as arrays, and how much of its proteins a run covers.

Shapes: N proteins, T residues of all of them end to end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.evaluate.split import Example
from aminoglot.evaluate.tasks import Task
from aminoglot.finetune.problems import Labelled
from aminoglot.settings import Long


@dataclass(frozen=True)
class Reach:
    """What becomes of long proteins, alike for the model and for every baseline.

    Attributes:
        long: as in ``aminoglot embed``.
        limit: the model's, in residues.
        keep: proteins of more residues are dropped, as the shipped harness did; None keeps all.
    """

    long: Long
    limit: int
    keep: int | None = None


@dataclass(frozen=True)
class Coverage:
    """How much of a set is learnt from or told.

    Attributes:
        proteins: in the run.
        all_proteins: in the set.
        residues: embedded.
        all_residues: of all proteins of the set.
    """

    proteins: int
    all_proteins: int
    residues: int
    all_residues: int

    @property
    def whole(self) -> bool:
        return (self.proteins, self.residues) == (self.all_proteins, self.all_residues)

    def __str__(self) -> str:
        if self.whole:
            return f"all {self.all_proteins:,} proteins, all {self.all_residues:,} residues"
        return (
            f"{self.proteins:,} of {self.all_proteins:,} proteins ({self.proteins / max(1, self.all_proteins):.1%}), "
            f"{self.residues:,} of {self.all_residues:,} residues ({self.residues / max(1, self.all_residues):.1%})"
        )


@dataclass(frozen=True, eq=False)
class Block:
    """A set of proteins whose features lie one behind the other.

    Attributes:
        ids: [N]
        sequences: [N]
        labels: [N] float64 of numbers, uint8 of classes; [T] where residues have labels.
        starts: [N + 1], where each protein's residues begin; None where a row is a protein.
        counted: [T], which residues count; None where all do.
    """

    ids: list[str]
    sequences: list[bytes]
    labels: NDArray[Any]
    starts: NDArray[np.int64] | None
    counted: NDArray[np.bool_] | None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the sequences in their order."""
        return hashlib.sha256(b"\n".join(self.sequences)).hexdigest()

    @cached_property
    def label_digest(self) -> str:
        """SHA-256 of the labels, and of which count."""
        found = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        if self.counted is not None:
            found.update(np.ascontiguousarray(self.counted).tobytes())
        return found.hexdigest()

    @cached_property
    def told_digest(self) -> str:
        """What stands for the rows that a head tells: of the sequences, and of which residues count."""
        counted = b"" if self.counted is None else np.packbits(self.counted).tobytes()
        return hashlib.sha256(self.digest.encode() + counted).hexdigest()[:32]

    @property
    def rows(self) -> int:
        """Of features."""
        return len(self.sequences) if self.starts is None else int(self.starts[-1])

    def labelled(self, features: NDArray[Any]) -> Labelled:
        """With features, [N, D] or [T, D]."""
        return Labelled(features, self.labels, self.starts, self.counted)


def covered(examples: Sequence[Example], task: Task, reach: Reach) -> tuple[list[Example], Coverage]:
    """What is left of a set where long proteins are dropped or cut.

    Cut proteins are cut for every row, composition included. Where residues have labels, those beyond the cut are
    neither learnt from nor scored.
    """
    kept = []
    residues = 0
    for example in examples:
        length = len(example.sequence)
        if length > (length if reach.keep is None else reach.keep):
            continue
        if length > reach.limit and reach.long == "skip":
            continue
        cut = length > reach.limit and reach.long == "truncate"
        residues += reach.limit if cut else length
        kept.append(_cut(example, task, reach.limit) if cut else example)
    return kept, Coverage(len(kept), len(examples), residues, sum(len(e.sequence) for e in examples))


def _cut(example: Example, task: Task, limit: int) -> Example:
    mask = None if example.mask is None else example.mask[:limit]
    label = example.label[:limit] if task.per == "residue" else example.label
    return replace(example, sequence=example.sequence[:limit], label=label, mask=mask)


def block(examples: Sequence[Example], task: Task) -> Block:
    """Labels as arrays."""
    ids, sequences = [e.id for e in examples], [e.sequence for e in examples]
    if task.per == "residue":
        starts = np.concatenate(([0], np.cumsum([len(s) for s in sequences]))).astype(np.int64)
        of_letter = np.zeros(256, np.uint8)
        of_letter[np.frombuffer("".join(task.classes).encode(), np.uint8)] = np.arange(len(task.classes))
        labels = of_letter[np.frombuffer("".join(e.label for e in examples).encode(), np.uint8)]
        counted = None
        if task.masked:
            counted = np.frombuffer("".join(e.mask or "" for e in examples).encode(), np.uint8) == ord("1")
        return Block(ids, sequences, labels, starts, counted)
    if task.kind == "classes":
        numbers = [task.classes.index(e.label) for e in examples]
        return Block(ids, sequences, np.array(numbers, np.uint8), None, None)
    return Block(ids, sequences, np.array([float(e.label) for e in examples]), None, None)
