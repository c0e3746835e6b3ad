"""A job's folder in an object store, and the copy of it on this machine that the job works in.

The store holds what is true: a file is put there when it is whole, the plan after all that it speaks of, a shard before
the manifest that names it. Large files are fetched when they are needed. Nothing locks a store: two machines must not
write the same output at the same time.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aminoglot.errors import InputError
from aminoglot.jobs.folder import SUFFIX, JobFolder
from aminoglot.jobs.manifest import Manifest
from aminoglot.jobs.storage import explained, write_whole
from aminoglot.object_store import ObjectStore

SCRATCH = Path("~/.cache/aminoglot/jobs")
"""Where copies lie unless another place is named."""
_VISIT, _HELD = "visit-", "held"
_YOUNG = 60.0
"""Seconds in which a visit that nobody holds may be one that begins."""
_AT_ONCE = 8
"""Files that are fetched at the same time."""


class StoredFolder(JobFolder):
    """A job whose output is an object.

    Args:
        url: of the output, ``s3://bucket/name.h5``.
        scratch: a folder of this machine, where the copy lies under a name made of the address.

    Attributes:
        url: of the output.

    Raises:
        InputError: for an address that names no file of a format.
    """

    def __init__(self, url: str, scratch: Path = SCRATCH) -> None:
        place = ObjectStore(url)
        if "." not in place.name:
            raise InputError(f"{url}: name a file to write, such as s3://bucket/proteins.h5")
        self.url, self._scratch = url, scratch
        copy = scratch.expanduser().absolute() / hashlib.sha256(url.encode()).hexdigest()[:16]
        super().__init__(copy / place.name)
        self._beside, self._store = place.parent, place.parent.child(place.name + SUFFIX)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self._scratch)

    def said(self, text: str) -> str:
        """Copies under the names of their originals; but where a disk is full, it is the one of the copies."""
        if " disk " in text:
            return text
        return re.sub(rf"[^\s'\"]*/{self.output.parent.name}(?=/)", self._beside.url, text)

    def keep(self, path: Path) -> None:
        self._store.put(path, path.name)

    def fetch(self, *paths: Path) -> None:
        missing = [path for path in paths if not path.exists()]
        with explained(self.path), ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda path: self._store.get(path.name, path), missing):
                pass

    def drop(self, path: Path) -> None:
        super().drop(path)
        self._store.delete([path.name])

    def sizes(self) -> Callable[[Path], int | None]:
        there = self._store.sizes()
        return lambda path: there.get(path.name)

    @contextmanager
    def opened(self, path: Path) -> Iterator[Any]:
        if path.exists():
            with super().opened(path) as file:
                yield file
        else:
            with self._store.opened(path.name) as file:
                yield file

    def existing(self, files: Sequence[Path]) -> list[Path]:
        outputs, folder = self._beside.sizes(), self._store.sizes()
        plan = [self.plan] if self.plan.name in folder else []
        return [*(path for path in files if path.name in outputs), *plan]

    def collect(self, files: Sequence[Path]) -> None:
        with explained(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            for path in files:
                path.unlink(missing_ok=True)
                self._beside.get(path.name, path)

    def deliver(self, files: Sequence[Path]) -> None:
        for path in files:
            self._beside.put(path, path.name)

    def forget(self, files: Sequence[Path]) -> None:
        for path in files:
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the copy, on this machine, and make it what the store holds.

        Raises:
            JobError: when another process of this machine holds it.
            OutputError: when the copy cannot be made, or the store refuses or cannot be reached.
        """
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with super().locked():
                self._mirror()
                yield
        finally:
            with suppress(OSError):  # where something is left in it, it is wanted
                self.path.parent.rmdir()

    @contextmanager
    def visited(self) -> Iterator[JobFolder]:
        """A copy of its own; the shards that are computed there are put into the store and not kept."""
        scratch = self._scratch.expanduser()
        with explained(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
            _clear_visits(scratch)
            made = tempfile.TemporaryDirectory(prefix=_VISIT, dir=scratch, ignore_cleanup_errors=True)
        with made as place, FileLock(Path(place) / _HELD):
            guest = _Guest(self.url, Path(place), self._scratch)
            guest.path.mkdir(parents=True)
            guest._mirror()
            yield guest

    def clear(self, *, keep_input: bool = False) -> None:
        """Empty the folder, but for the lock and, if asked, the copy of the input, here and in the store."""
        if there := self._store.sizes():
            self._store.delete([self.plan.name] if self.plan.name in there else [])
            self._store.remove()
        super().clear(keep_input=keep_input)

    def remove(self) -> None:
        """Take the folder away, here and in the store, the plan first."""
        self._store.delete([self.plan.name])
        self._discard()
        self._store.remove()

    def _mirror(self) -> None:
        """Begin with what the store holds; what this machine noted of the same plan since then counts too."""
        theirs = self.path / "plan.there"
        with explained(self.path):
            found = self._store.get(self.plan.name, theirs)
            if not found or not self.plan.exists() or theirs.read_bytes() != self.plan.read_bytes():
                keep = theirs.read_bytes() if found else None
                super().clear(keep_input=True)
                if keep is None:
                    return
                write_whole(self.plan, lambda path: _write(path, keep))
            theirs.unlink(missing_ok=True)
            there = self._store.sizes()
            for shard in self.path.glob("shard-*"):
                if there.get(shard.name) != shard.stat().st_size:
                    shard.unlink()  # another machine has computed it anew
            for name in there:
                if Path(name).match("manifest*.jsonl"):
                    self._merge(self.path / name)

    def _merge(self, manifest: Path) -> None:
        """What a manifest in the store knows, and the copy of it."""
        theirs = manifest.with_suffix(".there")
        self._store.get(manifest.name, theirs)
        Manifest(manifest, [theirs]).rewrite()
        theirs.unlink()


class _Guest(StoredFolder):
    """The copy of a process that computes some shards and goes."""

    def __init__(self, url: str, place: Path, scratch: Path) -> None:
        super().__init__(url, place)
        self._home = scratch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self._scratch, self._home)

    @contextmanager
    def visited(self) -> Iterator[JobFolder]:
        """Another visit, perhaps on another machine."""
        with StoredFolder(self.url, self._home).visited() as guest:
            yield guest

    def keep(self, path: Path) -> None:
        super().keep(path)
        if path.match("shard-*"):
            path.unlink()


def _clear_visits(scratch: Path) -> None:
    """Take away what visits left that were killed."""
    for visit in scratch.glob(f"{_VISIT}*"):
        with suppress(OSError, Timeout):
            if time.time() - visit.stat().st_mtime > _YOUNG:
                with FileLock(visit / _HELD).acquire(timeout=0):
                    shutil.rmtree(visit, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
