"""What can go wrong, said so that a person can mend it.

Every message names what is wrong, where (file, line, id, key), and what to do. The command line prints the
message alone; a traceback is for our own mistakes.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

LISTED = 20
"""How many bad records an error lists before it only counts the rest."""


class AminoglotError(Exception):
    """The root of everything aminoglot raises on purpose."""


class InputError(AminoglotError):
    """A file, a record or an argument that cannot be used."""


class ModelError(AminoglotError):
    """A model that cannot be found, read, or asked for what it does not have."""


class JobError(AminoglotError):
    """A job that cannot start, go on or finish. What it had computed is kept."""


class OutputError(AminoglotError):
    """A place that cannot be written, or a result file that cannot be read."""


class DiskFullError(OutputError):
    """There is no room to write."""


class DependencyError(AminoglotError):
    """An optional package is needed and absent."""


class AminoglotWarning(UserWarning):
    """Something was changed or shortened; the result is valid and the message says what happened."""


def is_full(error: OSError) -> bool:
    """Whether there was no room to write; HDF5 says so in the text alone."""
    said = str(error)
    return (
        error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in said or "File too large" in said
    )


def reason(error: OSError) -> str:
    """What the system said, in a person's words."""
    if is_full(error):
        return "the disk is full (or a quota is reached). Free some space and run the same command again"
    return error.strerror or str(error)


_NO_MEMORY = ("DefaultCPUAllocator", "allocate memory", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED")


def is_allocation_failure(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device; torch says so in the text, or by its OutOfMemoryError."""
    text = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(sign in text for sign in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """The beginning of what a library says."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def listing(items: Sequence[str], total: int | None = None) -> str:
    """Join ``items`` one a line, at most :data:`LISTED`, and count the rest."""
    total = len(items) if total is None else total
    lines = [f"  {item}" for item in items[:LISTED]]
    if total > len(lines):
        lines.append(f"  ... and {total - len(lines):,} more")
    return "\n".join(lines)


def plural(count: int, noun: str) -> str:
    """``plural(1, "protein")`` is "1 protein", ``plural(2000, "protein")`` is "2,000 proteins"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
