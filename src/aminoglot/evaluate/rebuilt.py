"""Sets that stand in for files of FLIP's which cannot be had; their names say so, and so does what is made of them."""

from __future__ import annotations

from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.evaluate.split import Example, Split, cleaned, is_number, table, tenth
from aminoglot.evaluate.tasks import Task


def read_table(task: Task, name: str, path: Path) -> Split:
    """Melting temperatures of proteins (accession, tm_mean, sequence), which come in no sets.

    A tenth of the sequences is for test and a tenth for validation, drawn by their digests. Homologous proteins are not
    kept apart, as FLIP's clusters do.

    Raises:
        InputError: for what is no such table.
    """
    split = Split(task, name, files=(path.name,))
    examples, seen = [], set()
    for line, row in table(path, ("accession", "tm_mean", "sequence")):
        where = f"{path}, line {line:,}, id {row['accession']!r}"
        if not is_number(row["tm_mean"]):
            raise InputError(f"{where}: tm_mean {row['tm_mean']!r} is no number; mend it, or take the row out")
        if row["accession"] in seen:
            raise InputError(f"{where}: this accession came before")
        seen.add(row["accession"])
        examples.append(Example(row["accession"], cleaned(where, row["sequence"]), row["tm_mean"]))
    if len(examples) < 100:
        raise InputError(f"{path}: {len(examples)} proteins are too few to part into sets")
    split.train, split.test = tenth(examples)
    split.train, split.validation = tenth(split.train)
    split.notes.append(
        "rebuilt, not FLIP's: its errors and correlations compare with no published ones; a tenth of the sequences is "
        "for test, a tenth of the rest for validation, drawn by their digests; homologous proteins are not kept apart"
    )
    return split
