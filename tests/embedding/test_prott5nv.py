"""The whole job with ProtT5nv: the same policies, files and audit as with ESM-2, at its own limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aminoglot
from aminoglot import AminoglotError
from aminoglot.checkpoints import convert, resolve
from aminoglot.engine import Model, choose
from tests.embedding.conftest import Computed
from tests.embedding.helpers import embed, files, protein, table

RECORDS = {
    "one": "M",
    "short": protein(30),
    "odd": "MKJUZOBX",
    "fits": protein(512),
    "long": protein(513),
    "longer": protein(700),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "proteins.csv"
    path.write_text("id,sequence\n" + "".join(f"{name},{sequence}\n" for name, sequence in RECORDS.items()))
    return path


@pytest.fixture
def nemo(tmp_path: Path) -> str:
    convert("random:prott5nv-tiny", tmp_path / "prott5nv.nemo", "nemo1")
    return str(tmp_path / "prott5nv.nemo")


@pytest.mark.filterwarnings("ignore:.*became X", "ignore:.*truncated")
@pytest.mark.parametrize("long", ["truncate", "window"])
def test_a_table_through_a_nemo_file(source: Path, nemo: str, tmp_path: Path, long: str) -> None:
    output = tmp_path / "out.h5"
    embed(source, output, model=nemo, per="residue", long=long)
    rows = {row["id"]: row for row in table(output)}
    assert {row["status"] for row in rows.values()} == {"written"}
    assert rows["odd"]["replaced_letters"] == "1"
    assert rows["longer"]["length"] == "700"
    assert rows["longer"]["residues_embedded"] == ("512" if long == "truncate" else "700")
    model = Model(resolve(nemo), choose("cpu", "fp32", "torch"))
    expected = model.embed(list(RECORDS.values()), per="residue", long=long)  # type: ignore[call-overload]
    with aminoglot.open(output) as store:
        assert list(store.ids) == list(RECORDS)
        for name, vectors in zip(RECORDS, expected, strict=True):
            assert len(store[name]) == min(len(RECORDS[name]), 512 if long == "truncate" else 700)
            np.testing.assert_allclose(store[name], vectors, rtol=0, atol=1e-5)


def test_again_is_verified_and_elsewhere_reused(
    source: Path, nemo: str, tmp_path: Path, out: Path, computed: Computed
) -> None:
    """A second run computes nothing; the same weights in another format are the same model to ``--reuse``."""
    embed(source, out / "a.h5", model=nemo)
    before = files(out)
    computed.clear()
    embed(source, out / "a.h5", model=nemo)
    assert files(out) == before
    convert(nemo, tmp_path / "pegasus", "huggingface")
    embed(source, out / "b.h5", model=str(tmp_path / "pegasus"), reuse=out / "a.h5")
    assert computed.sequences == 0


@pytest.mark.parametrize(
    ("options", "said"), [({"pool": "cls"}, "no token before"), ({"long": "full"}, "positions for 512")]
)
def test_what_it_cannot_is_refused_before_anything(
    source: Path, nemo: str, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    with pytest.raises(AminoglotError, match=said):
        embed(source, tmp_path / "out.h5", model=nemo, **options)
    assert not list(tmp_path.glob("out*"))
