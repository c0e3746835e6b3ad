"""Workers that are processes of this machine, each pinned to its cores or to its GPU."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from aminoglot.errors import JobError, plural
from aminoglot.jobs.crew import Computed, Event, Failed, Finished, Joined, Left, MakeTask
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.seats import Seat
from aminoglot.jobs.worker import ShardWorker, said, trouble

PATIENCE = 1800.0
"""Seconds without a word after which a worker counts as hung, and is killed."""
_TELL_EVERY = 0.2
_END_WITHIN = 5.0


@dataclass(frozen=True)
class Place:
    """Where a worker computes.

    Attributes:
        device: ``cpu``, ``cuda:0``, ...
        cores: that it is pinned to; none for all.
    """

    device: str
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.device} on {plural(len(self.cores), 'core')}" if self.cores else self.device


@dataclass
class _Seat(Seat):
    """One on some cores, or on a GPU."""

    place: Place = field(kw_only=True)
    process: BaseProcess | None = None
    connection: Connection | None = None
    heard: float = field(default_factory=time.monotonic)
    waited_for: bool = True


class Processes:
    """A crew of processes; one that dies is started again.

    Args:
        folder: of the job.
        make: the task, in each of them.
        places: one for each.
        patience: seconds without a word after which one is killed.
    """

    def __init__(self, folder: JobFolder, make: MakeTask, places: Sequence[Place], patience: float = PATIENCE) -> None:
        self._folder, self._make, self._patience = folder, make, patience
        self._seats = [_Seat(number, place=place) for number, place in enumerate(places, 1)]
        self._context = get_context("spawn")
        self._last_why = "none was started"

    def __enter__(self) -> Processes:
        for seat in self._seats:
            self._start(seat)
        return self

    def __exit__(self, *_: object) -> None:
        """Each ends when its connection does; one that does not is killed."""
        for seat in self._seats:
            if seat.connection is not None:
                seat.connection.close()
        until = time.monotonic() + _END_WITHIN
        for seat in self._seats:
            if seat.process is not None:
                seat.process.join(max(0.0, until - time.monotonic()))
                if seat.process.is_alive():
                    seat.process.kill()
                    seat.process.join()

    def give(self, worker: str, shard: int) -> None:
        seat = next(seat for seat in self._seats if seat.worker == worker)
        assert seat.connection is not None
        seat.heard, seat.waited_for = time.monotonic(), True
        with suppress(OSError):  # it died meanwhile: the next events say so
            seat.connection.send(shard)

    def events(self) -> Sequence[Event]:
        there = {seat.connection: seat for seat in self._seats if seat.connection is not None}
        if not there:
            raise JobError(f"no worker is left: {self._last_why}\nWhat is done is kept: run the same command again")
        found: list[Event] = []
        while not found:
            for ready in wait(list(there), timeout=1.0):
                assert isinstance(ready, Connection)
                found += self._heard(there[ready])
            found += self._hung()
        return found

    def _start(self, seat: _Seat) -> None:
        seat.connection, theirs = self._context.Pipe()
        seat.process = self._context.Process(
            target=_serve, args=(theirs, seat.worker, self._folder, self._make, seat.place), daemon=True
        )
        seat.process.start()
        theirs.close()
        seat.heard, seat.waited_for = time.monotonic(), True

    def _heard(self, seat: _Seat) -> list[Event]:
        assert seat.connection is not None
        try:
            event: Event = seat.connection.recv()
        except (EOFError, OSError):
            return [self._gone(seat, Left(seat.worker, _ended(seat)))]
        seat.heard = time.monotonic()
        seat.waited_for = not isinstance(event, Joined | Finished | Failed)
        if isinstance(event, Joined):
            seat.began(self._seats)
        if isinstance(event, Finished):
            seat.finished()
        if isinstance(event, Left):
            return [self._gone(seat, event)]
        return [event]

    def _hung(self) -> list[Event]:
        found: list[Event] = []
        for seat in self._seats:
            silent = time.monotonic() - seat.heard
            if seat.connection is not None and seat.waited_for and silent > self._patience:
                assert seat.process is not None
                seat.process.kill()
                found.append(self._gone(seat, Left(seat.worker, f"not a word from it in {silent:,.0f} seconds")))
        return found

    def _gone(self, seat: _Seat, event: Left) -> Left:
        """Clear its place, and fill it again where that may help."""
        assert seat.connection is not None
        assert seat.process is not None
        seat.connection.close()
        seat.process.join(_END_WITHIN)
        if seat.process.is_alive():
            seat.process.kill()
            seat.process.join()
        seat.connection = seat.process = None
        self._last_why = event.why
        if seat.left(event):
            self._start(seat)
        return event


def _ended(seat: _Seat) -> str:
    """Why a process that said nothing is gone."""
    assert seat.process is not None
    seat.process.join(_END_WITHIN)
    code = seat.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was ended by {name}" + (", as the system does when memory is short" if code == -9 else "")
    return f"its process ended with code {code}"


def _serve(connection: Connection, worker: str, folder: JobFolder, make: MakeTask, place: Place) -> None:
    """What a worker's process does, until its connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it ends us
    if place.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    given: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, given), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # the driver is gone
        _work(_Teller(connection, worker), worker, given, lambda: ShardWorker(folder, make, place.device))


def _work(teller: _Teller, worker: str, given: queue.SimpleQueue[int], begin: Callable[[], ShardWorker]) -> None:
    """Compute what is given, until the worker had better go; ends with the process otherwise."""
    try:
        shards = begin()
    except Exception as error:
        teller.tell(Left(worker, said(error)))
        return
    teller.tell(Joined(worker, shards.device))
    while True:
        shard = given.get()
        try:
            entry = shards.compute(shard, teller.done)
        except Exception as error:
            event = trouble(worker, error)
            teller.tell(event)
            if isinstance(event, Left):
                return
        else:
            teller.tell(Finished(worker, entry))


def _listen(connection: Connection, given: queue.SimpleQueue[int]) -> None:
    """Take shards in; when the driver is gone nobody wants them, and another driver may have begun."""
    while True:
        try:
            given.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)


class _Teller:
    """Tells the driver what was computed, now and then."""

    def __init__(self, connection: Connection, worker: str) -> None:
        self._connection, self._worker = connection, worker
        self._lock = threading.Lock()
        self._residues, self._last = 0, 0.0

    def done(self, residues: int) -> None:
        with self._lock:
            self._residues += residues
            if time.monotonic() - self._last > _TELL_EVERY:
                self._flush()

    def tell(self, event: Event) -> None:
        with self._lock:
            self._flush()
            self._connection.send(event)

    def _flush(self) -> None:
        if self._residues:
            self._connection.send(Computed(self._worker, self._residues))
        self._residues, self._last = 0, time.monotonic()
