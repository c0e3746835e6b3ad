"""Shards: run, written, read back, audited; and what a manifest remembers."""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aminoglot import JobError, OutputError
from aminoglot.jobs import JobFolder, Manifest, Plan, ShardLimits, ShardReader, ShardResult, Status, audit, run
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.run import left
from aminoglot.jobs.shards import write_shard
from aminoglot.jobs.storage import write_whole
from aminoglot.jobs.task import Done
from tests.jobs.helpers import CountingTask, plan

RUN = importlib.import_module("aminoglot.jobs.run")
"""The module; the package has a function of that name."""
SEQUENCES = {f"P{i}": "ACDEFGHIKL"[i % 10] * (i % 13 + 1) for i in range(40)}


@pytest.fixture
def job(tmp_path: Path) -> Plan:
    made = plan(tmp_path, SEQUENCES, CountingTask(ShardLimits(cost=30)))
    assert made.shards > 5
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ignore(_: int) -> None:
    return


# Running ---------------------------------------------------------------------------------------------------------


def test_every_shard_once_and_the_account_adds_up(job: Plan) -> None:
    task, manifest = CountingTask(), Manifest(job.folder.manifest)
    told: list[int] = []
    run(job, manifest, task, told.append)
    assert task.given == [job.sequences(shard) for shard in range(job.shards)]
    assert sum(told) == sum(len(s) for shard in task.given for s in shard)
    assert left(job, manifest) == []
    account = audit(job, manifest)
    assert str(account) == "40 in = 40 written + 0 merged + 0 skipped + 0 failed"
    for shard in range(job.shards):
        reader = ShardReader(job.folder.shard(shard))
        np.testing.assert_array_equal(reader.all("rows"), job.shard_lengths(shard))
        reader.close()


def test_an_error_keeps_what_was_done(job: Plan) -> None:
    """The shard that was being written when the next one failed is in the manifest."""

    class Failing(CountingTask):
        def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
            if len(self.given) == 3:
                raise ValueError("no")
            return super().__call__(sequences, done)

    with pytest.raises(ValueError, match="no"):
        run(job, Manifest(job.folder.manifest), Failing(), ignore)
    manifest = Manifest(job.folder.manifest)
    assert set(manifest.entries) == {0, 1, 2}
    task = CountingTask()
    run(job, manifest, task, ignore)
    assert len(task.given) == job.shards - 3
    audit(job, Manifest(job.folder.manifest))


def test_a_write_that_fails_is_raised(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens in another thread; it must not be lost there, not even for the last shard."""
    last = job.shards - 1

    def failing(folder: JobFolder, shard: int, *rest: Any) -> Entry:
        if shard == last:
            raise OutputError("the disk is full")
        return write_shard(folder, shard, *rest)

    monkeypatch.setattr(RUN, "write_shard", failing)
    with pytest.raises(OutputError, match="the disk is full"):
        run(job, Manifest(job.folder.manifest), CountingTask(), ignore)
    assert set(Manifest(job.folder.manifest).entries) == set(range(last))


def test_at_most_one_shard_waits_to_be_written(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk must slow the job down, not fill the memory."""
    writing = threading.Semaphore(0)
    task = CountingTask()
    ahead: list[int] = []
    written: list[int] = []

    def slow(folder: JobFolder, shard: int, *rest: Any) -> Entry:
        writing.acquire(timeout=0.05)  # nobody releases it: every write takes a while
        ahead.append(len(task.given) - len(written))
        written.append(shard)
        return write_shard(folder, shard, *rest)

    monkeypatch.setattr(RUN, "write_shard", slow)
    run(job, Manifest(job.folder.manifest), task, ignore)
    assert written == list(range(job.shards))
    assert max(ahead) <= 2


def test_failed_proteins_are_counted_and_tried_again(tmp_path: Path) -> None:
    """Two records share the sequence that fails: both failed, once each."""
    job = plan(tmp_path, {"a": "MKTV", "b": "GG", "twin": "MKTV"}, CountingTask(ShardLimits(cost=1)))
    manifest = Manifest(job.folder.manifest)
    run(job, manifest, CountingTask(fails=[b"MKTV"]), ignore)
    account = audit(job, Manifest(job.folder.manifest))
    assert str(account) == "3 in = 1 written + 0 merged + 0 skipped + 2 failed"
    assert account.status.tolist() == [Status.FAILED, Status.WRITTEN, Status.FAILED]
    assert account.reasons == {int(job.position[0]): "it fails"}
    assert left(job, manifest) == [0]
    task = CountingTask()
    run(job, manifest, task, ignore)
    assert task.given == [[b"MKTV"]]
    assert audit(job, Manifest(job.folder.manifest)).failed == 0


# The audit -------------------------------------------------------------------------------------------------------


def test_a_missing_shard_fails_the_audit(job: Plan) -> None:
    manifest = Manifest(job.folder.manifest)
    run(job, manifest, CountingTask(), ignore)
    manifest.drop([2, 4])
    with pytest.raises(JobError, match=f"2 shards of {job.shards} missing, the first is 2"):
        audit(job, Manifest(job.folder.manifest))


@pytest.mark.parametrize("how", ["flipped", "longer", "deleted"])
def test_a_damaged_shard_fails_the_audit_and_is_left_to_do(job: Plan, how: str) -> None:
    manifest = Manifest(job.folder.manifest)
    run(job, manifest, CountingTask(), ignore)
    path = job.folder.shard(3)
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "flipped" else data + b"\0")
    with pytest.raises(JobError, match=r"1 shard of .*shard-000003"):
        audit(job, manifest)
    manifest = Manifest(job.folder.manifest)
    assert left(job, manifest) == [3]
    task = CountingTask()
    run(job, manifest, task, ignore)
    assert len(task.given) == 1
    assert path.read_bytes() == data
    audit(job, Manifest(job.folder.manifest))


# The manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m")
    assert manifest.entries == {}
    entries = [Entry(0, "aa", 10), Entry(7, "bb", 20, {3: "no\nmemory", 0: "x"}), Entry(0, "cc", 11)]
    for entry in entries:
        manifest.add(entry)
    again = Manifest(tmp_path / "m")
    assert again.entries == manifest.entries == {0: entries[2], 7: entries[1]}, "the last line for a shard holds"
    again.drop([7, 5])
    assert Manifest(tmp_path / "m").entries == {0: entries[2]}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_manifest_torn_anywhere(tmp_path: Path) -> None:
    """Cut at every byte: whole lines count, and the next entry starts on a line of its own."""
    path = tmp_path / "m"
    manifest = Manifest(path)
    for shard in range(3):
        manifest.add(Entry(shard, "a" * 64, shard))
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        torn = Manifest(path)
        assert set(torn.entries) == set(range(data[:size].count(b"\n")))
        torn.add(Entry(9, "z", 1))
        assert {*torn.entries, 9} == set(Manifest(path).entries)


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "missing" / "m")
    with pytest.raises(OutputError, match="there is no folder"):
        manifest.add(Entry(0, "a", 1))
    assert manifest.entries == {}, "what is not on disk is not done"


# Shards on disk --------------------------------------------------------------------------------------------------

ARRAYS: dict[str, NDArray[Any]] = {
    "rows": np.array([2, 1, 3], dtype=np.int64),
    "protein": np.arange(12, dtype=np.float16).reshape(3, 2, 2),
    "residue": np.arange(24, dtype=np.float32).reshape(6, 2, 2).swapaxes(1, 2),
}


def test_a_shard_reads_back_row_by_row(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "x.h5")
    folder.path.mkdir()
    path = folder.shard(5)
    entry = write_shard(folder, 5, ARRAYS, {1: "why"})
    assert (entry.shard, entry.failed) == (5, {1: "why"})
    assert entry.size == path.stat().st_size
    assert entry.sha256 == sha256(path)
    reader = ShardReader(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reader.all(name), array)
        assert reader.all(name).dtype == array.dtype
        np.testing.assert_array_equal(reader.rows(name, 1, 3), array[1:3])
        np.testing.assert_array_equal(reader.take(name, np.array([2, 0])), array[[2, 0]])
    assert reader.rows("residue", 2, 2).shape == (0, 2, 2)
    reader.close()
    path.unlink()
    assert write_shard(folder, 5, ARRAYS, {}).sha256 == entry.sha256, "the same arrays give the same bytes"


class Parts(io.FileIO):
    """A file that gives a thousand bytes at a time, as a raw file may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1000 if size is None or size < 0 else min(size, 1000))

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer).cast("B")[:1000])


def test_a_read_that_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw read may return less than was asked; Linux never gives 2 GB, and a long protein in all layers has more."""
    residue = np.arange(3000, dtype=np.float32).reshape(500, 2, 3)
    folder = JobFolder(tmp_path / "x.h5")
    folder.path.mkdir()
    write_shard(folder, 0, {"residue": residue}, {})

    def opened(path: Path, _: str = "rb", buffering: int = -1) -> Any:
        return Parts(path) if buffering == 0 else io.BufferedReader(Parts(path))

    monkeypatch.setattr(Path, "open", opened)
    reader = ShardReader(folder.shard(0))
    try:
        np.testing.assert_array_equal(reader.all("residue"), residue)
        np.testing.assert_array_equal(reader.rows("residue", 10, 400), residue[10:400])
    finally:
        reader.close()


# Files written whole or not at all -------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

    def new(temporary: Path) -> None:
        temporary.write_text("new")

    write_whole(path, new)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "the disk is full"),
        (OSError("Can't write data (errno = 28, error message = 'No space left on device')"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "read-only"),
        (OSError(errno.EIO, "Input/output error"), r"cannot be written \(Input/output error\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_the_system_says_in_a_persons_words(tmp_path: Path, error: OSError, said: str) -> None:
    def failing(_: Path) -> None:
        raise error

    with pytest.raises(OutputError, match=said) as caught:
        write_whole(tmp_path / "x.h5", failing)
    assert str(caught.value).startswith(str(tmp_path / "x.h5"))
    assert caught.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


def test_manifest_lines_are_json(job: Plan) -> None:
    """Other tools may read them."""
    run(job, Manifest(job.folder.manifest), CountingTask(), ignore)
    lines = [json.loads(line) for line in job.folder.manifest.read_text().splitlines()]
    assert [line["shard"] for line in lines] == list(range(job.shards))
    assert all(line["sha256"] == sha256(job.folder.shard(line["shard"])) for line in lines)
