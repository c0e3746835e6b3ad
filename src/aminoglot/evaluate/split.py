"""A split: a task's labelled proteins in their sets, and how rows of a table become such proteins."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.evaluate.tasks import REBUILT, Counts, Task, is_rebuilt
from aminoglot.sequences import LetterError, Source, clean

TENTH = 10
"""One of so many proteins validates, or is tested on, where nothing says which."""


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled protein.

    Attributes:
        id: as the file has it, or ``row_1``, ... where it has none.
        sequence: residues in capital letters.
        label: a letter a residue, the name of a class, or a number as written.
        mask: ``1`` where a residue counts; None where all do.
    """

    id: str
    sequence: bytes
    label: str
    mask: str | None = None


@dataclass
class Split:
    """A task's proteins, in the order of their file.

    Attributes:
        name: as users type it.
        files: what was read, by name.
        notes: what a user should know of them, a sentence each.
        unused: proteins that their file puts into no set.
    """

    task: Task
    name: str
    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    files: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    unused: int = 0

    @property
    def sets(self) -> dict[str, list[Example]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def counts(self) -> Counts:
        return Counts(len(self.train), len(self.validation), len(self.test))

    @property
    def rebuilt(self) -> bool:
        return is_rebuilt(self.name)

    @property
    def published_counts(self) -> Counts | None:
        """Of FLIP's split of this name; of a rebuilt one, of what it stands for. None where they are not known."""
        stands_for = self.name.removesuffix(f"_{REBUILT}")
        return self.task.counts.get(self.task.card if stands_for == self.task.name else stands_for)

    @property
    def mismatch(self) -> str | None:
        """What sets these counts apart from the published ones; None where nothing does, or none are known."""
        expected = self.published_counts
        if expected is None or expected == self.counts:
            return None
        if self.rebuilt:
            return f"{self.name} has {self.counts} proteins (train / validation / test), what it stands for {expected}"
        other = next((name for name, counts in self.task.counts.items() if counts == self.counts), None)
        hint = f"; they are those of what is called {other} here" if other else ""
        return (
            f"{self.name} has {self.counts} proteins (train / validation / test), published are {expected}: "
            f"another version, or not whole{hint}"
        )


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their lines.

    Raises:
        InputError: when a column or a cell is missing, or it is no CSV.
    """
    with Source(str(path), path).open() as stream:
        try:
            rows = csv.DictReader(line.decode() for line in stream)
            if missing := [name for name in columns if name not in (rows.fieldnames or ())]:
                raise InputError(f"{path}, line 1: no column {', '.join(missing)}; there are {rows.fieldnames}")
            empty = True
            for row in rows:
                if any(row[name] is None for name in columns):
                    raise InputError(f"{path}, line {rows.line_num:,}: cells are missing")
                empty = False
                yield rows.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a readable table ({error}); get it again") from error
        if empty:
            raise InputError(f"{path}: a table without rows")


def cleaned(where: str, text: str) -> bytes:
    try:
        return clean(text.strip().encode())[0]
    except LetterError as error:
        raise InputError(f"{where}: {error}") from error


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def tenth(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Examples parted into nine tenths and one, the same on every machine; equal sequences stay together."""
    by_digest = sorted({example.sequence for example in examples}, key=lambda s: hashlib.sha256(s).digest())
    chosen = set(by_digest[: max(1, len(by_digest) // TENTH)])
    return [e for e in examples if e.sequence not in chosen], [e for e in examples if e.sequence in chosen]
