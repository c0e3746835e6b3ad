"""The same command again: an unfinished job goes on, a finished one is verified, anything else is refused."""

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
from aminoglot import AminoglotError, InputError, JobError, OutputError
from aminoglot.jobs import JobFolder
from tests.embedding.conftest import Computed
from tests.embedding.helpers import MODEL, SMALL, Driver, embed, files, flip, proteins, write_fasta

NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]
CHANGES: dict[str, Any] = {
    "per": "residue",
    "layer": [0, 1],
    "pool": "max",
    "long": "window",
    "dtype": "float16",
    "bad_records": "skip",
    "duplicates": "number",
    "precision": "bf16",
}
"""One other value for each option that decides the result; the message calls some of them otherwise."""
CALLED = {"layer": "layers"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(30))


def interrupted(source: Path, output: Path, computed: Computed, shards: int | None = None) -> JobFolder:
    """A job stopped after so many shards, or at its last."""
    computed.clear()
    if shards is None:
        embed(source, output)
        shards = len(computed.shards) - 1
        output.unlink()
        output.with_name(f"{output.name}.proteins.tsv").unlink()
        computed.clear()
    computed.stop_after = shards
    with pytest.raises(KeyboardInterrupt):
        embed(source, output)
    computed.clear()
    folder = JobFolder(output)
    assert folder.planned
    return folder


@pytest.fixture
def whole(source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """What the job writes when nothing happens to it, in small shards from here on."""
    request.getfixturevalue("small_shards")
    (tmp_path / "whole").mkdir()
    embed(source, tmp_path / "whole" / "x.h5")
    return files(tmp_path / "whole")


# Damage to an unfinished job -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 40, -1], ids=["header size", "header", "data"])
def test_a_damaged_shard_is_set_aside_and_computed_anew(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], at: int
) -> None:
    folder = interrupted(source, out / "x.h5", computed)
    flip(folder.shard(4), at)
    damaged = folder.shard(4).read_bytes()
    with pytest.raises(JobError, match=r"1 shard of .*shard-000004.*set aside; run the same command again"):
        embed(source, out / "x.h5")
    assert len(computed.shards) == 1, "only the shard that was left"
    assert set(files(out)).isdisjoint(whole)
    assert folder.shard(4).with_suffix(".damaged").read_bytes() == damaged
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2, "only the shard that was damaged"
    assert files(out) == whole


def test_a_damaged_shard_is_one_sentence_and_exit_1(driver: Driver, source: Path, out: Path) -> None:
    assert driver.embed(source, out / "x.h5", shard=SMALL, limit={"phase": "export", "bytes": 100}).status == 1
    folder = JobFolder(out / "x.h5")
    flip(folder.shard(0), 200)
    flip(folder.shard(3), 200)
    answer = driver.embed(source, out / "x.h5", shard=SMALL)
    assert answer.status == 1
    assert "error: 2 shards of" in answer.screen
    assert "Traceback" not in answer.screen
    assert driver.embed(source, out / "x.h5", shard=SMALL).status == 0


@pytest.mark.parametrize("damage", ["deleted", "cut short", "emptied"])
def test_a_lost_shard_is_computed_anew(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], damage: str
) -> None:
    folder = interrupted(source, out / "x.h5", computed)
    if damage == "deleted":
        folder.shard(2).unlink()
    else:
        data = folder.shard(2).read_bytes()
        folder.shard(2).write_bytes(data[: len(data) // 2 if damage == "cut short" else 0])
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2
    assert files(out) == whole


@pytest.mark.parametrize("kept", [0, 1, 60, -1])
def test_a_torn_manifest_line_counts_for_nothing(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], kept: int
) -> None:
    """A crash may leave any part of the last line; its shard is computed again, all others count."""
    folder = interrupted(source, out / "x.h5", computed)
    *lines, last = folder.manifest.read_bytes().splitlines(keepends=True)
    folder.manifest.write_bytes(b"".join(lines) + last[:kept])
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2
    assert files(out) == whole


@pytest.mark.parametrize(
    "line",
    [b"\0" * 80 + b"\n", b'{"shard": 1}\n', b"null\n", b'{"shard": 1, "sha2\n'],
    ids=["zeros", "part of an entry", "no entry", "torn"],
)
def test_a_manifest_line_that_makes_no_sense(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], line: bytes
) -> None:
    """After a power cut a file system may hand back zeros. A sentence or a new start, never a traceback."""
    folder = interrupted(source, out / "x.h5", computed)
    lines = folder.manifest.read_bytes().splitlines(keepends=True)
    folder.manifest.write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        embed(source, out / "x.h5", overwrite=True)
    assert files(out) == whole


@pytest.mark.parametrize("name", ["plan.json", "decisions.safetensors", "records.arrow", "proteins.arrow"])
@pytest.mark.parametrize("damage", ["cut short", "deleted"])
def test_a_damaged_plan_is_said(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], name: str, damage: str
) -> None:
    """Whatever of the job's folder is lost, a sentence says so and --overwrite starts anew."""
    folder = interrupted(source, out / "x.h5", computed)
    path = folder.path / name
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        embed(source, out / "x.h5", overwrite=True)
    assert files(out) == whole


def test_a_changed_letter_in_the_job_folder_never_becomes_an_embedding(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes]
) -> None:
    """Workers read cleaned sequences from the job's folder; the plan knows their digests."""
    folder = interrupted(source, out / "x.h5", computed)
    data = folder.proteins.read_bytes()
    sequence = next(iter(proteins(30).values())).encode()
    assert data.count(sequence) == 1
    folder.proteins.write_bytes(data.replace(sequence, b"W" + sequence[1:]))
    for path in folder.path.glob("shard-*"):
        path.unlink()
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        return
    assert files(out) == whole


# Another run at the same time ------------------------------------------------------------------------------------


def test_a_second_run_on_one_output_is_refused(driver: Driver, source: Path, out: Path, tmp_path: Path) -> None:
    with JobFolder(out / "x.h5").locked():
        answer = driver.embed(source, out / "x.h5")
        with pytest.raises(JobError, match="another run is writing this output now"):
            embed(source, out / "x.h5", overwrite=True)
        assert driver.embed(source, tmp_path / "y.h5").status == 0, "another output is free"
    assert answer.status == 1
    assert "error:" in answer.screen
    assert "another run is writing this output now" in answer.screen
    assert driver.embed(source, out / "x.h5").status == 0


def test_a_lock_left_by_a_killed_run_holds_nobody_up(driver: Driver, source: Path, out: Path) -> None:
    folder = JobFolder(out / "x.h5")
    folder.path.mkdir()
    (folder.path / "lock").touch()
    assert driver.embed(source, out / "x.h5").status == 0
    assert set(files(out)) == {"x.h5", "x.h5.proteins.tsv"}


# Another job -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("option", CHANGES)
def test_an_unfinished_job_with_another_option_is_refused(
    source: Path, out: Path, tmp_path: Path, computed: Computed, option: str
) -> None:
    interrupted(source, out / "x.h5", computed, 3)
    before = files(out)
    changed = {option: CHANGES[option]}
    with pytest.raises(JobError, match=rf"unfinished job that is not this one:\n  {CALLED.get(option, option)}: "):
        embed(source, out / "x.h5", **changed)
    assert files(out) == before
    (tmp_path / "fresh").mkdir()
    embed(source, tmp_path / "fresh" / "x.h5", **changed)
    embed(source, out / "x.h5", **changed, overwrite=True)
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize("option", CHANGES)
def test_a_finished_output_of_another_option_is_refused(source: Path, out: Path, tmp_path: Path, option: str) -> None:
    embed(source, out / "x.h5")
    before = files(out)
    changed = {option: CHANGES[option]}
    with pytest.raises(JobError, match=rf"result of something else:\n  {CALLED.get(option, option)}: .*before.*now"):
        embed(source, out / "x.h5", **changed)
    assert files(out) == before
    (tmp_path / "fresh").mkdir()
    embed(source, tmp_path / "fresh" / "x.h5", **changed)
    embed(source, out / "x.h5", **changed, overwrite=True)
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.usefixtures("small_shards")
def test_another_input_or_model_is_refused(source: Path, out: Path, computed: Computed) -> None:
    """By content: a renamed or moved input is the same input, an edited one is not."""
    interrupted(source, out / "x.h5", computed, 3)
    text = source.read_text()
    source.write_text(text.replace("A", "C", 1))
    with pytest.raises(JobError, match="input_sha256: "):
        embed(source, out / "x.h5")
    source.write_text(text)
    with pytest.raises(JobError, match="model_digest: "):
        embed(source, out / "x.h5", model="random:esm2-8m")
    moved = source.rename(source.with_name("moved.fa"))
    assert embed(moved, out / "x.h5").complete
    with pytest.raises(JobError, match="model_digest: "):
        embed(moved, out / "x.h5", model="random:esm2-8m")
    moved.write_text(text.replace("A", "C", 1))
    with pytest.raises(JobError, match="input_sha256: "):
        embed(moved, out / "x.h5")


def test_another_version_is_another_job(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(source, out / "x.h5")
    monkeypatch.setattr("aminoglot.embedding.job.__version__", "99.0")
    with pytest.raises(JobError, match=r"aminoglot: .* before, 99\.0 now"):
        embed(source, out / "x.h5")


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


# Nothing left behind ---------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(
    driver: Driver, source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the folder of the output, and not in the system's place for temporary files once it is over."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    outcome = embed(source, out / "x.h5", dry_run=True)
    assert (outcome.files, outcome.audit) == ((), None)
    assert list(out.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    answer = driver.embed(source, out / "x.h5", "--dry-run")
    assert answer.status == 0
    assert "30 proteins, " in answer.screen
    assert "on disk" in answer.screen
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("small_shards")
def test_a_dry_run_leaves_an_unfinished_job_alone(source: Path, out: Path, computed: Computed) -> None:
    interrupted(source, out / "x.h5", computed, 3)
    before = files(out)
    embed(source, out / "x.h5", dry_run=True)
    assert files(out) == before
    assert computed.shards == []


def test_a_dry_run_checks_the_input(driver: Driver, out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "bad.fasta", {"a": "MKTV", "b": "MK-V"})
    answer = driver.embed(source, out / "x.h5", "--dry-run")
    assert answer.status == 1
    assert "line 3, id 'b'" in answer.screen
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("records", "options"),
    [
        ({"a": "MKTV", "b": "MK-V"}, {}),
        ([("a", "MKTV"), ("a", "MKTVV")], {}),
        ({"a": "M" * 1023}, {"long": "error"}),
        ({"a": "MKTV"}, {"layer": 7}),
    ],
    ids=["bad record", "clashing ids", "long protein", "no such layer"],
)
def test_a_refused_input_leaves_nothing_behind(out: Path, tmp_path: Path, records: Any, options: Any) -> None:
    """A copy of all sequences beside an output that was never made helps nobody."""
    source = write_fasta(tmp_path / "a.fasta", records)
    with pytest.raises(InputError):
        embed(source, out / "x.h5", **options)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(driver: Driver, source: Path, output: str) -> None:
    answer = driver.run(["embed", str(source), "-o", output, "-m", MODEL])
    assert answer.status == 1
    assert "error:" in answer.screen
    assert "Traceback" not in answer.screen


def test_same_job_same_bytes(source: Path, out: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
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
    embed(source, out / "x.h5")
    assert (out / "x.h5").read_bytes() == whole["x.h5"]
