"""The whole job: input, plan, shards, audit, export. ``aminoglot.embed`` and ``aminoglot embed`` both end up here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.checkpoints import named, resolve
from aminoglot.checkpoints.checkpoint import HEAD_NOTES
from aminoglot.embedding import report as reporting
from aminoglot.embedding.estimate import estimate
from aminoglot.embedding.export import export, outputs, table_path
from aminoglot.embedding.formats import check_names, check_suffix, is_ours, reader
from aminoglot.embedding.options import Options
from aminoglot.embedding.report import Report
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.store import verify
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model, choose
from aminoglot.errors import AminoglotError, JobError, OutputError, listing, plural
from aminoglot.jobs import Audit, JobFolder, Manifest, Plan, Policy, Status, audit, changes, make_plan, read_plan, run
from aminoglot.jobs.run import left
from aminoglot.jobs.storage import READ_ONLY
from aminoglot.sequences import Columns, Reader, Source, input_digest, sources
from aminoglot.version import __version__

_LONGEST_NAME = 220


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a job came to.

    Attributes:
        files: what it wrote, the table of proteins last; empty for a dry run.
        audit: the account; None for a dry run and for an output that was complete already.
        complete: whether every protein that should be written is. What the user chose to leave out does not count
            against it, bad records do.
    """

    files: tuple[Path, ...]
    audit: Audit | None
    complete: bool

    def __repr__(self) -> str:
        files = ", ".join(map(str, self.files)) or "no file"
        account = self.audit or "nothing computed"
        return f"<aminoglot.Outcome {files}: {account}; {'complete' if self.complete else 'not complete'}>"


def embed(inputs: Sequence[str | Path], output: str | Path, options: Options, report: Report | None = None) -> Outcome:
    """Embed files of proteins into one file, or go on where an interrupted run of the same job stopped.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    report = report or Report()
    output = Path(output).expanduser()
    check_suffix(output)
    options = replace(options, model=named(options.model, report.note))
    if output.name in ("", ".."):
        raise OutputError(f"{str(output)!r} names no file to write")
    if len(os.fsencode(output.name)) > _LONGEST_NAME:
        raise OutputError(f"{output}: the name is too long for those that will lie beside it; take a shorter one")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: there is no folder {output.parent}")
    if options.dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            return _Job(inputs, output, options, report, JobFolder(Path(temporary) / output.name)).run()
    return _Job(inputs, output, options, report, JobFolder(output)).run()


class _Job:
    def __init__(
        self, inputs: Sequence[str | Path], output: Path, options: Options, report: Report, folder: JobFolder
    ) -> None:
        self.inputs, self.output, self.options, self.report, self.folder = inputs, output, options, report, folder
        self.files = [*outputs(output, options.per), table_path(output)]
        others = [JobFolder(path) for path in outputs(folder.output, options.per) if path != folder.output]
        self.folders = [folder, *others]

    def run(self) -> Outcome:
        with ExitStack() as locks:
            read_only = self._lock(locks)
            ours = [*self.files, *(folder.path for folder in self.folders)]
            found, notes = sources(self.inputs, self.folder.stdin, ours)
            for path in self.files:
                if path.exists() and any(path.samefile(source.path) for source in found):
                    raise OutputError(f"{path}: this is the input; give the output another name with -o")
            task = self._task()
            if self.options.dry_run:
                plan = self._plan(found, notes, task, self._provenance(task, "", ""))
                self._check(plan, task, list(range(plan.shards)))
                for path in (*self.files[:-1], JobFolder(self.output).plan):
                    if path.exists():
                        self.report.note(
                            f"{path} exists: a run goes on or verifies it, or refuses if it is another job"
                        )
                self.report.say("dry run: nothing was computed or written")
                self.folder.clear()
                return Outcome((), None, complete=True)
            digest = input_digest(found)
            provenance = self._provenance(task, task.model.digest, digest)
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
                return self._compute(plan, task)
            finally:
                if task.reuse is not None:
                    task.reuse.close()

    def _lock(self, locks: ExitStack) -> OutputError | None:
        """Hold the folders of all outputs: another run may be named after one of two that this one writes.

        Returns:
            Why nothing can be written, where an output that is there already can still be verified.
        """
        try:
            for folder in self.folders:
                locks.enter_context(folder.locked())
        except OutputError as error:
            said = error.__cause__
            if isinstance(said, OSError) and said.errno in READ_ONLY and any(path.exists() for path in self.files):
                return error
            raise
        return None

    def _task(self) -> EmbeddingTask:
        options = self.options
        hardware = choose(options.device, options.precision, options.backend)
        assert options.model is not None
        checkpoint = resolve(options.model)
        for note in checkpoint.notes:
            if not note.startswith(HEAD_NOTES):  # embedding needs no head
                self.report.note(note)
        model = Model(checkpoint, hardware)
        request = model.request(options.per, options.layer, options.pool, options.long)
        return EmbeddingTask(model, request, np.dtype(options.dtype))

    def _provenance(self, task: EmbeddingTask, model_digest: str, digest: str) -> dict[str, Any]:
        """What the output says of its making: all that decides the results, and no times, hosts or paths."""
        model, request, options = task.model, task.request, self.options
        name = options.model or ""
        return {
            "aminoglot": __version__,
            "torch": torch.__version__,
            "openvino": version("openvino") if model.hardware.backend == "openvino" else None,
            "model": Path(name).name if Path(name).expanduser().exists() else name,
            "model_digest": model_digest,
            "token_dropout": getattr(model.config, "token_dropout", None),
            "per": request.per,
            "layers": list(request.layers),
            "several_layers": request.several,
            "pool": request.pool,
            "long": request.long,
            "limit": request.limit,
            "precision": model.hardware.precision,
            "device": model.hardware.kind,
            "backend": model.hardware.backend,
            "hidden": model.config.hidden,
            "dtype": task.dtype.name,
            "token_budget": model.budget,
            "input_sha256": digest,
            "bad_records": options.bad_records,
            "duplicates": options.duplicates,
            "id_column": options.id_column,
            "sequence_column": options.sequence_column,
        }

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
        return Outcome(tuple(files), None, complete=not bad)

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
        different = _changes(plan.provenance, provenance)
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
        if self.options.reuse is None:  # how much of it an older file holds is not known yet
            self.report.estimate(estimate(plan, task, todo))

    def _compute(self, plan: Plan, task: EmbeddingTask) -> Outcome:
        manifest = Manifest(self.folder.manifest)
        todo = left(plan, manifest)
        residues = sum(int(task.request.embedded(plan.shard_lengths(shard)).sum()) for shard in todo)
        try:
            self._check(plan, task, todo)
        except OutputError:
            if len(todo) == plan.shards:
                self.folder.clear()  # nothing was computed: the next run may have other options
            raise
        if len(todo) < plan.shards:
            self.report.say(f"going on: {plan.shards - len(todo):,} of {plural(plan.shards, 'shard')} already done")
        started = time.monotonic()
        try:
            with self.report.progress("embedding", residues, "residues") as done:
                run(plan, manifest, task, done)
        except KeyboardInterrupt:
            kept = plan.shards - len(left(plan, manifest))
            whole = f"{kept:,} of {plural(plan.shards, 'shard')} done and kept" if kept else "no shard was whole yet"
            self.report.say(f"{whole} in {self.folder.path}")
            raise
        seconds = time.monotonic() - started
        account = audit(plan, manifest)
        with self.report.progress("writing", account.records, "records") as done:
            files = export(plan, account, self.output, task.request, task.dtype, task.model.config.hidden, done)
        if account.failed:
            self.report.failures(plan, account)
        reused = task.reuse.residues if task.reuse else 0
        if task.reuse is not None:
            self.report.say(f"{plural(reused, 'residue')} taken from {self.options.reuse}")
        self.report.summary(account, files, residues - reused, seconds)
        if not account.failed:
            self.folder.remove()
        return Outcome(tuple(files), account, complete=not account.failed and not plan.counts["bad"])


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What sets two jobs apart; not the name of the model, which its digest stands for."""
    return changes(before, now, now.keys() - {"model"})


def _as_before(different: Sequence[str]) -> str:
    """What to add where the backend differs: it may have been installed since, and auto takes it."""
    backends = [line for line in different if line.startswith("backend: ")]
    return f"keep to it with --backend {backends[0].split()[1]}, " if backends else ""


def _different(path: Path, provenance: Mapping[str, Any]) -> list[str]:
    """What sets an existing file apart from the job's own output."""
    with reader(path) as store:
        if not store.provenance:
            return [f"{path} was not written by aminoglot"]
        return _changes(store.provenance, provenance)
