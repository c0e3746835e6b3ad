"""A corpus is built in stages, each of which is done or not: what a kill leaves half done is done again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aminoglot.errors import InputError, JobError, OutputError, is_full, reason
from aminoglot.jobs.storage import file_digest, write_whole
from aminoglot.sequences import Source

CARD = "card.json"
STATE = "building.json"
_OURS = (".lock", f".{CARD}.partial", f".{STATE}.partial")


class Stages:
    """What has been done of a corpus. Use it as a context manager: it holds the folder's lock.

    Args:
        folder: of the corpus.
        inputs: the files it is made of, by what they are.
        asked: how it is made; a folder begun otherwise is refused.

    Raises:
        JobError: when another process builds it, or it was begun with other inputs or options.
        OutputError: when the folder cannot be written, or holds something else.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Source], asked: Mapping[str, Any]) -> None:
        self.folder = folder.absolute()
        if any(letter in str(self.folder) for letter in "*?[]"):
            raise InputError(f"{folder}: a path without * ? [ ] is wanted")
        self._inputs = inputs
        self._asked = json.loads(json.dumps(asked))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {reason(error)}") from error
        self._lock = FileLock(folder / ".lock")
        self.results: dict[str, Any] = {}

    def __enter__(self) -> Stages:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
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
                raise OutputError(f"{self.folder}: a folder of something else ({strangers[0]}); choose a new one")
            self.results = {"inputs": self._stamps()}
            self._save()
            return
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

    def _stamps(self) -> dict[str, Any]:
        """Names, sizes, times and digests of the inputs."""
        return {
            name: {"file": source.path.name, **_stamp(source), "sha256": file_digest(source.path)}
            for name, source in self._inputs.items()
        }

    def _compare_inputs(self) -> None:
        """The same files, by size and time, or else by digest."""
        before = self.results["inputs"]
        differing = set(before) ^ set(self._inputs)
        for name, source in self._inputs.items():
            known = before.get(name, {})
            now = _stamp(source)
            if all(known.get(key) == value for key, value in now.items()):
                continue
            if known.get("bytes") != now["bytes"] or known.get("sha256") != file_digest(source.path):
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
        """
        if name not in self.results:
            try:
                result = work()
                os.sync()  # what the stage wrote is on disk before it counts as done
            except OSError as error:
                if not is_full(error):
                    raise
                raise JobError(f"{self.folder}: {name}: {reason(error)}") from error
            self.results[name] = result
            self._save()
        found: dict[str, Any] = self.results[name]
        return found

    def _save(self) -> None:
        _write(self.folder / STATE, {"asked": self._asked, "stages": self.results})

    def finish(self, card: Mapping[str, Any]) -> None:
        """Write the card, which makes it a corpus, and remove what only building needed."""
        _write(self.folder / CARD, {**card, "asked": self._asked, "stages": self.results})
        self._clear()

    def _clear(self) -> None:
        (self.folder / STATE).unlink(missing_ok=True)
        if (self.folder / "work").exists():
            shutil.rmtree(self.folder / "work")


def _stamp(source: Source) -> dict[str, Any]:
    found = source.path.stat()
    return {"bytes": found.st_size, "changed": found.st_mtime_ns}


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
