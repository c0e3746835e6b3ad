"""One worker: makes the task once, then computes the shards it is given."""

from __future__ import annotations

import json

from aminoglot.errors import AminoglotError, JobError
from aminoglot.jobs.crew import MakeTask
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.plan import shard_sequences
from aminoglot.jobs.shards import write_shard
from aminoglot.jobs.task import Done


class ShardWorker:
    """Computes shards of a planned job, in a process of its own.

    Args:
        folder: of the job.
        make: the task.
        device: where.

    Attributes:
        device: the kind of processor it computes on, in words.

    Raises:
        JobError: when this machine does not see the folder, or would not compute what the plan says.
    """

    def __init__(self, folder: JobFolder, make: MakeTask, device: str) -> None:
        self._folder = folder
        folder.fetch(folder.plan)
        if not folder.planned:
            raise JobError(
                f"{folder.path} is not seen where a worker is: choose an output on a file system that all machines "
                "share, or in an object store (s3://...)"
            )
        provenance = json.loads(self._folder.plan.read_text(encoding="utf-8"))["provenance"]
        self._task, self.device = make(provenance, device)

    def compute(self, shard: int, done: Done) -> Entry:
        """Compute and write one shard; told how many residues were computed."""
        result = self._task(shard_sequences(self._folder, shard), done)
        return write_shard(self._folder, shard, result.arrays, result.failed)


def said(error: Exception) -> str:
    """What went wrong in a worker, in words."""
    return str(error) if isinstance(error, AminoglotError) else f"{type(error).__name__}: {error}"
