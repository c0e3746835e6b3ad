"""Proteins over the model's limit, up to the longest known (titin, some 35,000 residues), under every policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import aminoglot
from aminoglot import AminoglotWarning, InputError
from aminoglot.engine import Model
from tests.embedding.helpers import MODEL, embed, protein, table, write_fasta

TITIN = 35_000
LIMIT = 1022


@pytest.fixture
def model() -> Model:
    with pytest.warns(AminoglotWarning):
        return aminoglot.load(MODEL, precision="fp32", backend="torch")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    records = {"titin": protein(TITIN), "short": protein(50), "border": protein(LIMIT), "over": protein(LIMIT + 1)}
    return write_fasta(tmp_path / "a.fasta", records)


@pytest.mark.parametrize(
    ("long", "rows", "over"),
    [
        ("truncate", LIMIT, LIMIT),
        ("window", TITIN, LIMIT + 1),
        pytest.param("full", TITIN, LIMIT + 1, marks=pytest.mark.slow),
        ("skip", 0, 0),
    ],
)
def test_titin(source: Path, out: Path, model: Model, long: Any, rows: int, over: int) -> None:
    """Rows written are residues embedded, said in the table and, where they are fewer, on the dataset."""
    assert embed(source, out / "x.h5", per="both", long=long).complete
    found = {row["id"]: row for row in table(out / "x.h5")}
    assert [row["residues_embedded"] for row in found.values()] == [str(rows), "50", str(LIMIT), str(over)]
    assert [row["length"] for row in found.values()] == [str(TITIN), "50", str(LIMIT), str(LIMIT + 1)]
    assert found["titin"]["status"] == ("written" if rows else "skipped")
    with h5py.File(out / "x.per-residue.h5") as file, h5py.File(out / "x.per-protein.h5") as means:
        assert set(file) == set(means) == ({"titin", "short", "border", "over"} if rows else {"short", "border"})
        if not rows:
            return
        assert file["titin"].shape == (rows, 32)
        assert np.isfinite(file["titin"][()]).all()
        assert ("residues_embedded" in file["titin"].attrs) is (rows < TITIN)
        np.testing.assert_allclose(means["titin"][()], file["titin"][()].mean(0, dtype=np.float64), rtol=0, atol=1e-5)
        if long == "truncate":
            expected = model.embed([protein(TITIN)[:LIMIT]], per="residue")[0]
        else:
            expected = model.embed([protein(TITIN)], per="residue", long=long)[0]
        np.testing.assert_allclose(file["titin"][()], expected, rtol=0, atol=1e-5)


def test_error_names_them_before_computing(source: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"2 proteins over 1,022 residues:\n.*'titin': 35,000 .*\n.*'over': 1,023 "):
        embed(source, out / "x.h5", long="error")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("long", ["truncate", "window", "full"])
@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.safetensors", "folder"])
def test_long_proteins_in_every_format(out: Path, tmp_path: Path, name: str, long: Any) -> None:
    """More rows than the limit, and proteins of other lengths around them."""
    source = write_fasta(tmp_path / "a.fasta", {"a": protein(30), "b": protein(2500), "c": protein(31)})
    embed(source, out / "x.h5", per="residue", long=long, layer=[0, 2])
    embed(source, out / name, per="residue", long=long, layer=[0, 2])
    with aminoglot.open(out / "x.h5") as truth, aminoglot.open(out / name) as store:
        assert store["b"].shape == (2, LIMIT if long == "truncate" else 2500, 32)
        for word in ("a", "b", "c"):
            np.testing.assert_array_equal(store[word], truth[word])


def test_what_is_over_the_limit_is_said(source: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    embed(source, out / "x.h5")
    assert "2 proteins truncated to 1,022 residues" in capfd.readouterr().err


def test_a_truncated_protein_and_its_beginning_are_two_proteins(out: Path, tmp_path: Path) -> None:
    """They share their embedding but not their sequence: nothing is merged, nothing is mixed up."""
    whole = protein(LIMIT + 10)
    other = whole[:LIMIT] + "W" * 5
    source = write_fasta(tmp_path / "a.fasta", {"whole": whole, "start": whole[:LIMIT], "other": other})
    made = embed(source, out / "x.h5", per="residue")
    assert made.audit is not None
    assert made.audit.written == 3
    with aminoglot.open(out / "x.h5") as store:
        for word in ("start", "other"):
            np.testing.assert_allclose(store["whole"], store[word], rtol=0, atol=1e-5)
