"""Records with the same sequence: one protein, if their labels agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import InputError, listing, plural
from aminoglot.finetune.examples import Entry, Example, Status
from aminoglot.finetune.labels import Label, class_names
from aminoglot.finetune.metrics import Kind
from aminoglot.finetune.options import Contradictions
from aminoglot.sequences import Protein


@dataclass
class Group:
    """Records of one sequence and one split.

    Attributes:
        protein: the first of them.
        split: what the input says of all.
    """

    protein: Protein
    split: str | None
    entries: list[Entry] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, entry: Entry, label: Label, mask: NDArray[np.bool_]) -> None:
        self.entries.append(entry)
        self.labels.append(label)
        self.masks.append(mask)

    @property
    def agrees(self) -> bool:
        """Whether all records say the same."""
        label, mask = self.labels[0], self.masks[0]
        return all(np.array_equal(mask, other) for other in self.masks) and all(
            np.array_equal(label[mask], other[mask]) for other in self.labels
        )

    def settle(self) -> None:
        """Take the mean of labels that are numbers, each over those records that have one."""
        labels, masks = np.stack(self.labels), np.stack(self.masks)
        said = masks.sum(0)
        self.labels = [np.where(masks, labels, 0.0).sum(0) / np.maximum(1, said)]
        self.masks = [said > 0]

    def mark(self, status: Status, note: str) -> None:
        for entry in self.entries:
            entry.status, entry.note = status, note


def joined(
    groups: Sequence[Group], kind: Kind, contradictions: Contradictions, notes: list[str]
) -> tuple[list[Example], tuple[str, ...]]:
    """One example a group, and the names of classes.

    Args:
        groups: in the order of their first records, whose entries are told what becomes of them.
        kind: of labels.
        contradictions: what becomes of groups whose records do not agree.
        notes: is told what happened.

    Raises:
        InputError: for contradictions, where they are an error; for ``mean`` of classes.
    """
    differ = [group for group in groups if not group.agrees]
    if differ and contradictions == "error":
        raise InputError(_contradiction(differ, kind))
    if differ and contradictions == "mean" and kind == "classes":
        raise InputError("contradictions mean: there is no mean of classes; use drop")
    for group in differ:
        _settled(group, contradictions)
    if differ:
        what = "their mean is taken" if contradictions == "mean" else "they are left out"
        notes.append(f"{plural(len(differ), 'sequence')} with labels that contradict each other: {what}")
    dropped = {id(group) for group in differ} if contradictions == "drop" else set()
    kept = [group for group in groups if id(group) not in dropped]
    classes = class_names([g.labels[0] for g in kept], [g.masks[0] for g in kept]) if kind == "classes" else ()
    examples = [_example(number, group, classes) for number, group in enumerate(kept)]
    _tell(kept, notes)
    return examples, classes


def _contradiction(differ: Sequence[Group], kind: Kind) -> str:
    named = [
        " and ".join(f"{one.id!r} (record {one.number:,}): {_shown(one.label)}" for one in group.entries[:3])
        for group in differ
    ]
    advice = "take their mean with --contradictions mean, or " if kind == "number" else ""
    return (
        f"{plural(len(differ), 'sequence')} with labels that contradict each other:\n{listing(named)}\n"
        f"Mend them, {advice}leave such proteins out with --contradictions drop"
    )


def _shown(label: str) -> str:
    return label if len(label) <= 30 else f"{label[:30]}..."


def _settled(group: Group, contradictions: Contradictions) -> None:
    if contradictions == "mean":
        count = len(group.entries)
        group.settle()
        for entry in group.entries:
            entry.note = f"the mean of {count} labels of this sequence"
    else:
        group.mark(Status.CONTRADICTING, "its sequence is there again with another label")


def _example(number: int, group: Group, classes: tuple[str, ...]) -> Example:
    for entry in group.entries:
        entry.example = number
    for entry in group.entries[1:]:
        entry.status = Status.MERGED
        entry.note = entry.note or f"the sequence and the label of {group.entries[0].id}"
    label, mask = group.labels[0], group.masks[0]
    if classes:
        place = {name: index for index, name in enumerate(classes)}
        label = np.array([place.get(str(name), 0) for name in label], np.int64)
    else:
        label = np.where(mask, label, 0.0)
    return Example(group.entries[0].id, group.protein.sequence, label, mask, group.split)


def _tell(groups: Sequence[Group], notes: list[str]) -> None:
    several = Counter(group.protein.sequence for group in groups)
    if leaks := sum(count > 1 for count in several.values()):
        notes.append(
            f"{plural(leaks, 'sequence')} in more than one split: what is tested was seen in training, and scores on "
            "it mean less"
        )
