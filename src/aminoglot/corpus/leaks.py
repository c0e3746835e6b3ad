"""The leak filter: what is too similar to a protein that is held out does not train.

The ESM-2 paper's way, with MMseqs2: training sequences are searched among those held out, at 50 % identity over 80 % of
both. For a test set that shall be kept out, the 80 % count on the test protein alone, so that a short domain inside a
long training protein is found.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus.store import Sequences
from aminoglot.errors import JobError

IDENTITY, COVERAGE, SENSITIVITY = 0.5, 0.8, 7.0
OF_BOTH, OF_TARGET = 0, 1
_NAME = 14
"""Bytes of a record beside its residues."""


def write_fasta(sequences: Sequences, wanted: NDArray[np.bool_], path: Path) -> int:
    """Some sequences under the numbers of their rows, read in the order in which they lie; how many.

    Raises:
        JobError: when the disk has no room for them.
    """
    count = int(wanted.sum())
    need = int(sequences.residues * count / max(1, len(sequences))) + _NAME * count
    if need > shutil.disk_usage(path.parent).free:
        raise JobError(f"{path.parent}: {need / 1e9:,.1f} GB are needed for MMseqs2's input; free some space")
    with path.open("wb") as file:
        for row in np.flatnonzero(wanted):
            file.write(b">%d\n%s\n" % (row, sequences[int(row)]))
    return count


def described(coverage_mode: int) -> str:
    """The search, for the card."""
    return (
        f"MMseqs2 {mmseqs.version()}, --min-seq-id {IDENTITY} --alignment-mode 3 --max-seqs 300 -s {SENSITIVITY:g} "
        f"-c {COVERAGE} --cov-mode {coverage_mode}"
    )


def similar(query: Path, target: Path, coverage_mode: int, folder: Path, threads: int) -> NDArray[np.int64]:
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
    found = mmseqs.search(
        query,
        target,
        identity=IDENTITY,
        coverage=COVERAGE,
        coverage_mode=coverage_mode,
        sensitivity=SENSITIVITY,
        folder=folder,
        threads=threads,
    )
    return np.array(sorted({int(name) for name, _ in found}), np.int64)
