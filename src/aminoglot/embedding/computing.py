"""A plan's shards computed: in this process or by workers, all of them or one slice's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from aminoglot.embedding.cluster import Cluster, survey
from aminoglot.embedding.options import Options
from aminoglot.embedding.places import places
from aminoglot.embedding.report import Report
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.setup import OF_THE_PROCESSOR, different_from, make, processor, provenance_of, task_of
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model
from aminoglot.errors import AminoglotError, JobError, listing, plural
from aminoglot.jobs import JobFolder, Manifest, Plan, Task, read_plan, run
from aminoglot.jobs.crew import Crew, MakeTask
from aminoglot.jobs.drive import drive
from aminoglot.jobs.processes import Processes
from aminoglot.jobs.ray_crew import RayCrew
from aminoglot.jobs.run import left
from aminoglot.jobs.slices import Slice
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


def compute_slice(folder: JobFolder, options: Options, report: Report) -> None:
    """Compute one slice of a job that was planned; the input is not read.

    Raises:
        JobError: where there is no plan, or this would compute otherwise than was planned.
    """
    assert options.shard is not None
    part = Slice.parse(options.shard)
    planned(folder)
    cluster = survey(options) if options.ray is not None else None
    task = task_of(options, report.note, options.by_workers, cluster.hardware if cluster else None)
    with part.locked(folder):
        plan = read_plan(folder, whole=False)
        as_planned(plan, task, options)
        manifest = part.manifest(folder)
        if options.reuse is not None and not options.by_workers:
            task.reuse = Reuse(Path(options.reuse).expanduser(), plan.provenance)
        try:
            hire = partial(crew, folder, task, options, report, cluster) if options.by_workers else None
            residues, seconds = compute(plan, manifest, task, report, "embedding", hire, part.shards(plan))
        finally:
            if task.reuse is not None:
                task.reuse.close()
        failed = sum(len(entry.failed) for shard, entry in manifest.entries.items() if shard in part.shards(plan))
    trouble = f", {plural(failed, 'protein')} failed" if failed else ""
    report.say(
        f"slice {part}: {plural(len(part.shards(plan)), 'shard')} done, {plural(residues, 'residue')} computed in "
        f"{seconds:,.1f} s{trouble}; when all slices are, --finish writes the output"
    )


def planned(folder: JobFolder) -> JobFolder:
    """The folder, if it has a plan.

    Raises:
        JobError: if not.
    """
    if not folder.planned:
        raise JobError(f"{folder.path}: there is no plan; make one first, by the same command with --plan-only")
    return folder


def as_planned(plan: Plan, task: EmbeddingTask, options: Options, computes: bool = True) -> None:
    """Refuse to compute or to write otherwise than was planned; the input is taken from the plan.

    Args:
        computes: whether this machine does more than write what others computed.

    Raises:
        JobError: naming what differs.
    """
    now = provenance_of(task, options, task.model.digest, plan.provenance["input_sha256"])
    if not computes:
        now |= {key: plan.provenance[key] for key in OF_THE_PROCESSOR}
    if different := different_from(plan.provenance, now):
        raise JobError(
            f"{plan.folder.path} holds the plan of another job:\n{listing(different)}\n"
            "Give the options that it was made with"
        )
