"""The member table as the leak filter needs it: all members of some clusters, and the table without some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus.reader import read_rows
from aminoglot.corpus.store import NUMBER, Sequences
from aminoglot.corpus.tables import MEMBER_ROWS, MEMBER_STARTS

_BLOCK = 1 << 20


class MemberTable:
    """The table before anything is taken out.

    Args:
        work: where it is.
    """

    def __init__(self, work: Path) -> None:
        self._starts = read_rows(work / MEMBER_STARTS)
        self._rows = read_rows(work / MEMBER_ROWS)

    def write_fasta(self, members: Sequences, clusters: NDArray[np.int64], path: Path) -> int:
        """All members of these clusters but the first, under their places in the table; how many.

        The first has the representative's sequence, which is looked at by itself.
        """
        count = 0
        with path.open("wb") as file:
            for cluster in clusters.tolist():
                for place in range(int(self._starts[cluster]) + 1, int(self._starts[cluster + 1])):
                    file.write(b">%d\n%s\n" % (place, members[int(self._rows[place])]))
                    count += 1
        return count

    def write_without(self, places: NDArray[np.int64], folder: Path) -> None:
        """Write the table into a folder, without these places (sorted). No cluster loses its first member.

        Starts shrink by how many places lie before them; done in blocks, for tables larger than memory.
        """
        with (folder / MEMBER_STARTS).open("wb") as file:
            for first in range(0, len(self._starts), _BLOCK):
                block = self._starts[first : first + _BLOCK].astype(np.int64)
                file.write((block - np.searchsorted(places, block)).astype(NUMBER).tobytes())
        with (folder / MEMBER_ROWS).open("wb") as file:
            for first in range(0, len(self._rows), _BLOCK):
                block = self._rows[first : first + _BLOCK]
                inside = places[np.searchsorted(places, first) : np.searchsorted(places, first + len(block))]
                file.write(np.delete(block, inside - first).tobytes())
