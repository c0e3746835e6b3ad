"""FLIP's files from their published address, for those who have no copy; kept in the user's cache."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from aminoglot.errors import InputError
from aminoglot.evaluate.flip import MASKS
from aminoglot.evaluate.tasks import Task
from aminoglot.jobs.storage import explained, write_whole

BASE = "http://data.bioembeddings.com/public/FLIP/fasta/"
"""As FLIP's README and BioNeMo 1's downloader have it. It answers by http only: what comes is held against counts and,
for secondary structure, checksums."""
LARGEST = 200 << 20
"""Bytes of a file; the largest of them has some twenty million."""
_PATIENCE = 20.0
_PIECE = 1 << 16


class _MissingError(Exception):
    """The server has no such file."""


def cache() -> Path:
    """Where files are kept: ``aminoglot/flip`` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "aminoglot" / "flip"


def offered(task: Task) -> list[str]:
    """Splits that FLIP's server has: of secondary structure no older test set."""
    return [name for name in task.splits if not name.startswith("sampled_") and name not in task.refused]


def fetch(task: Task, split: str, folder: Path, base: str = BASE, said: Callable[[str], None] = lambda _: None) -> None:
    """Fetch what a split needs into ``folder/TASK``; what is there already stays.

    Args:
        task: which.
        split: one of FLIP's.
        folder: of the cache.
        base: the address; its files lie in a folder for each task.
        said: told what is fetched.

    Raises:
        InputError: when the server cannot be reached, has no such file, or sends something else.
    """
    if split in task.refused:
        raise InputError(f"{task.name} {split}: cannot be evaluated: {task.refused[split]}")
    if split not in offered(task):
        raise InputError(
            f"{task.name} {split}: not among the files of FLIP's server; bring it, and name its folder by --data"
        )
    place = folder / task.name
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
    names: list[tuple[str, ...]] = [("sequences.fasta",)] if task.per == "residue" else []
    if task.masked:
        names.append(tuple(f"{stem}.fasta" for stem in MASKS))
    for choices in [*names, (f"{split}.fasta",)]:  # the split's own last: where it is, all is
        if not any((place / name).is_file() for name in choices):
            _any_of(f"{base}{task.name}/", choices, place, said)


def _any_of(address: str, names: tuple[str, ...], place: Path, said: Callable[[str], None]) -> None:
    """Fetch the first of these names that the server has."""
    for name in names:
        try:
            said(f"fetching {address}{name}")
            _download(f"{address}{name}", place / name)
        except _MissingError:
            continue
        return
    raise InputError(f"{address}: the server has no {' or '.join(names)}; {_instead(place)}")


def _instead(place: Path) -> str:
    return (
        f"get FLIP's files (github.com/J-SNACKKB/FLIP, splits/{place.name}/splits.zip, unpacked into a folder "
        f"{place.name}) and name the folder above it with --data DIR"
    )


def _download(address: str, path: Path) -> None:
    """One file, whole or not at all."""
    opener = urllib.request.build_opener(_NowhereElse(address))
    try:
        with opener.open(address, timeout=_PATIENCE) as answer:
            write_whole(path, lambda partial: _receive(answer, partial, address))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise _MissingError from error
        raise InputError(
            f"{address}: the server refused ({error.code} {error.reason}); {_instead(path.parent)}"
        ) from error
    except http.client.HTTPException as error:
        raise InputError(
            f"{address}: the server broke off ({type(error).__name__}); run the same command again"
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", error)
        raise InputError(f"{address}: cannot be reached ({why}); {_instead(path.parent)}") from error


def _receive(answer: Any, partial: Path, address: str) -> None:
    """The body of an answer into a file, held against the length that was announced."""
    announced = answer.headers.get("Content-Length")
    if announced is not None and int(announced) > LARGEST:
        raise InputError(f"{address}: {int(announced):,} bytes, more than any of FLIP's files; not fetched")
    with partial.open("wb") as file:
        size = _copy(answer, file, address)
    if announced is not None and size != int(announced):
        raise InputError(f"{address}: {size:,} of {int(announced):,} bytes came; run the same command again")
    with partial.open("rb") as file:
        if file.read(1) != b">":
            raise InputError(f"{address}: what came is no FASTA (a page that asks you to log in?); nothing was kept")


def _copy(answer: IO[bytes], file: IO[bytes], address: str) -> int:
    size = 0
    while piece := _read(answer, address):
        size += len(piece)
        if size > LARGEST:
            raise InputError(f"{address}: more than {LARGEST:,} bytes, more than any of FLIP's files; given up")
        file.write(piece)
    return size


def _read(answer: IO[bytes], address: str) -> bytes:
    try:
        return answer.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        why = type(error).__name__
        raise InputError(f"{address}: the server broke off ({why}); run the same command again") from error


class _NowhereElse(urllib.request.HTTPRedirectHandler):
    """Follows the server's redirections within itself, and no others."""

    def __init__(self, address: str) -> None:
        self._host = urlsplit(address).netloc

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        parts = urlsplit(newurl)
        if parts.netloc != self._host or parts.scheme not in ("http", "https"):
            raise InputError(
                f"{req.full_url}: sends us elsewhere ({newurl}), where FLIP is not published; not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
