"""What the tests of evaluation share: small FLIP folders with signals that are known, because they were planted."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from aminoglot.evaluate.options import Options
from aminoglot.evaluate.run import Outcome, run
from aminoglot.screen import Screen

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
MODEL = "random:esm2-tiny"
SIZES = (("train", "False", 40), ("train", "True", 12), ("test", "False", 14))
"""Sets of a folder: SET=, VALIDATION=, proteins."""


def sequence(generator: random.Random, shortest: int = 12, longest: int = 30) -> str:
    return "".join(generator.choices(LETTERS, k=generator.randint(shortest, longest)))


def structure(letters: str) -> str:
    """A label a residue that its letter alone decides."""
    return "".join("H" if letter in "AELMQKRH" else "E" if letter in "VIYFWT" else "C" for letter in letters)


def write_fasta(path: Path, records: Iterable[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{header}\n{text}\n" for header, text in records))


def write_residues(folder: Path, name: str = "secondary_structure", *, mask: str = "mask", seed: int = 0) -> None:
    """A task of residues, its sampled split."""
    generator = random.Random(seed)
    sequences, labels, masks = [], [], []
    for part, held_out, count in SIZES:
        for number in range(count):
            one, letters = f"{part}-{held_out}-{number}", sequence(generator)
            label = structure(letters)
            if name == "conservation":
                label = label.translate(str.maketrans("CEH", "159"))
            sequences.append((one, letters))
            labels.append((f"{one} SET={part} VALIDATION={held_out}", label))
            masks.append((one, "0" + "1" * (len(letters) - 1)))
    write_fasta(folder / name / "sequences.fasta", sequences)
    write_fasta(folder / name / "sampled.fasta", labels)
    if name == "secondary_structure":
        write_fasta(folder / name / f"{mask}.fasta", masks)


def write_localization(folder: Path, split: str = "mixed_soft", seed: int = 1) -> None:
    """Proteins whose class their composition decides; Lysosome/Vacuole is one of the three."""
    generator = random.Random(seed)
    classes = {"Nucleus": "KRKRSP", "Lysosome/Vacuole": "LLGAVI", "Cytoplasm": "DEDEQN"}
    records = []
    for part, held_out, count in SIZES:
        for number in range(count):
            name = list(classes)[number % 3]
            letters = "".join(generator.choices(classes[name] + "ACGT", k=generator.randint(20, 40)))
            records.append((f"P{len(records)} TARGET={name} SET={part} VALIDATION={held_out}", letters))
    write_fasta(folder / "scl" / f"{split}.fasta", records)


def variant(generator: random.Random) -> tuple[str, float]:
    """A protein of one length with two places that vary, and a number that they decide."""
    one, other = generator.choices(LETTERS, k=2)
    return f"MKT{one}AYIAK{other}QRG", LETTERS.index(one) / 4 + LETTERS.index(other) / 10


def write_gb1(folder: Path, *splits: str, seed: int = 2) -> None:
    """Variants of one length, with the same test proteins in all splits."""
    for split in splits or ("sampled",):
        generator = random.Random(seed)
        records = []
        for part, held_out, count in SIZES:
            for _ in range(count):
                letters, target = variant(generator)
                header = f"Sequence{len(records)} TARGET={target} SET={part} VALIDATION={held_out}"
                records.append((header, letters))
        write_fasta(folder / "gb1" / f"{split}.fasta", records)


class Said(Screen):
    """A screen whose words a test can read."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        super().__init__(Console(file=self._stream, width=200, emoji=False, highlight=False))

    @property
    def text(self) -> str:
        return self._stream.getvalue()


def evaluate(data: Path, output: Path, screen: Screen | None = None, **options: Any) -> Outcome:
    """A run with the tiny model in fp32, two seeds, whatever this machine would choose."""
    chosen: Mapping[str, Any] = {"model": MODEL, "seeds": 2, "precision": "fp32", "device": "cpu", **options}
    return run(output, Options(data=data, **chosen), screen or Said())


def random_labels(count: int, classes: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(classes, size=count).astype(np.uint8)
