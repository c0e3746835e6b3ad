"""Which shards are done, one JSON line each; a line counts only when it is whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.storage import explained, write_whole

KEEP_EVERY = 5.0
"""Seconds between two copies of a manifest to an object store: what a lost machine noted since is computed again."""

_SYNC_EVERY = 0.5
"""Seconds between two waits for the disk, of some milliseconds: what a crash of the machine takes is computed again."""


@dataclass(frozen=True)
class Entry:
    """One shard that was finished, or set aside.

    Attributes:
        shard: its number.
        sha256: of its file.
        size: of its file, in bytes.
        failed: why some of its proteins have no result, by their place in the shard.
        device: the kind of processor that computed it, where workers did.
    """

    shard: int
    sha256: str
    size: int
    failed: dict[int, str] = field(default_factory=dict)
    device: str = ""

    @property
    def aside(self) -> bool:
        """Whether it was set aside: it has no file, and all its proteins have failed."""
        return not self.size


class Manifest:
    """The job's record of finished shards. Its last line for a shard holds; of several files' one without failures.

    Args:
        path: where it is written.
        others: more of the same job, which are read.
        folder: told, now and then, that the file has changed.
    """

    def __init__(self, path: Path, others: Iterable[Path] = (), folder: JobFolder | None = None) -> None:
        self.path = path
        self._folder, self._kept, self._synced = folder, time.monotonic(), 0.0
        self._others = [other for other in others if other != path]
        self.entries: dict[int, Entry] = {}
        for other in self._others:  # a torn line may be one that is being written
            self._learn({entry.shard: entry for entry in _entries(other) if entry is not None})
        found = _entries(path)
        own = {entry.shard: entry for entry in found if entry is not None}
        self._learn(own)
        if None in found:
            self._rewrite(own)  # without the lines that say nothing

    def _learn(self, found: Mapping[int, Entry]) -> None:
        """Which file is newer nobody knows; but what failed was computed again, what did not was not."""
        for shard, entry in found.items():
            known = self.entries.get(shard)
            if known is None or known.failed or not entry.failed:
                self.entries[shard] = entry

    def add(self, entry: Entry) -> None:
        """Note a shard as done."""
        with explained(self.path), self.path.open("ab") as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self.entries[entry.shard] = entry
        if time.monotonic() - self._kept > KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """See that what was noted lasts, where the folder lies elsewhere."""
        if self._folder is not None and self.path.exists():
            self._folder.keep(self.path)
        self._kept = time.monotonic()

    @classmethod
    def of(cls, folder: JobFolder, path: Path | None = None) -> Manifest:
        """The job's own, or one that lies beside it; what the others hold is known to it."""
        return cls(path or folder.manifest, folder.manifests(), folder)

    def drop(self, shards: list[int]) -> None:
        """Forget shards: they will be computed again. All others are noted here, and other manifests are given up."""
        for shard in shards:
            self.entries.pop(shard, None)
        self.rewrite()
        self.keep()
        for other in self._others:
            if self._folder is not None:
                self._folder.drop(other)
            else:
                other.unlink(missing_ok=True)
        self._others = []

    def rewrite(self) -> None:
        """Write all that is known, of other files too, to this one."""
        self._rewrite(self.entries)

    def _rewrite(self, entries: Mapping[int, Entry]) -> None:
        kept = b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries.values())
        write_whole(self.path, lambda path: _write(path, kept))


def _entries(path: Path) -> list[Entry | None]:
    return [_entry(line) for line in path.read_bytes().splitlines(keepends=True)] if path.exists() else []


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _entry(line: bytes) -> Entry | None:
    """A line's entry; None for one that a crash tore or a disk spoiled: its shard is computed again."""
    try:
        raw = json.loads(line.decode()) if line.endswith(b"\n") else {}
        failed = {int(slot): str(why) for slot, why in raw["failed"].items()}
        return Entry(int(raw["shard"]), str(raw["sha256"]), int(raw["size"]), failed, str(raw.get("device", "")))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
