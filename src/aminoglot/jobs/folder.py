"""The job's folder, ``OUT.aminoglot``, and its lock: one writer at a time.

What is said of a folder's files to :meth:`JobFolder.keep`, :meth:`JobFolder.fetch` and so on matters where the folder
lies in an object store and this is its copy; see :mod:`aminoglot.jobs.stored`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from aminoglot.errors import JobError
from aminoglot.jobs.storage import explained

SUFFIX = ".aminoglot"
UNFINISHED = ".shard-*.partial"
"""What workers leave that are killed while they write; see :func:`aminoglot.jobs.storage.write_whole`."""
_ATTEMPTS = 100
"""How often a folder that another run takes away is made again; some file systems refuse every time."""


class JobFolder:
    """Where everything of a job lies until it is done.

    Attributes:
        output: what the user asked for.
        path: the folder beside it.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(output.name + SUFFIX)
        self.plan = self.path / "plan.json"
        self.decisions = self.path / "decisions.safetensors"
        self.records = self.path / "records.arrow"
        self.proteins = self.path / "proteins.arrow"
        self.manifest = self.path / "manifest.jsonl"
        self.lock = self.path / "lock"
        self.stdin = self.path / "stdin"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process may have another working directory, or another home."""
        return type(self), (self.output.absolute(),)

    def shard(self, number: int) -> Path:
        return self.path / f"shard-{number:06d}.safetensors"

    @property
    def planned(self) -> bool:
        """Whether a plan was finished: the plan file is written last."""
        return self.plan.is_file()

    def keep(self, path: Path) -> None:
        """A file of the folder is whole, and must last."""

    def fetch(self, *paths: Path) -> None:
        """Some files of the folder are about to be read."""

    def drop(self, path: Path) -> None:
        """Delete a file of the folder, if it is there."""
        path.unlink(missing_ok=True)

    def sizes(self) -> Callable[[Path], int | None]:
        """From a file of the folder to its bytes, None where it is not there."""
        return lambda path: path.stat().st_size if path.exists() else None

    @contextmanager
    def opened(self, path: Path) -> Iterator[Any]:
        """A large file of the folder, of which little is read, for pyarrow."""
        with pa.memory_map(str(path)) as mapped:
            yield mapped

    def collect(self, files: Sequence[Path]) -> None:
        """Files of the job's output, if they are there, are about to be read."""

    def deliver(self, files: Sequence[Path]) -> None:
        """The job's output is written, and must last."""

    def forget(self, files: Sequence[Path]) -> None:
        """What was collected or delivered is needed no more."""

    def existing(self, files: Sequence[Path]) -> list[Path]:
        """Which files of the job's output are there already, and the plan, if there is one."""
        return [path for path in (*files, self.plan) if path.exists()]

    def said(self, text: str) -> str:
        """A text for the user, with the names that the user gave."""
        return text

    @contextmanager
    def visited(self) -> Iterator[JobFolder]:
        """The folder for a process that computes some shards of it while others, perhaps elsewhere, do the same."""
        yield self

    def manifests(self) -> list[Path]:
        """The job's own, and those of its slices."""
        return sorted(self.path.glob("manifest*.jsonl"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, made if need be.

        Raises:
            JobError: when another process holds it, or one of its slices.
            OutputError: when the folder cannot be made.
        """
        lock_path = self.lock
        for attempt in range(_ATTEMPTS):
            with explained(self.path):
                lock = FileLock(lock_path)
                try:
                    self.path.mkdir(exist_ok=True)
                    lock.acquire(timeout=0)
                except Timeout:
                    raise JobError(
                        f"{self.output}: another run is writing this output now (it holds {lock_path}). "
                        "Wait for it, or give this one another -o"
                    ) from None
                except (FileExistsError, FileNotFoundError, NotADirectoryError):
                    if self.path.is_file() or not self.path.parent.is_dir() or attempt == _ATTEMPTS - 1:
                        raise
                    continue  # the other run just finished and took the folder away
            if lock_path.exists():
                break
            lock.release()
        try:
            self._refuse_slices()
            for unfinished in self.path.glob(UNFINISHED):
                unfinished.unlink(missing_ok=True)
            yield
        finally:
            if not self.planned:  # nothing in it is worth keeping
                self._discard()
            lock.release()

    def _refuse_slices(self) -> None:
        for path in self.path.glob(f"{self.lock.name}-*"):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout:
                raise JobError(f"{self.output}: a slice of this job is computed now (it holds {path})") from None

    def remove(self) -> None:
        """Take the folder away, the plan first: what a crash leaves of it then counts as unplanned.

        A process that opened the lock meanwhile notices, and starts afresh.
        """
        self._discard()

    def _discard(self) -> None:
        """Take away what lies on this machine."""
        with suppress(OSError):
            self.plan.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def clear(self, *, keep_input: bool = False) -> None:
        """Empty the folder, but for the lock and, if asked, the copy of standard input."""
        kept = ("lock", self.stdin.name) if keep_input else ("lock",)
        with explained(self.path):
            self.plan.unlink(missing_ok=True)
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif not path.name.startswith(kept):
                    path.unlink()
