"""A job in slices: each computes its own shards, and a lost one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from aminoglot import InputError, JobError
from aminoglot.jobs import JobFolder, Manifest, Plan, audit, run
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.slices import Slice, lost
from tests.jobs.helpers import CountingTask, plan
from tests.jobs.test_processes import LIMITS, SEQUENCES


@pytest.fixture
def job(tmp_path: Path) -> Plan:
    return plan(tmp_path, SEQUENCES, CountingTask(LIMITS))


def computed(job: Plan, text: str) -> CountingTask:
    """What computing a slice computed."""
    part, task = Slice.parse(text), CountingTask(LIMITS)
    with part.locked(job.folder):
        run(job, part.manifest(job.folder), task, lambda _: None, part.shards(job))
    return task


def every(job: Plan) -> Manifest:
    return Manifest.of(job.folder)


def test_every_shard_is_of_one_slice(job: Plan) -> None:
    found = [shard for number in (1, 2, 3) for shard in Slice(number, 3).shards(job)]
    assert sorted(found) == list(range(job.shards))
    assert not list(Slice(99, 100).shards(job)), "more slices than shards"


def test_slices_are_computed_apart_and_finished_together(job: Plan) -> None:
    assert lost(job, every(job)) is not None
    computed(job, "1/3")
    computed(job, "3/3")
    said = lost(job, every(job))
    assert said is not None
    assert f"of slices 2/3 ({len(Slice(2, 3).shards(job))} shards)" in said
    computed(job, "2/3")
    assert lost(job, every(job)) is None
    assert str(audit(job, every(job))) == "40 in = 40 written + 0 merged + 0 skipped + 0 failed"


def test_a_slice_goes_on_and_other_cuts_know_of_it(job: Plan) -> None:
    computed(job, "1/3")
    assert computed(job, "1/3").given == []
    assert len(computed(job, "1/1").given) == job.shards - len(Slice(1, 3).shards(job))
    assert lost(job, every(job)) is None


def test_a_damaged_shard_is_computed_by_its_slice_again(job: Plan) -> None:
    for text in ("1/2", "2/2"):
        computed(job, text)
    job.folder.shard(1).write_bytes(b"x" * job.folder.shard(1).stat().st_size)
    with pytest.raises(JobError, match="no longer hold what was written"):
        audit(job, every(job))
    assert [path.name for path in job.folder.manifests()] == ["manifest.jsonl"]
    assert len(computed(job, "2/2").given) == 1
    assert lost(job, every(job)) is None
    audit(job, every(job))


def test_a_torn_line_costs_one_shard_and_no_other_slice(job: Plan) -> None:
    computed(job, "1/2")
    computed(job, "2/2")
    path = Slice(2, 2).manifest(job.folder).path
    path.write_bytes(path.read_bytes()[:-5])
    assert len(computed(job, "2/2").given) == 1
    assert lost(job, every(job)) is None


def test_one_process_a_slice(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminoglot.jobs.slices._PATIENCE", 0.2)
    with Slice(1, 2).locked(job.folder):
        with Slice(2, 2).locked(job.folder):
            pass
        with pytest.raises(JobError, match="another run computes slice 1/2 now"), Slice(1, 2).locked(job.folder):
            pass
        with pytest.raises(JobError, match="a slice of this job is computed now"), job.folder.locked():
            pass
    said = "another run computes the whole job now"
    with job.folder.locked(), pytest.raises(JobError, match=said), Slice(1, 2).locked(job.folder):
        pass
    with Slice(1, 2).locked(job.folder):
        pass


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/", "a/b", "-1/2", "1/2/3", "1.0/2"])
def test_no_slice(text: str) -> None:
    with pytest.raises(InputError, match="write 1/16"):
        Slice.parse(text)


def test_what_was_mended_elsewhere_is_whole(job: Plan) -> None:
    """Of two files' lines for a shard the one without failures holds, whichever file is read last."""
    computed(job, "1/2")
    own, other = job.folder.manifest, Slice(2, 2).manifest(job.folder).path
    for shard in Slice(2, 2).shards(job):
        Manifest(own).add(Entry(shard, "", 0, {0: "it failed wherever it was tried"}))
    computed(job, "2/2")
    assert audit(job, every(job)).failed == 0
    own.write_bytes(other.read_bytes())
    for shard in Slice(2, 2).shards(job):
        Manifest(other).add(Entry(shard, "", 0, {0: "it failed"}))
    assert audit(job, every(job)).failed == 0
    assert computed(job, "2/2").given == []


def test_giving_up_other_manifests_never_leaves_none(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("1/2", "2/2"):
        computed(job, text)
    kept: list[bytes] = []
    monkeypatch.setattr(JobFolder, "keep", lambda _, path: kept.append(path.read_bytes()))
    monkeypatch.setattr(JobFolder, "drop", lambda *_: kept.append(b"dropped"))
    every(job).drop([1])
    assert kept[0].count(b"\n") == job.shards - 1
    assert kept[1:] == [b"dropped", b"dropped"]
