"""A corpus is built in stages, each of which is done or not: what a kill leaves half done is done again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aminoglot.errors import JobError, OutputError, is_full, reason

CARD = "card.json"
_STATE = "building.json"


class Stages:
    """What has been done of a corpus. Use it as a context manager: it holds the folder's lock.

    Args:
        folder: of the corpus.
        asked: what it is built from and how; a folder begun otherwise is refused.

    Raises:
        JobError: when another process builds it, or it was begun with other inputs or options.
        OutputError: when the folder cannot be written, or holds something else.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder = folder
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

    def _open(self) -> None:
        state, card = self.folder / _STATE, self.folder / CARD
        found = _read(state) if state.exists() else _read(card) if card.exists() else None
        if found is None:
            strangers = [path.name for path in self.folder.iterdir() if path.name != ".lock"]
            if strangers:
                raise OutputError(f"{self.folder}: a folder of something else ({strangers[0]}); choose a new one")
            self._save()
            return
        if found.get("asked") != self._asked:
            differing = [key for key in self._asked if found.get("asked", {}).get(key) != self._asked[key]]
            raise JobError(
                f"{self.folder}: begun with another {' and '.join(differing) or 'version'}; choose a new folder, or "
                "remove this one"
            )
        self.results = found.get("stages", {})

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
                self.results[name] = work()
                self._save()
            except OSError as error:
                if not is_full(error):
                    raise
                self.results.pop(name, None)
                raise JobError(f"{self.folder}: {name}: {reason(error)}") from error
        found: dict[str, Any] = self.results[name]
        return found

    def _save(self) -> None:
        _write(self.folder / _STATE, {"asked": self._asked, "stages": self.results})

    def finish(self, card: Mapping[str, Any]) -> None:
        """Write the card, which makes it a corpus, and remove what only building needed."""
        _write(self.folder / CARD, {**card, "asked": self._asked, "stages": self.results})
        (self.folder / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    @property
    def work(self) -> Path:
        """A folder for what only building needs."""
        path = self.folder / "work"
        path.mkdir(exist_ok=True)
        return path


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise OutputError(f"{path}: damaged ({error}); remove the folder and build it again") from error
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file as it lies on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
