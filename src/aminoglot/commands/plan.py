"""``aminoglot plan``: its flags are the fields of PlanOptions. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from aminoglot.commands.embed import layers, no_option
from aminoglot.embedding.plan_options import PlanOptions


@dataclass(frozen=True)
class Flags(PlanOptions):
    """PlanOptions, where the command line spells them in its own way."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = PlanOptions.model
    layer: Annotated[
        Any, Parameter(converter=layers, n_tokens=-1, consume_multiple=1, metavar="STR...", show_default=False)
    ] = PlanOptions.layer


def plan(
    *inputs: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True, validator=no_option)],
    options: Annotated[Flags, Parameter(name="*", negative="")] = Flags(),
) -> int:
    """Say what embedding proteins will take: tokens, operations, bytes, hours, workers. Nothing is embedded.

    Parameters
    ----------
    inputs
        What `embed` takes: FASTA, CSV, TSV or Parquet files, a folder of them, or - for standard input.
    """
    from aminoglot.embedding.planning import lines, planned, remarks
    from aminoglot.screen import Screen

    estimate, task = planned(inputs, options, Screen())
    for name, value in lines(estimate, task, options):
        print(f"{name:28} {value}")
    for remark in remarks(estimate):
        print(remark)
    asked = options.deadline is not None or options.workers is not None
    return 1 if asked and estimate.rate is None else 0
