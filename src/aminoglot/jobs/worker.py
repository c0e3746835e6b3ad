"""One worker: makes the task once, then computes the shards it is given."""

from __future__ import annotations

import json
from pathlib import Path

from aminoglot.errors import AminoglotError
from aminoglot.jobs.crew import MakeTask
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.plan import shard_sequences
from aminoglot.jobs.shards import write_shard
from aminoglot.jobs.task import Done


class ShardWorker:
    """Computes shards of a planned job, in a process of its own.

    Args:
        output: of the job, whose folder lies beside it.
        make: the task.
        device: where.

    Attributes:
        device: the kind of processor it computes on, in words.

    Raises:
        JobError: when this machine would not compute what the plan says.
    """

    def __init__(self, output: Path, make: MakeTask, device: str) -> None:
        self._folder = JobFolder(output)
        provenance = json.loads(self._folder.plan.read_text(encoding="utf-8"))["provenance"]
        self._task, self.device = make(provenance, device)

    def compute(self, shard: int, done: Done) -> Entry:
        """Compute and write one shard; told how many residues were computed."""
        result = self._task(shard_sequences(self._folder, shard), done)
        return write_shard(self._folder.shard(shard), shard, result.arrays, result.failed)


def said(error: Exception) -> str:
    """What went wrong in a worker, in words."""
    return str(error) if isinstance(error, AminoglotError) else f"{type(error).__name__}: {error}"
