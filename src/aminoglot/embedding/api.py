"""``aminoglot.embed``: the job from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aminoglot.embedding.job import Options, Outcome
from aminoglot.embedding.job import embed as run


def embed(inputs: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> Outcome:
    """Embed files of proteins into one file; an interrupted run of the same job goes on.

    Args:
        inputs: a file, a folder, or several: what ``aminoglot embed`` takes.
        output: the file to write; its suffix is its format.
        options: fields of :class:`~aminoglot.embedding.job.Options`, such as ``model="esm2-650m"``.

    Returns:
        The files written, the audit, and whether everything was written.

    Raises:
        AminoglotError: with a sentence that says what to do; what was computed is kept.
    """
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    return run(paths, output, Options(**options))
