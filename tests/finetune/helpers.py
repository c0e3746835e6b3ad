"""What the tests of fine-tuning share: small tables, a run in one line, what it left."""

from __future__ import annotations

import csv
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aminoglot
from aminoglot.finetune.data import read
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.options import Options
from aminoglot.finetune.run import Finetuned
from aminoglot.sequences import sources
from tests.embedding.helpers import LETTERS, MODEL, protein

GREASY = "AILMFVW"


def rows(count: int = 40, per: str = "protein", kind: str = "number", seed: int = 0) -> list[dict[str, str]]:
    """Labelled proteins; a label says how greasy a protein, or each of its residues, is."""
    found = []
    for number in range(count):
        generator = random.Random(f"{seed}/{number}")
        greasy = generator.random()
        length = generator.randint(4, 40)
        letters = [generator.choice(GREASY if generator.random() < greasy else LETTERS) for _ in range(length)]
        sequence = "".join(letters)
        if per == "residue" and kind == "classes":
            label = "".join("o" if one in GREASY else "i" for one in letters)
        elif per == "residue":
            label = ",".join(f"{(one in GREASY) + generator.gauss(0, 0.1):.3f}" for one in letters)
        else:
            share = sum(one in GREASY for one in letters) / length
            label = f"{share:.4f}" if kind == "number" else ("greasy" if share > 0.6 else "soluble")
        found.append({"id": f"P{number}", "sequence": sequence, "label": label})
    return found


def write_table(path: Path, table: Sequence[Mapping[str, str]]) -> Path:
    """A CSV of these rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return path


def tsv(path: Path) -> list[dict[str, str]]:
    """A table with tabs, split by hand."""
    header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    names = header.split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def dataset(path: Path | Sequence[Path], limit: int = 1022, **options: Any) -> Dataset:
    """A table read."""
    paths = [path] if isinstance(path, Path) else list(path)
    found, notes = sources(paths, paths[0].parent / "unused")
    return read(found, notes, Options(**{"target": "label", **options}), limit)


def tune(data: Path, output: Path, **options: Any) -> Finetuned:
    """A run with the tiny model in fp32 for few epochs."""
    asked = {"model": MODEL, "target": "label", "epochs": 3, "precision": "fp32", "batch": 8, **options}
    return aminoglot.fine_tune(data, output, **asked)


def predictor(folder: Path, **options: Any) -> aminoglot.Predictor:
    """A run loaded; that the tiny model was never trained need not be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aminoglot.AminoglotWarning)
        return aminoglot.Predictor(folder, **{"precision": "fp32", "backend": "torch", **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


__all__ = ["MODEL", "contents", "dataset", "predictor", "protein", "rows", "tsv", "tune", "write_table"]
