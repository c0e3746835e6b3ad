"""Made-up proteins of any length, in which no stretch repeats."""

from __future__ import annotations

import random

RESIDUES = "LAGVSERTIDPKQNFYMHWC"


def protein(length: int, seed: int = 0) -> str:
    """Random residues: neighbours of a repeat would look alike, and a shifted window would pass unseen."""
    return "".join(random.Random(1_000_003 * seed + length).choices(RESIDUES, k=length))


MIXED = [protein(length, seed) for seed, length in enumerate((33, 5, 1, 33, 140, 12, 5, 64, 33, 2))]
"""Mixed lengths, several proteins of one length apart from each other, in no order."""
