"""Which shards are done, one JSON line each; a line counts only when it is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aminoglot.jobs.storage import explained


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
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # torn by a crash
                raw = json.loads(line)
                raw["failed"] = {int(slot): why for slot, why in raw["failed"].items()}
                entry = Entry(**raw)
                self.entries[entry.shard] = entry
                whole += len(line)
            os.truncate(path, whole)

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
        with explained(self.path):
            temporary = self.path.with_name(".manifest.partial")
            temporary.write_bytes(kept)
            temporary.replace(self.path)
