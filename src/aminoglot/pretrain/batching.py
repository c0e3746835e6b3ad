"""Which proteins an update sees, and who computes which of them.

The proteins of an update are fixed first, from the position in the stream of samples alone; then they are sorted by
length, cut into pieces that fit into memory, and dealt to the processes. So the data does not depend on how many
processes there are, and one number, the position, says where a run stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aminoglot.corpus import Samples
from aminoglot.packing import batches

Piece = list[int]
"""Positions of samples that are computed at once; empty for a process that has less to do than others."""


@dataclass(frozen=True)
class Update:
    """The proteins of one update.

    Attributes:
        first: position of the first sample.
        lengths: tokens of each sample, from ``first`` on.
    """

    first: int
    lengths: tuple[int, ...]

    @property
    def next(self) -> int:
        """Position of the sample after the last."""
        return self.first + len(self.lengths)

    def pieces(self, at_once: int, processes: int) -> list[Piece]:
        """Cut into pieces of at most ``at_once`` tokens (or one protein), as many for every process.

        Proteins of a piece are of neighbouring lengths, pieces of about the same number of tokens.
        """
        order = sorted(range(len(self.lengths)), key=lambda index: -self.lengths[index])
        lengths = [self.lengths[index] for index in order]
        count = -(-len(list(batches(lengths, at_once))) // processes) * processes
        slices = list(batches(lengths, _smallest_budget(lengths, at_once, count)))
        pieces = [[self.first + index for index in order[cut]] for cut in slices]
        return pieces + [[]] * (count - len(pieces))


def dealt(pieces: Sequence[Piece], process: int, processes: int) -> list[Piece]:
    """The pieces of one process, as many as every other has."""
    return list(pieces[process::processes])


def updates(samples: Samples[Any], proteins: int | None, tokens: int | None, first: int = 0) -> Iterator[Update]:
    """The updates of a run, without end.

    Args:
        samples: the stream.
        proteins: proteins an update, or None.
        tokens: tokens an update at most, or None; a longer protein makes an update of its own.
        first: position to go on from.
    """
    while True:
        lengths: list[int] = []
        total, position = 0, first
        while proteins is None or len(lengths) < proteins:
            length = samples.tokens_of(position)
            if tokens is not None and lengths and total + length > tokens:
                break
            lengths.append(length)
            total, position = total + length, position + 1
        yield Update(first, tuple(lengths))
        first = position


def _smallest_budget(lengths: Sequence[int], largest: int, count: int) -> int:
    """The smallest budget for which there are no more than ``count`` batches: they are even then."""
    low, high = 1, largest
    while low < high:
        middle = (low + high) // 2
        if sum(1 for _ in batches(lengths, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return low
