"""``aminoglot convert``, ``inspect`` and ``verify``. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def convert(source: str, destination: Path, /, *, to: Literal["huggingface", "fair-esm", "nemo1"]) -> None:
    """Write a model in another format.

    Parameters
    ----------
    source
        A name, a Hugging Face id, a path in any format we read, or random:NAME.
    destination
        A new folder (huggingface), a new file named esm2_something.pt (fair-esm), or a new file (nemo1).
    to
        The format to write.
    """
    from aminoglot.checkpoints import convert as write
    from aminoglot.checkpoints import lost

    checkpoint = write(source, destination.expanduser(), to)
    for note in (*checkpoint.notes, *lost(checkpoint, to)):
        print(f"note: {note}")
    print(f"wrote {destination} ({to}), weights {checkpoint.digest[:16]}")


def inspect(model: str, /) -> None:
    """Say what a model's files hold: format, family, size, type of numbers, digest, and what is missing.

    Parameters
    ----------
    model
        A path in any format we read, a name, a Hugging Face id, or random:NAME.
    """
    from aminoglot.checkpoints import describe, resolve

    for name, value in describe(resolve(model)):
        print(f"{name:16} {value}")


def verify(model: str, /, *, device: str = "auto") -> int:
    """Check a model: parameters, weights, outputs, batches, bf16, and published values where we hold some.

    Parameters
    ----------
    model
        A path in any format we read, a name, a Hugging Face id, or random:NAME.
    device
        Where to compute: auto, cpu, cuda, cuda:1, mps.
    """
    import warnings

    from aminoglot.checkpoints import resolve
    from aminoglot.engine.verify import verify as checks
    from aminoglot.errors import AminoglotWarning

    checkpoint, failed = resolve(model), 0
    for note in checkpoint.notes:
        print(f"note: {note}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AminoglotWarning)  # each is one of the checks
        for check in checks(checkpoint, device):
            mark = {True: "ok", False: "FAILED", None: "-"}[check.passed]
            print(f"{mark:6}  {check.name}: {check.said}", flush=True)
            failed += check.passed is False
    print("sound, as far as these checks see" if not failed else f"{failed} failed")
    return 1 if failed else 0
