"""DNA and RNA fed as proteins are noticed; no real protein is."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from aminoglot.sequences import Columns
from tests.sequences.files import SHARED, USUAL, parquet, read, shared, write

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def draw(letters: str, length: int, seed: int = 0, weights: Iterable[float] | None = None) -> str:
    return "".join(random.Random(seed).choices(letters, list(weights) if weights else None, k=length))


def fasta(folder: Path, *sequences: str) -> Path:
    return write(folder, "a.fasta", "".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)).encode())


def said(path: Path, columns: Columns = USUAL) -> list[str]:
    """The notes about nucleotides among a file's notes."""
    return [note for note in read(path, columns)[1] if "DNA" in note]


@pytest.mark.parametrize(
    "sequences",
    [
        [draw("ACGT", 900)],
        [draw("ACGU", 900)],
        [draw("acgt", 900)],
        [draw("ACGT", 20, i) for i in range(10)],  # guides or primers: each is too short to tell
        [draw("ACGT", 200)],
        [draw("ACGTN", 1000, weights=(1, 1, 1, 1, 12))],  # mostly masked
        ["ACGT" * 237 + "AC" + "R" * 50],
        [draw("ACGT", 2000, weights=(45, 5, 5, 45))],  # a genome as poor in G and C as they come
        [draw("ACGT", 2000, weights=(12, 38, 38, 12))],
        [draw("ACGT", 2000), draw(RESIDUES, 40)],
    ],
    ids=["gene", "RNA", "lower case", "short ones", "just enough", "masked", "ambiguous", "AT", "GC", "with a peptide"],
)
def test_nucleotides_are_noticed(sequences: list[str], tmp_path: Path) -> None:
    (note,) = said(fasta(tmp_path, *sequences))
    assert note.endswith(
        "% of all letters are A, C, G, T, U or N: is this DNA or RNA? The models read proteins: translate it first"
    )


@pytest.mark.parametrize(
    "sequences",
    [
        [draw(RESIDUES, 500)],
        ["A" * 1000],
        ["AG" * 1000],
        ["AAT" * 1000],  # an antifreeze protein's repeat
        ["GAGAGSTTC" * 100],
        ["NNNTAC" * 100],  # no G
        ["NNTAG" * 100],  # no C
        ["NCTAC" * 100],
        ["GCNNG" * 100],
        ["AAAAGTNAAA" * 100 + "C" * 5],
        [draw("ACGT", 199)],
        [draw("ACGT", 20, i) for i in range(9)],
        ["ACGT" * 10, draw(RESIDUES, 5000)],
        ["ACGT" * 237 + "A" + "R" * 51],
    ],
)
def test_proteins_are_not(sequences: list[str], tmp_path: Path) -> None:
    """Repeats lack a base, little text proves nothing, and neither does one primer beside proteins."""
    assert said(fasta(tmp_path, *sequences)) == []


def test_percent_is_never_rounded_up(tmp_path: Path) -> None:
    """ "100 %" is said of nothing but nucleotides."""
    (note,) = said(fasta(tmp_path, draw("ACGT", 999) + "M"))
    assert note.startswith("99 % of all letters are ")
    (note,) = said(fasta(tmp_path, draw("ACGT", 999)))
    assert note.startswith("100 % of all letters are ")


def test_a_gene_among_proteins_is_named(tmp_path: Path) -> None:
    """A genome beside its proteins in one folder would drown in them; a single gene even more so."""
    proteins = [draw(RESIDUES, 300, i) for i in range(20)]
    path = fasta(tmp_path, *proteins[:10], draw("ACGT", 300), *proteins[10:])
    assert said(path) == [
        f"1 sequence of 21 is nearly all A, C, G, T, U or N ({path}, line 21, id 's10'): is this DNA or RNA? "
        "The models read proteins: translate it first"
    ]
    path = fasta(tmp_path, *proteins, draw("ACGT", 300, 1), draw("ACGU", 300, 2))
    (note,) = said(path)
    assert note.startswith(
        f"2 sequences of 22 are nearly all A, C, G, T, U or N (the first is {path}, line 41, id 's20')"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_tables_too(name: str, tmp_path: Path) -> None:
    genes = [draw("ACGT", 90, i) for i in range(5)]
    if name == "a.parquet":
        content = parquet({"gene": [f"g{i}" for i in range(5)], "cds": genes})
    else:
        rows = [("gene", "cds"), *((f"g{i}", gene) for i, gene in enumerate(genes))]
        content = "".join(("\t" if name == "a.tsv" else ",").join(row) + "\n" for row in rows).encode()
    path = write(tmp_path, name, content)
    assert len(said(path, Columns(id="gene", sequence="cds"))) == 1


def test_all_files_count_together(tmp_path: Path) -> None:
    """Ten files of a short gene each are as suspicious as one file of ten."""
    paths = [write(tmp_path, f"{i}.fasta", f">g{i}\n{draw('ACGT', 60, i)}\n".encode()) for i in range(10)]
    assert read(paths[:3])[1] == []
    (note,) = read(paths)[1]
    assert "DNA" in note


def test_bad_records_do_not_count(tmp_path: Path) -> None:
    """What is left out is not judged, and does not stop the judging."""
    path = fasta(tmp_path, "MK-V" * 1000, draw("ACGT", 300))
    assert len(said(path)) == 1


REAL = sorted(path.name for path in (SHARED / "proteomes").glob("*.fasta.gz")) or ["none"]


@pytest.mark.parametrize("name", REAL)
def test_no_real_proteome_is_suspected(name: str) -> None:
    """Not one of a hundred thousand proteins, Plasmodium's many N among them."""
    assert said(shared(f"proteomes/{name}")) == []


@pytest.mark.parametrize("name", ["uniref90_10k.fasta.gz", "uniref2022_small_longest100.fasta.gz"])
def test_no_uniref_protein_is_suspected(name: str) -> None:
    assert said(shared(f"uniref/{name}")) == []
