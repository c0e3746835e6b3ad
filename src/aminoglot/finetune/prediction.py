"""Predictions for files of any size, through the job that embedding goes through: planned, in shards, audited.

Memory holds the model and a shard. A killed job goes on where it stopped; another job in its place is refused.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aminoglot.embedding.computing import compute, processes
from aminoglot.embedding.job import Outcome
from aminoglot.embedding.places import places
from aminoglot.errors import AminoglotWarning, InputError, JobError, OutputError, listing, plural
from aminoglot.finetune.options import PredictionOptions
from aminoglot.finetune.prediction_task import PredictionTask, loaded, make, provenance_of
from aminoglot.finetune.predictions import SUFFIXES, beside, write_predictions
from aminoglot.finetune.predictor import same_run
from aminoglot.jobs import Audit, JobFolder, Manifest, Plan, Policy, audit, changes, make_plan, read_plan
from aminoglot.jobs.processes import Processes
from aminoglot.jobs.storage import file_digest, write_whole
from aminoglot.screen import Screen
from aminoglot.sequences import Columns, Reader, input_digest, sources


def predict(
    run_folder: str | Path,
    inputs: Sequence[str | Path],
    output: str | Path,
    options: PredictionOptions,
    screen: Screen | None = None,
) -> Outcome:
    """Predict for files of proteins, or go on where an interrupted job of the same stopped.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    output = Path(output).expanduser()
    if output.suffix.lower() not in SUFFIXES or not output.stem:
        raise InputError(f"{output}: predictions are written as {' or '.join(SUFFIXES)}; name a file that ends so")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: there is no folder {output.parent}")
    folder = JobFolder(output)
    with folder.locked():
        return _Job(Path(run_folder).expanduser(), inputs, output, options, screen or Screen(), folder).run()


class _Job:
    def __init__(
        self,
        run_folder: Path,
        inputs: Sequence[str | Path],
        output: Path,
        options: PredictionOptions,
        screen: Screen,
        folder: JobFolder,
    ) -> None:
        self.options, self.output, self.screen, self.folder = options, output, screen, folder
        self.run_folder = run_folder
        self.found, self.notes = sources(inputs, folder.stdin, [output, beside(output), folder.path])
        for path in (output, beside(output)):
            if path.exists() and any(path.samefile(source.path) for source in self.found):
                raise OutputError(f"{path}: this is the input; give the output another name with -o")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", AminoglotWarning)
            self.predictor = loaded(run_folder, options, lazily=options.workers is not None)
        self.notes += [str(one.message) for one in said if issubclass(one.category, AminoglotWarning)]
        for other in (one for one in said if not issubclass(one.category, AminoglotWarning)):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        recipe = self.predictor.recipe
        if options.probabilities and not recipe.classes:
            raise InputError(f"--probabilities: {recipe.target} is a number, which has none")
        self.task = PredictionTask(self.predictor, options)
        self.request, self.long = self.task.request, self.task.request.long
        if options.workers is not None:
            places(options.workers, options.device, self.task.model)  # refuses before anything is planned
        self.provenance = provenance_of(self.task, options, same_run(run_folder), input_digest(self.found))

    def run(self) -> Outcome:
        finished = self._finished()
        if finished is not None:
            self.folder.clear()
            return finished
        plan = self._resumed() or self._plan()
        manifest = Manifest(self.folder.manifest)
        self._say(plan)
        hire = None if self.options.workers is None else self._crew
        residues, seconds = compute(plan, manifest, self.task, self.screen, "predicting", hire)
        account = audit(plan, manifest)
        with self.screen.progress("writing", account.records, "records") as done:
            write_predictions(
                plan, account, self.output, self.predictor.recipe, self.request, self.options.probabilities, done
            )
        self._note_down(plan, account)
        self.screen.say(f"{account}")
        rate = f": {plural(residues, 'residue')} in {seconds:.1f} s" if residues else ""
        self.screen.say(f"wrote {self.output}{rate}")
        if account.failed:
            self.screen.error(
                f"{plural(account.failed, 'protein')} failed, marked in {self.output}; the same command tries again"
            )
        else:
            self.folder.remove()
        complete = not account.failed and not plan.counts["bad"]
        return Outcome((self.output, beside(self.output)), account, complete)

    def _crew(self) -> Processes:
        options, making = self.options, partial(make, self.run_folder, self.options)
        assert options.workers is not None
        return processes(self.folder, making, options.workers, options.device, self.task.model, self.screen)

    def _finished(self) -> Outcome | None:
        """Whether the output is there already: verified, it is done; different, it is refused or replaced."""
        if not self.output.exists():
            return None
        noted = _noted(beside(self.output))
        if noted is None:
            if self.options.overwrite or self._unnoted():
                return None
            raise OutputError(f"{self.output}: exists, and is no predictions of ours; name another, or add --overwrite")
        different = changes(noted.get("provenance", {}), self.provenance, self.provenance)
        if different and not self.options.overwrite:
            raise JobError(
                f"{self.output} exists and is the result of something else:\n{listing(different)}\n"
                "Give this one another -o, or replace it with --overwrite"
            )
        if different or noted.get("failed"):
            return None
        if file_digest(self.output) != noted.get("sha256"):
            if self.options.overwrite:
                return None
            raise JobError(f"{self.output}: not as it was written; run with --overwrite to compute it again")
        self.screen.say(
            f"{self.output} is complete already, and as it was written: {plural(noted['written'], 'protein')}"
        )
        return Outcome((self.output, beside(self.output)), None, complete=not noted.get("bad"))

    def _unnoted(self) -> bool:
        """Whether this very job wrote the output, and was stopped before it noted how."""
        if not self.folder.planned or beside(self.output).exists():
            return False
        try:
            plan = read_plan(self.folder)
        except JobError:
            return False
        computed = set(range(plan.shards)) <= Manifest(self.folder.manifest).entries.keys()
        return computed and not changes(plan.provenance, self.provenance, self.provenance)

    def _resumed(self) -> Plan | None:
        if not self.folder.planned:
            return None
        try:
            plan = read_plan(self.folder)
        except JobError:
            if self.options.overwrite:
                return None
            raise
        different = changes(plan.provenance, self.provenance, self.provenance)
        if not different:
            return plan
        if self.options.overwrite:
            return None
        raise JobError(
            f"{self.folder.path} holds an unfinished job that is not this one:\n{listing(different)}\n"
            "Run it as before, give this one another -o, or drop it with --overwrite"
        )

    def _plan(self) -> Plan:
        options, limit = self.options, self.request.limit
        policy = Policy(
            options.bad_records,
            options.duplicates,
            refuse_over=limit if self.long == "error" else None,
            skip_over=limit if self.long == "skip" else None,
        )
        reader = Reader(self.found, Columns(options.id_column, options.sequence_column), self.notes)
        return make_plan(self.folder, reader, self.task, policy, self.provenance, self.notes)

    def _say(self, plan: Plan) -> None:
        for note in plan.notes:
            self.screen.note(note)
        counts, limit = plan.counts, self.request.limit
        hardware = self.predictor.model.hardware
        self.screen.say(
            f"{plural(counts['records'], 'record')}; {self.predictor.recipe.target} by {self.predictor.model.name} in "
            f"{hardware.precision} on {hardware.device} ({hardware.reason})"
        )
        said = {
            "bad": "no protein, left out (--bad-records skip)",
            "merged": "merged: same id and same sequence as an earlier one",
            "renamed": "renamed (--duplicates number)",
            "shared": "with the sequence of another, computed once",
        }
        for name, what in said.items():
            if counts[name]:
                self.screen.note(f"{plural(counts[name], 'record')} {what}")
        if long := int((plan.lengths > limit).sum()):
            verb = {
                "truncate": "truncated to",
                "window": "in windows of",
                "full": "whole, over",
                "skip": "left out, over",
            }
            self.screen.note(f"{plural(long, 'protein')} {verb[self.long]} {limit:,} residues, marked in the output")

    def _note_down(self, plan: Plan, account: Audit) -> None:
        """How the output was made, beside it."""
        noted = {
            "provenance": self.provenance,
            "sha256": file_digest(self.output),
            "records": account.records,
            "written": account.written,
            "merged": account.merged,
            "skipped": account.skipped,
            "failed": account.failed,
            "bad": plan.counts["bad"],
        }
        text = json.dumps(noted, indent=1) + "\n"
        write_whole(beside(self.output), lambda path: _write(path, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _noted(path: Path) -> Mapping[str, Any] | None:
    """What was noted beside an output; None for none of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "provenance" in found else None
