"""Workers in processes of their own, and what becomes of a job when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aminoglot import JobError
from aminoglot.jobs import Manifest, Plan, audit, run
from aminoglot.jobs.drive import drive
from aminoglot.jobs.processes import Place, Processes
from aminoglot.jobs.run import left
from tests.jobs.crews import LIMITS, make
from tests.jobs.helpers import CountingTask, plan

SEQUENCES = {f"P{i}": "ACDEFGHIKL"[i % 10] * (i % 13 + 1) for i in range(40)}
POISON = "K" * 9
TWO = (Place("one"), Place("two"))


def planned(tmp_path: Path, **asked: Any) -> Plan:
    made = plan(tmp_path, SEQUENCES, CountingTask(LIMITS), {"marks": str(tmp_path), "sequence": POISON, **asked})
    assert made.shards > 5
    return made


def driven(job: Plan, places: tuple[Place, ...] = TWO, patience: float = 60.0) -> tuple[list[str], int]:
    """What the user was told, and how many residues were computed."""
    notes: list[str] = []
    residues: list[int] = []
    crew = Processes(job.folder, make, places, patience)
    drive(job, Manifest(job.folder.manifest), crew, residues.append, notes.append)
    return notes, sum(residues)


def same_as_one_process(job: Plan, tmp_path: Path) -> None:
    alone = plan(tmp_path / "alone", SEQUENCES, CountingTask(LIMITS))
    run(alone, Manifest(alone.folder.manifest), CountingTask(LIMITS), lambda _: None)
    for shard in range(job.shards):
        assert job.folder.shard(shard).read_bytes() == alone.folder.shard(shard).read_bytes()


def whole(job: Plan) -> None:
    account = audit(job, Manifest(job.folder.manifest))
    assert str(account) == "40 in = 40 written + 0 merged + 0 skipped + 0 failed"


def test_the_same_to_the_byte(tmp_path: Path) -> None:
    job = planned(tmp_path, takes=0.2)
    notes, residues = driven(job)
    whole(job)
    same_as_one_process(job, tmp_path)
    assert residues == sum(len(text) for shard in range(job.shards) for text in job.sequences(shard))
    assert all(entry.device.startswith("a processor") for entry in Manifest(job.folder.manifest).entries.values())
    assert len(notes) == 1
    assert "results agree within the precision" in notes[0]
    driven(job)  # nothing is left, and nobody is started


@pytest.mark.parametrize("trouble", ["killed", "exits", "memory", "value"])
def test_a_worker_in_trouble(trouble: str, tmp_path: Path) -> None:
    """Its shard is computed elsewhere, and nothing twice in the account."""
    job = planned(tmp_path, trouble=trouble)
    notes, residues = driven(job)
    whole(job)
    same_as_one_process(job, tmp_path)
    assert residues == sum(len(text) for shard in range(job.shards) for text in job.sequences(shard))
    said = {"killed": "SIGKILL", "exits": "code 3", "memory": "no memory", "value": "ValueError"}[trouble]
    assert any(said in note for note in notes), notes


def test_a_worker_that_hangs(tmp_path: Path) -> None:
    job = planned(tmp_path, trouble="hangs")
    started = time.monotonic()
    notes, _ = driven(job, patience=8.0)
    assert time.monotonic() - started < 60
    whole(job)
    assert any("not a word" in note for note in notes)


@pytest.mark.parametrize("trouble", ["killed", "value"])
def test_a_shard_that_always_fails(trouble: str, tmp_path: Path) -> None:
    """It is set aside and named, the rest is finished; run again it is tried again."""
    job = planned(tmp_path, trouble=trouble, always=True)
    notes, _ = driven(job)
    account = audit(job, Manifest(job.folder.manifest))
    aside = next(shard for shard in range(job.shards) if POISON.encode() in job.sequences(shard))
    count = len(job.sequences(aside))
    assert account.written + account.merged == 40 - account.failed
    assert account.failed == count
    assert all(f"shard {aside} failed wherever it was tried" in why for why in account.reasons.values())
    assert any(f"shard {aside} failed wherever it was tried, with its {count} proteins" in note for note in notes)
    assert left(job, Manifest(job.folder.manifest)) == [aside]


def test_a_worker_killed_while_it_loads(tmp_path: Path) -> None:
    job = planned(tmp_path, loading="killed")
    driven(job)
    whole(job)


def test_a_worker_that_hangs_while_it_loads(tmp_path: Path) -> None:
    job = planned(tmp_path, loading="hangs")
    notes, _ = driven(job, (Place("one"),), patience=8.0)
    whole(job)
    assert any("not a word" in note for note in notes)


@pytest.mark.parametrize(("loading", "said"), [("killed", "SIGKILL"), ("refuses", "another version here")])
def test_no_worker_can_load(loading: str, said: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(JobError, match=f"no worker is left: .*{said}"):
        driven(planned(tmp_path, loading=loading, always=True))
    assert time.monotonic() - started < 60


def test_a_place_is_not_given_up_while_another_worker_can_begin(tmp_path: Path) -> None:
    job = planned(tmp_path, late="two")
    notes, _ = driven(job)
    whole(job)
    assert sum("gone: not yet" in note for note in notes) == 3
    assert (tmp_path / "came").exists(), "the place stayed empty"


def test_a_worker_that_cannot_write_is_not_begun_for_ever(tmp_path: Path) -> None:
    job = planned(tmp_path, unwritable="one")
    notes, _ = driven(job)
    whole(job)
    assert sum("worker 1 is gone: no word" in note for note in notes) <= 3
    alone = planned(tmp_path / "alone", unwritable="one")
    with pytest.raises(JobError, match="no worker is left: no word from the disk"):
        driven(alone, (Place("one"),))
    assert not Manifest(alone.folder.manifest).entries, "proteins failed where a disk did"


def test_what_is_tried_elsewhere_is_tried_elsewhere(tmp_path: Path) -> None:
    """A place that kills every worker at every shard, and one that does not, but is slower."""
    job = planned(tmp_path, kills="one", takes=0.1)
    notes, _ = driven(job)
    whole(job)
    assert any("worker 1 is gone" in note for note in notes)
    assert not any("failed wherever" in note for note in notes)


def test_what_is_left_of_shards_that_were_being_written_goes(tmp_path: Path) -> None:
    job = planned(tmp_path)
    unfinished = job.folder.path / f".{job.folder.shard(3).name}.1f2e3d4c.partial"
    unfinished.write_bytes(b"half")
    with job.folder.locked():
        assert not unfinished.exists()


def test_a_full_disk_at_one_worker(tmp_path: Path) -> None:
    """That one leaves; its shard is nobody's fault."""
    job = planned(tmp_path, full="one", awaited=True)
    notes, _ = driven(job)
    whole(job)
    assert any("is gone: the disk is full" in note for note in notes)


def test_a_full_disk_everywhere(tmp_path: Path) -> None:
    job = planned(tmp_path, full="one")
    with pytest.raises(JobError, match="no worker is left: the disk is full"):
        driven(job, (Place("one"),))
    driven(job, (Place("two"),))
    whole(job)


DRIVER = """
import sys
from pathlib import Path
from aminoglot.jobs import JobFolder, Manifest, read_plan
from aminoglot.jobs.drive import drive
from aminoglot.jobs.processes import Place, Processes
from tests.jobs.crews import make
if __name__ == "__main__":
    job = read_plan(JobFolder(Path(sys.argv[1])))
    drive(job, Manifest(job.folder.manifest), Processes(job.folder, make, [Place("one")]), print, print)
"""


def test_the_driver_is_killed(tmp_path: Path) -> None:
    """Its workers end, too; what was done stays, and another driver goes on."""
    job = planned(tmp_path, takes=0.3)
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    driver = subprocess.Popen([sys.executable, str(program), str(job.folder.output)], env=env, stdout=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while len(Manifest(job.folder.manifest).entries) < 2:
            assert time.monotonic() < until, "it computed nothing"
            time.sleep(0.05)
        workers = children(driver.pid)
        assert workers
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < until, "a worker lives on"
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
        assert driver.stdout is not None
        driver.stdout.close()
    assert 2 <= len(Manifest(job.folder.manifest).entries) < job.shards
    driven(job)
    whole(job)
    same_as_one_process(job, tmp_path)


def children(pid: int) -> list[int]:
    """Processes that a process has started, where the system tells."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not say whose child a process is")
    return [int(child) for child in path.read_text().split()]
