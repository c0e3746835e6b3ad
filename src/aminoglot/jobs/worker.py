"""One worker: makes the task once, then computes the shards it is given."""

from __future__ import annotations

import json
import re

from aminoglot.errors import AminoglotError, DiskFullError, JobError, OutputError, is_allocation_failure
from aminoglot.jobs.crew import Failed, Left, MakeTask
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
        """Compute and write one shard; told how many residues were computed.

        Raises:
            OutputError: when it cannot be written. Whatever else goes wrong in the task surfaces as it is.
        """
        result = self._task(shard_sequences(self._folder, shard), done)
        return write_shard(self._folder, shard, result.arrays, result.failed)


def trouble(worker: str, error: Exception) -> Failed | Left:
    """What it means for a worker that a shard was not computed: it goes, or is ready for another.

    After an error that nobody foresaw it goes: on a GPU, say, nothing works after some.
    """
    if isinstance(error, OutputError):
        return Left(worker, str(error), blames=False, again=not isinstance(error, DiskFullError), unwritten=True)
    if isinstance(error, AminoglotError) or is_allocation_failure(error):
        return Failed(worker, said(error))
    return Left(worker, said(error))


def said(error: Exception) -> str:
    """What went wrong in a worker, in words; ours name no machine, others' may."""
    return str(error) if isinstance(error, AminoglotError) else without_addresses(f"{type(error).__name__}: {error}")


def without_addresses(text: str) -> str:
    """A text in which addresses of machines are dots."""
    return re.sub(r"(ipv[46]:)?(\b\d{1,3}(\.\d{1,3}){3}\b|\[[0-9a-fA-F:]+\])(:\d+)?", "...", text)
