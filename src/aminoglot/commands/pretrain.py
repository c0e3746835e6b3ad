"""``aminoglot pretrain``. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def pretrain(
    config: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    corpus: Path | None = None,
    updates: int | None = None,
    dry_run: bool = False,
) -> None:
    """Train a model from a TOML file. The same command again goes on with a run that was stopped or killed.

    On several GPUs or machines: torchrun --nproc-per-node N -m aminoglot pretrain CONFIG -o RUN

    Parameters
    ----------
    config
        The run's file; configs/ has those of the papers.
    output
        A folder for the run: states, log, picture, and at the end the model.
    corpus
        The training set, instead of the file's.
    updates
        How many updates, instead of the file's.
    dry_run
        Say what the run will need, and compute nothing.
    """
    from aminoglot.errors import InputError
    from aminoglot.pretrain.config import read
    from aminoglot.pretrain.run import pretrain as run
    from aminoglot.screen import Screen

    asked = read(config.expanduser())
    if corpus is not None:
        asked = replace(asked, corpus=str(corpus.expanduser()))
    if updates is not None:
        try:
            asked = asked.with_updates(updates)
        except InputError as error:
            raise InputError(f"--updates {updates}: {error}") from error
    if dry_run:
        from aminoglot.pretrain.estimate import lines

        for name, value in lines(asked):
            print(f"{name:28} {value}")
        return
    if output is None:
        raise InputError("name a folder for the run with -o")
    run(asked, output.expanduser(), Screen())
