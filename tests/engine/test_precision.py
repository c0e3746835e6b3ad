"""fp32 is exact whatever else the process was told; bf16 is close on real proteins."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aminoglot.checkpoints import BUNDLED, resolve
from aminoglot.engine import Model, choose, hardware
from aminoglot.packing import Packed
from aminoglot.settings import BackendChoice
from tests.engine.proteins import MIXED

ECOLI = Path(__file__).parents[2] / ".." / "shared" / "data" / "proteomes" / "UP000000625_83333.ecoli.fasta.gz"


@pytest.fixture
def rounding() -> Iterator[None]:
    """A process in which somebody allowed torch to round float32 products to bf16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def setting() -> str:
    """What torch's product library may do with float32 at this moment."""
    found: str = torch.backends.mkldnn.matmul.fp32_precision
    return found


def record(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which setting each pass through the network met."""
    met: list[str] = []
    real = model._encoder.representations

    def recorded(batch: Packed, layers: Sequence[int]) -> Tensor:
        met.append(setting())
        return real(batch, layers)

    monkeypatch.setattr(model._encoder, "representations", recorded)
    return met


def test_fp32_stays_exact_where_products_may_round(
    model: Model, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.embed(MIXED, per="both", layer="all")
    logits, contacts = model.logits(MIXED), model.contacts(MIXED)
    met = record(model, monkeypatch)
    request.getfixturevalue("rounding")
    assert setting() == "bf16"
    found = model.embed(MIXED, per="both", layer="all")
    assert found.protein.tobytes() == expected.protein.tobytes()
    assert [rows.tobytes() for rows in found.residue] == [rows.tobytes() for rows in expected.residue]
    assert [rows.tobytes() for rows in model.logits(MIXED)] == [rows.tobytes() for rows in logits]
    assert [rows.tobytes() for rows in model.contacts(MIXED)] == [rows.tobytes() for rows in contacts]
    assert set(met) == {"ieee"}
    assert setting() == "bf16"
    assert torch.get_float32_matmul_precision() == "medium", "the process keeps its own setting"


@pytest.mark.usefixtures("rounding")
def test_the_setting_is_restored_after_an_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("broken")

    monkeypatch.setattr(model._encoder, "representations", broken)
    with pytest.raises(RuntimeError, match="broken"):
        model.embed(MIXED)
    assert torch.get_float32_matmul_precision() == "medium"


def test_fp32_stays_exact_under_autocast(model: Model) -> None:
    """Notebooks are full of ``with torch.autocast``; it would turn every product into bf16."""
    expected = model.embed(MIXED)
    logits = model.logits(MIXED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.embed(MIXED).tobytes() == expected.tobytes()
        assert [rows.tobytes() for rows in model.logits(MIXED)] == [rows.tobytes() for rows in logits]


def test_two_threads_in_fp32_leave_when_both_are_done() -> None:
    """Settings are the process's: the first to leave must not allow rounding while the other computes."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    first, second = (hardware.exact(choose("cpu", "fp32")) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert setting.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert setting.fp32_precision == before


NEWER_SETTINGS = """
import warnings, torch, aminoglot
warnings.simplefilter("ignore")
model = aminoglot.load("random:esm2-tiny", device="cpu", precision="fp32")
expected = model.embed(["MKTAYIAK"]).tobytes()
assert torch.get_float32_matmul_precision() == "highest", "we left the older setting readable"
for backend, allowed in ((torch.backends.mkldnn.matmul, "bf16"), (torch.backends.cuda.matmul, "tf32")):
    backend.fp32_precision = allowed
    assert model.embed(["MKTAYIAK"]).tobytes() == expected
    assert backend.fp32_precision == allowed
"""


def test_fp32_stays_exact_with_torchs_newer_settings() -> None:
    """torch 2.9 renamed them, and raises where somebody asks for the old name after setting the new one.

    In a process of its own, for the two kinds of setting cannot be taken back.
    """
    done = subprocess.run([sys.executable, "-c", NEWER_SETTINGS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_results_do_not_depend_on_the_default_type(model: Model) -> None:
    expected = model.embed(MIXED, per="both", long="window")
    torch.set_default_dtype(torch.float64)
    try:
        found = model.embed(MIXED, per="both", long="window")
        digest = resolve("random:esm2-tiny").digest
    finally:
        torch.set_default_dtype(torch.float32)
    assert digest == resolve("random:esm2-tiny").digest
    assert found.protein.dtype == np.float32
    assert found.protein.tobytes() == expected.protein.tobytes()


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found


def read_fasta(path: Path) -> list[str]:
    records = gzip.decompress(path.read_bytes()).decode().split(">")[1:]
    return ["".join(record.split("\n")[1:]) for record in records]


@pytest.mark.slow
@pytest.mark.skipif(not ECOLI.is_file(), reason="needs the E. coli proteome in ../shared/data/proteomes")
@pytest.mark.parametrize("name", ["random:esm2-8m", BUNDLED])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_is_close_on_real_proteins(backend: BackendChoice, name: str) -> None:
    """Random weights, and trained ones, which have outliers.

    Cosines are flattered by what all vectors share, so that is taken off once more.
    """
    proteome = sorted((text for text in read_fasta(ECOLI) if len(text) <= 1_022), key=len)
    texts = proteome[50::190]
    assert len(texts) > 20
    checkpoint = resolve(name)
    exact = Model(checkpoint, choose("cpu", "fp32", "torch")).embed(texts, per="both")
    rounded = Model(checkpoint, choose("cpu", "bf16", backend)).embed(texts, per="both")
    for fp32, bf16, least in (
        (exact.protein, rounded.protein, 0.9999),
        (np.concatenate(exact.residue), np.concatenate(rounded.residue), 0.999),
    ):
        a, b = fp32.astype(np.float64), bf16.astype(np.float64)
        assert cosines(a, b).min() >= least
        a, b = a - a.mean(0), b - b.mean(0)
        assert np.linalg.norm(a - b) / np.linalg.norm(a) < 0.03
        assert not np.array_equal(a, b), "else bf16 was not computed in bf16"


def test_bf16_flows_in_float32_between_its_products(rounded_model: Model) -> None:
    for found in rounded_model.embed(MIXED, per="residue", layer=1):
        assert found.dtype == np.float32
        kept = torch.from_numpy(found).bfloat16().float().numpy()
        assert not np.array_equal(found, kept), "the residual stream itself is not rounded to bf16"


def test_bf16_gives_logits_and_contacts_near_fp32(model: Model, rounded_model: Model) -> None:
    for mine, exact in zip(rounded_model.logits(MIXED), model.logits(MIXED), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=0.1)
        assert not np.array_equal(mine, exact)
    for mine, exact in zip(rounded_model.contacts(MIXED), model.contacts(MIXED), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=0.02)


def test_bf16_does_not_depend_on_order(rounded_model: Model) -> None:
    found = rounded_model.embed(MIXED)
    again = rounded_model.embed(MIXED[::-1])[::-1]
    np.testing.assert_allclose(found, again, rtol=0, atol=0.05)
    assert found.tobytes() == rounded_model.embed(MIXED).tobytes()


def test_bf16_is_the_same_under_autocast(rounded_model: Model) -> None:
    """What stays float32 in bf16 stays so, and fp16 does not creep in."""
    expected, logits = rounded_model.embed(MIXED), rounded_model.logits(MIXED)
    with torch.autocast("cpu", dtype=torch.float16):
        assert rounded_model.embed(MIXED).tobytes() == expected.tobytes()
        assert [rows.tobytes() for rows in rounded_model.logits(MIXED)] == [rows.tobytes() for rows in logits]
