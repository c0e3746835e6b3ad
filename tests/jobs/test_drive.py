"""The driver of a crew that is made up: what it notes of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from aminoglot.jobs import Manifest, Plan, drive
from aminoglot.jobs.crew import Computed, Event, Finished, Joined
from aminoglot.jobs.manifest import Entry
from tests.jobs.helpers import CountingTask, plan
from tests.jobs.test_processes import LIMITS, SEQUENCES


class Timetable:
    """A crew in time that does not pass: each worker takes so many seconds a shard.

    Attributes:
        now: the time.
    """

    def __init__(self, job: Plan, seconds: dict[str, float], devices: dict[str, str] | None = None) -> None:
        self.now = 0.0
        self._job, self._seconds, self._devices = job, seconds, devices or {}
        self._busy: dict[str, tuple[float, int]] = {}
        self._joining = list(seconds)

    def monotonic(self) -> float:
        return self.now

    def __enter__(self) -> Timetable:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def give(self, worker: str, shard: int) -> None:
        self._busy[worker] = (self.now + self._seconds[worker], shard)

    def events(self) -> Sequence[Event]:
        if self._joining:
            worker = self._joining.pop(0)
            return [Joined(worker, self._devices.get(worker, "a processor"))]
        worker = min(self._busy, key=lambda name: self._busy[name][0])
        self.now, shard = self._busy.pop(worker)
        residues = sum(map(len, self._job.sequences(shard)))
        return [Computed(worker, residues), Finished(worker, Entry(shard, "0" * 64, 1))]


def driven(crew: Timetable, job: Plan, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    notes: list[str] = []
    monkeypatch.setattr(drive, "time", crew)
    drive.drive(job, Manifest(job.folder.manifest), crew, lambda _: None, notes.append)
    return notes


@pytest.fixture
def job(tmp_path: Path) -> Plan:
    return plan(tmp_path, SEQUENCES, CountingTask(LIMITS))


def test_a_slow_worker_is_named(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = driven(Timetable(job, {"one": 1.0, "two": 1.0, "three": 5.0}), job, monkeypatch)
    assert len(notes) == 1
    assert notes[0].startswith("three was slow: ")


def test_workers_alike_are_not(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert driven(Timetable(job, {"one": 1.0, "two": 1.1, "three": 0.9}), job, monkeypatch) == []


def test_kinds_of_processors_are_noted_once(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Timetable(job, {"one": 1.0, "two": 1.0, "three": 1.0}, {"two": "another", "three": "another"})
    notes = driven(crew, job, monkeypatch)
    assert len(notes) == 1
    assert notes[0].startswith("two computes on another, others on a processor: results agree within the precision")
    kinds = [entry.device for entry in Manifest(job.folder.manifest).entries.values()]
    assert set(kinds) == {"a processor", "another"}
    assert len(kinds) == job.shards
