"""What the driver of a job spends on a shard when workers compute nothing: milliseconds, and whether its memory grows.

    pip install -c constraints.txt -e '.[ray]'
    python benchmarks/dispatch.py [--shards 10000] [--workers 32] [--crews threads processes ray] [--json FILE]

A job of so many shards of one tiny protein each, by the real driver, plan and manifest, every line of it made durable;
the task returns two numbers. Three crews, each with a driver in a process of its own:

threads    workers in the driver's process that answer at once and write nothing: what is left is the driver's own
processes  two processes of this machine, which write their shards
ray        actors of a local Ray cluster that take no core each, which write their shards

The first tenth of the shards is left out of the times, so that starting workers is. Driver time, a shard, is what
passes outside waiting for events, and the processor time spent inside it; what the driver waits for a core that others
have is not in it, but beside it. Then: what passes in the manifest; the processor time of the driver's thread and of
its process; all the time that passed, where workers that share few cores have theirs, too; the driver's resident memory
after a tenth of the shards, and at the end. Last, what it takes to decide who computes what, for more workers, too.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.jobs import JobFolder, Manifest, Plan, Policy, ShardLimits, ShardResult, Task, make_plan
from aminoglot.jobs.crew import Crew, Event, Finished, Joined
from aminoglot.jobs.dispatch import Dispatch
from aminoglot.jobs.drive import drive
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.processes import Place, Processes
from aminoglot.jobs.ray_crew import RayCrew, Resources, leave
from aminoglot.jobs.task import Done
from aminoglot.sequences import Protein

CREWS = ("threads", "processes", "ray")
PROCESSES = 2
_LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class NullTask:
    """One shard a protein, two numbers a shard."""

    limits = ShardLimits(cost=1.0, proteins=1)

    def cost(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones(len(lengths))

    def output(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(lengths), 8)

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        done(sum(map(len, sequences)))
        return ShardResult({"protein": np.zeros((len(sequences), 2), np.float32)})


def make(provenance: Mapping[str, Any], device: str) -> tuple[Task, str]:  # noqa: ARG001
    """The task in a worker."""
    return NullTask(), "no model"


def planned(folder: Path, shards: int) -> Plan:
    """A plan of so many shards."""
    letters = np.random.default_rng(0).choice(_LETTERS, (shards, 20))
    records = [Protein(f"P{i}", f"P{i}", row.tobytes(), 0, "a.fasta", i) for i, row in enumerate(letters, 1)]
    job = JobFolder(folder / "null.h5")
    job.path.mkdir()
    return make_plan(job, records, NullTask(), Policy(), {}, [])


class Threads:
    """Workers in this process that answer at once: they neither compute nor write."""

    def __init__(self, count: int) -> None:
        self._given: dict[str, queue.SimpleQueue[int | None]] = {
            f"worker {number}": queue.SimpleQueue() for number in range(1, count + 1)
        }
        self._heard: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __enter__(self) -> Threads:
        for worker in self._given:
            threading.Thread(target=self._serve, args=(worker,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for given in self._given.values():
            given.put(None)

    def give(self, worker: str, shard: int) -> None:
        self._given[worker].put(shard)

    def events(self) -> Sequence[Event]:
        found = [self._heard.get()]
        while not self._heard.empty():
            found.append(self._heard.get())
        return found

    def _serve(self, worker: str) -> None:
        self._heard.put(Joined(worker, "no model"))
        while (shard := self._given[worker].get()) is not None:
            self._heard.put(Finished(worker, Entry(shard, f"{shard:064x}", 96)))


@dataclass(frozen=True)
class Reading:
    """Clocks of the driver, in seconds since whenever, and its resident memory in MB.

    Attributes:
        wall: what passed.
        thread: processor time of the thread that drives.
        process: processor time of the process, all threads.
        listening: what passed inside the crew's ``events``.
        hearing: processor time of the thread inside them.
        queueing: what the thread waited outside them until it got a core.
        noting: what passed inside the manifest.
        done: shards.
    """

    wall: float
    thread: float
    process: float
    listening: float
    hearing: float
    queueing: float
    noting: float
    resident: float
    done: int


class Watched:
    """A crew, and the manifest, under a clock."""

    def __init__(self, crew: Crew, manifest: Manifest, first: int) -> None:
        self._crew, self._manifest, self._add, self._first = crew, manifest, manifest.add, first
        self._listening = self._hearing = self._queueing = self._noting = 0.0
        self.began: Reading | None = None
        manifest.add = self._note  # type: ignore[method-assign]

    def __enter__(self) -> Watched:
        self._crew.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = self.reading()  # before workers are ended, which takes as long as they like
        self._crew.__exit__(*_)

    def give(self, worker: str, shard: int) -> None:
        self._crew.give(worker, shard)

    def events(self) -> Sequence[Event]:
        if self.began is None and len(self._manifest.entries) >= self._first:
            self.began = self.reading()
        queued = _queued()  # what passes between the clocks counts as the driver's
        wall, cpu = time.perf_counter(), time.thread_time()
        found = self._crew.events()
        self._listening += time.perf_counter() - wall
        self._hearing += time.thread_time() - cpu
        self._queueing += _queued() - queued
        return found

    def reading(self) -> Reading:
        clocks = time.perf_counter(), time.thread_time(), time.process_time()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        inside = self._listening, self._hearing, _queued() - self._queueing
        return Reading(*clocks, *inside, self._noting, pages * _PAGE / 1e6, len(self._manifest.entries))

    def _note(self, entry: Entry) -> None:
        started = time.perf_counter()
        self._add(entry)
        self._noting += time.perf_counter() - started


def _queued() -> float:
    """Seconds that this thread was ready and had no core, as Linux counts them."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def measure(kind: str, shards: int, workers: int) -> dict[str, Any]:
    """One crew, in this process."""
    with tempfile.TemporaryDirectory() as temporary:
        plan = planned(Path(temporary), shards)
        assert plan.shards == shards, plan.shards
        manifest = Manifest.of(plan.folder)
        crew: Crew
        if kind == "threads":
            crew = Threads(workers)
        elif kind == "processes":
            workers = PROCESSES
            crew = Processes(plan.folder, make, [Place("cpu")] * workers)
        else:
            crew = RayCrew("local", plan.folder, make, workers, Resources("cpu", cores=0))
        first = shards // 10
        notes: list[str] = []
        watched, begun = Watched(crew, manifest, first), time.perf_counter()
        drive(plan, manifest, watched, lambda _: None, notes.append)
        leave()
        began, ended = watched.began, watched.ended
        assert began is not None
        assert len(Manifest.of(plan.folder).entries) == shards  # as read back from the disk
        row = {"crew": kind, "workers": workers, "shards": shards, "first": first, "first_seconds": began.wall - begun}
        return {**row, **_per_shard(began, ended, shards), "notes": notes[:5]}


def _per_shard(began: Reading, ended: Reading, shards: int) -> dict[str, float]:
    """Milliseconds a shard between two readings, and the memory at both."""
    before, after = asdict(began), asdict(ended)
    spent = {key: 1e3 * (after[key] - before[key]) / (shards - began.done) for key in after}
    return {
        "driver_ms": spent["wall"] - spent["listening"] + spent["hearing"] - spent["queueing"],
        "queueing_ms": spent["queueing"],
        "manifest_ms": spent["noting"],
        "thread_cpu_ms": spent["thread"],
        "process_cpu_ms": spent["process"],
        "wall_ms": spent["wall"],
        "mb_at_first": began.resident,
        "mb_at_end": ended.resident,
    }


def answering(workers: int, rounds: int = 1_000) -> dict[str, float]:
    """Microseconds that the dispatch takes for a worker that finished, as the driver asks it, and of them ``idle``."""
    dispatch = Dispatch[str](range(workers + rounds + 1))
    names = [f"worker {number}" for number in range(workers)]
    for name in names:
        dispatch.joined(name)
        dispatch.take(name)
    idle, began = 0.0, time.perf_counter()
    for number in range(rounds):
        dispatch.done(names[number % workers])
        asked = time.perf_counter()
        free = dispatch.idle
        idle += time.perf_counter() - asked
        for name in free:
            dispatch.take(name)
        assert not dispatch.finished
    return {"all": 1e6 * (time.perf_counter() - began) / rounds, "idle": 1e6 * idle / rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=32, help="threads, and actors of Ray")
    parser.add_argument("--crews", nargs="+", choices=CREWS, default=CREWS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.shards, options.workers)))
        return
    print(f"{'':17}{'driver ms':>10}{'waiting':>11}{'manifest':>10}{'CPU ms':>8}{'CPU ms':>9}{'all ms':>8}   MB at")
    print(
        f"{'crew':10}{'workers':>7}{'a shard':>10}{'for a core':>11}{'':10}{'thread':>8}{'process':>9}{'':11}first, all"
    )
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    rows = []
    for kind in options.crews:
        command = [sys.executable, __file__, "--one", kind, "--shards", str(options.shards)]
        command += ["--workers", str(options.workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{kind:10}{row['workers']:7}{row['driver_ms']:10.2f}{row['queueing_ms']:11.2f}{row['manifest_ms']:10.2f}"
            f"{row['thread_cpu_ms']:8.2f}{row['process_cpu_ms']:9.2f}{row['wall_ms']:8.2f}   "
            f"{row['mb_at_first']:.0f}, {row['mb_at_end']:.0f}",
            flush=True,
        )
    micro = {count: answering(count) for count in (32, 1_000, 10_000)}
    for count, spent in micro.items():
        print(
            f"to decide, with {count:,} workers: {spent['all']:.0f} us a shard, {spent['idle']:.0f} to see who is idle"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows, "microseconds": micro}, indent=1) + "\n")


if __name__ == "__main__":
    main()
