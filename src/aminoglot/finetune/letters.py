"""What letters alone say: the features that a model is held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
"""Columns of one-hot and composition; one more is for all other letters."""
WIDTH = len(LETTERS) + 1

_COLUMN = np.full(256, len(LETTERS), np.uint8)
_COLUMN[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS), dtype=np.uint8)


def columns(sequence: bytes) -> NDArray[np.uint8]:
    """The column of each residue, [L]."""
    found: NDArray[np.uint8] = _COLUMN[np.frombuffer(sequence, np.uint8)]
    return found


def shares(sequence: bytes) -> NDArray[np.float64]:
    """How much of a protein is each letter, [21]."""
    found: NDArray[np.float64] = np.bincount(columns(sequence), minlength=WIDTH) / len(sequence)
    return found
