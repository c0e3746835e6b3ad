"""``aminoglot embed``: its flags are the fields of Options. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from aminoglot.embedding.options import Options


def no_option(_: object, value: str) -> None:
    """Names that begin with a hyphen are allowed for the sake of -, standard input; a mistyped flag is none."""
    if value.startswith("-") and value != "-":
        raise ValueError(f"unknown option {value}")


def layers(_: object, tokens: Sequence[Token]) -> str | list[str]:
    """One layer stays one (no layer axis), several are a list; commas part them as blanks do."""
    found = [part for token in tokens for part in token.value.split(",")]
    return found[0] if len(found) == 1 else found


@dataclass(frozen=True)
class Flags(Options):
    """Options, where the command line spells them in its own way."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = Options.model
    layer: Annotated[
        Any, Parameter(converter=layers, n_tokens=-1, consume_multiple=1, metavar="STR...", show_default=False)
    ] = Options.layer
    reuse: Path | None = None
    scratch: Path | None = None


def embed(
    *inputs: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True, validator=no_option)],
    output: Annotated[str, Parameter(name=["--output", "-o"])],
    options: Annotated[Flags, Parameter(name="*", negative="")] = Flags(),
) -> int:
    """Embed proteins into one file. The same command again finishes an interrupted run.

    Parameters
    ----------
    inputs
        FASTA, CSV, TSV or Parquet files, plain or compressed (gzip, bz2, xz, zstd); a folder of them; or - for
        standard input. Files may be objects of a store, s3://bucket/name.
    output
        The file to write, or an object, s3://bucket/name. Its suffix is its format: .h5, .parquet, .npz, .safetensors;
        without a suffix a folder of fair-esm .pt files. A table of all proteins, OUTPUT.proteins.tsv, is written
        beside it.
    """
    from aminoglot.embedding.job import embed as run

    return 0 if run(inputs, output, options).complete else 1
