"""``aminoglot flip``: read, embed, fit, score, report. What is done stays done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.checkpoints import Checkpoint, named, resolve
from aminoglot.drawing import figure
from aminoglot.errors import InputError, JobError, OutputError, plural
from aminoglot.evaluate import download, flip, published, report, results
from aminoglot.evaluate.blocks import Block, Coverage, Reach, block, covered
from aminoglot.evaluate.embed import Embedder
from aminoglot.evaluate.features import Features, Nothing, of_sequences
from aminoglot.evaluate.options import Options
from aminoglot.evaluate.parts import Part, Parts, fingerprint
from aminoglot.evaluate.predictors import CONSTANT, fitted, product_type, sklearn, work
from aminoglot.evaluate.results import Difference, Results, Row, SplitResult, Validation
from aminoglot.evaluate.scoring import Scored, confusion, difference, main_score, scored
from aminoglot.evaluate.split import Split
from aminoglot.evaluate.tasks import REBUILT, TASKS, Task, TaskName, bionemo_limit
from aminoglot.finetune.metrics import spearman
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.storage import explained, write_whole
from aminoglot.models.family import family_of
from aminoglot.screen import Done, Screen, duration
from aminoglot.version import __version__

_RUN = "run.json"
_FEW = 30
"""Proteins of validation below which its choices are said to be chance, of a test set below which its scores are."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        report: ``report.html``.
        results: ``results.json``.
        found: what is in it.
        complete: whether everything asked for, by name or by default, was run.
    """

    report: Path
    results: Path
    found: Results
    complete: bool


@dataclass
class _Sets:
    """A split with its labels as arrays."""

    split: Split
    train: Block
    validation: Block
    test: Block
    coverage: dict[str, Coverage]

    @property
    def blocks(self) -> list[Block]:
        return [self.train, self.validation, self.test]


@dataclass
class _Fit:
    """One head on one kind of features, for all splits that share their training and validation sets."""

    task: Task
    features: Features
    head: str
    sets: list[_Sets]


def run(output: Path, options: Options, screen: Screen | None = None) -> Outcome:
    """Evaluate a model, or go on where an interrupted run of the same stopped.

    Args:
        output: a folder for the report, the results, and what a rerun goes on from.
        options: see :class:`~aminoglot.evaluate.options.Options`.
        screen: what the user sees.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    screen = screen or Screen()
    _extras()
    model = named(options.model, screen.note)
    checkpoint, options = resolve(model), replace(options, model=model)
    sets, left_out = _read(options, screen)
    with explained(output):
        output.mkdir(parents=True, exist_ok=True)
    lock = JobFolder(output / "flip")
    with lock.locked():
        return _Run(output, options, checkpoint, screen).run(sets, left_out)


def _extras() -> None:
    """What is needed at the end is asked for at the start.

    Raises:
        DependencyError: without scikit-learn, SciPy or matplotlib.
    """
    figure()
    spearman(np.arange(3.0), np.arange(3.0))
    sklearn()


def _read(options: Options, screen: Screen) -> tuple[list[Split], list[str]]:
    """The splits of a run, and what could not be had of those that nobody named."""
    folder = options.data.expanduser() if options.data is not None else download.cache()
    if options.data is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such folder; --data names one with FLIP's files, a folder for each task")
    found: list[Split] = []
    left_out: list[str] = []
    for task in _tasks(options, folder):
        here = flip.splits_in(folder, task)
        asked = [name for name in options.split if name in (*task.splits, *here)]
        wanted = asked or [name if name in here else _stand_in(task, name, here) for name in task.defaults]
        for name in wanted:
            if name not in here and options.data is None:
                if not asked and name not in download.offered(task):
                    left_out.append(f"{task.name} {name}: FLIP's server has it no more; its files go in with --data")
                    continue
                download.fetch(task, name, folder, said=screen.say)
            elif name not in here and not asked and (not options.task or set(wanted) & set(here)):
                left_out.append(f"{task.name} {name}: no file of it in the folder of --data")
                continue
            found.append(flip.read(folder, task, name))
    if not found:
        raise InputError(f"{folder}: none of FLIP's tasks is here; a folder for each is wanted: {', '.join(TASKS)}")
    return found, left_out


def _tasks(options: Options, folder: Path) -> list[Task]:
    """The tasks that are asked for, or all that have one of the splits that are."""
    tasks = [TASKS[name] for name in dict.fromkeys(options.task)] or list(TASKS.values())
    if not options.split:
        return tasks
    names = {task.name: {*task.splits, *flip.splits_in(folder, task)} for task in tasks}
    for split in options.split:
        if not any(split in known for known in names.values()):
            raise InputError(f"split {split!r}: choose {', '.join(sorted(set().union(*names.values())))}")
    chosen = [task for task in tasks if names[task.name] & set(options.split)]
    if options.task and len(chosen) < len(tasks):
        missing = next(task for task in tasks if task not in chosen)
        raise InputError(
            f"{missing.name} has no split {' or '.join(options.split)}; it has {', '.join(missing.splits)}"
        )
    return chosen


def _stand_in(task: Task, name: str, here: Sequence[str]) -> str:
    """What runs where FLIP's own file is not here: a rebuilt set, under its own name."""
    return next((one for one in (f"{name}_{REBUILT}", f"{task.name}_{REBUILT}") if one in here), name)


class _Run:
    def __init__(self, output: Path, options: Options, checkpoint: Checkpoint, screen: Screen) -> None:
        self.output, self.options, self.checkpoint, self.screen = output, options, checkpoint, screen
        family = family_of(checkpoint.config).name
        keep = bionemo_limit(family) if options.bionemo_protocol else None
        self.reach = Reach(options.long, checkpoint.config.longest, keep)
        self._same_run()
        self.embedder = Embedder(output / "embeddings", checkpoint, options, screen)
        self.parts = Parts(output / "parts")
        self.embedded: set[tuple[str, str]] = set()

    def _same_run(self) -> None:
        """Hold the folder's run against this one: results of two models are not mixed.

        Raises:
            JobError: when it is another's.
            OutputError: when it holds something else.
        """
        facts = {"model": self.checkpoint.digest, "reach": asdict(self.reach)}
        path = self.output / _RUN
        if not path.exists():
            if strangers := [one.name for one in self.output.iterdir() if not one.name.startswith(("flip", "."))]:
                raise OutputError(
                    f"{self.output}: a folder of something else ({strangers[0]}); choose a new one with -o"
                )
            write_whole(path, lambda partial: _write(partial, json.dumps(facts, indent=1)))
            return
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: damaged ({error}); choose a new folder with -o") from error
        if before != facts:
            what = "model" if before.get("model") != facts["model"] else "handling of long proteins"
            raise JobError(f"{self.output}: holds the results of another {what}; choose a new folder with -o")

    def run(self, splits: list[Split], left_out: list[str]) -> Outcome:
        """All of it."""
        self._introduce(splits, left_out)
        sets = [self._sets(split) for split in splits]
        by_task: dict[TaskName, list[_Sets]] = {}
        for one in sets:
            by_task.setdefault(one.split.task.name, []).append(one)
        fits = [fit for of_task in by_task.values() for fit in self._fits(of_task)]
        total = sum(map(_work, fits))
        found: list[tuple[_Fit, Part]] = []
        todo = [fit for fit in fits if not self._whole(fit)]
        if len(todo) < len(fits):
            self.screen.say(f"going on: {len(fits) - len(todo):,} of {plural(len(fits), 'head')} are fitted already")
        for fit in todo:
            self._embed(fit, by_task[fit.task.name])
        kept = total - sum(map(_work, todo))
        with self.screen.progress("fitting", total, "rows", kept) as done:
            for fit in fits:
                found.append((fit, self._part(fit, done)))
        self.screen.say("scoring")
        told = [self._result(one, [(fit, part) for fit, part in found if one in fit.sets]) for one in sets]
        return self._write(told, by_task, found, left_out)

    def _introduce(self, splits: list[Split], left_out: list[str]) -> None:
        options, config = self.options, self.checkpoint.config
        self.screen.say(
            f"{self.checkpoint.name}: {plural(len(splits), 'split')}, {plural(options.seeds, 'seed')}, layers "
            f"{', '.join(map(str, self.embedder.layers))} of {config.layers}"
        )
        if self.reach.keep is not None:
            self.screen.note(
                f"--bionemo-protocol: proteins over {self.reach.keep:,} residues are dropped from all sets; these "
                "numbers are none over all proteins"
            )
        for line in left_out:
            self.screen.note(f"left out: {line}")
        for split in splits:
            for note in (split.mismatch, *split.notes):
                if note:
                    self.screen.note(f"{split.task.name} {split.name}: {note}")

    def _sets(self, split: Split) -> _Sets:
        """Labels as arrays, of what the run covers."""
        blocks, coverage = {}, {}
        for name, examples in split.sets.items():
            kept, coverage[name] = covered(examples, split.task, self.reach)
            if not kept:
                raise InputError(f"{split.task.name} {split.name}: no {name} protein is short enough to be kept")
            if name == "train" and (said := flip.unlearnable(kept, split.task)):
                raise InputError(f"{split.task.name} {split.name}, without long proteins: {said}")
            blocks[name] = block(kept, split.task)
            if not coverage[name].whole:
                self.screen.note(f"{split.task.name} {split.name}, {name}: {coverage[name]}")
        return _Sets(split, **blocks, coverage=coverage)

    def _fits(self, sets: list[_Sets]) -> list[_Fit]:
        """All heads of a task. Splits with the same training and validation sets are fitted once."""
        task = sets[0].split.task
        blocks = [one for each in sets for one in each.blocks]
        kinds = [*self.embedder.features(task, blocks), *of_sequences(task.per, blocks)]
        groups: dict[tuple[str, ...], list[_Sets]] = {}
        for one in sets:
            learnt = (one.train, one.validation)
            groups.setdefault(tuple(x for b in learnt for x in (b.digest, b.label_digest)), []).append(one)
        found = []
        for group in groups.values():
            found += [_Fit(task, kind, head, group) for kind in kinds for head in task.heads]
            found.append(_Fit(task, Nothing(), CONSTANT, group))
        return found

    def _name(self, fit: _Fit) -> str:
        """What stands for everything that decides a fit."""
        learnt = [x for b in (fit.sets[0].train, fit.sets[0].validation) for x in (b.digest, b.label_digest)]
        return fingerprint(
            aminoglot=__version__,
            torch=torch.__version__,
            sklearn=version("scikit-learn"),
            task=fit.task.name,
            learnt=learnt,
            features=fit.features.fingerprint,
            head=fit.head,
            recipe=asdict(fit.task.recipe),
            seeds=self.options.seeds,
            products=str(product_type(fit.task)),
        )

    def _whole(self, fit: _Fit) -> bool:
        part = self.parts.find(self._name(fit))
        return part is not None and all(one.test.told_digest in part.tests for one in fit.sets)

    def _embed(self, fit: _Fit, sets: list[_Sets]) -> None:
        """Compute what a fit needs, once."""
        name = fit.features.name
        if name not in ("model", "untrained") or (fit.task.name, name) in self.embedded:
            return
        self.embedder.ready(fit.task, [b for one in sets for b in one.blocks], name)
        self.embedded.add((fit.task.name, name))

    def _part(self, fit: _Fit, done: Done) -> Part:
        """What a fit tells, from its file or fitted now."""
        name = self._name(fit)
        known = self.parts.find(name)
        if known is not None and all(one.test.told_digest in known.tests for one in fit.sets):
            return known
        what = f"{fit.task.name}: {fit.features.name}, {fit.head}"
        started = time.monotonic()
        first = fit.sets[0]
        train, held_out = (b.labelled(fit.features.of(b)) for b in (first.train, first.validation))
        head = fitted(
            fit.head,
            fit.task,
            train,
            held_out,
            self.options.seeds,
            product_type(fit.task),
            lambda count: done(count, what),
        )
        tests = dict(known.tests) if known is not None else {}
        for one in fit.sets:
            tests[one.test.told_digest] = head.tell(one.test.labelled(fit.features.of(one.test)))
        history = {"train": head.train, "validation": head.validation} if head.train else {}
        part = Part(head.tell(held_out), tests, head.settings, history, time.monotonic() - started)
        self.parts.save(name, part)
        return part

    def _result(self, one: _Sets, found: list[tuple[_Fit, Part]]) -> SplitResult:
        """Scores of a split, and what validation chose."""
        task, split = one.split.task, one.split
        told = _blank(split, one.coverage, len(one.validation.ids), len(one.test.ids))
        scores: dict[int, Scored] = {}
        actual = one.test.labelled(np.zeros((one.test.rows, 0), np.uint8))
        held_out = one.validation.labelled(np.zeros((one.validation.rows, 0), np.uint8))
        answers: dict[int, Any] = {}
        for fit, part in found:
            answer = part.tests[one.test.told_digest]
            now = scored(task, answer, actual.actual, actual.owners, len(actual))
            values = main_score(task, part.validation, held_out.actual)
            row = Row(
                features=fit.features.name,
                layer=fit.features.layer,
                head=fit.head,
                published_head=fit.head == task.published_head,
                marks=self._marks(split, one.coverage),
                settings={**part.settings, **({"says": fit.features.says} if fit.features.says else {})},
                seeds=len(answer),
                validation=Validation(float(np.mean(values)), values),
                scores=now.scores,
                history=part.history,
                seconds=part.seconds,
            )
            scores[id(row)], answers[id(row)] = now, answer
            told.rows.append(row)
        for kind in dict.fromkeys(row.features for row in told.rows):
            results.choose([row for row in told.rows if row.features == kind], (*task.heads, CONSTANT))
        model = told.chosen("model")
        assert model is not None
        for row in told.rows:
            if row.chosen and row is not model:
                found_here = difference(scores[id(model)], scores[id(row)], task.main)
                told.differences.append(Difference(row.name, found_here.value, found_here.low, found_here.high))
        if task.kind == "classes":
            matrices = [confusion(task.outputs, row, actual.actual)[0] for row in answers[id(model)]]
            told.confusion = np.sum(matrices, axis=0).tolist()
        report.draw(self.output, told, actual.actual, answers[id(model)])
        return told

    def _marks(self, split: Split, coverage: dict[str, Coverage]) -> list[str]:
        marks = ["rebuilt, not FLIP's"] if split.rebuilt else []
        if self.reach.keep is not None:
            test = coverage["test"]
            marks.append(
                f"BioNeMo protocol: {test.proteins:,} of {test.all_proteins:,} test proteins, those of at most "
                f"{self.reach.keep:,} residues"
            )
        elif not all(one.whole for one in coverage.values()):
            marks.append(f"long proteins: {self.reach.long} at {self.reach.limit:,} residues")
        return marks

    def _write(
        self,
        told: list[SplitResult],
        by_task: dict[TaskName, list[_Sets]],
        found: list[tuple[_Fit, Part]],
        left_out: list[str],
    ) -> Outcome:
        config = self.checkpoint.config
        embedding = sum(
            self.embedder.seconds(sets[0].split.task, [b for one in sets for b in one.blocks])
            for sets in by_task.values()
        )
        whole = Results(
            aminoglot=__version__,
            model={
                "name": _short(self.checkpoint.name),
                "digest": self.checkpoint.digest,
                "family": family_of(config).name,
                "layers": config.layers,
                "hidden": config.hidden,
                "encoder_parameters": config.parameters,
            },
            protocol="all proteins" if self.reach.keep is None else f"BioNeMo: at most {self.reach.keep:,} residues",
            long=self.options.long,
            layers=list(self.embedder.layers),
            seeds=self.options.seeds,
            seconds={"embedding": embedding, "fitting": sum(part.seconds for _, part in found)},
            splits=told,
            left_out=left_out,
            published=[row for task in by_task for row in published.rows(TASKS[task].name)],
        )
        if gone := _replaced(self.output / results.RESULTS, told):
            self.screen.note(
                f"the report of before also showed {', '.join(gone)}; this one does not. Name all tasks in one command "
                "for one report: no head is fitted twice"
            )
        path = results.write(whole, self.output)
        page = report.write(whole, self.output)
        self.screen.say(
            f"embedding took {duration(whole.seconds['embedding'])}, fitting {duration(whole.seconds['fitting'])} "
            "(of all runs that had a share in it)"
        )
        self.screen.say(f"wrote {page}, {path}")
        return Outcome(page, path, whole, complete=not left_out)


def _replaced(path: Path, told: Sequence[SplitResult]) -> list[str]:
    """Splits of a report that is there already and that the new one will not show."""
    try:
        before = results.read(path).splits
    except OutputError:
        return []
    now = {(one.task, one.split) for one in told}
    return [f"{one.task} {one.split}" for one in before if (one.task, one.split) not in now]


def _short(name: str) -> str:
    """A model's name; of a path only its end, for where it lies is nobody's business."""
    return Path(name).name if Path(name).expanduser().exists() else name


def _work(fit: _Fit) -> int:
    train = fit.sets[0].train
    return work(fit.head, fit.task, len(train.ids), train.rows)


def _blank(split: Split, coverage: dict[str, Coverage], validation: int, test: int) -> SplitResult:
    """A split's facts, without rows."""
    task, expected = split.task, split.published_counts
    notes = list(split.notes)
    if validation < _FEW:
        notes.append(f"validation has {plural(validation, 'protein')}: what it chooses is nearly chance")
    if test < _FEW:
        notes.append(f"the test set has {plural(test, 'protein')}: its scores and intervals say little")
    checksums = {}
    if task.masked and not split.rebuilt:
        checksums = {name: found in flip.PUBLISHED_DIGESTS[name] for name, found in flip.digests(split).items()}
    return SplitResult(
        task=task.name,
        title=task.title,
        split=split.name,
        rebuilt=split.rebuilt,
        kind=task.kind,
        score=task.score,
        main=task.main,
        unit=task.unit,
        classes=list(task.classes),
        files=list(split.files),
        counts=asdict(split.counts),
        published_counts=None if expected is None else asdict(expected),
        mismatch=split.mismatch,
        checksums=checksums,
        coverage={name: {**asdict(one), "says": str(one)} for name, one in coverage.items()},
        notes=notes,
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text)
