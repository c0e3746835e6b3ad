"""What a model's training set is: how it is split, and how a sample is made of a protein. Every choice has a name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from aminoglot.errors import InputError
from aminoglot.settings import known

Crop = Literal["random", "start"]
Letters = Literal["canonical", "all"]
RecipeName = Literal["esm2", "prott5nv"]
CANONICAL = "ACDEFGHIKLMNPQRSTVWY"


@dataclass(frozen=True)
class Recipe:
    """The choices of a training set.

    Attributes:
        name: the model family.
        seed: of the split, and of all that is drawn for validation and test.
        validation: share of clusters held out (below one), or how many proteins.
        test: how many proteins besides; ProtT5nv's.
        longest: residues of the longest protein that stays in; 0 for no limit.
        crop: which part of a protein longer than a sample is seen: ``random`` or its ``start``.
        letters: what a masked residue that is replaced becomes: one of the 20 ``canonical``, or of ``all`` tokens.
        tokens: the longest sample, special tokens included.
        masked: share of tokens that are scored.
    """

    name: RecipeName
    seed: int
    validation: float
    test: int
    longest: int
    crop: Crop
    letters: Letters
    tokens: int
    masked: float = 0.15

    def __post_init__(self) -> None:
        known("crop", self.crop, Crop)
        known("letters", self.letters, Letters)
        if self.validation < 0 or (self.validation >= 1 and self.validation != int(self.validation)):
            raise InputError(f"validation={self.validation}: a share below 1, or a number of proteins")
        if self.seed < 0 or self.test < 0 or self.longest < 0:
            raise InputError("seed, test and longest are numbers from 0 on")

    def held_out(self, count: int) -> int:
        """How many of so many are for validation; of a share the whole part, and one at least."""
        if self.validation >= 1:
            return min(int(self.validation), count)
        return max(1, int(count * self.validation)) if self.validation else 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


ESM2 = Recipe("esm2", 0, 0.005, 0, 0, "random", "canonical", 1024)
"""ESM-2's paper: 0.5 % of UniRef50 clusters held out, a random crop of 1,024 tokens, 15 % masked 80/10/10."""
PROTT5NV = Recipe("prott5nv", 0, 5_000, 1_000_000, 512, "start", "canonical", 510)
"""ProtT5nv's: 5,000 and 1,000,000 proteins of the shuffled set, the rest for training, none above 512 residues, of
which the first 510 are seen."""
RECIPES = {"esm2": ESM2, "prott5nv": PROTT5NV}
