"""The leak filter: what is too similar to a protein that is held out does not train.

The ESM-2 paper's way, with MMseqs2: training sequences are searched among those held out, at 50 % identity over 80 % of
both. For a test set that shall be kept out, the 80 % count on the test protein alone, so that a short domain inside a
long training protein is found. Identical sequences are found by digest, for MMseqs2 is blind to very short ones, and
to those of low complexity.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus.store import Sequences
from aminoglot.errors import JobError

IDENTITY, COVERAGE = 0.5, 0.8
MOST_HITS = 300
_NAME = 14
"""Bytes of a record beside its residues."""
_COPIES = 2.5
"""How often MMseqs2 has its input on disk: as FASTA, as its own table, and room for results."""


def of_both() -> tuple[str, ...]:
    """The published search among what is held out for validation."""
    return _flags(MOST_HITS, 0)


def of_target(targets: int) -> tuple[str, ...]:
    """The search among so many proteins that are to be kept out.

    As thorough as it can be, for nothing is published to be like: every target may be a hit, regions of low complexity
    count, and so do hits that chance explains, if they are identical enough and cover enough.
    """
    return (*_flags(max(MOST_HITS, targets), 1), "--mask", "0", "--comp-bias-corr", "0", "-e", "10")


def _flags(most: int, coverage_mode: int) -> tuple[str, ...]:
    return (
        *("--min-seq-id", str(IDENTITY), "--alignment-mode", "3", "--max-seqs", str(most), "-s", "7"),
        *("-c", str(COVERAGE), "--cov-mode", str(coverage_mode)),
    )


def write_fasta(sequences: Sequences, wanted: NDArray[np.bool_], path: Path) -> int:
    """Some sequences under the numbers of their rows, read in the order in which they lie; how many.

    Raises:
        JobError: when the disk has no room for them, and for what MMseqs2 makes of them.
    """
    count = int(wanted.sum())
    need = _COPIES * (sequences.residues * count / max(1, len(sequences)) + _NAME * count)
    if need > shutil.disk_usage(path.parent).free:
        raise JobError(f"{path.parent}: {need / 1e9:,.1f} GB are needed for MMseqs2; free some space")
    with path.open("wb") as file:
        for row in np.flatnonzero(wanted):
            file.write(b">%d\n%s\n" % (row, sequences[int(row)]))
    return count


def similar(query: Path, target: Path, flags: tuple[str, ...], folder: Path, threads: int) -> NDArray[np.int64]:
    """Numbers of the queries that have a hit among the targets, sorted.

    Args:
        query: FASTA whose names are numbers.
        target: FASTA of what is held out.
        flags: from :func:`of_both` or :func:`of_target`.
        folder: for what the search needs.
        threads: processor cores.

    Raises:
        DependencyError: without MMseqs2: an unfiltered set is never made in silence.
        JobError: when it fails.
    """
    if not query.stat().st_size or not target.stat().st_size:
        return np.empty(0, np.int64)
    return np.unique(mmseqs.search(query, target, flags, folder, threads)[:, 0])


def identical(
    names: Path, wanted: NDArray[np.bool_], target_names: Path, targets: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Rows of a store, of those wanted, whose sequence is letter for letter one of the targets'; sorted.

    Args:
        names: the Parquet file that the store's writer wrote besides.
        wanted: one for each sequence of the store.
        target_names: that of the targets' store.
        targets: one for each sequence of that.
    """
    held_out = np.unique(
        np.concatenate([np.empty(0, np.uint64), *(found for _, found in _digests(target_names, targets))])
    )
    rows = [rows[np.isin(digests, held_out)] for rows, digests in _digests(names, wanted)]
    return np.concatenate([np.empty(0, np.int64), *rows])


def _digests(names: Path, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Rows of those wanted, and their digests, a block at a time."""
    first = 0
    for batch in pq.ParquetFile(names).iter_batches(columns=["digest"]):
        rows = np.flatnonzero(wanted[first : first + len(batch)])
        yield first + rows, batch["digest"].to_numpy()[rows]
        first += len(batch)
