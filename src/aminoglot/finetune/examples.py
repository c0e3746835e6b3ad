"""Labelled proteins, and the account of the records they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aminoglot.finetune.labels import Label
from aminoglot.finetune.metrics import Kind


class Status(StrEnum):
    """What becomes of a record."""

    USED = "used"
    MERGED = "merged"
    UNLABELLED = "unlabelled"
    UNSPLIT = "not in a split"
    CONTRADICTING = "contradicting"
    LONG = "too long"
    BAD = "bad"


@dataclass
class Entry:
    """One record of the input.

    Attributes:
        id: its name; of a bad record what was read of it.
        length: residues.
        status: what becomes of it.
        note: why.
        label: as written.
        example: which of :attr:`Dataset.examples` it is part of, or -1.
        number: of the record in the input, from 1 on.
    """

    id: str
    length: int
    status: Status
    note: str = ""
    label: str = ""
    example: int = -1
    number: int = 0


@dataclass(frozen=True)
class Example:
    """One protein with its label.

    Attributes:
        id: of the first record with this sequence.
        sequence: residues.
        label: float64 numbers, or int64 places in :attr:`Dataset.classes`; [1], or [L] of residues.
        counted: which entries of the label count, [1] or [L].
        split: what the input says: ``train``, ``validation``, ``test``, or None where it says nothing.
    """

    id: str
    sequence: bytes
    label: Label
    counted: NDArray[np.bool_]
    split: str | None = None


@dataclass(frozen=True)
class Dataset:
    """All that was read.

    Attributes:
        kind: what labels are.
        per_residue: whether there is a label a residue.
        classes: names of classes, in the order of outputs; empty for numbers.
        examples: the proteins to learn from and to test on; no two of a split have the same sequence.
        entries: every record of the input, in order.
        notes: what the user should be told.
    """

    kind: Kind
    per_residue: bool
    classes: tuple[str, ...]
    examples: list[Example]
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """How many numbers a head gives."""
        return len(self.classes) or 1
