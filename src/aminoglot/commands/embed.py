"""``aminoglot embed``: flags to :class:`~aminoglot.embedding.job.Options`. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def _no_option(_: object, value: str) -> None:
    """Names that begin with a hyphen are allowed for the sake of -, standard input; a mistyped flag is none."""
    if value.startswith("-") and value != "-":
        raise ValueError(f"unknown option {value}")


def embed(
    *inputs: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True, validator=_no_option)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    per: Literal["protein", "residue", "both"] = "protein",
    layer: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    pool: Literal["mean", "cls", "max"] = "mean",
    long: Literal["truncate", "window", "full", "skip", "error"] = "truncate",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: str = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    bad_records: Literal["error", "skip"] = "error",
    duplicates: Literal["error", "number"] = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    reuse: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Embed proteins into one file. The same command again finishes an interrupted run.

    Parameters
    ----------
    inputs
        FASTA, CSV, TSV or Parquet files, plain or compressed (gzip, bz2, xz, zstd); a folder of them; or - for
        standard input.
    output
        The file to write. Its suffix is its format: .h5, .parquet, .npz, .safetensors; without a suffix a folder of
        fair-esm .pt files. A table of all proteins, OUTPUT.proteins.tsv, is written beside it.
    model
        esm2-8m ... esm2-15b, a Hugging Face id, a folder, a fair-esm .pt, or random:esm2-8m (see `aminoglot models`).
    per
        One vector a protein, one a residue, or both (then two files).
    layer
        Layer number, several, or all. 0 is the embedding, -1 the last layer.
    pool
        How residues become one vector; special tokens count in neither mean nor max.
    long
        What becomes of proteins over the model's limit (ESM-2: 1,022 residues).
    precision
        auto is bf16 where the device multiplies it natively, else fp32; fp32 is exact everywhere.
    device
        auto, cpu, cuda, cuda:N or mps.
    dtype
        Type of the numbers written.
    bad_records
        Records that are no protein stop the job before it computes; skip lists them, goes on, and exits with 1.
    duplicates
        One id with two sequences stops the job; number keeps both, as P1 and P1_2.
    id_column
        Name of a table's id column.
    sequence_column
        Name of a table's sequence column.
    reuse
        An older output, made the same way: proteins it holds are taken from it.
    overwrite
        Replace an output, or drop an unfinished job, that is not this one.
    dry_run
        Read and check everything, say what would be done, and stop.
    """
    from aminoglot.embedding.job import Options
    from aminoglot.embedding.job import embed as run

    layers = [part for value in layer or ["-1"] for part in value.split(",")]
    options = Options(
        model=model,
        per=per,
        layer=layers[0] if layers == ["all"] else int_or_text(layers),
        pool=pool,
        long=long,
        precision=precision,
        device=device,
        dtype=dtype,
        bad_records=bad_records,
        duplicates=duplicates,
        id_column=id_column,
        sequence_column=sequence_column,
        reuse=reuse,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    outcome = run(inputs, output, options)
    return 0 if outcome.complete else 1


def int_or_text(layers: list[str]) -> str | list[str]:
    """One layer stays one (no layer axis), several are a list."""
    return layers[0] if len(layers) == 1 else layers
