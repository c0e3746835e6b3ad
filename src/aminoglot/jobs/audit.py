"""N proteins in, N accounted for, or the run fails loudly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import JobError, plural
from aminoglot.jobs.manifest import Manifest
from aminoglot.jobs.plan import Plan
from aminoglot.jobs.scan import Status
from aminoglot.jobs.storage import file_digest


@dataclass(frozen=True)
class Audit:
    """The account of a job.

    Attributes:
        records: proteins (and bad records) that came in.
        written, merged, skipped, failed: what became of them; they add up to ``records``.
        status: the final :class:`Status` of each record, int8 [N].
        reasons: why a protein failed, by its place in shard order.
    """

    records: int
    written: int
    merged: int
    skipped: int
    failed: int
    status: NDArray[np.int8]
    reasons: Mapping[int, str]

    def __str__(self) -> str:
        return (
            f"{self.records:,} in = {self.written:,} written + {self.merged:,} merged + {self.skipped:,} skipped + "
            f"{self.failed:,} failed"
        )


def audit(plan: Plan, manifest: Manifest) -> Audit:
    """Check every shard against its digest, and add up.

    Raises:
        JobError: when a shard is missing or damaged. Damaged ones are set aside, so that the same command computes
            them again.
    """
    missing = [shard for shard in range(plan.shards) if shard not in manifest.entries]
    if missing:
        raise JobError(f"{plural(len(missing), 'shard')} of {plan.shards:,} missing, the first is {missing[0]}")
    plan.folder.fetch(*(plan.folder.shard(entry.shard) for entry in manifest.entries.values() if not entry.aside))
    damaged = [entry.shard for entry in manifest.entries.values() if not _intact(plan, manifest, entry.shard)]
    if damaged:
        for shard in damaged:
            path = plan.folder.shard(shard)
            if path.exists():
                path.replace(path.with_suffix(".damaged"))
        manifest.drop(damaged)
        raise JobError(
            f"{plural(len(damaged), 'shard')} of {plan.shards:,} no longer hold what was written "
            f"({', '.join(plan.folder.shard(s).name for s in damaged[:5])}): is the disk sound? They were set aside; "
            "run the same command again and only they are computed anew"
        )
    reasons = {
        int(plan.starts[entry.shard]) + slot: why
        for entry in manifest.entries.values()
        for slot, why in entry.failed.items()
    }
    status = plan.status.copy()
    if reasons:
        status[(status <= Status.MERGED) & np.isin(plan.position, list(reasons))] = Status.FAILED
    written, merged, skipped, failed = (int((status == s).sum()) for s in Status)
    result = Audit(len(status), written, merged, skipped, failed, status, reasons)
    if result.records != written + merged + skipped + failed or result.records != plan.counts["records"]:
        raise JobError(f"the audit does not add up: {result}")
    return result


def _intact(plan: Plan, manifest: Manifest, shard: int) -> bool:
    path, entry = plan.folder.shard(shard), manifest.entries[shard]
    return entry.aside or (path.exists() and file_digest(path) == entry.sha256)
