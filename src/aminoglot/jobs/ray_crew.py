"""Workers as actors of a Ray cluster: Ray starts them where there is room, the job's engine stays our own.

Ray's own retries are off: it would not know which shard is to blame, nor try it elsewhere.
"""

from __future__ import annotations

import os
import queue
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from aminoglot.errors import DependencyError, InputError, JobError, reason
from aminoglot.jobs.crew import Computed, Event, Failed, Finished, Joined, Left, MakeTask
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.processes import PATIENCE
from aminoglot.jobs.seats import Seat
from aminoglot.jobs.worker import ShardWorker, trouble, without_addresses

_WAIT = 1.0
_KNOCK = 15.0
_LEAVE = 5.0
_TELL_EVERY = 2.0
"""Seconds between what an actor says of a shard it is at."""
_begun: str | None = None
"""The cluster that this process is a driver of by our doing."""
_has_had_its_own = False
"""Whether Ray was set up in this process for a cluster of our own; it reads that once."""
_OBJECTS = 100_000_000
"""Bytes that a cluster of our own sets aside for what its actors pass on, which is next to nothing."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # answers a warning about GPUs
}
"""Set them yourself to override."""
_OF_OUR_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""A cluster of one machine, on any system: its ports are the loopback's, and ask for a token (from Ray 2.52 on)."""


@dataclass(frozen=True)
class Resources:
    """What one worker takes of the cluster.

    Attributes:
        device: ``cpu`` or ``cuda``.
        cores: of its machine.
        gpus: of its machine.
    """

    device: str
    cores: int
    gpus: int = 0


@dataclass
class _Seat(Seat):
    """One that Ray is asked to fill.

    Attributes:
        actor: its worker.
        asked: what Ray was asked for last; a shard answers more than once. None while nothing is asked.
        placed: whether Ray has found room for it.
        since: when it was asked, or last said something.
    """

    actor: Any = None
    asked: Any = None
    placed: bool = False
    since: float = field(default_factory=time.monotonic)


class RayCrew:
    """A crew of actors; one that dies is asked for again, and waits until the cluster has room for it.

    Args:
        address: of the cluster, as ray knows it, or ``local`` for one on this machine that ends with the job.
        folder: of the job, on a file system that all machines share or in an object store.
        make: the task, in each of them.
        count: of workers.
        each: what one takes.
        patience: seconds without a word from a worker that computes, after which it is killed.
    """

    def __init__(
        self, address: str, folder: JobFolder, make: MakeTask, count: int, each: Resources, patience: float = PATIENCE
    ) -> None:
        self._ray: Any = None
        self._address, self._folder, self._make, self._each = address, folder, make, each
        self._patience = patience
        self._seats = [_Seat(number) for number in range(1, count + 1)]
        self._last_why, self._anyone, self._looked = "none was", time.monotonic(), 0.0

    def __enter__(self) -> RayCrew:
        self._ray, self._anyone = connect(self._address), time.monotonic()
        options: dict[str, Any] = {"num_cpus": self._each.cores, "num_gpus": self._each.gpus}
        self._actor = self._ray.remote(max_restarts=0, max_task_retries=0, **options)(_Actor)
        for seat in self._seats:
            self._start(seat)
        return self

    def __exit__(self, *_: object) -> None:
        idle = [seat.actor.leave.remote() for seat in self._seats if seat.ready and seat.asked is None]
        if idle:
            self._ray.wait(idle, num_returns=len(idle), timeout=_LEAVE)
        for seat in self._seats:
            self._kill(seat)

    def give(self, worker: str, shard: int) -> None:
        seat = next(seat for seat in self._seats if seat.worker == worker)
        seat.asked = seat.actor.compute.remote(shard)  # a generator, for it yields
        seat.since = time.monotonic()

    def events(self) -> Sequence[Event]:
        found: list[Event] = []
        while not found:
            waiting = {seat.asked: seat for seat in self._seats if seat.asked is not None}
            if not waiting:
                raise JobError(f"no worker is left: {self._last_why}\nWhat is done is kept: run the same command again")
            ready, rest = self._ray.wait(list(waiting), num_returns=1, timeout=_WAIT)
            if ready and rest:  # looking through many is the dear part: take all that answered
                ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            for asked in ready:
                found += self._heard(waiting[asked])
            found += self._hung()
        return found

    def _start(self, seat: _Seat) -> None:
        seat.actor = self._actor.remote(self._folder, self._make, self._each.device)
        seat.asked, seat.since, seat.placed = seat.actor.here.remote(), time.monotonic(), False

    def _heard(self, seat: _Seat) -> list[Event]:
        """What came of what a worker was asked."""
        asked, seat.asked = seat.asked, None
        try:
            answer = self._ray.get(next(asked) if seat.ready else asked)
        except self._ray.exceptions.RayTaskError as error:
            event = trouble(seat.worker, error.cause)
            if seat.ready and isinstance(event, Failed):
                return [event]
            return [self._gone(seat, event if isinstance(event, Left) else Left(seat.worker, event.why))]
        except self._ray.exceptions.RayError as error:
            why, blames = self._lost(error)
            return [self._gone(seat, Left(seat.worker, why, blames))]
        if not seat.placed:
            seat.asked, seat.since, seat.placed = seat.actor.device.remote(), time.monotonic(), True
            return []
        if not seat.ready:
            seat.began(self._seats)
            return [Joined(seat.worker, answer)]
        residues, entry = answer
        if entry is not None:
            seat.finished()
            return [Computed(seat.worker, residues), Finished(seat.worker, entry)]
        seat.asked, seat.since = asked, time.monotonic()  # there is more to come
        return [Computed(seat.worker, residues)]

    def _lost(self, error: Any) -> tuple[str, bool]:
        """Why a worker is gone, in our own words, for Ray's name addresses; and whether its shard may be to blame."""
        kinds, said = self._ray.exceptions, str(error)
        if getattr(error, "preempted", False) or "node has died" in said or "node was" in said:
            return "its machine is gone", False
        if isinstance(error, kinds.OutOfMemoryError):
            return "its machine was short of memory, and Ray ended it", True
        if isinstance(error, kinds.ActorUnavailableError):
            return "it cannot be reached any more", False
        if getattr(error, "actor_init_failed", False):
            return f"it could not begin: {cleaned(error)}", True
        return "its process ended; where memory is short, the system does that", True

    def _hung(self) -> list[Event]:
        """Workers that say nothing. Those that Ray has no room for may wait, as long as there is any other.

        Raises:
            JobError: when there was none for too long.
        """
        now = time.monotonic()
        if now - self._looked < _WAIT:
            return []
        self._looked = now
        if any(seat.placed for seat in self._seats):
            self._anyone = now
        elif now - self._anyone > self._patience:
            raise JobError(
                f"the cluster has had room for no worker for {self._patience:,.0f} seconds; "
                f"the last that was gone: {self._last_why}"
            )
        return [
            self._gone(seat, Left(seat.worker, f"not a word from it in {now - seat.since:,.0f} seconds"))
            for seat in self._seats
            if seat.asked is not None and seat.placed and now - seat.since > self._patience
        ]

    def _gone(self, seat: _Seat, event: Left) -> Left:
        self._kill(seat)
        self._last_why, seat.placed = event.why, False
        if seat.left(event):
            self._start(seat)
        return event

    def _kill(self, seat: _Seat) -> None:
        if seat.actor is not None and self._ray.is_initialized():
            self._ray.kill(seat.actor)
        seat.actor = seat.asked = None


class _Actor:
    """One worker, in a process of Ray's."""

    def __init__(self, folder: JobFolder, make: MakeTask, device: str) -> None:
        self._asked, self._stay = (folder, make, device), ExitStack()

    def here(self) -> None:
        """Say that there was room."""

    def device(self) -> str:
        """Begin, which may fail; in what an actor is made of Ray would hide why."""
        folder, make, device = self._asked
        self._worker = ShardWorker(self._stay.enter_context(folder.visited()), make, device)
        return self._worker.device

    def compute(self, shard: int) -> Iterator[tuple[int, Entry | None]]:
        """Compute and write a shard: now and then the residues computed since the last word, and what it wrote last."""
        told: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(1) as computing:
            made = computing.submit(self._worker.compute, shard, told.put)
            made.add_done_callback(lambda _: told.put(None))
            residues, last = 0, time.monotonic()
            while (more := told.get()) is not None:
                residues += more
                if time.monotonic() - last > _TELL_EVERY:
                    yield residues, None
                    residues, last = 0, time.monotonic()
        yield residues, made.result()

    def leave(self) -> None:
        """Clear away what it kept on its machine."""
        self._stay.close()


def connect(address: str) -> Any:
    """Be a driver of the cluster, until :func:`leave`; of one on this machine without a dashboard, which is a server.

    Raises:
        InputError: for an address of Ray's client.
        JobError: when there is no such cluster, or this process was set up for another.
        DependencyError: without ray.
    """
    global _begun, _has_had_its_own
    if address == _begun:
        return ray()
    if address.startswith("ray://"):
        raise InputError(
            "--ray: Ray's client (ray://...) does not tell how far a shard is; run aminoglot on a machine of the "
            "cluster, with the address that `ray start` named, or with auto"
        )
    if _has_had_its_own and address != "local":
        raise JobError("this process has had a Ray cluster of its own; go to another in a new process")
    if "ray" in sys.modules and address == "local" and not _has_had_its_own:
        raise JobError(
            "Ray is in use in this process already, so that its ports cannot be kept to this machine: run aminoglot "
            "in a process of its own, or give the address of your cluster instead of local"
        )
    if "ray" not in sys.modules:  # it reads them when it is imported
        settings = _SETTINGS | (_OF_OUR_OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if address == "local" else {})
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        _has_had_its_own = address == "local"
    found = ray()
    if found.is_initialized():  # by whoever called us; it is theirs to end
        return found
    _answers(address)
    ends = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    asked: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    try:
        if address == "local":
            found.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                **asked,
            )
        else:
            found.init(address=address, **asked)
    except ConnectionError:
        raise JobError("no Ray cluster answers where --ray says") from None
    except (RuntimeError, ValueError, OSError, found.exceptions.RayError) as error:
        said = cleaned(error).replace(address, "...")
        raise JobError(f"no Ray cluster answers where --ray says: {said}") from None
    _begun = address
    with suppress(ValueError):  # not in the main thread
        for number, handler in ends:
            signal.signal(number, handler)  # Ray's own would end us without a word
    quiet()
    return found


def leave() -> None:
    """End what :func:`connect` began: a cluster of our own, or being a driver of another."""
    global _begun
    if _begun is not None:
        ray().shutdown()
        _begun = None


def quiet() -> None:
    """Keep Ray from printing what befell a worker, with its address; we say it ourselves, in our own words."""
    with suppress(ImportError):
        from ray._private import worker

        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = lambda *_, **__: None


def _answers(address: str) -> None:
    """Knock first: Ray itself would wait for minutes. Names that are no host and port are left to it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=_KNOCK).close()
        except OSError as error:
            raise JobError(f"no Ray cluster answers where --ray says ({reason(error)})") from None


def ray() -> Any:
    """The package.

    Raises:
        DependencyError: when it is not installed.
    """
    try:
        import ray as found
    except ImportError as error:
        raise DependencyError("--ray needs ray: pip install 'aminoglot[ray]'") from error
    return found


def cleaned(error: BaseException) -> str:
    """The last line of what Ray or Python says, which names the cause, without colours and addresses."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return without_addresses(said)[:200]
