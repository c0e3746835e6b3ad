"""The member table as the leak filter needs it: all members of some clusters, and the table without some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus.reader import read_rows
from aminoglot.corpus.store import NUMBER
from aminoglot.corpus.tables import MEMBER_ROWS, MEMBER_STARTS

_BLOCK = 1 << 20


class MemberTable:
    """The table before anything is taken out.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._starts = read_rows(folder / MEMBER_STARTS)
        self._rows = read_rows(folder / MEMBER_ROWS)

    def others(self, clusters: NDArray[np.bool_], members: int) -> NDArray[np.bool_]:
        """Which members belong to these clusters, but for the first of each: that is the representative's sequence.

        Args:
            clusters: one for each cluster.
            members: how many sequences there are.

        Returns:
            One for each sequence.
        """
        wanted = np.zeros(members, bool)
        for first, rows, cluster, leads in self._blocks():
            del first
            chosen = rows[clusters[cluster] & ~leads]
            wanted[chosen[chosen < members]] = True
        return wanted

    def places_of(self, rows: NDArray[np.int64], clusters: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Places of some sequences in the table of these clusters, sorted, but for the first members."""
        found = [
            first + np.flatnonzero(np.isin(block, rows) & clusters[cluster] & ~leads)
            for first, block, cluster, leads in self._blocks()
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
        """So many clusters at a time: the first place, and of each place row, cluster, whether it is the first."""
        for first in range(0, len(self._starts) - 1, _BLOCK):
            starts = self._starts[first : first + _BLOCK + 1].astype(np.int64)
            rows = self._rows[starts[0] : starts[-1]].astype(np.int64)
            leads = np.zeros(len(rows), bool)
            leads[starts[:-1] - starts[0]] = True
            yield int(starts[0]), rows, first + np.repeat(np.arange(len(starts) - 1), np.diff(starts)), leads

    def write_without(self, places: NDArray[np.int64], folder: Path) -> None:
        """Write the table into a folder, without these places (sorted). No cluster loses its first member."""
        with (folder / MEMBER_STARTS).open("wb") as file:
            for first in range(0, len(self._starts), _BLOCK):
                block = self._starts[first : first + _BLOCK].astype(np.int64)
                file.write((block - np.searchsorted(places, block)).astype(NUMBER).tobytes())
        with (folder / MEMBER_ROWS).open("wb") as file:
            for first in range(0, len(self._rows), _BLOCK):
                rows = self._rows[first : first + _BLOCK]
                inside = places[np.searchsorted(places, first) : np.searchsorted(places, first + len(rows))]
                file.write(np.delete(rows, inside - first).tobytes())
