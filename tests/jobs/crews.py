"""Tasks for workers in processes of their own; what goes wrong is asked for in the plan's provenance."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aminoglot.errors import DiskFullError, JobError, OutputError
from aminoglot.jobs import ShardLimits, ShardResult, Task
from aminoglot.jobs.task import Done
from tests.jobs.helpers import CountingTask

LIMITS = ShardLimits(cost=30)


def once(path: Path) -> bool:
    """Whether this is the first to ask, of all processes."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_for(path: Path) -> None:
    """Until another process has made it, or for a minute."""
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)


class Troubled(CountingTask):
    """Does to shards that hold some sequence what is asked for, the first time or every time."""

    def __init__(self, asked: Mapping[str, Any], device: str) -> None:
        super().__init__(LIMITS)
        self.asked, self.device = asked, device

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        if (seconds := self.asked.get("takes")) is not None:
            time.sleep(seconds)
        if self.asked.get("unwritable") == self.device:
            raise OutputError("no word from the disk")
        if self.asked.get("kills") == self.device:
            os.kill(os.getpid(), signal.SIGKILL)
        if (pause := self.asked.get("slowly")) is not None:
            for _ in range(len(sequences[0]) - 1):
                time.sleep(pause)
                done(1)
            done(1)
            return super().__call__(sequences, lambda _: None)
        if self.asked.get("together") and once(Path(self.asked["marks"]) / "waited"):
            wait_for(Path(self.asked["marks"]) / "second")
        if "late" in self.asked:
            self._make_way(Path(self.asked["marks"]))
        done(1)
        trouble = self.asked.get("trouble")
        here = self.asked.get("sequence", "").encode() in sequences
        if trouble and here and (self.asked.get("always") or once(Path(self.asked["marks"]) / trouble)):
            self._trouble(trouble)
        self._fill()
        done(sum(map(len, sequences)) - 1)
        return super().__call__(sequences, lambda _: None)

    def _make_way(self, marks: Path) -> None:
        """Go and come again three times, and then wait for the other worker."""
        for turn in range(3):
            if once(marks / f"gone-{turn}"):
                raise OutputError("gone for a while")
        if once(marks / "waited"):
            wait_for(marks / "came")

    def _fill(self) -> None:
        """The disk of one worker is full; the others see to it that it has a shard before they do all the work."""
        if "full" not in self.asked:
            return
        full = Path(self.asked["marks"]) / "full"
        if self.asked["full"] == self.device or (self.asked["full"] == "first" and once(full)):
            full.touch()
            raise DiskFullError("the disk is full")
        if self.asked.get("awaited"):
            wait_for(full)

    def _trouble(self, trouble: str) -> None:
        if trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif trouble == "hangs":
            time.sleep(3600)
        elif trouble == "exits":
            os._exit(3)
        raise MemoryError("no memory") if trouble == "memory" else ValueError("it cannot be computed")


def come_late(marks: Path) -> None:
    """Refuse three times; before each the other worker went, and so came again since the last."""
    for turn in range(3):
        wait_for(marks / f"gone-{turn}")
        if once(marks / f"refused-{turn}"):
            raise JobError("not yet")
    (marks / "came").touch()


def make(provenance: Mapping[str, Any], device: str) -> tuple[Task, str]:
    """The task, or what happens to a worker before it has one."""
    loading = provenance.get("loading")
    if loading == "refuses":
        raise JobError("another version here")
    if loading == "killed" and (provenance.get("always") or once(Path(provenance["marks"]) / "loading")):
        os.kill(os.getpid(), signal.SIGKILL)
    if loading == "hangs" and once(Path(provenance["marks"]) / "loading"):
        time.sleep(3600)
    if provenance.get("late") == device:
        come_late(Path(provenance["marks"]))
    if provenance.get("together") and not once(Path(provenance["marks"]) / "first"):
        (Path(provenance["marks"]) / "second").touch()
    named = f" in process {os.getpid()}" if provenance.get("named") else ""
    return Troubled(provenance, device), f"a processor called {device}{named}"
