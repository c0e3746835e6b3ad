"""Steps of a job that is computed in slices: one slice, and what must be so before a slice or the end is begun."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aminoglot.embedding.cluster import survey
from aminoglot.embedding.computing import compute, crew
from aminoglot.embedding.options import Options
from aminoglot.embedding.report import Report
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.setup import OF_THE_PROCESSOR, different_from, provenance_of, task_of
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.errors import JobError, listing, plural
from aminoglot.jobs import JobFolder, Plan, read_plan
from aminoglot.jobs.slices import Slice


def compute_slice(folder: JobFolder, options: Options, report: Report) -> None:
    """Compute one slice of a job that was planned; the input is not read.

    Raises:
        JobError: where there is no plan, or this would compute otherwise than was planned.
    """
    assert options.shard is not None
    part = Slice.parse(options.shard)
    planned(folder)
    cluster = survey(options, report.note) if options.ray is not None else None
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
