"""How evenly classes and lengths are spread: said on the screen and in the card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import plural
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.splits import NAMES, Splits

_UNEVEN = 10
"""The largest class is said to be so many times the smallest from here on."""
_FEW = 30
"""Scores of fewer proteins are said to say little."""
_UNLIKE = 1.5
"""Median lengths that differ by this factor are said."""


@dataclass(frozen=True)
class Balance:
    """Counts of a dataset.

    Attributes:
        proteins: of each split.
        lengths: of each split that has proteins: 5th, 50th and 95th percentile and the largest, in residues.
        classes: of each class, labels in train, validation and test; empty for numbers.
        class_lengths: median length of each class's proteins; empty for residues and numbers.
        numbers: mean, spread, smallest and largest label; None for classes.
    """

    proteins: dict[str, int]
    lengths: dict[str, tuple[int, int, int, int]]
    classes: dict[str, tuple[int, int, int]]
    class_lengths: dict[str, float]
    numbers: tuple[float, float, float, float] | None

    def lines(self) -> Iterator[str]:
        """What there is."""
        for name, count in self.proteins.items():
            if count:
                low, middle, high, most = self.lengths[name]
                yield (
                    f"{name}: {plural(count, 'protein')}, median {middle:,} residues (90 % in {low:,} to {high:,}, "
                    f"longest {most:,})"
                )
        if self.numbers is not None:
            yield "labels: mean {:.4g}, spread {:.4g}, from {:.4g} to {:.4g}".format(*self.numbers)
        if self.classes:
            total = sum(map(sum, self.classes.values()))
            shown = [f"{name} {sum(counts):,} ({sum(counts) / total:.1%})" for name, counts in self.classes.items()]
            rest = f" and {len(shown) - 12:,} more" if len(shown) > 12 else ""
            yield f"classes: {', '.join(shown[:12])}{rest}"

    def notes(self) -> Iterator[str]:
        """What is uneven, or little."""
        scored = "test" if self.proteins["test"] else "validation"
        if self.proteins[scored] < _FEW:
            yield f"scores will be of {plural(self.proteins[scored], f'{scored} protein')} only, and say little"
        totals = {name: sum(counts) for name, counts in self.classes.items()}
        if totals and max(totals.values()) >= _UNEVEN * min(totals.values()):
            most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
            yield (
                f"classes are uneven: {most!r} has {totals[most]:,} labels, {least!r} {totals[least]:,}. Look at the "
                "balanced accuracy; --class-weights balanced makes all classes count alike"
            )
        if single := [name for name, found in self.classes.items() if totals[name] == found[0] == 1]:
            yield f"classes with one label alone, which is for training: {', '.join(single[:10])}"
        untested = [name for name, (_, _, test) in self.classes.items() if not test and totals[name] > 1]
        if untested and self.proteins["test"]:
            yield f"classes without a test label: {', '.join(untested[:10])}"
        untrained = [name for name, (train, _, _) in self.classes.items() if not train]
        if untrained:
            yield f"classes without a training label, which are never predicted right: {', '.join(untrained[:10])}"
        medians = {name: found[1] for name, found in self.lengths.items()}
        for name in ("validation", "test"):
            if name in medians and not 1 / _UNLIKE <= medians[name] / medians["train"] <= _UNLIKE:
                yield f"{name} proteins have a median of {medians[name]:,} residues, training ones {medians['train']:,}"
        if self.class_lengths:
            short, long = min(self.class_lengths.values()), max(self.class_lengths.values())
            if long > _UNLIKE * short:
                yield (
                    f"classes differ in length (medians of {short:,.0f} to {long:,.0f} residues): length alone tells "
                    "something of the class"
                )


def balance(dataset: Dataset, splits: Splits) -> Balance:
    """Count."""
    examples = dataset.examples
    sizes = np.array([len(one.sequence) for one in examples])
    rows = {name: splits.rows(name) for name in NAMES}
    lengths = {name: _spread(sizes[found]) for name, found in rows.items() if len(found)}
    numbers, classes, class_lengths = None, {}, {}
    if dataset.kind == "number":
        values = np.concatenate([one.label[one.counted] for one in examples])
        numbers = (float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
    else:
        counts = np.stack([_counts(dataset, found) for found in rows.values()], axis=1)
        classes = {name: (int(a), int(b), int(c)) for name, (a, b, c) in zip(dataset.classes, counts, strict=True)}
        if not dataset.per_residue:
            of = np.array([int(one.label[0]) for one in examples])
            class_lengths = {n: float(np.median(sizes[of == i])) for i, n in enumerate(dataset.classes)}
    return Balance({name: len(found) for name, found in rows.items()}, lengths, classes, class_lengths, numbers)


def _spread(sizes: NDArray[Any]) -> tuple[int, int, int, int]:
    low, middle, high = np.percentile(sizes, (5, 50, 95))
    return int(low), int(middle), int(high), int(sizes.max())


def _counts(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.zeros(len(dataset.classes), np.int64)
    for row in rows.tolist():
        example = dataset.examples[row]
        found += np.bincount(example.label[example.counted], minlength=len(found))
    return found
