"""Who computes shards when it is not this process: what is asked of workers, and what is heard from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aminoglot.jobs.manifest import Entry
from aminoglot.jobs.task import Task

MakeTask = Callable[[Mapping[str, Any], str], tuple[Task, str]]
"""From a plan's provenance and a device to the task, and the kind of processor that computes it, in words.

It is called in the worker, and must refuse to compute otherwise than the plan says.
It travels to other processes and machines, so it is a function of a module, or a partial of one.
"""


@dataclass(frozen=True)
class Joined:
    """A worker is ready.

    Attributes:
        worker: its name; who takes the place of one that is gone has the same.
        device: the kind of processor it computes on, in words.
    """

    worker: str
    device: str


@dataclass(frozen=True)
class Computed:
    """A worker has computed some residues of its shard."""

    worker: str
    residues: int


@dataclass(frozen=True)
class Finished:
    """A worker has written its shard."""

    worker: str
    entry: Entry


@dataclass(frozen=True)
class Failed:
    """A worker could not compute its shard, and is ready for another."""

    worker: str
    why: str


@dataclass(frozen=True)
class Left:
    """A worker is gone.

    Attributes:
        why: in words, without addresses.
        blames: whether its shard may be to blame; a full disk or a machine that was taken away is no shard's fault.
        again: whether another may do better in its place; on a full disk none would.
        unwritten: whether it went because it could not write.
    """

    worker: str
    why: str
    blames: bool = True
    again: bool = True
    unwritten: bool = False


Event = Joined | Computed | Finished | Failed | Left


class Crew(Protocol):
    """Workers that come, compute what they are given, and go; each has at most one shard."""

    def __enter__(self) -> Crew:
        """Start them."""
        ...

    def __exit__(self, *_: object) -> None:
        """End them all, whatever they do."""
        ...

    def give(self, worker: str, shard: int) -> None:
        """Let a worker that has none compute a shard."""
        ...

    def events(self) -> Sequence[Event]:
        """What happened since the last call; waits until something has.

        Raises:
            JobError: when no worker is left and none can be started.
        """
        ...
