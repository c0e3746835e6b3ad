"""``aminoglot flip``: its flags are the fields of Options. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from aminoglot.commands.embed import layers
from aminoglot.evaluate.options import Options
from aminoglot.evaluate.tasks import TaskName


@dataclass(frozen=True)
class Flags(Options):
    """Options, where the command line spells them in its own way."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = Options.model
    task: Annotated[tuple[TaskName, ...], Parameter(consume_multiple=True, show_default=False)] = Options.task
    split: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = Options.split
    layer: Annotated[
        Any, Parameter(converter=layers, n_tokens=-1, consume_multiple=1, metavar="STR...", show_default=False)
    ] = Options.layer


def flip(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: Annotated[Flags, Parameter(name="*", negative="")] = Flags(),
) -> int:
    """Evaluate a model on FLIP's five tasks, beside baselines. The same command again finishes an interrupted run.

    Parameters
    ----------
    output
        A folder: report.html, results.json, and what a rerun goes on from.
    """
    from aminoglot.evaluate.run import run
    from aminoglot.evaluate.show import show

    outcome = run(output.expanduser(), options)
    show(outcome.found)
    return 0 if outcome.complete else 1
