"""Files written whole or not at all, and what the disk says when it refuses, in a person's words."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aminoglot.errors import DiskFullError, OutputError, is_full, reason

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says of a place that cannot be written."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into a sentence.

    Raises:
        DiskFullError: when there is no room.
        OutputError: for a read-only or forbidden folder, or whatever else the system said.
    """
    try:
        yield
    except OSError as error:
        kind = DiskFullError if is_full(error) else OutputError
        raise kind(f"{path}: {_reason(error, path)}") from error


def _reason(error: OSError, path: Path) -> str:
    if error.errno in READ_ONLY:
        return f"cannot be written: the folder {path.parent} is read-only for you"
    if error.errno == errno.ENOENT:
        return f"cannot be written: there is no folder {path.parent}"
    return reason(error) if is_full(error) else f"cannot be written ({reason(error)})"


def write_whole(path: Path, write: Callable[[Path], None], alone: bool = True) -> None:
    """Let ``write`` fill a temporary file, then give it its name: after a crash there is all of it or nothing.

    Args:
        path: the file.
        write: fills what it is given.
        alone: whether no other process may be writing the same; else the temporary file is nobody else's.

    Raises:
        OutputError: as :func:`explained` says; the temporary file is gone then.
    """
    whose = "" if alone else f".{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}{whose}.partial")
    with explained(path):
        try:
            write(temporary)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file or folder durable; systems that cannot sync a folder are let off."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
