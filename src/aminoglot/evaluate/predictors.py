"""What tells labels from features: the published heads, and sober baselines. Validation alone chooses.

Shapes: S copies (seeds), N proteins, n labelled rows, D features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from aminoglot.errors import DependencyError
from aminoglot.evaluate.tasks import Task
from aminoglot.finetune.fitting import Problem, Schedule, fit
from aminoglot.finetune.heads import Head, HeadName
from aminoglot.finetune.problems import Labelled, OnFeatures

Done = Callable[[int], None]
CONSTANT = "constant"
STRENGTHS = tuple(10.0**power for power in range(-2, 6))
"""Of ridge: what is added to the diagonal, of features in units of their spread."""
INVERSE_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of logistic regression, as scikit-learn counts them: the smaller, the stronger."""
NEIGHBOURS = (1, 3, 5, 10, 20)
DISTANCES = ("euclidean", "cosine")
_AT_ONCE = 1024
_APART = 1_000
"""Between the seeds of copies: a head draws each of its parameters by one of its own."""


@dataclass(frozen=True)
class Fitted:
    """A head that is ready.

    Attributes:
        tell: [S, n] of a set's counted rows: classes as uint8, or numbers as float32.
        settings: what validation chose, and what there was to choose from.
        train: losses of each epoch and copy; empty where there are no epochs.
        validation: the same of what is held out.
    """

    tell: Callable[[Labelled], NDArray[Any]]
    settings: dict[str, Any]
    train: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)


def fitted(
    head: str,
    task: Task,
    train: Labelled,
    held_out: Labelled,
    seeds: int,
    dtype: torch.dtype,
    done: Done = lambda _: None,
) -> Fitted:
    """Fit one head.

    Args:
        head: one of the task's, or ``constant``.
        task: what is told.
        train: to learn from.
        held_out: to choose by.
        seeds: copies of a network, fitted side by side.
        dtype: what networks multiply in.
        done: told how many rows were learnt from, see :func:`work`.

    Raises:
        DependencyError: without scikit-learn, where a baseline is its.
    """
    if head in ("ridge", "neighbours"):
        found = (_ridge if head == "ridge" else _neighbours)(task, train, held_out)
    elif head == CONSTANT:
        found = _constant(task, train)
    else:
        return _network(cast(HeadName, head), task, train, held_out, seeds, dtype, done)
    done(work(head, task, len(train), len(train.labels)))
    return found


def work(head: str, task: Task, proteins: int, rows: int) -> int:
    """How many rows, residues or proteins, fitting learns from, each counted as often as it is seen."""
    seen = 1 if head in ("ridge", "neighbours", CONSTANT) else task.recipe.epochs_for(proteins)
    return seen * rows


def product_type(task: Task) -> torch.dtype:
    """What networks multiply in: residues are many, and bf16 is faster where the processor has it."""
    from aminoglot.engine.hardware import choose

    native = choose("cpu", "auto", "torch").precision == "bf16"
    return torch.bfloat16 if task.per == "residue" and native else torch.float32


def _network(
    name: HeadName, task: Task, train: Labelled, held_out: Labelled, seeds: int, dtype: torch.dtype, done: Done
) -> Fitted:
    recipe = task.recipe
    schedule = Schedule(epochs=recipe.epochs_for(len(train)), rate=recipe.rate, decay=recipe.decay, batch=recipe.batch)
    width = train.features.shape[1]
    head = Head(name, width, task.outputs, [_APART * seed for seed in range(seeds)], recipe.hidden)
    problem = OnFeatures(head, train, held_out, task.kind, dtype=dtype)
    seen = 0

    def rows(count: int) -> None:
        nonlocal seen
        before, seen = seen, seen + count
        done(seen * len(train.labels) // len(train) - before * len(train.labels) // len(train))

    history = fit(cast(Problem, problem), schedule, copies=seeds, done=rows)

    def tell(of: Labelled) -> NDArray[Any]:
        outputs = problem.predict(of)
        if task.kind == "classes":
            classes: NDArray[np.uint8] = outputs.argmax(axis=2).astype(np.uint8)
            return classes
        numbers: NDArray[np.float32] = outputs[..., 0]
        return numbers

    settings = {
        "epochs": schedule.epochs,
        "best_epochs": [epoch + 1 for epoch in history.best],
        "rate": schedule.rate,
        "batch": schedule.batch,
        "decay": schedule.decay,
        "products": str(dtype).removeprefix("torch."),
    }
    return Fitted(tell, settings, history.train, history.validation)


def _constant(task: Task, train: Labelled) -> Fitted:
    """The most frequent class of the training set, or its mean."""
    if task.kind == "classes":
        largest = int(np.bincount(train.actual, minlength=task.outputs).argmax())
        answer, settings = np.array(largest, np.uint8), {"class": task.classes[largest]}
    else:
        answer = np.array(train.actual.mean(), np.float64)
        settings = {"mean": float(f"{answer:.6g}")}  # type: ignore[dict-item]
    return Fitted(lambda of: np.full((1, len(of.actual)), answer), dict(settings))


class _Standard:
    """Features less the training set's mean, in units of its spread, float32; what never varies is only centred."""

    def __init__(self, train: Labelled) -> None:
        mean, spread = train.moments()
        self._mean, self._spread = mean.numpy(), np.where(spread.numpy() > 1e-6, spread.numpy(), 1.0)

    def __call__(self, of: Labelled) -> NDArray[np.float32]:
        found: NDArray[np.float32] = ((np.asarray(of.features, np.float32) - self._mean) / self._spread).astype(
            np.float32
        )
        return found


def _ridge(task: Task, train: Labelled, held_out: Labelled) -> Fitted:
    """Linear regression with a penalty; of classes logistic. The penalty is validation's choice."""
    linear = sklearn().linear_model
    standard = _Standard(train)
    x, v = standard(train), standard(held_out)
    models: dict[float, Any] = {}
    unfinished = 0
    if task.kind == "number":
        exact = x.astype(np.float64)
        for strength in STRENGTHS:
            models[strength] = linear.Ridge(alpha=strength, solver="cholesky").fit(exact, train.labels)
    else:
        for strength in INVERSE_STRENGTHS:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                models[strength] = linear.LogisticRegression(C=strength, max_iter=200).fit(x, train.labels)
            unfinished += any("converge" in str(one.message) for one in caught)
    wrongs = {strength: _wrong(task, model.predict(v), held_out.labels) for strength, model in models.items()}
    best = min(wrongs, key=lambda strength: wrongs[strength])
    settings: dict[str, Any] = {"C" if task.kind == "classes" else "alpha": best}
    if unfinished:
        settings["not_converged"] = unfinished
    return Fitted(lambda of: _as_told(task, models[best].predict(standard(of))), settings)


def _neighbours(task: Task, train: Labelled, held_out: Labelled) -> Fitted:
    """The mean or the most frequent class of the nearest training proteins; how many and how far, by validation."""
    neighbours = sklearn().neighbors
    standard = _Standard(train)
    x, v = standard(train), standard(held_out)
    counts = [k for k in NEIGHBOURS if k <= len(x)]
    found = {
        d: neighbours.NearestNeighbors(n_neighbors=counts[-1], metric=d, algorithm="brute").fit(x) for d in DISTANCES
    }
    wrongs = {}
    for distance, index in found.items():
        nearest = _nearest(index, v)
        for k in counts:
            wrongs[distance, k] = _wrong(task, _voted(task, train.labels[nearest[:, :k]]), held_out.labels)
    best, k = min(wrongs, key=lambda choice: wrongs[choice])

    def tell(of: Labelled) -> NDArray[Any]:
        return _as_told(task, _voted(task, train.labels[_nearest(found[best], standard(of))[:, :k]]))

    return Fitted(tell, {"neighbours": k, "distance": best})


def _nearest(index: Any, rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places of the nearest training rows of each, nearest first."""
    parts = [index.kneighbors(rows[a : a + _AT_ONCE], return_distance=False) for a in range(0, len(rows), _AT_ONCE)]
    return np.concatenate(parts)


def _voted(task: Task, labels: NDArray[Any]) -> NDArray[Any]:
    """What neighbours' labels, [n, k], say; of classes with as many votes the one whose first voter is nearest."""
    if task.kind == "number":
        means: NDArray[np.float64] = labels.mean(axis=1)
        return means
    votes = np.zeros((len(labels), task.outputs))
    for rank in range(labels.shape[1]):
        votes[np.arange(len(labels)), labels[:, rank]] += 1 + 1e-6 * (labels.shape[1] - rank)
    chosen: NDArray[np.int64] = votes.argmax(axis=1)
    return chosen


def _wrong(task: Task, told: NDArray[Any], actual: NDArray[Any]) -> float:
    """What validation chooses the least of: squared errors, or the share of wrong classes."""
    return float(np.mean((told - actual) ** 2) if task.kind == "number" else np.mean(told != actual))


def _as_told(task: Task, told: NDArray[Any]) -> NDArray[Any]:
    return told[None].astype(np.uint8 if task.kind == "classes" else np.float32)


def sklearn() -> Any:
    """scikit-learn.

    Raises:
        DependencyError: when it is not installed.
    """
    try:
        import sklearn.linear_model as linear_model
        import sklearn.neighbors as neighbors
    except ImportError as error:
        raise DependencyError("ridge and neighbours need scikit-learn: pip install 'aminoglot[eval]'") from error
    return SimpleNamespace(linear_model=linear_model, neighbors=neighbors)
