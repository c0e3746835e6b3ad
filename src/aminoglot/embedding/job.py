"""The whole job: input, plan, shards, audit, export. ``aminoglot.embed`` and ``aminoglot embed`` both end up here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aminoglot.checkpoints import named
from aminoglot.embedding import report as reporting
from aminoglot.embedding.cluster import Cluster, on_ray, survey
from aminoglot.embedding.computing import compute, crew
from aminoglot.embedding.estimate import estimate
from aminoglot.embedding.export import export, outputs, table_path
from aminoglot.embedding.formats import check_names, check_suffix, is_ours, reader
from aminoglot.embedding.options import Options
from aminoglot.embedding.places import places
from aminoglot.embedding.report import Report
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.setup import OF_THE_PROCESSOR, different_from, provenance_of, task_of
from aminoglot.embedding.slices import as_planned, compute_slice, planned
from aminoglot.embedding.store import verify
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.errors import AminoglotError, InputError, JobError, OutputError, listing, plural
from aminoglot.jobs import Audit, JobFolder, Manifest, Plan, Policy, Status, audit, make_plan, read_plan
from aminoglot.jobs.drive import WITHIN_THE_PRECISION
from aminoglot.jobs.run import left
from aminoglot.jobs.slices import lost
from aminoglot.jobs.storage import READ_ONLY
from aminoglot.jobs.stored import SCRATCH, StoredFolder
from aminoglot.object_store import is_stored
from aminoglot.sequences import Columns, Reader, Source, input_digest, sources

_LONGEST_NAME = 220


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a job came to.

    Attributes:
        files: what it wrote, the table of proteins last; empty for a dry run.
        audit: the account; None for a dry run and for an output that was complete already.
        complete: whether every protein that should be written is. What the user chose to leave out does not count
            against it, bad records do.
        objects: addresses of what it wrote, where that is in an object store; there are no files then.
    """

    files: tuple[Path, ...]
    audit: Audit | None
    complete: bool
    objects: tuple[str, ...] = ()

    def __repr__(self) -> str:
        files = ", ".join([*map(str, self.files), *self.objects]) or "no file"
        account = self.audit or "nothing computed"
        return f"<aminoglot.Outcome {files}: {account}; {'complete' if self.complete else 'not complete'}>"


def embed(inputs: Sequence[str | Path], output: str | Path, options: Options, report: Report | None = None) -> Outcome:
    """Embed files of proteins into one file, or go on where an interrupted run of the same job stopped.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    report = report or Report()
    folder = _folder(output, options)
    report.worded = folder.said
    try:
        if options.ray is not None:
            with on_ray():
                return _embed(inputs, folder, options, report)
        return _embed(inputs, folder, options, report)
    except AminoglotError as error:
        if (said := folder.said(str(error))) == str(error):
            raise
        raise type(error)(said) from error


def _folder(output: str | Path, options: Options) -> JobFolder:
    if Path(output).name in ("", ".."):
        raise OutputError(f"{str(output)!r} names no file to write")
    if "://" in str(output) and not is_stored(output):
        raise InputError(f"{output}: of stores only s3://... is known")
    if is_stored(output):
        scratch = Path(options.scratch or SCRATCH)
        return StoredFolder(str(output), scratch if str(scratch).startswith("~") else scratch.absolute())
    if options.scratch is not None:
        raise InputError("scratch: files lie beside the output, unless that is an object (s3://...)")
    return JobFolder(Path(output).expanduser())


def _embed(inputs: Sequence[str | Path], folder: JobFolder, options: Options, report: Report) -> Outcome:
    output = folder.output
    check_suffix(output)
    options = replace(options, model=named(options.model, report.note))
    if len(os.fsencode(output.name)) > _LONGEST_NAME:
        raise OutputError(f"{output}: the name is too long for those that will lie beside it; take a shorter one")
    if not output.parent.is_dir() and not isinstance(folder, StoredFolder):
        raise OutputError(f"{output}: there is no folder {output.parent}")
    if inputs and (options.shard is not None or options.finish):
        report.note("the input is not read in this step: what was planned is taken")
    if options.shard is not None:
        with folder.visited() as here:
            return _Job(inputs, here.output, options, report, here).slice()
    if options.finish:
        return _Job(inputs, output, options, report, folder).finish()
    if options.dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            trial = JobFolder(Path(temporary) / output.name)
            return _Job(inputs, output, options, report, trial).run(folder.existing)
    return _Job(inputs, output, options, report, folder).run()


class _Job:
    def __init__(
        self, inputs: Sequence[str | Path], output: Path, options: Options, report: Report, folder: JobFolder
    ) -> None:
        self.inputs, self.output, self.options, self.report, self.folder = inputs, output, options, report, folder
        self.files = [*outputs(output, options.per), table_path(output)]
        others = [JobFolder(path) for path in outputs(folder.output, options.per) if path != folder.output]
        self.folders = [folder, *others]
        self.cluster: Cluster | None = None

    def run(self, existing: Callable[[Sequence[Path]], list[Path]] = lambda _: []) -> Outcome:
        """Everything; of a dry run, which has another folder, ``existing`` says what is there already."""
        with ExitStack() as locks:
            read_only = self._lock(locks)
            ours = [*self.files, *(folder.path for folder in self.folders)]
            found, notes = sources(self.inputs, self.folder.stdin, ours)
            for path in self.files:
                if path.exists() and any(path.samefile(source.path) for source in found):
                    raise OutputError(f"{path}: this is the input; give the output another name with -o")
            task = self._task(lazily=self.options.by_workers or self.options.plan_only)
            if self.options.dry_run:
                plan = self._plan(found, notes, task, provenance_of(task, self.options, "", ""))
                self._check(plan, task, list(range(plan.shards)))
                for path in existing(self.files[:-1]):
                    self.report.note(f"{path} exists: a run goes on or verifies it, or refuses if it is another job")
                self.report.say("dry run: nothing was computed or written")
                self.folder.clear()
                return Outcome((), None, complete=True)
            digest = input_digest(found)
            provenance = provenance_of(task, self.options, task.model.digest, digest)
            self.folder.collect(self.files)
            finished = self._finished(provenance)
            if finished is not None:
                if read_only is None:
                    self.folder.clear()
                return finished
            if read_only is not None:
                raise read_only
            if self.options.reuse is not None:
                task.reuse = Reuse(Path(self.options.reuse).expanduser(), provenance)
            try:
                plan = self._resumed(provenance) or self._plan(found, notes, task, provenance)
                manifest = self._begin(plan, task)
                if self.options.plan_only:
                    self.report.say(f"planned: {plural(plan.shards, 'shard')}; compute them with --shard 1/N to N/N")
                    return Outcome((), None, complete=True)
                hire = partial(crew, self.folder, task, self.options, self.report, self.cluster)
                computed = compute(
                    plan, manifest, task, self.report, "embedding", hire if self.options.by_workers else None
                )
                return self._finish(plan, manifest, task, *computed)
            finally:
                if task.reuse is not None:
                    task.reuse.close()

    def _task(self, lazily: bool) -> EmbeddingTask:
        if self.options.ray is not None:
            self.cluster = survey(self.options, self.report.note)
        task = task_of(self.options, self.report.note, lazily, self.cluster.hardware if self.cluster else None)
        if self.options.workers is not None and self.cluster is None:
            places(self.options.workers, self.options.device, task.model)  # refuses before anything is planned
        return task

    def _lock(self, locks: ExitStack) -> OutputError | None:
        """Hold the folders of all outputs: another run may be named after one of two that this one writes.

        Returns:
            Why nothing can be written, where an output that is there already can still be verified.
        """
        try:
            for folder in self.folders:
                locks.enter_context(folder.locked())
            locks.callback(self.folder.forget, self.files)
        except OutputError as error:
            said = error.__cause__
            if isinstance(said, OSError) and said.errno in READ_ONLY and any(path.exists() for path in self.files):
                return error
            raise
        return None

    def _finished(self, provenance: Mapping[str, Any]) -> Outcome | None:
        """Whether the output is there already: verified, it is done; different, it is refused or given up."""
        files = [path for path in self.files[:-1] if path.exists()]
        for path in files:
            if path.is_dir() and any(path.iterdir()) and not is_ours(path):
                raise OutputError(f"{path}: a folder with something else in it; give this run another -o")
        if not files:
            return None
        try:
            different = [line for path in files for line in _different(path, provenance)]
            if different and not self.options.overwrite:
                raise JobError(
                    f"{files[0]} exists and is the result of something else:\n{listing(different)}\n"
                    f"Give this run another -o, {_as_before(different)}or replace it with --overwrite"
                )
            if different or (self.folder.planned and not self.options.overwrite):
                return None
            return self._verified(self.files)
        except AminoglotError:
            if not self.options.overwrite:
                raise
            return None

    def _verified(self, files: Sequence[Path]) -> Outcome:
        """What a finished job left, held against its own account."""
        missing = [str(path) for path in files if not path.exists()]
        if missing:
            raise JobError(f"{', '.join(missing)} is gone; run with --overwrite to compute it again")
        counts = [verify(path, files[-1]) for path in files[:-1]]
        with reader(files[0]) as store:
            failed, bad = store.provenance.get("failed"), store.provenance.get("bad")
        if failed:
            raise JobError(f"{files[0]}: {plural(failed, 'protein')} failed in it; run with --overwrite to try again")
        self.report.say(f"{self.output} is complete already: {plural(counts[0], 'protein')}, verified")
        return self._made(files, None, complete=not bad)

    def _resumed(self, provenance: Mapping[str, Any]) -> Plan | None:
        if not self.folder.planned:
            return None
        if self.options.overwrite:
            try:
                plan = read_plan(self.folder)
            except JobError:
                return None
        else:
            plan = read_plan(self.folder)
        different = different_from(plan.provenance, provenance)
        if not different:
            return plan
        if self.options.overwrite:
            return None
        raise JobError(
            f"{self.folder.path} holds an unfinished job that is not this one:\n{listing(different)}\n"
            f"Run it as before, {_as_before(different)}give this run another -o, or drop it with --overwrite"
        )

    def _plan(
        self,
        found: Sequence[Source],
        notes: list[str],
        task: EmbeddingTask,
        provenance: Mapping[str, Any],
    ) -> Plan:
        options, limit = self.options, task.request.limit
        policy = Policy(
            options.bad_records,
            options.duplicates,
            refuse_over=limit if options.long == "error" else None,
            skip_over=limit if options.long == "skip" else None,
        )
        reader = Reader(found, Columns(options.id_column, options.sequence_column), notes)
        return make_plan(self.folder, reader, task, policy, provenance, notes)

    def _check(self, plan: Plan, task: EmbeddingTask, todo: Sequence[int]) -> None:
        """Say what will be done, and refuse what cannot end well."""
        check_names(self.output, (name for name, _ in plan.named(np.flatnonzero(plan.status == Status.WRITTEN))))
        need = reporting.expected_bytes(plan, task)
        self.report.plan(plan, task, need)
        computed = sum(int(task.output(plan.shard_lengths(shard)).sum()) for shard in todo)
        reporting.check_room(self.output, need, computed * task.dtype.itemsize // 4)
        options = self.options  # how much an older file holds is not known yet, and workers are not timed here
        if options.reuse is None and not options.by_workers and not options.plan_only:
            self.report.estimate(estimate(plan, task, todo))

    def _begin(self, plan: Plan, task: EmbeddingTask) -> Manifest:
        """The job's record, once it is said what will be done."""
        manifest = Manifest.of(self.folder)
        todo = left(plan, manifest)
        try:
            self._check(plan, task, todo)
        except OutputError:
            if len(todo) == plan.shards:
                self.folder.clear()  # nothing was computed: the next run may have other options
            raise
        return manifest

    def _finish(self, plan: Plan, manifest: Manifest, task: EmbeddingTask, residues: int, seconds: float) -> Outcome:
        """Audit and export."""
        account = audit(plan, manifest)
        with self.report.progress("writing", account.records, "records") as done:
            files = export(plan, account, self.output, task.request, task.dtype, task.model.config.hidden, done)
        if account.failed:
            self.report.failures(plan, account)
        kinds = sorted({entry.device for entry in manifest.entries.values() if entry.device})
        if len(kinds) > 1:
            self.report.note(f"computed on {' and '.join(kinds)}: {WITHIN_THE_PRECISION}")
        reused = task.reuse.residues if task.reuse else 0
        if reused:
            self.report.say(f"{plural(reused, 'residue')} taken from {self.options.reuse}")
        self.folder.deliver(files)
        self.report.summary(account, files, residues - reused, seconds)
        if not account.failed:
            self.folder.remove()
        return self._made(files, account, complete=not account.failed and not plan.counts["bad"])

    def _made(self, files: Sequence[Path], account: Audit | None, complete: bool) -> Outcome:
        """What there is now, under the names that the user gave."""
        if isinstance(self.folder, StoredFolder):
            return Outcome((), account, complete, tuple(self.folder.said(str(path)) for path in files))
        return Outcome(tuple(files), account, complete)

    def finish(self) -> Outcome:
        """Write the output of a job whose slices are computed; the input is not read."""
        with ExitStack() as locks:
            self._lock(locks)
            task = self._writing()
            if (written := self._written(task)) is not None:
                return written
            plan = read_plan(planned(self.folder))
            as_planned(plan, task, self.options, computes=False)
            manifest = Manifest.of(self.folder)
            if (missing := lost(plan, manifest)) is not None:
                raise JobError(f"{self.folder.path}: {missing}")
            return self._finish(plan, manifest, task, 0, 0.0)

    def slice(self) -> Outcome:
        """Compute a slice; none where the output is written already."""
        if not self.folder.planned and (written := self._written(self._writing())) is not None:
            return written
        compute_slice(self.folder, self.options, self.report)
        return Outcome((), None, complete=True)

    def _writing(self) -> EmbeddingTask:
        """The task where it only says what is to be written: on any machine, then, whatever computes."""
        options = replace(self.options, device="cpu", precision="auto", backend="auto")
        return task_of(options, self.report.note, lazily=True)

    def _written(self, task: EmbeddingTask) -> Outcome | None:
        """Whether the output is there, the folder is gone, and they are of these options: a step that was repeated."""
        self.folder.collect(self.files)
        if self.folder.planned or not all(path.exists() for path in self.files):
            return None
        with reader(self.files[0]) as store:
            held = store.provenance
        now = provenance_of(task, self.options, task.model.digest, "")
        taken = {key: held.get(key) for key in ("input_sha256", *OF_THE_PROCESSOR)}
        if different := different_from(held, now | taken):
            raise JobError(f"{self.files[0]} exists and is the result of something else:\n{listing(different)}")
        return self._verified(self.files)


def _as_before(different: Sequence[str]) -> str:
    """What to add where the backend differs: it may have been installed since, and auto takes it."""
    backends = [line for line in different if line.startswith("backend: ")]
    return f"keep to it with --backend {backends[0].split()[1]}, " if backends else ""


def _different(path: Path, provenance: Mapping[str, Any]) -> list[str]:
    """What sets an existing file apart from the job's own output."""
    with reader(path) as store:
        if not store.provenance:
            return [f"{path} was not written by aminoglot"]
        return different_from(store.provenance, provenance)
