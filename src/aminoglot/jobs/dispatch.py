"""Which worker computes which shard: the costliest first, one that failed again elsewhere, one that always fails set
aside. It decides; it starts nothing and waits for nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

TRIES = 3
"""How often a shard is tried before it is set aside."""
LOSSES = 10
"""How often its worker may be lost through no fault of the shard, as it seems, until that counts as a try after all."""

Worker = TypeVar("Worker", bound=Hashable)


class Dispatch(Generic[Worker]):
    """The shards of a job, dealt to workers that come and go.

    Args:
        shards: what is left to compute, in the order in which it should be begun.
        tries: of a shard, before it is set aside.

    Attributes:
        aside: why each shard that was set aside failed, the last time.
    """

    def __init__(self, shards: Iterable[int], tries: int = TRIES) -> None:
        self._tries = tries
        self._waiting = deque(shards)
        self._again: list[int] = []
        self._at: dict[Worker, int | None] = {}
        self._failed_on: dict[int, list[Worker]] = {}
        self._lost: Counter[int] = Counter()
        self.aside: dict[int, str] = {}

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing is being computed."""
        return not self._waiting and not self._again and all(shard is None for shard in self._at.values())

    @property
    def idle(self) -> list[Worker]:
        """Workers without a shard."""
        return [worker for worker, shard in self._at.items() if shard is None]

    def joined(self, worker: Worker) -> None:
        """A worker is ready; one may come at any time."""
        self._at[worker] = None

    def take(self, worker: Worker) -> int | None:
        """A shard for a worker that has none; None where nothing is left that it should try.

        What failed elsewhere comes first, so that a shard that always fails is known early. A worker tries the same
        shard twice only where every other has, too.
        """
        assert self._at[worker] is None, f"{worker} computes shard {self._at[worker]}"
        for shard in self._again:
            if self._may(worker, shard):
                self._again.remove(shard)
                break
        else:
            if not self._waiting:
                return None
            shard = self._waiting.popleft()
        self._at[worker] = shard
        return shard

    def done(self, worker: Worker) -> int:
        """A worker has finished its shard, which is returned."""
        shard = self._at[worker]
        assert shard is not None
        self._at[worker] = None
        self._failed_on.pop(shard, None)
        return shard

    def failed(self, worker: Worker, why: str) -> int | None:
        """A worker could not compute its shard; returned where it is set aside now."""
        shard = self._at[worker]
        assert shard is not None
        self._at[worker] = None
        return self._tried(worker, shard, why)

    def left(self, worker: Worker, why: str | None = None) -> int | None:
        """A worker is gone, perhaps before it was ready; its shard, where it is set aside now.

        With a reason it counts as a try of its shard. Without one, where a machine was taken away, say, or its disk is
        full, the shard is begun again and nothing counts.
        """
        shard = self._at.pop(worker, None)
        if shard is None:
            return None
        if why is None:
            self._lost[shard] += 1
            if self._lost[shard] % LOSSES:
                self._waiting.appendleft(shard)
                return None
            why = f"its worker was lost {self._lost[shard]} times"
        return self._tried(worker, shard, why)

    def _tried(self, worker: Worker, shard: int, why: str) -> int | None:
        tried = self._failed_on.setdefault(shard, [])
        tried.append(worker)
        if len(tried) < self._tries:
            self._again.append(shard)
            return None
        self.aside[shard] = why
        return shard

    def _may(self, worker: Worker, shard: int) -> bool:
        tried = self._failed_on[shard]
        return worker not in tried or all(other in tried for other in self._at)
