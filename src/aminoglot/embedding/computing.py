"""A plan's shards computed: in this process or by workers, all of them or one slice's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from aminoglot.embedding.cluster import Cluster
from aminoglot.embedding.options import Options
from aminoglot.embedding.places import places
from aminoglot.embedding.setup import make, processor
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model
from aminoglot.errors import AminoglotError, plural
from aminoglot.jobs import JobFolder, Manifest, Plan, Task, run
from aminoglot.jobs.crew import Crew, MakeTask
from aminoglot.jobs.drive import drive
from aminoglot.jobs.processes import Processes
from aminoglot.jobs.ray_crew import RayCrew
from aminoglot.jobs.run import left
from aminoglot.screen import Screen
from aminoglot.settings import Request, Workers


class ModelTask(Task, Protocol):
    """What a model computes for a job.

    Attributes:
        model: the language model.
        request: what of it is asked for.
    """

    @property
    def model(self) -> Model: ...

    @property
    def request(self) -> Request: ...


def compute(
    plan: Plan,
    manifest: Manifest,
    task: ModelTask,
    screen: Screen,
    verb: str,
    hire: Callable[[], Crew] | None = None,
    shards: Iterable[int] | None = None,
) -> tuple[int, float]:
    """Compute the shards that are left.

    Args:
        plan, manifest: the job.
        task: computes them, where no workers do.
        screen: shows progress.
        verb: what that is called.
        hire: workers, called once there is something to compute; None computes in this process.
        shards: which; all unless said.

    Returns:
        How many residues were computed, and the seconds that took.

    Raises:
        JobError: when no worker is left.
        KeyboardInterrupt: after Ctrl-C; the shards that are whole are kept, and it was said how many.
    """
    asked = range(plan.shards) if shards is None else list(shards)
    todo = left(plan, manifest, asked)
    residues = sum(int(task.request.embedded(plan.shard_lengths(shard)).sum()) for shard in todo)
    if len(todo) < len(asked):
        screen.say(f"going on: {len(asked) - len(todo):,} of {plural(len(asked), 'shard')} already done")
    crew = hire() if hire is not None and todo else None
    started = time.monotonic()
    try:
        with screen.progress(verb, residues, "residues") as done:
            if crew is None:
                run(plan, manifest, task, done, todo, processor(task.model.hardware.device))
            else:
                drive(plan, manifest, crew, done, screen.note, todo)
        manifest.keep()
    except BaseException as error:
        with suppress(AminoglotError):  # what stopped the job is what is said
            manifest.keep()
            if isinstance(error, KeyboardInterrupt):
                kept = len(asked) - len(left(plan, manifest, asked))
                whole = f"{kept:,} of {plural(len(asked), 'shard')} done and kept" if kept else "no shard was whole yet"
                screen.say(f"{whole} in {plan.folder.path}")
        raise
    return residues, time.monotonic() - started


def processes(
    folder: JobFolder, making: MakeTask, workers: Workers, device: str, model: Model, screen: Screen
) -> Processes:
    """Workers of this machine, said on the screen.

    Raises:
        InputError: for more than it has room for.
    """
    where = places(workers, device, model)
    screen.say(f"{plural(len(where), 'worker')}: {', '.join(map(str, where))}")
    return Processes(folder, making, where)


def crew(folder: JobFolder, task: EmbeddingTask, options: Options, screen: Screen, cluster: Cluster | None) -> Crew:
    """The workers that options ask for."""
    if cluster is not None:
        screen.say(str(cluster))
        making = partial(make, replace(options, model=_anywhere(options.model), reuse=_anywhere(options.reuse)))
        return RayCrew(cluster.address, folder, making, cluster.count, cluster.each)
    assert options.workers is not None
    found = processes(folder, partial(make, options), options.workers, options.device, task.model, screen)
    if options.reuse is not None:
        screen.say(f"they take what {options.reuse} holds from there")
    return found


def _anywhere(name: str | Path | None) -> str | None:
    """A name of a file or folder, for processes that begin in another; other names of models stay."""
    if name is None:
        return None
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else str(name)
