"""The leak filter: what is too similar to a protein that is held out does not train.

The ESM-2 paper's way, with MMseqs2: training sequences are searched among those held out, at 50 % identity over 80 % of
both. For a test set that shall be kept out, the 80 % count on the test protein alone, so that a short domain inside a
long training protein is found.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus.store import Sequences

IDENTITY, COVERAGE, SENSITIVITY = 0.5, 0.8, 7.0
OF_BOTH, OF_TARGET = 0, 1

Rows = NDArray[np.int64]


def write_fasta(sequences: Sequences, rows: Iterable[int], path: Path) -> int:
    """Sequences under the numbers of their rows; how many."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(b">%d\n%s\n" % (row, sequences[row]))
            count += 1
    return count


def similar(query: Path, target: Path, coverage_mode: int, folder: Path, threads: int) -> Rows:
    """Numbers of the queries that have a hit among the targets, sorted.

    Args:
        query: FASTA whose names are numbers.
        target: FASTA of what is held out.
        coverage_mode: :data:`OF_BOTH` or :data:`OF_TARGET`.
        folder: for what the search needs.
        threads: processor cores.

    Raises:
        DependencyError: without MMseqs2: an unfiltered set is never made in silence.
        JobError: when it fails.
    """
    if not query.stat().st_size or not target.stat().st_size:
        return np.empty(0, np.int64)
    result = folder / f"{query.stem}-{target.stem}.tsv"
    mmseqs.search(
        query,
        target,
        result,
        identity=IDENTITY,
        coverage=COVERAGE,
        coverage_mode=coverage_mode,
        sensitivity=SENSITIVITY,
        folder=folder / "mmseqs",
        threads=threads,
    )
    with result.open("rb") as file:
        found = {int(line.split(b"\t", 1)[0]) for line in file}
    result.unlink()
    return np.array(sorted(found), np.int64)


def room_for(sequences: Sequences) -> int:
    """Bytes that a FASTA of them takes."""
    return sequences.residues + 12 * len(sequences)


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
