"""``aminoglot predict``. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aminoglot.commands.embed import no_option
from aminoglot.finetune.options import PredictionOptions


@dataclass(frozen=True)
class Flags(PredictionOptions):
    """Options, where the command line spells them in its own way."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = PredictionOptions.model


def predict(
    run_folder: Annotated[Path, Parameter(name="RUN")],
    /,
    *inputs: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True, validator=no_option)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: Annotated[Flags, Parameter(name="*", negative="")] = Flags(),
) -> int:
    """Predict what a run of `aminoglot finetune` learnt. The same command again finishes an interrupted job.

    Parameters
    ----------
    run_folder
        The folder of a finished run.
    inputs
        FASTA, CSV, TSV or Parquet files, plain or compressed; a folder of them; or - for standard input.
    output
        The file to write, .tsv or .parquet: a row for every record of the input. How it was made is noted beside it,
        in OUTPUT.json.
    """
    from aminoglot.finetune.prediction import predict as run

    return 0 if run(run_folder, inputs, output, options).complete else 1
