"""A Ray cluster as the place where a job computes: what a worker takes of it, how many fit, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from aminoglot.embedding.options import Options
from aminoglot.engine import choose
from aminoglot.engine.hardware import MOST_LANES, Hardware
from aminoglot.errors import AminoglotError, InputError, JobError, plural
from aminoglot.jobs.ray_crew import Resources, cleaned, connect, leave

_CORES_BESIDE_A_GPU = 4
_PATIENCE = 900.0
"""Seconds that a cluster may take to make room for the first worker; one that grows starts machines."""


@dataclass(frozen=True)
class Cluster:
    """What a job computes on.

    Attributes:
        address: of the cluster, as Ray knows it, or ``local``.
        hardware: of a worker, as one of them chose it.
        each: what a worker takes.
        count: of workers.
        room: for how many there is room now; the others wait.
    """

    address: str
    hardware: Hardware
    each: Resources
    count: int
    room: int

    def __str__(self) -> str:
        takes = f"{plural(self.each.cores, 'core')}{' and a GPU' if self.each.gpus else ''}"
        wait = f"; there is room for {self.room:,} now, others wait for it" if self.room < self.count else ""
        return f"{plural(self.count, 'worker')} on Ray, each with {takes}{wait}"


@contextmanager
def on_ray() -> Iterator[None]:
    """What is begun of Ray inside ends with it."""
    try:
        yield
    finally:
        leave()


def survey(options: Options, note: Callable[[str], None]) -> Cluster:
    """Connect, and let one worker say what it would compute on: this machine may have no such processor.

    Args:
        options: of the job.
        note: told when that must wait for room.

    Raises:
        InputError: for a device that a cluster does not deal in, or workers that it has no room for.
        JobError: when no cluster answers, or it makes no room.
    """
    assert options.ray is not None
    if options.device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {options.device}: with --ray the cluster places the workers; say cpu or cuda")
    ray = connect(options.ray)
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    each, room = _dealt(machines, options)
    if options.workers in (None, "auto") and not room:
        what = "a GPU" if each.gpus else "cores"
        raise InputError(f"the cluster has no machine with {what} now; say how many workers you want with --workers")
    count = options.workers if isinstance(options.workers, int) else room
    if options.ray == "local" and count > room:
        raise InputError(f"--workers {count}: this machine has room for {room}")
    if not room:
        note(f"the cluster has no room for a worker now; it is waited for, {_PATIENCE / 60:.0f} minutes at most")
    return Cluster(options.ray, _asked(ray, options, each), each, count, room)


def _dealt(machines: list[dict[str, float]], options: Options) -> tuple[Resources, int]:
    """What each worker takes of such machines, and for how many there is room."""
    with_gpus = [machine for machine in machines if machine.get("GPU")]
    if options.device == "cuda" or (options.device == "auto" and with_gpus):
        cores = min([_CORES_BESIDE_A_GPU, *(int(machine["CPU"] // machine["GPU"]) for machine in with_gpus)])
        return Resources("cuda", max(1, cores), 1), int(sum(machine["GPU"] for machine in with_gpus))
    smallest = min((int(machine["CPU"]) for machine in machines), default=1)
    cores = max(1, min(MOST_LANES, smallest))
    if options.ray == "local" and isinstance(options.workers, int):  # it will not grow: fewer cores for each
        while cores > 1 and _room(machines, cores) < options.workers:
            cores -= 1
    return Resources("cpu", cores), _room(machines, cores)


def _room(machines: list[dict[str, float]], cores: int) -> int:
    return sum(int(machine["CPU"] // cores) for machine in machines)


def _asked(ray: Any, options: Options, each: Resources) -> Hardware:
    """The hardware that a worker would choose."""
    ask = ray.remote(num_cpus=each.cores, num_gpus=each.gpus, max_retries=3)(_chosen)
    asked = ask.remote(replace(options, device=each.device))
    ready, _ = ray.wait([asked], timeout=_PATIENCE)
    if not ready:
        ray.cancel(asked, force=True)
        gpus = " and a GPU" if each.gpus else ""
        raise JobError(
            f"the cluster made no room for a worker of {plural(each.cores, 'core')}{gpus} in {_PATIENCE:,.0f} seconds"
        )
    try:
        hardware: Hardware = ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AminoglotError):
            raise error.cause from None
        raise JobError(f"a worker of the cluster could not begin: {cleaned(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise JobError(f"a worker of the cluster could not begin: {cleaned(error)}") from error
    return hardware


def _chosen(options: Options) -> Hardware:
    return choose(options.device, options.precision, options.backend)
