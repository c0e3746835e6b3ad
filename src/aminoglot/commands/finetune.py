"""``aminoglot finetune``: its flags are the fields of Options. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from aminoglot.finetune.options import Options


def _parted(_: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Several words; commas part them as blanks do."""
    return tuple(part for token in tokens for part in token.value.split(","))


@dataclass(frozen=True)
class Flags(Options):
    """Options, where the command line spells them in its own way."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = Options.model
    layer: Annotated[int, Parameter(show_default=False)] = -1
    labels: Path | None = None
    masks: Path | None = None
    adapted: Annotated[
        Any, Parameter(converter=_parted, n_tokens=-1, consume_multiple=1, metavar="STR...", show_default=False)
    ] = Options.adapted


def finetune(
    *inputs: Annotated[str, Parameter(name="DATA")],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: Annotated[Flags, Parameter(name="*", negative="")] = Flags(),
) -> None:
    """Learn a property from labelled proteins. The same command again goes on with a run that was stopped or killed.

    aminoglot finetune data.csv --target stability --method lora --model esm2-8m -o run/

    Parameters
    ----------
    inputs
        CSV, TSV or Parquet with sequences and labels (and a column that says train, validation or test, if there is
        one), or FASTA whose headers have words such as TARGET=0.5.
    output
        A folder for the run: the predictor, scores on the test set, a row for every record, a card with pictures.
    """
    from aminoglot.finetune.run import finetune as run

    run(inputs, output, options)
