"""The shards that are left, computed in this process; each is written while the next is computed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from aminoglot.jobs.manifest import Entry, Manifest
from aminoglot.jobs.plan import Plan
from aminoglot.jobs.shards import write_shard
from aminoglot.jobs.task import Done, ShardResult, Task


def left(plan: Plan, manifest: Manifest, shards: Iterable[int] | None = None) -> list[int]:
    """Shards, of all or of some, without a whole file, or with proteins that failed last time, in order."""
    size = plan.folder.sizes()

    def is_done(entry: Entry | None) -> bool:
        return entry is not None and not entry.failed and size(plan.folder.shard(entry.shard)) == entry.size

    asked = range(plan.shards) if shards is None else shards
    return [shard for shard in asked if not is_done(manifest.entries.get(shard))]


def run(
    plan: Plan, manifest: Manifest, task: Task, done: Done, shards: Iterable[int] | None = None, device: str = ""
) -> None:
    """Compute and write every shard that is left, of all or of some.

    At most one shard is being written while one is computed. Whatever stops this, shards in the manifest are safe.

    Args:
        done: told how many residues were computed.
        shards: which; all unless said.
        device: the kind of processor that computes them, to be noted.
    """
    with ThreadPoolExecutor(1) as writer:
        pending: Future[None] | None = None
        for shard in left(plan, manifest, shards):
            result = task(plan.sequences(shard), done)
            if pending is not None:
                pending.result()
            pending = writer.submit(_save, plan, manifest, shard, result, device)
        if pending is not None:
            pending.result()


def _save(plan: Plan, manifest: Manifest, shard: int, result: ShardResult, device: str) -> None:
    manifest.add(replace(write_shard(plan.folder, shard, result.arrays, result.failed), device=device))
