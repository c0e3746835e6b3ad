"""The five tasks: what is told of what, FLIP's splits of each, and how the published heads were trained.

Counts and recipes: FLIP (J-SNACKKB/FLIP, 62cace8), ProtT5nv's model card, BioNeMo 1's downstream configs. Imports
neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TaskName = Literal["secondary_structure", "conservation", "scl", "meltome", "gb1"]
Per = Literal["residue", "protein"]
Kind = Literal["classes", "number"]
REBUILT = "rebuilt"
"""Ends the name of a split that somebody put together again; it is never shown as FLIP's."""


@dataclass(frozen=True)
class Counts:
    """Proteins of a split."""

    train: int
    validation: int
    test: int

    def __str__(self) -> str:
        return f"{self.train:,} / {self.validation:,} / {self.test:,}"


@dataclass(frozen=True)
class Recipe:
    """How a head is fitted.

    Attributes:
        epochs: at least.
        rate: Adam's learning rate.
        batch: proteins an update.
        hidden: units of the perceptron.
        decay: weight decay.
        updates: at least; small training sets have more epochs. BioNeMo had no such rule, and no such small sets.
        most_epochs: however small the set.
    """

    epochs: int
    rate: float
    batch: int
    hidden: int = 32
    decay: float = 0.01
    updates: int = 1_000
    most_epochs: int = 300

    def epochs_for(self, rows: int) -> int:
        """Epochs for a training set of so many proteins."""
        steps = -(-rows // self.batch)
        return max(self.epochs, min(self.most_epochs, -(-self.updates // steps)))


@dataclass(frozen=True)
class Task:
    """One of FLIP's tasks.

    Attributes:
        name: its folder.
        title: in words.
        per: whether residues or proteins have a label.
        kind: classes, or a number.
        score: what its main score is called.
        classes: their names; a letter each where residues are labelled.
        unit: of numbers.
        splits: FLIP's.
        defaults: those that run when none is named: the card's, and those that published tables are about.
        counts: proteins of the splits where known.
        card: the split whose counts are the ProtT5nv card's.
        refused: splits that exist and cannot be taken, and why.
        heads: by name, the published one first.
        recipe: of the heads that are networks.
        masked: whether a file says which residues count.
    """

    name: TaskName
    title: str
    per: Per
    kind: Kind
    score: str
    splits: tuple[str, ...]
    defaults: tuple[str, ...]
    counts: Mapping[str, Counts]
    card: str
    recipe: Recipe
    classes: tuple[str, ...] = ()
    unit: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    masked: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        return ("convolution", "no-context") if self.per == "residue" else ("perceptron", "ridge", "neighbours")

    @property
    def published_head(self) -> str:
        """What published numbers of frozen networks were made with, where that is known."""
        return self.heads[0]

    @property
    def main(self) -> str:
        """The score that models are compared and heads are chosen by."""
        return "accuracy" if self.kind == "classes" else "spearman"

    @property
    def outputs(self) -> int:
        """Outputs of a head."""
        return len(self.classes) or 1


_RESIDUES = Recipe(epochs=10, rate=1e-3, batch=64, updates=0)
_PROTEINS = Recipe(epochs=20, rate=5e-4, batch=64, hidden=256)
_NUMBERS = Recipe(epochs=20, rate=5e-4, batch=32, hidden=128)
_LOCALIZATIONS = (
    *("Cell_membrane", "Cytoplasm", "Endoplasmic_reticulum", "Extracellular", "Golgi_apparatus", "Lysosome/Vacuole"),
    *("Mitochondrion", "Nucleus", "Peroxisome", "Plastid"),
)

_ALL = (
    Task(
        name="secondary_structure",
        title="Secondary structure",
        per="residue",
        kind="classes",
        score="Q3",
        splits=("sampled", "sampled_648"),
        defaults=("sampled", "sampled_648"),
        counts={"sampled": Counts(9712, 1080, 364), "sampled_648": Counts(9712, 1080, 648)},
        card="sampled_648",
        recipe=_RESIDUES,
        classes=("C", "E", "H"),
        masked=True,
    ),
    Task(
        name="conservation",
        title="Conservation",
        per="residue",
        kind="classes",
        score="accuracy of 9 classes",
        splits=("sampled",),
        defaults=("sampled",),
        counts={"sampled": Counts(9392, 555, 519)},
        card="sampled",
        recipe=_RESIDUES,
        classes=tuple("123456789"),
    ),
    Task(
        name="scl",
        title="Subcellular localization",
        per="protein",
        kind="classes",
        score="Q10",
        splits=("mixed_soft", "mixed_hard", "human_soft", "human_hard", "balanced", "mixed_vs_human_2"),
        defaults=("mixed_soft",),
        counts={"mixed_soft": Counts(9503, 1678, 2768), "mixed_hard": Counts(9503, 1678, 490)},
        card="mixed_soft",
        recipe=_PROTEINS,
        classes=_LOCALIZATIONS,
        refused={
            "mixed_vs_human_2": "a protein may have several localizations there (DeepLoc 2.0's labels, semicolons "
            "between); here a protein has one class"
        },
    ),
    Task(
        name="meltome",
        title="Melting temperature",
        per="protein",
        kind="number",
        score="Spearman",
        splits=("mixed_split", "human", "human_cell"),
        defaults=("mixed_split",),
        counts={"mixed_split": Counts(22335, 2482, 3134)},
        card="mixed_split",
        recipe=_NUMBERS,
        unit="°C",
    ),
    Task(
        name="gb1",
        title="GB1 fitness",
        per="protein",
        kind="number",
        score="Spearman",
        splits=("sampled", "two_vs_rest", "three_vs_rest", "one_vs_rest", "low_vs_high"),
        defaults=("sampled", "two_vs_rest"),
        counts={
            "sampled": Counts(6289, 699, 1745),
            "one_vs_rest": Counts(25, 3, 8705),
            "two_vs_rest": Counts(381, 43, 8309),
            "three_vs_rest": Counts(2691, 299, 5743),
            "low_vs_high": Counts(4580, 509, 3644),
        },
        card="sampled",
        recipe=_NUMBERS,
        unit="fitness",
    ),
)
TASKS: dict[TaskName, Task] = {task.name: task for task in _ALL}
"""By name, in the card's order."""

BIONEMO_LENGTHS = {"ESM-2": 1024, "ProtT5nv": 512}
"""``max_seq_length`` of BioNeMo 1's downstream configs, by family."""


def bionemo_limit(family: str) -> int:
    """The longest protein that the shipped harness kept, in residues: its ``max_seq_length`` less two."""
    return BIONEMO_LENGTHS[family] - 2


def is_rebuilt(split: str) -> bool:
    """Whether a split's name says that it is no file of FLIP's."""
    return split.endswith(f"_{REBUILT}")
