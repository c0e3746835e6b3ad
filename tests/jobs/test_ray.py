"""Workers as Ray's actors, on a cluster of this machine, and what becomes of a job when parts of it die."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminoglot import JobError
from aminoglot.embedding import cluster as embedding_cluster
from aminoglot.embedding.options import Options
from aminoglot.jobs import Manifest, Plan, audit
from aminoglot.jobs.drive import drive
from aminoglot.jobs.ray_crew import RayCrew, Resources, quiet
from aminoglot.jobs.run import left
from tests.jobs.crews import LIMITS, make
from tests.jobs.helpers import CountingTask, plan
from tests.jobs.test_processes import POISON, SEQUENCES, same_as_one_process, whole

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

ONE = Resources("cpu", 1)
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # ray leaves files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that takes no work; nodes of one core come and go."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.connect()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def two_nodes(cluster: Any) -> Iterator[list[Any]]:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield nodes
    for node in nodes:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node)


def planned(tmp_path: Path, **asked: Any) -> Plan:
    return plan(tmp_path, SEQUENCES, CountingTask(LIMITS), {"marks": str(tmp_path), "sequence": POISON, **asked})


def driven(job: Plan, count: int = 2, patience: float = 60.0, done: Any = lambda _: None) -> list[str]:
    notes: list[str] = []
    crew = RayCrew("auto", job.folder, make, count, ONE, patience)
    drive(job, Manifest(job.folder.manifest), crew, done, notes.append)
    return notes


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("trouble", [None, "killed", "memory", "value"])
def test_the_same_to_the_byte(trouble: str | None, tmp_path: Path) -> None:
    job = planned(tmp_path, trouble=trouble, takes=0.2)
    computed: list[int] = []
    notes = driven(job, done=computed.append)
    whole(job)
    same_as_one_process(job, tmp_path)
    assert sum(computed) == sum(len(text) for shard in range(job.shards) for text in job.sequences(shard))
    assert bool(notes) == bool(trouble), notes


@pytest.mark.usefixtures("two_nodes")
def test_what_is_computed_of_a_shard_is_told_before_it_ends(tmp_path: Path) -> None:
    """A worker that is slow for longer than is waited for a word, but says some, is not given up for lost."""
    job = plan(tmp_path, {"a": "MKVA" * 5}, CountingTask(LIMITS), {"marks": str(tmp_path), "slowly": 0.7})
    told: list[int] = []
    assert driven(job, count=1, patience=12.0, done=told.append) == []
    assert sum(told) == 20
    assert len(told) >= 3
    assert not left(job, Manifest(job.folder.manifest))


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("trouble", ["killed", "value"])
def test_a_shard_that_always_fails(trouble: str, tmp_path: Path) -> None:
    job = planned(tmp_path, trouble=trouble, always=True)
    notes = driven(job)
    account = audit(job, Manifest(job.folder.manifest))
    assert account.failed == sum(
        POISON.encode() in job.sequences(s) and len(job.sequences(s)) for s in range(job.shards)
    )
    assert any("failed wherever it was tried" in note for note in notes)


@pytest.mark.usefixtures("two_nodes")
def test_a_worker_that_hangs(tmp_path: Path) -> None:
    job = planned(tmp_path, trouble="hangs")
    started = time.monotonic()
    notes = driven(job, patience=12.0)
    assert time.monotonic() - started < 60
    whole(job)
    assert any("not a word" in note for note in notes)


@pytest.mark.usefixtures("two_nodes")
def test_a_worker_that_hangs_while_it_loads(tmp_path: Path) -> None:
    job = planned(tmp_path, loading="hangs")
    notes = driven(job, count=1, patience=12.0)
    whole(job)
    assert any("not a word" in note for note in notes)


@pytest.mark.usefixtures("two_nodes")
def test_no_address_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Workers are killed; neither we nor Ray name their machines, once Ray was told not to."""
    quiet()
    capfd.readouterr()
    job = planned(tmp_path, trouble="killed", always=True)
    notes = driven(job)
    time.sleep(1)
    said = "\n".join([*notes, *capfd.readouterr(), job.folder.manifest.read_text()])
    assert "its process ended" in said
    assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b|ip=|pid=", said), said


@pytest.mark.usefixtures("two_nodes")
def test_a_worker_dies_while_it_loads(tmp_path: Path) -> None:
    job = planned(tmp_path, loading="killed")
    driven(job)
    whole(job)


@pytest.mark.usefixtures("two_nodes")
def test_no_worker_can_load(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no worker is left: .*another version here"):
        driven(planned(tmp_path, loading="refuses", always=True))


def test_a_machine_is_lost(cluster: Any, two_nodes: list[Any], tmp_path: Path) -> None:
    """Its raylet is killed in the middle; the other machine computes what it had."""
    job = planned(tmp_path, takes=0.3, together=True)
    lost: list[float] = []

    def done(_: int) -> None:
        if not lost:
            lost.append(time.monotonic())
            cluster.remove_node(two_nodes[0], allow_graceful=False)

    notes = driven(job, done=done, patience=30.0)
    whole(job)
    same_as_one_process(job, tmp_path)
    not_its_shards_fault = ("its machine is gone", "it cannot be reached any more")
    assert any(f"is gone: {why}" in note for note in notes for why in not_its_shards_fault), notes


def test_a_machine_that_joins_late(cluster: Any, tmp_path: Path) -> None:
    """One of two workers has no room until a second machine comes."""
    nodes = [cluster.add_node(num_cpus=1)]
    job = planned(tmp_path, takes=0.1, named=True, together=True)

    def done(_: int) -> None:
        if len(nodes) == 1:
            nodes.append(cluster.add_node(num_cpus=1))

    try:
        driven(job, done=done)
        whole(job)
        same_as_one_process(job, tmp_path)
        at_work = {entry.device for entry in Manifest(job.folder.manifest).entries.values()}
        assert len(at_work) == 2, "the second machine computed nothing"
    finally:
        for node in nodes:
            cluster.remove_node(node)


def test_a_cluster_without_room(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its only machine takes no work: nobody waits for ever, neither before the job is planned nor after."""
    said: list[str] = []
    monkeypatch.setattr(embedding_cluster, "_PATIENCE", 3.0)
    with pytest.raises(JobError, match="made no room for a worker of 1 core in 3 seconds"):
        embedding_cluster.survey(Options(ray=cluster.address, workers=1), said.append)
    assert "no room for a worker now" in said[0]
    with pytest.raises(JobError, match="has had room for no worker for 3 seconds"):
        driven(planned(tmp_path), count=1, patience=3.0)


@pytest.mark.usefixtures("two_nodes")
def test_a_full_disk_at_one_worker(tmp_path: Path) -> None:
    job = planned(tmp_path, full="first", awaited=True)
    notes = driven(job)
    whole(job)
    assert any("is gone: the disk is full" in note for note in notes)


@pytest.mark.usefixtures("two_nodes")
def test_a_full_disk_everywhere(tmp_path: Path) -> None:
    job = planned(tmp_path, full="cpu")
    with pytest.raises(JobError, match="no worker is left: the disk is full"):
        driven(job)


def test_no_cluster() -> None:
    """In a process of its own, for this one is connected already."""

    code = "from aminoglot.jobs.ray_crew import connect; connect('127.0.0.1:1')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "no Ray cluster answers" in made.stderr
    assert "127.0.0.1" not in made.stderr.splitlines()[-1]
