"""A whole run: read, check, deal out, fit, test, write. The command and ``aminoglot.fine_tune`` both end up here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from aminoglot.checkpoints import Checkpoint, named, resolve
from aminoglot.checkpoints.checkpoint import HEAD_NOTES
from aminoglot.engine.hardware import choose, exact
from aminoglot.errors import (
    DependencyError,
    InputError,
    JobError,
    ModelError,
    OutputError,
    is_allocation_failure,
    plural,
)
from aminoglot.finetune import card, pictures, results, tuning
from aminoglot.finetune.balance import Balance, balance
from aminoglot.finetune.data import counts, read
from aminoglot.finetune.embeddings import constant
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.fits import STATE, Fits, Fitted, Outputs
from aminoglot.finetune.metrics import MAIN, Interval, scores
from aminoglot.finetune.options import Options
from aminoglot.finetune.outcome import (
    COMPOSITION,
    CONSTANT,
    MODEL,
    Answers,
    Scored,
    answers,
    difference,
    headline,
    scored,
)
from aminoglot.finetune.predictor import FILE, HEAD, Recipe
from aminoglot.finetune.splits import Splits, split
from aminoglot.jobs.storage import explained
from aminoglot.models.family import family_of
from aminoglot.models.prott5nv import ProtT5nvConfig
from aminoglot.screen import Screen
from aminoglot.sequences import Source, input_digest, sources
from aminoglot.settings import Request, resolve_layers
from aminoglot.version import __version__

_LOCK = ".lock"
_FREE = ("overwrite", "device", "model")
"""What may change when a run goes on; model and device are facts."""


@dataclass(frozen=True, repr=False)
class Finetuned:
    """What a run came to.

    Attributes:
        folder: of the run; :class:`aminoglot.Predictor` loads it.
        split: what was scored: ``test``, or ``validation`` where nothing was kept for a test.
        scores: by ``model``, ``composition`` and ``constant`` a dictionary of ``scores``, and the ``interval`` of the
            main one.
        headline: one sentence.
    """

    folder: Path
    split: str
    scores: dict[str, Any]
    headline: str

    def __repr__(self) -> str:
        return f"<aminoglot.Finetuned {self.folder}: {self.headline}>"


def finetune(
    inputs: Sequence[str | Path], folder: str | Path, options: Options, screen: Screen | None = None
) -> Finetuned:
    """Learn a property, or go on with a run of the same that was begun in this folder.

    Args:
        inputs: files of labelled proteins.
        folder: a new one, or of a run that is to go on.
        options: of the run.
        screen: is told what happens.

    Raises:
        AminoglotError: one of its kinds, with a sentence for the user; what was computed is kept.
    """
    folder = Path(folder).expanduser()
    screen = screen or Screen()
    options = replace(options, model=named(options.model, screen.note))
    with _locked(folder):
        return _Run(inputs, folder, options, screen).run()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: a file; -o names a folder, which the run makes")
    lock = FileLock(folder / _LOCK)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:  # which is an OSError
            raise JobError(f"{folder}: another run is writing here now") from None
    try:
        yield
    finally:
        lock.release()


class _Run:
    def __init__(self, inputs: Sequence[str | Path], folder: Path, options: Options, screen: Screen) -> None:
        self.inputs, self.folder, self.options, self.screen = inputs, folder, options, screen
        scores("number", np.zeros(2), np.arange(2.0))  # what is not installed is said before hours of computing
        scores("classes", np.zeros(2, np.int64), np.arange(2))
        assert options.model is not None
        self.checkpoint = resolve(options.model)
        self.limit = self.checkpoint.config.longest
        self.request = _request(self.checkpoint, options)
        whole = options.method == "full" and isinstance(self.checkpoint.config, ProtT5nvConfig)
        if whole and not self.checkpoint.has("decoder"):
            raise ModelError(
                f"{options.model}: it came without a decoder, so that no format can hold all of it; take --method lora"
            )
        live = options.method != "head"
        found = tuning.hardware(options) if live else choose(options.device, options.precision)
        self.hardware = found.fitted(self.checkpoint.config.hidden)

    def run(self) -> Finetuned:
        found, notes = sources(self.inputs, self.folder / ".stdin")
        asked = self._asked(found)
        finished = results.standing(self.folder, asked, self.options.overwrite)
        if finished is not None:
            made = _finetuned(self.folder, finished["scores"])
            self.screen.say(f"{self.folder} is finished already, and whole: {made.headline}")
            return made
        dataset = read(found, notes, self.options, self.limit)
        splits = split(dataset, self.options, self.folder, torch.get_num_threads())
        spread = balance(dataset, splits)
        asked["dealt"] = {"how": splits.how, "splits_sha256": splits.digest(dataset.examples)}
        results.begin(self.folder, asked, self.options.overwrite)
        self._say(dataset, splits, spread)
        fits = Fits(dataset, splits, self.options, self.folder, self.screen, results.digest(asked))
        started = time.monotonic()
        fitted = self._fitted(fits)
        history = fitted.history
        self.screen.say(
            f"epoch {history.best[0] + 1} of {len(history.train)} is kept; this took {time.monotonic() - started:.0f} s"
        )
        tested = _tested(fits, fitted, fits.on_letters(self.request))
        self.screen.say(tested.headline)
        return self._write(asked, fits, spread, fitted, tested)

    def _asked(self, found: Sequence[Source]) -> dict[str, Any]:
        """What the run is, and may not change when it goes on."""
        options = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.options).items() if k not in _FREE}
        beside = [path for path in (self.options.labels, self.options.masks) if path is not None]
        facts = {
            "data_sha256": input_digest(found),
            "annotations_sha256": input_digest(sources(beside, self.folder)[0]) if beside else None,
            "model_digest": self.checkpoint.digest,
            "device": self.hardware.kind,
            "precision": self.hardware.precision,
            "backend": self.hardware.backend,
            "aminoglot": __version__,
            "torch": torch.__version__,
        }
        name = str(self.options.model)
        model = Path(name).name if Path(name).expanduser().exists() else name
        return {"aminoglot": __version__, "model": model, "options": options, "facts": facts}

    def _say(self, dataset: Dataset, splits: Splits, spread: Balance) -> None:
        screen = self.screen
        of_model = self.checkpoint.notes if self.options.method != "head" else ()  # the main job says them
        for note in (*of_model, *dataset.notes, *splits.notes):
            if not note.startswith(HEAD_NOTES):
                screen.note(note)
        account = ", ".join(f"{count:,} {status}" for status, count in counts(dataset.entries))
        screen.say(f"{plural(len(dataset.entries), 'record')} in = {account}; all of them are in {results.TABLE}")
        what = "numbers" if dataset.kind == "number" else f"of {len(dataset.classes)} classes"
        looks = "" if self.options.kind != "auto" else " by their looks (--kind says otherwise)"
        screen.say(f"labels are {what}{looks}; proteins are dealt out {splits.how}")
        for line in spread.lines():
            screen.say(line)
        for note in spread.notes():
            screen.note(note)
        if long := sum(len(one.sequence) > self.limit for one in dataset.examples):
            verb = {"truncate": "truncated to", "window": "in windows of", "full": "whole, over"}[self.request.long]
            screen.note(f"{plural(long, 'protein')} {verb} {self.limit:,} residues, marked in {results.TABLE}")

    def _fitted(self, fits: Fits) -> Fitted:
        try:
            if self.options.method == "head":
                return fits.on_features(max(self.request.layers))
            with exact(self.hardware):
                return fits.on_network(self.checkpoint, self.request, self.hardware)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            raise JobError(
                "there is not enough memory for this: try a smaller --model, --long truncate, or --method head. The "
                "epochs before are kept"
            ) from error

    def _write(self, asked: dict[str, Any], fits: Fits, spread: Balance, fitted: Fitted, tested: _Tested) -> Finetuned:
        folder, dataset, splits = self.folder, fits.dataset, fits.splits
        recipe = self._weights(dataset, fitted)
        split_of = splits.of(len(dataset.examples))
        results.write_table(folder, dataset, split_of, fitted.outputs, self.limit)
        target = self.options.target or "label"
        drawn = _draw(folder, fits, fitted, tested, target)
        if not drawn:
            self.screen.note("no pictures: pip install 'aminoglot[plot]'")
        facts = card.Facts(
            recipe=recipe,
            balance=spread,
            counts=list(counts(dataset.entries)),
            how=splits.how,
            notes=[*dataset.notes, *splits.notes],
            history=fitted.history,
            scores=tested.scored,
            split=tested.split,
            gained=tested.gained,
            trained=fitted.trained,
            precision=self.hardware.precision,
            asked=asked["options"],
            drawn=drawn,
        )
        results.write_text(folder / results.CARD, card.card(facts))
        noted = tested.as_dict() | {"epoch": fitted.history.best[0] + 1}
        files = [*recipe.files, FILE, results.LOG, results.TABLE, results.CARD, *drawn]
        results.finish(folder, asked, noted, files)
        for name in (STATE, ".stdin"):
            (folder / name).unlink(missing_ok=True)
        self.screen.say(f"wrote {folder}: try aminoglot predict {folder} PROTEINS -o predictions.tsv")
        return _finetuned(folder, noted)

    def _weights(self, dataset: Dataset, fitted: Fitted) -> Recipe:
        """Write what predicting needs, the recipe last."""
        options, folder = self.options, self.folder
        results.write_head(folder, fitted.head)
        base, digest, files = results.base_name(str(options.model)), self.checkpoint.digest, [HEAD]
        if options.method == "lora":
            assert fitted.live is not None
            files += results.write_adapter(folder, fitted.live, base, digest, options.alpha)
        elif options.method == "full":
            assert fitted.live is not None
            names, digest = results.write_model(folder, fitted.live, self.checkpoint)
            files += names
        head = fitted.head
        shape = {"name": head.name, "width": head.width, "outputs": head.outputs, "hidden": tuning.HIDDEN}
        recipe = Recipe(
            target=options.target or "label",
            per=options.per,
            kind=dataset.kind,
            classes=dataset.classes,
            method=options.method,
            head=shape,
            layer=max(self.request.layers),
            pool=options.pool,
            long=options.long,
            limit=self.limit,
            model=base,
            model_digest=digest,
            precision=self.hardware.precision,
            backend=self.hardware.backend,
            device=self.hardware.kind,
            files=dict.fromkeys(files, ""),
            aminoglot=__version__,
        )
        results.write_recipe(folder, recipe)
        return recipe


@dataclass(frozen=True)
class _Tested:
    """How well a fit does, beside what is known without the model."""

    split: str
    answers: Answers
    scored: list[Scored]
    gained: Interval
    headline: str

    def as_dict(self) -> dict[str, Any]:
        of = {one.name: one.as_dict() for one in self.scored}
        return {"split": self.split, "headline": self.headline, "of": of, "over_composition": self.gained.as_dict()}


def _tested(fits: Fits, fitted: Fitted, letters: Outputs) -> _Tested:
    dataset, splits, seed = fits.dataset, fits.splits, fits.options.seed
    name = "test" if len(splits.test) else "validation"
    rows = splits.rows(name).tolist()
    examples = [dataset.examples[row] for row in rows]
    model, other = (
        answers(examples, [outputs[row] for row in rows], dataset.kind) for outputs in (fitted.outputs, letters)
    )
    trained = [dataset.examples[row] for row in splits.train.tolist()]
    learnt: NDArray[Any] = np.concatenate([one.label[one.counted] for one in trained])
    always = replace(model, predicted=np.full(len(model.actual), constant(learnt, dataset.kind), model.predicted.dtype))
    ways = {MODEL: model, COMPOSITION: other, CONSTANT: always}
    found = [scored(key, one, dataset.kind, dataset.per_residue, seed) for key, one in ways.items()]
    gained = difference(model, other, dataset.kind, dataset.per_residue, seed)
    return _Tested(name, model, found, gained, headline(name, dataset.kind, found, gained))


def _draw(folder: Path, fits: Fits, fitted: Fitted, tested: _Tested, target: str) -> list[str]:
    """The pictures; none without matplotlib."""
    dataset = fits.dataset
    score = f"{MAIN[dataset.kind]} {tested.scored[0].main}"
    try:
        if dataset.kind == "number":
            predictions = pictures.scatter(tested.answers, target, tested.split, score)
        else:
            predictions = pictures.confusion(tested.answers, dataset.classes, tested.split, score)
        drawn = {
            results.PREDICTIONS: predictions,
            results.LEARNING: pictures.learning(fitted.history, dataset.kind),
            results.LABELS: pictures.labels(dataset, fits.splits, target),
        }
    except DependencyError:
        return []
    for name, content in drawn.items():
        results.write_bytes(folder / name, content)
    return list(drawn)


def _finetuned(folder: Path, noted: dict[str, Any]) -> Finetuned:
    return Finetuned(folder, noted["split"], noted["of"], noted["headline"])


def _request(checkpoint: Checkpoint, options: Options) -> Request:
    """What the network is asked for each protein.

    Raises:
        InputError: for what the family does not do, or several layers.
    """
    for option in ("pool", "long"):
        value = getattr(options, option)
        if reason := family_of(checkpoint.config).refused.get((option, value)):
            raise InputError(f"{option} {value}: {reason}")
    layers, several = resolve_layers(options.layer, checkpoint.config.layers)
    if several:
        raise InputError("a head stands on one layer: name one with --layer")
    long = "truncate" if options.long in ("skip", "error") else options.long  # longer ones are not among them
    return Request(options.per, layers, False, options.pool, long, checkpoint.config.longest)
