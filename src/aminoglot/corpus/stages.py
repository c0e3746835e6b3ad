"""A corpus is built in stages, each of which is done or not: what a kill leaves half done is done again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aminoglot.errors import InputError, JobError, OutputError, is_full, reason
from aminoglot.jobs.storage import explained, file_digest, write_whole
from aminoglot.mmseqs import forget
from aminoglot.screen import Screen
from aminoglot.sequences import Source
from aminoglot.version import __version__

CARD = "card.json"
STATE = "building.json"
_OURS = (".lock", f".{CARD}.partial", f".{STATE}.partial")


class Stages:
    """What has been done of a corpus. Use it as a context manager: it holds the folder's lock.

    Args:
        folder: of the corpus.
        inputs: the files it is made of, by what they are.
        asked: how it is made; a folder begun otherwise is refused.
        screen: is told what happens.

    Raises:
        InputError: when an input cannot be read.
        JobError: when another process builds it, or it was begun with other inputs or options, or by another version.
        OutputError: when the folder cannot be written, or holds something else.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Source], asked: Mapping[str, Any], screen: Screen) -> None:
        self.folder = folder.absolute()
        if any(letter in str(self.folder) for letter in "*?[]"):
            raise InputError(f"{folder}: a path without * ? [ ] is wanted")
        self._inputs, self._screen = inputs, screen
        self._asked = json.loads(json.dumps(asked))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {reason(error)}") from error
        self._lock = FileLock(folder / ".lock")
        self.results: dict[str, Any] = {}
        self._times: dict[str, int] = {}

    def __enter__(self) -> Stages:
        with explained(self.folder / ".lock"):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:  # which is an OSError
                raise JobError(f"{self.folder}: another process builds this corpus") from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def whole(self) -> bool:
        """Whether the corpus is built to its end."""
        return (self.folder / CARD).exists()

    @property
    def work(self) -> Path:
        """A folder for what only building needs."""
        path = self.folder / "work"
        path.mkdir(exist_ok=True)
        return path

    def _open(self) -> None:
        for path in (self.folder / CARD, self.folder / STATE):
            if path.exists():
                found = _read(path)
                break
        else:
            if strangers := [path.name for path in self.folder.iterdir() if path.name not in _OURS]:
                (self.folder / ".lock").unlink(missing_ok=True)
                raise OutputError(f"{self.folder}: a folder of something else ({strangers[0]}); choose a new one")
            self._times = {name: _stat(source).st_mtime_ns for name, source in self._inputs.items()}
            self.results = {"inputs": self._stamps()}
            self._save()
            return
        if path.name == STATE and found.get("version") != __version__:
            raise JobError(
                f"{self.folder}: begun by aminoglot {found.get('version')}, and this is {__version__}; go on with "
                "that, or remove the folder"
            )
        self._times = found.get("times", {})
        if found.get("asked") != self._asked:
            names = {**self._asked, **found.get("asked", {})}
            differing = [name for name in names if found.get("asked", {}).get(name) != self._asked.get(name)]
            raise JobError(
                f"{self.folder}: begun with other options ({', '.join(differing)}); choose a new folder, or remove this"
            )
        self.results = found["stages"]
        self._compare_inputs()
        if self.whole:
            self._clear()
        else:
            forget(self.work)

    def _stamps(self) -> dict[str, Any]:
        """Names, sizes and digests of the inputs."""
        return {
            name: {"file": source.path.name, "bytes": _stat(source).st_size, "sha256": self._digest(source)}
            for name, source in self._inputs.items()
        }

    def _digest(self, source: Source) -> str:
        with self._screen.waiting(f"taking the digest of {source.path.name}"), _readable(source):
            return file_digest(source.path)

    def _compare_inputs(self) -> None:
        """The same files: of the same size, and of the same time, where that is known, or digest."""
        before = self.results["inputs"]
        differing = set(before) ^ set(self._inputs)
        for name, source in self._inputs.items():
            known, now = before.get(name, {}), _stat(source)
            if known.get("bytes") == now.st_size and self._times.get(name) == now.st_mtime_ns:
                continue
            if known.get("bytes") != now.st_size or known.get("sha256") != self._digest(source):
                differing.add(name)
        if differing:
            raise JobError(
                f"{self.folder}: begun with other files ({', '.join(sorted(differing))}); choose a new folder, or "
                "remove this"
            )

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a stage, or recall what it gave.

        Args:
            name: of the stage.
            work: does it, from scratch, and returns what the card says of it.

        Raises:
            JobError: when the disk is full; stages that are done stay done.
            OutputError: when the folder cannot be written for another reason.
        """
        if name not in self.results:
            try:
                result = work()
                _sync()  # what the stage wrote is on disk before it counts as done
            except OSError as error:
                kind = JobError if is_full(error) else OutputError
                raise kind(f"{error.filename or self.folder}: {name}: {reason(error)}") from error
            self.results[name] = result
            self._save()
        found: dict[str, Any] = self.results[name]
        return found

    def forget(self, start: str) -> None:
        """Forget stages whose names begin so: their results are part of another's."""
        self.results = {name: result for name, result in self.results.items() if not name.startswith(start)}
        self._save()

    def _save(self) -> None:
        content = {"version": __version__, "asked": self._asked, "times": self._times, "stages": self.results}
        _write(self.folder / STATE, content)

    def finish(self, card: Mapping[str, Any]) -> None:
        """Write the card, which makes it a corpus, and remove what only building needed.

        Raises:
            JobError: when an input has changed since its digest was taken.
        """
        self._compare_inputs()
        _write(self.folder / CARD, {**card, "asked": self._asked, "stages": self.results})
        self._clear()

    def _clear(self) -> None:
        (self.folder / STATE).unlink(missing_ok=True)
        if (self.folder / "work").exists():
            shutil.rmtree(self.folder / "work")


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error.strerror})") from error


def _stat(source: Source) -> os.stat_result:
    with _readable(source):
        return source.path.stat()


def _sync() -> None:
    if hasattr(os, "sync"):  # Windows has none
        os.sync()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"

    def write(partial: Path) -> None:
        partial.write_text(text)

    write_whole(path, write)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        found["stages"]["inputs"].items()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); remove the folder and build it again") from error
    return found
