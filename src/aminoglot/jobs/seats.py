"""A worker's seat in a crew: the name that is seen, and when nobody is asked to sit there any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aminoglot.jobs.crew import Left

STARTS = 3
"""How often in a row a worker may end, as :class:`Seat` counts, until its seat stays empty."""


@dataclass
class Seat:
    """Where one worker after another sits.

    Attributes:
        number: from 1.
        ready: whether the worker there has begun.
        failed_starts: how often in a row it ended while no worker of the crew became ready.
        failed_writes: how often in a row it left because it could not write, without a shard between.
    """

    number: int
    ready: bool = False
    failed_starts: int = 0
    failed_writes: int = 0

    @property
    def worker(self) -> str:
        """The name of whoever sits there; the next has the same, for to the job they are one that comes again."""
        return f"worker {self.number}"

    def began(self, crew: Iterable[Seat]) -> None:
        """Its worker is ready. One can begin, so who could not before may yet."""
        self.ready = True
        for seat in crew:
            seat.failed_starts = 0

    def finished(self) -> None:
        """Its worker has written a shard."""
        self.failed_writes = 0

    def left(self, event: Left) -> bool:
        """Its worker is gone; whether another should take the seat."""
        self.failed_starts += 1
        self.failed_writes += event.unwritten
        self.ready = False
        return event.again and self.failed_starts < STARTS and self.failed_writes < STARTS
