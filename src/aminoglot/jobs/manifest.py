"""Which shards are done, one JSON line each; a line counts only when it is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aminoglot.jobs.storage import explained, write_whole


@dataclass(frozen=True)
class Entry:
    """One finished shard.

    Attributes:
        shard: its number.
        sha256: of its file.
        size: of its file, in bytes.
        failed: why some of its proteins have no result, by their place in the shard.
    """

    shard: int
    sha256: str
    size: int
    failed: dict[int, str] = field(default_factory=dict)


class Manifest:
    """The job's record of finished shards. The last line for a shard holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[int, Entry] = {}
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            found = [_entry(line) for line in lines]
            self.entries = {entry.shard: entry for entry in found if entry is not None}
            if None in found:
                self.drop([])  # rewrite it without the lines that say nothing

    def add(self, entry: Entry) -> None:
        """Note a shard as done, durably."""
        with explained(self.path), self.path.open("ab") as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry.shard] = entry

    def drop(self, shards: list[int]) -> None:
        """Forget shards: they will be computed again."""
        for shard in shards:
            self.entries.pop(shard, None)
        kept = b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in self.entries.values())
        write_whole(self.path, lambda path: _write(path, kept))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _entry(line: bytes) -> Entry | None:
    """A line's entry; None for one that a crash tore or a disk spoiled: its shard is computed again."""
    try:
        raw = json.loads(line.decode()) if line.endswith(b"\n") else {}
        failed = {int(slot): str(why) for slot, why in raw["failed"].items()}
        return Entry(int(raw["shard"]), str(raw["sha256"]), int(raw["size"]), failed)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
