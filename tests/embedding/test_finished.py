"""An output that is there already: verified when it is this job's, refused when it is anything else."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import aminoglot
from aminoglot import AminoglotError, OutputError
from aminoglot.checkpoints import convert
from tests.embedding.conftest import Computed, interrupted
from tests.embedding.helpers import MODEL, Driver, embed, files, flip, proteins, write_fasta

NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(30))


# A finished job --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["protein", "residue", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_a_finished_job_is_verified(source: Path, out: Path, computed: Computed, name: str, per: str) -> None:
    embed(source, out / name, per=per)
    before = files(out)
    computed.clear()
    assert embed(source, out / name, per=per).complete
    assert computed.shards == []
    assert files(out) == before


def test_the_same_model_under_another_name(source: Path, out: Path, tmp_path: Path, computed: Computed) -> None:
    """Weights are known by their digest, not by where they lie."""
    convert(MODEL, tmp_path / "model", "huggingface")
    embed(source, out / "x.h5")
    computed.clear()
    assert embed(source, out / "x.h5", model=str(tmp_path / "model")).audit is None
    assert computed.shards == []


def test_a_finished_job_names_its_files_again(source: Path, out: Path) -> None:
    """Callers find the table last, whether or not this run wrote it."""
    assert embed(source, out / "x.h5").files == embed(source, out / "x.h5").files


def test_a_finished_job_exits_0_and_says_so(driver: Driver, source: Path, out: Path) -> None:
    assert driver.embed(source, out / "x.h5").status == 0
    answer = driver.embed(source, out / "x.h5")
    assert answer.status == 0
    assert "complete already: 30 proteins, verified" in answer.screen


def test_what_was_incomplete_stays_so_when_run_again(driver: Driver, out: Path, tmp_path: Path) -> None:
    """A pipeline that tries twice must not take an input with bad records for a clean one."""
    source = write_fasta(tmp_path / "bad.fasta", {"good": "MKTV", "bad": "MK1V"})
    first = driver.embed(source, out / "x.h5", "--bad-records", "skip")
    assert first.status == 1
    assert driver.embed(source, out / "x.h5", "--bad-records", "skip").status == 1
    assert embed(source, out / "x.h5", bad_records="skip").complete is False


def test_a_lost_table_is_noticed(source: Path, out: Path) -> None:
    """The table is part of the output: without it a job is not complete."""
    embed(source, out / "x.h5")
    before = files(out)
    (out / "x.h5.proteins.tsv").unlink()
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        embed(source, out / "x.h5", overwrite=True)
    assert files(out) == before


@pytest.mark.parametrize("name", ["x.h5", "folder"])
def test_one_lost_file_of_two_is_made_again(source: Path, out: Path, name: str) -> None:
    embed(source, out / name, per="both")
    before = files(out)
    lost = out / "x.per-residue.h5" if name == "x.h5" else out / "folder" / "P0003.pt"
    lost.unlink()
    try:
        embed(source, out / name, per="both")
    except AminoglotError:
        embed(source, out / name, per="both", overwrite=True)
    assert files(out) == before


def embeddings(path: Path) -> dict[str, Any]:
    with aminoglot.open(path) as store:
        return {name: array.copy() for name, array in store}


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_output_is_noticed(source: Path, out: Path, name: str) -> None:
    """One changed number is enough; --overwrite makes it whole again."""
    embed(source, out / name)
    before = files(out)
    path = out / name if name != "folder" else out / name / "P0007.pt"
    value = next(iter(embeddings(out / name).values())) if name != "folder" else embeddings(out / name)["P0007"]
    at = path.read_bytes().index(value.tobytes())
    flip(path, at + 5)
    with pytest.raises(OutputError, match="overwrite"):
        embed(source, out / name)
    assert embed(source, out / name, overwrite=True).complete
    assert files(out) == before


def damages(folder: Path, name: str, count: int) -> Iterator[str]:
    """One byte of an output flipped at a time, at random places; it is whole again in the end."""
    paths = [folder / name] if name != "folder" else sorted((folder / name).iterdir())
    choose = random.Random(f"{name}/{count}")
    for _ in range(count):
        path = choose.choice(paths)
        sound = path.read_bytes()
        at = choose.randrange(len(sound))
        flip(path, at)
        yield f"byte {at} of {path.name}"
        path.write_bytes(sound)


def check_same(truth: dict[str, Any], path: Path, where: str) -> None:
    found = embeddings(path)
    assert found.keys() == truth.keys(), where
    assert all(np.array_equal(found[key], truth[key]) for key in truth), where


@pytest.mark.parametrize("places", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES[1:])
def test_no_flipped_byte_is_a_traceback(
    source: Path, out: Path, name: str, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a disk goes bad, the same command says a sentence, or finds every embedding as it was."""
    embed(write_fasta(source, proteins(4)), out / name)
    truth = embeddings(out / name)
    monkeypatch.setattr("aminoglot.embedding.job.make_plan", lambda *_: pytest.fail("it was planned anew"))
    for where in damages(out, name, places):
        try:
            embed(source, out / name)
            check_same(truth, out / name, where)
        except AminoglotError:
            pass
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("places", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_no_flipped_byte_of_an_h5_is_a_traceback(driver: Driver, source: Path, out: Path, places: int) -> None:
    """As above, in children: where a file has strings on HDF5's heap, one byte can crash or hang the library."""
    embed(write_fasta(source, proteins(4)), out / "x.h5")
    truth = embeddings(out / "x.h5")
    for where in damages(out, "x.h5", places):
        answer = driver.embed(source, out / "x.h5", alarm=20)
        assert answer.status in (0, 1), f"{where}: {answer}"
        assert "Traceback" not in answer.screen, f"{where}: {answer.screen}"
        if answer.status == 0:
            check_same(truth, out / "x.h5", where)


# What is not ours ------------------------------------------------------------------------------------------------


def foreign(path: Path) -> Path:
    """A file that somebody else made, under a name that a job wants."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["P0000"] = np.ones(1024, np.float16)
    elif path.suffix == ".npz":
        np.savez(path, embeddings=np.ones(3))
    elif path.suffix == "":
        path.mkdir()
        (path / "thesis.txt").write_text("years of work")
    else:
        path.write_text("notes")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_is_refused(driver: Driver, source: Path, out: Path, name: str) -> None:
    foreign(out / name)
    before = files(out)
    answer = driver.embed(source, out / name)
    assert answer.status == 1
    assert "error:" in answer.screen
    assert name in answer.screen
    assert "Traceback" not in answer.screen
    assert files(out) == before


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_foreign_file_is_replaced_when_asked(source: Path, out: Path, name: str) -> None:
    foreign(out / name)
    assert embed(source, out / name, overwrite=True).complete
    assert len(embeddings(out / name)) == 30


@pytest.mark.parametrize("name", ["folder", "x.h5"])
def test_overwrite_deletes_no_folder_of_somebody_else(source: Path, out: Path, name: str) -> None:
    """One mistyped -o must not cost a folder: only one that aminoglot wrote may be replaced."""
    (out / name).mkdir()
    (out / name / "thesis.txt").write_text("years of work")
    with pytest.raises(AminoglotError):
        embed(source, out / name, overwrite=True)
    assert (out / name / "thesis.txt").read_text() == "years of work"


@pytest.mark.usefixtures("small_shards")
def test_a_foreign_file_that_came_later_is_refused_too(source: Path, out: Path, computed: Computed) -> None:
    """Between the interruption and the next run, somebody may have put a file there."""
    interrupted(source, out / "x.h5", computed, 3)
    foreign(out / "x.h5")
    before = (out / "x.h5").read_bytes()
    with pytest.raises(AminoglotError):
        embed(source, out / "x.h5")
    assert (out / "x.h5").read_bytes() == before
    (out / "x.h5").unlink()
    assert embed(source, out / "x.h5").complete


@pytest.mark.usefixtures("small_shards")
def test_overwriting_goes_on_where_it_stopped(source: Path, out: Path, computed: Computed) -> None:
    """The old output stays until the new one is whole, and the same command with --overwrite loses no shard."""
    embed(source, out / "x.h5", pool="max")
    old = (out / "x.h5").read_bytes()
    computed.clear()
    computed.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        embed(source, out / "x.h5", overwrite=True)
    assert (out / "x.h5").read_bytes() == old
    first = list(computed.shards)
    computed.clear()
    embed(source, out / "x.h5", overwrite=True)
    assert len(first) == 4
    assert not {s for shard in first for s in shard} & {s for shard in computed.shards for s in shard}
    assert json.loads(h5py.File(out / "x.h5").attrs["aminoglot"])["pool"] == "mean"


# The same again ----------------------------------------------------------------------------------------------------


def test_same_job_same_bytes(source: Path, out: Path, tmp_path: Path) -> None:
    """In another folder, from a moved input, a while later: no time, host or path gets into the output."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(source, moved / "b.fa")
    for folder, origin in ((moved, moved / "b.fa"), (out, source)):
        for name in NAMES:
            embed(origin, folder / name, per="both")
        time.sleep(0.7)  # with the work, more than the second that file formats count in
    (moved / "b.fa").unlink()
    assert files(moved) == files(out)
    marks = [str(tmp_path).encode(), source.name.encode()]
    assert not [name for name, data in files(out).items() if any(mark in data for mark in marks)]


def test_a_backend_that_came_later(source: Path, out: Path, computed: Computed) -> None:
    """auto takes OpenVINO once it is installed; the refusal says how to keep to torch. And either is verified."""
    wide = "random:esm2-8m"
    assert embed(source, out / "x.h5", model=wide).complete
    with pytest.raises(AminoglotError, match="keep to it with --backend torch, or replace it with --overwrite"):
        embed(source, out / "x.h5", model=wide, backend="openvino")
    assert embed(source, out / "y.h5", model=wide, backend="openvino").complete
    with aminoglot.open(out / "x.h5") as torchs, aminoglot.open(out / "y.h5") as openvinos:
        assert openvinos.provenance["backend"] == "openvino"
        np.testing.assert_allclose(openvinos.matrix(), torchs.matrix(), rtol=0, atol=1e-4)
    computed.clear()
    assert embed(source, out / "y.h5", model=wide, backend="openvino").complete
    assert computed.shards == []


def test_a_dry_run_says_what_is_there(source: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    embed(source, out / "x.h5")
    capfd.readouterr()
    assert embed(source, out / "x.h5", dry_run=True).files == ()
    assert "x.h5 exists: a run goes on or verifies it" in capfd.readouterr().err
