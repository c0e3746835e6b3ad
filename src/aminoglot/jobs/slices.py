"""Slices of a job: each computes its own shards and knows no other; what they share is the job's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from aminoglot.errors import InputError, JobError, plural
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Manifest
from aminoglot.jobs.plan import Plan
from aminoglot.jobs.storage import explained

_PATIENCE = 30.0
"""Seconds that a slice waits: for others that begin, each of which holds the folder for a moment, and for its own lock,
which a network file system may keep for a while after a machine died.
"""


@dataclass(frozen=True)
class Slice:
    """One of some near-equal parts of a job.

    Attributes:
        number: from 1 on.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """``3/16`` is the third of sixteen.

        Raises:
            InputError: for anything else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"shard {text!r}: write 1/16, 2/16 ... 16/16")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.number}-of-{self.of}"

    def shards(self, plan: Plan) -> range:
        """Its shards: every ``of``-th, so that long proteins and short ones are dealt out alike."""
        return range(self.number - 1, plan.shards, self.of)

    def manifest(self, folder: JobFolder) -> Manifest:
        """Where it notes its shards; what others noted is known to it. From now on the slice counts as begun."""
        (folder.path / f"manifest-{self.name}.jsonl").touch()
        return Manifest.of(folder, folder.path / f"manifest-{self.name}.jsonl")

    @contextmanager
    def locked(self, folder: JobFolder) -> Iterator[None]:
        """Hold this slice; others, and no whole run, may be at work in the folder.

        Raises:
            JobError: when another process computes this slice, or the whole job.
        """
        own = FileLock(folder.path / f"{folder.lock.name}-{self.name}")
        with explained(folder.path):
            try:
                own.acquire(timeout=_PATIENCE)
                FileLock(folder.lock).acquire(timeout=_PATIENCE).lock.release()
            except Timeout as error:
                own.release()
                whose = f"slice {self}" if error.lock_file == own.lock_file else "the whole job"
                raise JobError(
                    f"{folder.output}: another run computes {whose} now (it holds {error.lock_file})"
                ) from None
        try:
            yield
        finally:
            own.release()


def lost(plan: Plan, manifest: Manifest) -> str | None:
    """Which slices have shards that are missing, in words; None where nothing is missing."""
    missing = [shard for shard in range(plan.shards) if shard not in manifest.entries]
    if not missing:
        return None
    names = [
        path.stem.removeprefix("manifest-").split("-of-") for path in plan.folder.manifests() if "-of-" in path.stem
    ]
    of = max((int(parts[1]) for parts in names), default=0)
    said = f"{plural(len(missing), 'shard')} of {plan.shards:,} missing"
    if not of:
        return f"{said}, and no slice was begun; run --shard 1/N to N/N"
    slices = Counter(shard % of + 1 for shard in missing)
    whose = ", ".join(f"{number}/{of} ({plural(count, 'shard')})" for number, count in sorted(slices.items()))
    return f"{said}, of slices {whose}; run them again, then --finish"
