"""Labels as text, and what they mean: numbers or classes, of a protein or of each of its residues."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import InputError, plural
from aminoglot.finetune.metrics import Kind

_MISSING = ("", "na", "n/a", "#n/a", "nan", "null")
_PARTS = re.compile(r"[,;\s]+")
_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
"""A number as much of Europe writes it."""
_UNKNOWN = "-?"
"""Letters of a residue that has no label."""
_MOSTLY = 0.8
"""Share of cells that are numbers from which on the others are taken for mistakes; of others, numbers for names."""
_SHOWN = 40

Label = NDArray[Any]
"""Of a protein [1], or of its residues [L]: float64 numbers (NaN where there is none), or text of one class each."""


class LabelError(ValueError):
    """A label that cannot be used, and why."""


def missing(cell: str) -> bool:
    """Whether a cell says that there is no label: empty, NA, N/A, #N/A, nan, null, in any case."""
    return cell.strip().lower() in _MISSING


def number(cell: str) -> float:
    """A finite number.

    Raises:
        LabelError: for anything else, with a hint.
    """
    try:
        value = float(cell)
    except ValueError:
        hint = "; write 0.5, not 0,5" if _COMMA.fullmatch(cell) else ""
        raise LabelError(f"{_short(cell)} is no number{hint}") from None
    if "_" in cell:  # Python takes 1_000
        raise LabelError(f"{cell!r} is no number")
    if math.isinf(value):
        raise LabelError(f"{cell!r} is not finite")
    return value


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}...")


def kind_of(cells: Iterable[str], per_residue: bool) -> Kind:
    """Whether labels are numbers or classes, as they look.

    Numbers, if most cells are, and there are more than two different ones; text among them is then a mistake. Of
    residues, whether they are lists of numbers or letters.

    Raises:
        InputError: when there are too many of both to tell.
    """
    found = Counter(cells)
    if per_residue:
        return "number" if any(_PARTS.search(cell.strip()) or cell.startswith("[") for cell in found) else "classes"
    commas = Counter({cell: count for cell, count in found.items() if _COMMA.fullmatch(cell)})
    if 2 * commas.total() > found.total():
        raise InputError(
            f"{commas.total():,} of {plural(found.total(), 'label')} look like numbers with a comma ({tally(commas)}): "
            "write 0.5, not 0,5"
        )
    numbers = [cell for cell in found if is_number(cell)]
    share = sum(found[cell] for cell in numbers) / found.total()
    if len(numbers) <= 2 or share <= 1 - _MOSTLY:
        return "classes"
    if share < _MOSTLY:
        raise InputError(
            f"{mixture(found)}: say which they are with --kind number or --kind classes. As numbers, words without a "
            "digit count as missing, and are listed"
        )
    return "number"


def mixture(cells: Iterable[str]) -> str:
    """How many cells are numbers, and what the others are, the most frequent first."""
    found = Counter(cells)
    others = Counter({cell: count for cell, count in found.items() if not is_number(cell)})
    return (
        f"{found.total() - others.total():,} of {plural(found.total(), 'label')} are numbers, {others.total():,} are "
        f"not ({tally(others)})"
    )


def tally(cells: Counter[str]) -> str:
    """The five most frequent cells, each with its count."""
    shown = [f"{_short(cell)} {count:,}" for cell, count in cells.most_common(5)]
    return ", ".join(shown) + (", ..." if len(cells) > 5 else "")


def is_word(cell: str) -> bool:
    """Whether a cell among numbers says in words that there is none (n.d., inactive): no digit is in it."""
    try:
        float(cell)  # which takes inf
    except ValueError:
        return not any(letter.isdigit() for letter in cell)
    return False


def is_number(cell: str) -> bool:
    """Whether :func:`number` takes it."""
    try:
        number(cell)
    except LabelError:
        return False
    return True


def of_protein(cell: str, kind: Kind) -> Label:
    """The label of a protein, [1].

    Raises:
        LabelError: for text where there should be a number.
    """
    return np.array([number(cell)]) if kind == "number" else np.array([cell])


def of_residues(cell: str, kind: Kind, length: int) -> Label:
    """The labels of a protein's residues, [L].

    Args:
        cell: a letter a residue, or numbers parted by commas, semicolons or blanks, perhaps in brackets.
        kind: what they are.
        length: L.

    Raises:
        LabelError: when there are more or fewer labels than residues, or text where there should be a number.
    """
    if kind == "classes":
        found = np.array(list(cell))
    else:
        parts = _PARTS.split(cell.strip().removeprefix("[").removesuffix("]").strip(" ,;"))
        found = np.array([math.nan if missing(part) or part in _UNKNOWN else number(part) for part in parts])
    if len(found) != length:
        raise LabelError(f"{len(found):,} labels for {length:,} residues")
    return found


def counted(label: Label, mask: str | None) -> NDArray[np.bool_]:
    """Which entries of a label count: those that say something, and that the mask does not hide.

    Raises:
        LabelError: for a mask that is not as long as the label, or anything but 0 and 1.
    """
    there: NDArray[np.bool_] = ~np.isnan(label) if label.dtype.kind == "f" else ~np.isin(label, list(_UNKNOWN))
    if mask is None:
        return there
    if strange := set(mask) - {"0", "1"}:
        raise LabelError(f"a mask is made of 0 and 1, this one has {min(strange)!r}")
    if len(mask) != len(label):
        raise LabelError(f"a mask of {len(mask):,} for {len(label):,} residues")
    there &= np.frombuffer(mask.encode(), np.uint8) == ord("1")
    return there


def class_names(labels: Sequence[Label], masks: Sequence[NDArray[np.bool_]]) -> tuple[str, ...]:
    """All classes in order: by value where all are numbers, else by letters."""
    found = {str(name) for label, mask in zip(labels, masks, strict=True) for name in np.unique(label[mask])}
    by_value = all(is_number(name) for name in found)
    return tuple(sorted(found, key=lambda name: (float(name) if by_value else 0.0, name)))
