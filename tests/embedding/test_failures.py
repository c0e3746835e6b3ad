"""Proteins that cannot be computed or written: the run goes on without them, says so, and a rerun tries them again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aminoglot
from aminoglot.jobs import JobFolder
from aminoglot.models.esm2 import ESM2
from tests.embedding.conftest import Computed
from tests.embedding.helpers import SMALL, Driver, embed, files, finished_shards, protein, proteins, table, write_fasta

BIG = 77
"""Length of the proteins that fail."""
RECORDS = {
    **proteins(20),
    "big": protein(BIG),
    **{f"Q{i}": protein(61 + i, "Q") for i in range(10)},
    "twin": protein(BIG),
}
FAILED = ["big", "twin"]
NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]

Break = Callable[[Any], None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Let every batch with a protein of :data:`BIG` residues raise something, or come out changed."""
    original = ESM2.representations

    def install(how: Any) -> None:
        def representations(self: ESM2, batch: Any, layers: Any) -> torch.Tensor:
            if BIG + 2 not in batch.lengths:
                return original(self, batch, layers)
            if isinstance(how, BaseException):
                raise how
            values = original(self, batch, layers).clone()
            for run in batch.runs:
                if run.length == BIG + 2:
                    values[:, run.start : run.stop] = how(values[:, run.start : run.stop])
            return values

        monkeypatch.setattr(ESM2, "representations", representations)

    install.undo = monkeypatch.undo  # type: ignore[attr-defined]
    return install


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", RECORDS)


ALLOCATION = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("per", "how", "why"),
    [
        ("protein", ALLOCATION, "not enough memory"),
        ("both", MemoryError(), "not enough memory"),
        ("residue", torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        ("both", lambda values: values * float("nan"), "not finite"),
        ("residue", lambda values: values + float("inf"), "not finite"),
    ],
    ids=["allocator", "MemoryError", "CUDA", "nan", "inf"],
)
def test_the_rest_is_written_and_a_rerun_tries_again(
    source: Path, out: Path, tmp_path: Path, broken: Any, per: str, how: Any, why: str
) -> None:
    (tmp_path / "whole").mkdir()
    embed(source, tmp_path / "whole" / "x.h5", per=per)
    broken(how)
    made = embed(source, out / "x.h5", per=per)
    assert made.complete is False
    assert made.audit is not None
    assert str(made.audit) == "32 in = 30 written + 0 merged + 0 skipped + 2 failed"
    rows = {row["id"]: row for row in table(out / "x.h5")}
    assert [name for name, row in rows.items() if row["status"] == "failed"] == FAILED
    assert why in rows[FAILED[0]]["note"]
    assert (rows[FAILED[0]]["length"], rows[FAILED[0]]["residues_embedded"]) == (str(BIG), "0")
    for path in made.files[:-1]:
        with aminoglot.open(path) as store:
            assert sorted(store.ids) == sorted(set(RECORDS) - set(FAILED))
            assert all(np.isfinite(array).all() for _, array in store)
    assert JobFolder(out / "x.h5").planned, "the job is not over"
    broken.undo()
    again = embed(source, out / "x.h5", per=per)
    assert again.complete
    assert files(out).keys() == files(tmp_path / "whole").keys()
    for path in again.files[:-1]:
        with aminoglot.open(path) as mine, aminoglot.open(tmp_path / "whole" / path.name) as truth:
            assert list(mine.ids) == list(truth.ids)
            for name, array in mine:
                np.testing.assert_allclose(array, truth[name], rtol=0, atol=1e-5)


def test_a_rerun_computes_only_the_shard_with_failures(
    source: Path, out: Path, broken: Any, computed: Computed, request: pytest.FixtureRequest
) -> None:
    """All other shards count; a failure that lasts fails again, and is said again."""
    request.getfixturevalue("small_shards")
    broken(ALLOCATION)
    embed(source, out / "x.h5")
    shards = len(computed.shards)
    assert shards > 5
    for _ in range(2):
        computed.clear()
        assert embed(source, out / "x.h5").complete is False
        assert len(computed.shards) == 1
        assert protein(BIG).encode() in computed.shards[0]
    assert finished_shards(out / "x.h5") == set(range(shards))


@pytest.mark.parametrize("name", NAMES)
def test_failures_in_every_format(source: Path, out: Path, broken: Any, name: str) -> None:
    """Stacked arrays have no hole, and offsets no jump, where a protein is missing."""
    embed(source, out / name, per="residue")
    with aminoglot.open(out / name) as store:
        truth = {word: array.copy() for word, array in store}
    broken(ALLOCATION)
    assert embed(source, out / name, per="residue", overwrite=True, layer=[2]).complete is False
    with aminoglot.open(out / name) as store:
        assert sorted(store.ids) == sorted(set(RECORDS) - set(FAILED))
        for word, array in store:
            np.testing.assert_allclose(array[0], truth[word], rtol=0, atol=1e-5)


def test_failed_proteins_are_named_and_exit_1(driver: Driver, source: Path, out: Path) -> None:
    answer = driver.embed(source, out / "x.h5", starve=BIG + 2, shard=SMALL)
    assert answer.status == 1
    assert "30 written + 0 merged + 0 skipped + 2 failed" in answer.screen
    assert "2 proteins failed" in answer.screen
    for name in FAILED:
        assert f"{name}: not enough memory" in answer.screen
    assert "Traceback" not in answer.screen
    assert driver.embed(source, out / "x.h5", starve=BIG + 2, shard=SMALL).status == 1, "still not all there"
    assert driver.embed(source, out / "x.h5", shard=SMALL).status == 0


def test_an_output_with_failures_is_never_called_complete(source: Path, out: Path, broken: Any) -> None:
    """Not even when the job's folder was thrown away: what it holds is not what was asked for."""
    broken(ALLOCATION)
    embed(source, out / "x.h5")
    shutil.rmtree(JobFolder(out / "x.h5").path)
    try:
        again = embed(source, out / "x.h5")
    except aminoglot.AminoglotError:
        return
    assert again.complete is False


def test_every_protein_fails(out: Path, tmp_path: Path, broken: Any) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": protein(BIG)})
    broken(ALLOCATION)
    for name in NAMES:
        made = embed(source, out / name, per="residue")
        assert made.complete is False
        with aminoglot.open(out / name) as store:
            assert len(store) == 0


@pytest.mark.usefixtures("small_shards")
def test_other_errors_are_ours_and_stop_the_run(source: Path, out: Path, broken: Any, computed: Computed) -> None:
    """A bug must not be filed under failed proteins. What was computed before it is kept."""
    broken(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        embed(source, out / "x.h5")
    assert not (out / "x.h5").exists()
    broken.undo()
    assert embed(source, out / "x.h5").complete
    assert computed.shards


# float16 ---------------------------------------------------------------------------------------------------------


def overflowing(values: torch.Tensor) -> torch.Tensor:
    """One value beyond float16's largest, which rounds to infinity."""
    values = values.clone()
    values[..., 1:-1, 5] = 65_520.0
    return values


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("per", ["protein", "residue", "both"])
@pytest.mark.parametrize("layer", [-1, [0, 2]])
def test_float16_overflow_is_a_failure_never_an_inf(source: Path, out: Path, broken: Any, per: str, layer: Any) -> None:
    broken(overflowing)
    made = embed(source, out / "x.h5", per=per, layer=layer, dtype="float16")
    assert made.complete is False
    failed = [row for row in table(out / "x.h5") if row["status"] == "failed"]
    assert [row["id"] for row in failed] == FAILED
    assert "float16's range; use --dtype float32" in failed[0]["note"]
    for path in made.files[:-1]:
        with aminoglot.open(path) as store:
            assert sorted(store.ids) == sorted(set(RECORDS) - set(FAILED))
            assert all(np.isfinite(array).all() and array.dtype == np.float16 for _, array in store)
    assert embed(source, out / "x.h5", per=per, layer=layer, overwrite=True).complete, "float32 holds it"


def test_the_largest_float16_is_written(source: Path, out: Path, broken: Any) -> None:
    def largest(values: torch.Tensor) -> torch.Tensor:
        return torch.full_like(values, 65_504.0)

    broken(largest)
    assert embed(source, out / "x.h5", per="residue", dtype="float16").complete
    with aminoglot.open(out / "x.h5") as store:
        assert (store[FAILED[0]] == np.float16(65_504)).all()
