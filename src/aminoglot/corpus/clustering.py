"""Clusters of somebody's own proteins, as UniRef makes its own: at 90 % identity, and those at 50 %."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus.leaks import write_fasta
from aminoglot.corpus.store import NUMBER, Sequences, SequenceWriter
from aminoglot.corpus.tables import MEMBER_ROWS, MEMBER_STARTS
from aminoglot.errors import JobError
from aminoglot.screen import Screen

COVERAGE = 0.8
"""A member and its cluster's longest protein overlap in 80 % of each; UniRef asks that of the longest."""
NEAR, FAR = 0.9, 0.5
LISTED = "clusters.tsv"


def cluster_own(folder: Path, work: Path, wanted: NDArray[np.bool_], threads: int, screen: Screen) -> dict[str, Any]:
    """Make representatives, members and their table from ``work/proteins``.

    Members are the representatives of clusters at 90 %; those are clustered at 50 %, and each such cluster's
    representative is its first member. Clusters come in the order of their representatives. ``clusters.tsv`` says of
    every protein where it went.

    Args:
        folder: of the corpus.
        work: its folder for what only building needs.
        wanted: which of the proteins; repeated ones are left out.
        threads: processor cores.
        screen: is told what happens.

    Raises:
        DependencyError: without MMseqs2.
        JobError: when it fails.
    """
    proteins = Sequences(work / "proteins")
    near = _clusters(proteins, wanted, NEAR, work, threads, screen)
    chosen = np.zeros(len(proteins), bool)
    chosen[near[:, 0]] = True
    far = _clusters(proteins, chosen, FAR, work, threads, screen)
    members = np.flatnonzero(chosen)
    with SequenceWriter(folder / "members", work / "members.parquet") as writer:
        for row in members.tolist():
            writer.add(proteins.name(row), proteins.header(row), proteins[row])
    first = np.unique(far[:, 0])
    with SequenceWriter(folder / "representatives", work / "representatives.parquet") as writer:
        for row in first.tolist():
            writer.add(proteins.name(row), proteins.header(row), proteins[row])
    far = far[np.lexsort((far[:, 1], far[:, 0] != far[:, 1], far[:, 0]))]
    starts = np.append(np.searchsorted(far[:, 0], first), len(far))
    (work / MEMBER_STARTS).write_bytes(starts.astype(NUMBER).tobytes())
    (work / MEMBER_ROWS).write_bytes(np.searchsorted(members, far[:, 1]).astype(NUMBER).tobytes())
    _list(folder / LISTED, proteins, near, far)
    return {
        "proteins": int(wanted.sum()),
        "clusters at 90 %": len(members),
        "clusters at 50 %": len(first),
        "members": len(far),
        "largest": int(np.diff(starts).max()),
        "by": [mmseqs.described(_flags(identity)) for identity in (NEAR, FAR)],
    }


def _flags(identity: float) -> tuple[str, ...]:
    """The longest sequence of a cluster represents it."""
    return ("--min-seq-id", str(identity), "-c", str(COVERAGE), "--cov-mode", "0", "--cluster-mode", "2")


def _clusters(
    proteins: Sequences, wanted: NDArray[np.bool_], identity: float, work: Path, threads: int, screen: Screen
) -> NDArray[np.int64]:
    """Rows of representatives and of their members, themselves among them."""
    fasta = work / "cluster.fasta"
    count = write_fasta(proteins, wanted, fasta)
    with screen.waiting(f"MMseqs2 clusters {count:,} proteins at {identity:.0%}"):
        found = mmseqs.cluster(fasta, _flags(identity), work, threads)
    fasta.unlink()
    if not np.array_equal(np.unique(found[:, 1]), np.flatnonzero(wanted)) or len(found) != count:
        raise JobError(f"MMseqs2 gave back {len(found):,} of {count:,} proteins: its version cannot be used here")
    return found


def _list(path: Path, proteins: Sequences, near: NDArray[np.int64], far: NDArray[np.int64]) -> None:
    """Of every protein, the one that stands for it at 90 %, and the one that names its cluster."""
    cluster_of = dict(zip(far[:, 1].tolist(), far[:, 0].tolist(), strict=True))
    with path.open("w") as file:
        file.write("protein\tmember\tcluster\n")
        for row, member in sorted(zip(near[:, 1].tolist(), near[:, 0].tolist(), strict=True)):
            file.write("\t".join(proteins.name(one) for one in (row, member, cluster_of[member])) + "\n")
