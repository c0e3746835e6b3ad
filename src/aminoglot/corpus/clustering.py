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

COVERAGE = 0.8
"""A member and its cluster's longest protein overlap in 80 % of each; UniRef asks that of the longest."""


def cluster_own(folder: Path, work: Path, threads: int) -> dict[str, Any]:
    """Make representatives, members and their table from ``work/proteins``.

    Members are the representatives of clusters at 90 %; those are clustered at 50 %, and each such cluster's
    representative is its first member. Clusters come in the order of their representatives.

    Args:
        folder: of the corpus.
        work: its folder for what only building needs.
        threads: processor cores.

    Raises:
        DependencyError: without MMseqs2.
        JobError: when it fails.
    """
    proteins = Sequences(work / "proteins")
    everything = np.ones(len(proteins), bool)
    near = _clusters(proteins, everything, 0.9, work, threads)
    members = sorted(near)
    chosen = np.zeros(len(proteins), bool)
    chosen[members] = True
    far = _clusters(proteins, chosen, 0.5, work, threads)
    place = {row: number for number, row in enumerate(members)}
    with SequenceWriter(folder / "members", work / "members.parquet") as writer:
        for row in members:
            writer.add(proteins.name(row), proteins.header(row), proteins[row])
    starts, rows = [0], list[int]()
    with SequenceWriter(folder / "representatives", work / "representatives.parquet") as writer:
        for row in sorted(far):
            writer.add(proteins.name(row), proteins.header(row), proteins[row])
            rows += [place[row], *(place[member] for member in sorted(far[row]) if member != row)]
            starts.append(len(rows))
    (work / MEMBER_STARTS).write_bytes(np.array(starts, NUMBER).tobytes())
    (work / MEMBER_ROWS).write_bytes(np.array(rows, NUMBER).tobytes())
    return {
        "proteins": len(proteins),
        "clusters at 90 %": len(near),
        "clusters at 50 %": len(far),
        "members": len(rows),
        "largest": int(np.diff(starts).max()),
    }


def _clusters(
    proteins: Sequences, wanted: NDArray[np.bool_], identity: float, work: Path, threads: int
) -> dict[int, list[int]]:
    """Members of each cluster, itself among them, by the row of its representative."""
    fasta = work / "cluster.fasta"
    write_fasta(proteins, wanted, fasta)
    found: dict[int, list[int]] = {}
    for representative, member in mmseqs.cluster(
        fasta, identity=identity, coverage=COVERAGE, folder=work, threads=threads
    ):
        found.setdefault(int(representative), []).append(int(member))
    fasta.unlink()
    return found
