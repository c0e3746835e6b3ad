"""``aminoglot corpus``: build, import, export, show. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from aminoglot.corpus import Corpus

app = App(name="corpus", help="Build, look at and exchange training sets.")


@app.command
def build(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    recipe: Literal["esm2", "prott5nv"] = "esm2",
    uniref50: Path | None = None,
    uniref90: Path | None = None,
    members: Path | None = None,
    fasta: Path | None = None,
    exclude: Path | None = None,
    level: Literal["uniref90-representatives", "members"] | None = None,
    validation: float | None = None,
    test: int | None = None,
    longest: int | None = None,
    crop: Literal["random", "start"] | None = None,
    letters: Literal["canonical", "all"] | None = None,
    seed: int = 0,
    leak_filter: bool = True,
    strict: bool = False,
    bad_records: Literal["stop", "skip"] = "stop",
    memory: str | None = None,
    threads: int = 0,
) -> int:
    """Build a training set, from UniRef or from your own proteins. Stopped, the same command goes on.

    Parameters
    ----------
    output
        A new folder.
    recipe
        esm2 (clusters, members, masks) or prott5nv (single proteins, spans).
    uniref50
        FASTA of UniRef50 representatives.
    uniref90
        FASTA of the proteins that are drawn from clusters: UniRef90, or members.
    members
        Which of them belongs to which cluster: UniRef XML, idmapping_selected.tab, or a mapping file.
    fasta
        Instead of these one file of your own proteins, to be clustered (esm2) or taken as they are (prott5nv).
    exclude
        FASTA of proteins to keep out of training, validation and test, with all that is similar to one.
    level
        What the members are; by default told from their names.
    validation
        Share of clusters held out, or a number of proteins (esm2: 0.005, prott5nv: 5000).
    test
        Proteins held out besides (prott5nv: 1000000).
    longest
        Leave out proteins with more residues; 0 for none (prott5nv: 512).
    crop
        Which part of a long protein a sample shows (esm2: random, prott5nv: start).
    letters
        What a replaced residue becomes: one of the 20 canonical, or any of all tokens (esm2: canonical).
    seed
        Of the split.
    leak_filter
        Take out clusters similar to validation (needs MMseqs2).
    strict
        Take out similar members too, where their representative stays.
    bad_records
        Stop at records that are no proteins, or skip and list them.
    memory
        For joining tables, as in 4GB; what does not fit goes to disk. Half a gigabyte a core, if not named.
    threads
        Processor cores (0: all).
    """
    from aminoglot.corpus import RECIPES, Choices, Inputs
    from aminoglot.corpus import build as make
    from aminoglot.corpus.building import cores
    from aminoglot.errors import InputError
    from aminoglot.screen import Screen
    from aminoglot.sequences import Source

    def source(path: Path | None) -> Source | None:
        if path is not None and not path.expanduser().exists():
            raise InputError(f"{path}: no such file")
        if path is not None and not path.expanduser().is_file():
            raise InputError(f"{path}: a plain file is wanted, for it is read more than once")
        return None if path is None else Source(str(path), path.expanduser())

    first = source(fasta) or source(uniref50)
    if first is None or (fasta and (uniref50 or uniref90 or members)):
        raise InputError("name --uniref50 (with --uniref90 and --members), or --fasta alone")
    if recipe == "esm2" and fasta is None and uniref90 is None:
        raise InputError("--recipe esm2 needs --uniref90 and --members too; --fasta clusters your own proteins instead")
    named = {"validation": validation, "test": test, "longest": longest, "crop": crop, "letters": letters, "seed": seed}
    chosen = replace(RECIPES[recipe], **{name: value for name, value in named.items() if value is not None})  # type: ignore[arg-type]
    inputs = Inputs(first, source(uniref90), source(members), source(exclude))
    choices = Choices(level, leak_filter, strict, bad_records, memory, threads or cores())
    corpus = make(inputs, chosen, output.expanduser(), choices, Screen())
    _print(corpus)
    return 1 if any(stage.get("bad records") for stage in corpus.card["stages"].values()) else 0


def _print(corpus: Corpus) -> None:
    """All counts, a line each."""
    from aminoglot.corpus.show import counts

    for name, value in counts(corpus):
        print(f"{name:60} {value}")


@app.command
def show(folder: Path, /, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None) -> None:
    """Show a training set: counts, histograms, residues, and samples as the model will see them.

    Parameters
    ----------
    folder
        The training set.
    output
        Where to write the page and its pictures; by default show/ inside it.
    """
    from aminoglot.corpus import Corpus
    from aminoglot.corpus.show import write

    corpus = Corpus(folder.expanduser())
    _print(corpus)
    for path in write(corpus, (output or folder / "show").expanduser()):
        print(f"wrote {path}")


@app.command(name="import")
def import_(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    memory: str = "1GB",
    threads: int = 0,
) -> None:
    """Make a training set of NVIDIA's files: FASTA with mapping.tsv, or Parquet clusters with SQLite sequences.

    Parameters
    ----------
    source
        The folder with these files, under their usual names.
    output
        A new folder.
    memory
        For joining tables; what does not fit goes to disk.
    threads
        Processor cores (0: all).
    """
    from aminoglot.corpus.building import cores
    from aminoglot.corpus.nvidia import import_layout
    from aminoglot.screen import Screen

    _print(import_layout(source.expanduser(), output.expanduser(), Screen(), memory, threads or cores()))


@app.command
def export(folder: Path, output: Path, /, *, to: Literal["fasta", "sqlite"]) -> None:
    """Write a training set the way NVIDIA's tools read it.

    Parameters
    ----------
    folder
        The training set.
    output
        A new folder.
    to
        fasta: FASTA files and mapping.tsv (BioNeMo 1). sqlite: Parquet clusters and SQLite sequences (BioNeMo 2).
    """
    from aminoglot.corpus import Corpus
    from aminoglot.corpus.nvidia import export_layout

    export_layout(Corpus(folder.expanduser()), output.expanduser(), to)
    print(f"wrote {output}")
