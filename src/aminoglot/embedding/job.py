"""The whole job: input, plan, shards, audit, export. ``aminoglot.embed`` and ``aminoglot embed`` both end up here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from aminoglot.checkpoints import resolve
from aminoglot.checkpoints.checkpoint import HEAD_NOTES
from aminoglot.checkpoints.resolve import choices
from aminoglot.embedding import report as reporting
from aminoglot.embedding.export import export, outputs, table_path
from aminoglot.embedding.formats import check_names, check_suffix, is_ours, reader
from aminoglot.embedding.report import Report
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.store import verify
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Long, Model, Per, Pool, PrecisionChoice, choose
from aminoglot.engine.settings import Layer, known
from aminoglot.errors import AminoglotError, InputError, JobError, OutputError, listing, plural
from aminoglot.jobs import Audit, JobFolder, Manifest, Plan, Policy, Status, audit, changes, make_plan, read_plan, run
from aminoglot.jobs.run import left
from aminoglot.jobs.scan import BadRecords, Duplicates
from aminoglot.sequences import Columns, Reader, Source, input_digest, sources
from aminoglot.version import __version__

DType = Literal["float32", "float16"]
_LONGEST_NAME = 220


@dataclass(frozen=True)
class Options:
    """Everything a user may choose; the command line has one flag for each. See ``aminoglot embed --help``."""

    model: str | None = None
    per: Per = "protein"
    layer: Layer = -1
    pool: Pool = "mean"
    long: Long = "truncate"
    precision: PrecisionChoice = "auto"
    device: str = "auto"
    dtype: DType = "float32"
    bad_records: BadRecords = "error"
    duplicates: Duplicates = "error"
    id_column: str | None = None
    sequence_column: str | None = None
    reuse: str | Path | None = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        known("dtype", self.dtype, DType)
        known("bad_records", self.bad_records, BadRecords)
        known("duplicates", self.duplicates, Duplicates)


@dataclass(frozen=True)
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


def embed(inputs: Sequence[str | Path], output: str | Path, options: Options, report: Report | None = None) -> Outcome:
    """Embed files of proteins into one file, or go on where an interrupted run of the same job stopped.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    report = report or Report()
    output = Path(output).expanduser()
    check_suffix(output)
    if options.model is None:
        raise InputError(f"no model was named: add --model. Choose from {choices()}")
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

    def run(self) -> Outcome:
        with self.folder.locked():
            ours = [*outputs(self.output, self.options.per), table_path(self.output), self.folder.path]
            found, notes = sources(self.inputs, self.folder.stdin, ours)
            for path in ours[:-1]:
                if path.exists() and any(path.samefile(source.path) for source in found):
                    raise OutputError(f"{path}: this is the input; give the output another name with -o")
            task = self._task()
            if self.options.dry_run:
                plan = self._plan(found, notes, task, {}, self._provenance(task, "", ""))
                self._check(plan, task, list(range(plan.shards)))
                self.report.say("dry run: nothing was computed or written")
                self.folder.clear()
                return Outcome((), None, complete=True)
            digest = input_digest(found)
            provenance = self._provenance(task, task.model.digest, digest)
            fingerprint = self._fingerprint(provenance)
            provenance["fingerprint"] = fingerprint
            finished = self._finished(fingerprint)
            if finished is not None:
                self.folder.clear()
                return finished
            if self.options.reuse is not None:
                task.reuse = Reuse(Path(self.options.reuse).expanduser(), provenance)
            try:
                plan = self._resumed(fingerprint) or self._plan(found, notes, task, fingerprint, provenance)
                return self._compute(plan, task)
            finally:
                if task.reuse is not None:
                    task.reuse.close()

    def _task(self) -> EmbeddingTask:
        options = self.options
        hardware = choose(options.device, options.precision)
        assert options.model is not None
        checkpoint = resolve(options.model)
        for note in checkpoint.notes:
            if not note.startswith(HEAD_NOTES):  # embedding needs no head
                self.report.note(note)
        model = Model(checkpoint, hardware)
        request = model.request(options.per, options.layer, options.pool, options.long)
        return EmbeddingTask(model, request, np.dtype(options.dtype))

    def _provenance(self, task: EmbeddingTask, model_digest: str, digest: str) -> dict[str, Any]:
        """What the output says of its making: no times, hosts or paths."""
        model, request = task.model, task.request
        name = self.options.model or ""
        return {
            "aminoglot": __version__,
            "torch": torch.__version__,
            "model": Path(name).name if Path(name).expanduser().exists() else name,
            "model_digest": model_digest,
            "token_dropout": model.config.token_dropout,
            "per": request.per,
            "layers": list(request.layers),
            "several_layers": request.several,
            "pool": request.pool,
            "long": request.long,
            "limit": request.limit,
            "precision": model.hardware.precision,
            "device": model.hardware.kind,
            "hidden": model.config.hidden,
            "dtype": task.dtype.name,
            "token_budget": model.budget,
            "input_sha256": digest,
        }

    def _fingerprint(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the results; two runs that share it are the same job."""
        options = self.options
        asked = {
            "bad_records": options.bad_records,
            "duplicates": options.duplicates,
            "id_column": options.id_column,
            "sequence_column": options.sequence_column,
        }
        decided = {key: value for key, value in provenance.items() if key not in ("model", "several_layers")}
        if not provenance["several_layers"]:
            decided["layers"] = provenance["layers"][0]  # layer 2, and a list of layer 2 alone, are two outputs
        return {**decided, **asked}

    def _finished(self, fingerprint: Mapping[str, Any]) -> Outcome | None:
        """Whether the output is there already: verified, it is done; different, it is refused or given up."""
        wanted = [*outputs(self.output, self.options.per), table_path(self.output)]
        files = [path for path in wanted[:-1] if path.exists()]
        for path in files:
            if path.is_dir() and any(path.iterdir()) and not is_ours(path):
                raise OutputError(f"{path}: a folder with something else in it; give this run another -o")
        if not files:
            return None
        try:
            different = [line for path in files for line in _different(path, fingerprint)]
            if different and not self.options.overwrite:
                raise JobError(
                    f"{files[0]} exists and is the result of something else:\n{listing(different)}\n"
                    "Give this run another -o, or replace it with --overwrite"
                )
            if different or (self.folder.planned and not self.options.overwrite):
                return None
            return self._verified(wanted)
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
            failed, bad = store.provenance.get("failed"), store.provenance.get("bad_records")
        if failed:
            raise JobError(f"{files[0]}: {plural(failed, 'protein')} failed in it; run with --overwrite to try again")
        self.report.say(f"{self.output} is complete already: {plural(counts[0], 'protein')}, verified")
        return Outcome(tuple(files), None, complete=not bad)

    def _resumed(self, fingerprint: Mapping[str, Any]) -> Plan | None:
        if not self.folder.planned:
            return None
        if self.options.overwrite:
            try:
                plan = read_plan(self.folder)
            except JobError:
                return None
        else:
            plan = read_plan(self.folder)
        different = changes(plan.fingerprint, fingerprint)
        if not different:
            return plan
        if self.options.overwrite:
            return None
        raise JobError(
            f"{self.folder.path} holds an unfinished job that is not this one:\n{listing(different)}\n"
            "Run it as before, give this run another -o, or drop it with --overwrite"
        )

    def _plan(
        self,
        found: Sequence[Source],
        notes: list[str],
        task: EmbeddingTask,
        fingerprint: Mapping[str, Any],
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
        return make_plan(self.folder, reader, task, policy, fingerprint, provenance, notes)

    def _check(self, plan: Plan, task: EmbeddingTask, todo: Sequence[int]) -> None:
        """Say what will be done, and refuse what cannot end well."""
        check_names(self.output, (name for name, _ in plan.named(np.flatnonzero(plan.status == Status.WRITTEN))))
        need = reporting.expected_bytes(plan, task)
        self.report.plan(plan, task, need)
        computed = sum(int(task.output(plan.shard_lengths(shard)).sum()) for shard in todo)
        reporting.check_room(self.output, need, computed * task.dtype.itemsize // 4)

    def _compute(self, plan: Plan, task: EmbeddingTask) -> Outcome:
        manifest = Manifest(self.folder.manifest)
        todo = left(plan, manifest)
        residues = sum(int(task.rows(plan.shard_lengths(shard)).sum()) for shard in todo)
        self._check(plan, task, todo)
        if len(todo) < plan.shards:
            self.report.say(f"going on: {plan.shards - len(todo):,} of {plural(plan.shards, 'shard')} already done")
        started = time.monotonic()
        try:
            with self.report.progress("embedding", residues, "residues") as done:
                run(plan, manifest, task, done)
        except KeyboardInterrupt:
            kept = plan.shards - len(left(plan, manifest))
            self.report.say(f"{kept:,} of {plural(plan.shards, 'shard')} are done and kept in {self.folder.path}")
            raise
        seconds = time.monotonic() - started
        account = audit(plan, manifest)
        with self.report.progress("writing", account.records, "records") as done:
            files = export(plan, account, self.output, task.dtype, task.model.config.hidden, done)
        if account.failed:
            self.report.failures(plan, account)
        reused = task.reuse.residues if task.reuse else 0
        if task.reuse is not None:
            self.report.say(f"{plural(reused, 'residue')} taken from {self.options.reuse}")
        self.report.summary(account, files, residues - reused, seconds)
        if not account.failed:
            self.folder.remove()
        return Outcome(tuple(files), account, complete=not account.failed and not plan.counts["bad"])


def _different(path: Path, fingerprint: Mapping[str, Any]) -> list[str]:
    """What sets an existing file apart from the job's own output."""
    with reader(path) as store:
        if not store.provenance:
            return [f"{path} was not written by aminoglot"]
        return changes(store.provenance.get("fingerprint", {}), fingerprint)
