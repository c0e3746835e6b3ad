"""Scores of what was told, with intervals by bootstrap over proteins.

Shapes: S copies (seeds), N proteins, n labelled rows, C classes, R draws of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.evaluate.tasks import Task
from aminoglot.finetune.metrics import DRAWS, FEWER_DRAWS, Interval, spearman

Floats = NDArray[np.float64]
_AT_ONCE = 50
"""Draws whose ranks are found at once."""


@dataclass(frozen=True)
class Score:
    """One score of a row.

    Attributes:
        mean: over seeds.
        spread: standard deviation over seeds; None of one.
        low: limits of the mean, between which 95 % of the bootstrap's draws of proteins lie.
        high: see ``low``.
        values: of each seed.
    """

    mean: float
    spread: float | None
    low: float
    high: float
    values: list[float]


@dataclass(frozen=True)
class Scored:
    """All scores of a row, and the draws of its main one, by which rows are compared."""

    scores: dict[str, Score]
    draws: Floats


def scored(task: Task, told: NDArray[Any], actual: NDArray[Any], owners: NDArray[np.int64], proteins: int) -> Scored:
    """Score what was told of a set.

    Args:
        task: what was told.
        told: [S, n]
        actual: [n]
        owners: [n], which protein each row is of.
        proteins: N.
    """
    by_draw = _of_classes if task.kind == "classes" else _of_numbers
    whole, drawn = by_draw(task, told, actual, owners, proteins)
    scores = {}
    for name, values in whole.items():
        low, high = np.percentile(drawn[name].mean(axis=0), (2.5, 97.5))
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        scores[name] = Score(float(values.mean()), spread, float(low), float(high), [float(v) for v in values])
    return Scored(scores, drawn[task.main].mean(axis=0))


def difference(one: Scored, other: Scored, main: str) -> Interval:
    """By how much one row's main score is above another's; limits by the same draws of proteins for both."""
    low, high = np.percentile(one.draws - other.draws, (2.5, 97.5))
    return Interval(one.scores[main].mean - other.scores[main].mean, float(low), float(high))


def main_score(task: Task, told: NDArray[Any], actual: NDArray[Any]) -> list[float]:
    """The main score of each copy, without an interval."""
    if task.kind == "classes":
        return [float((row == actual).mean()) for row in told]
    return [spearman(row.astype(np.float64), actual) for row in told]


@lru_cache(maxsize=4)
def draws(proteins: int, count: int) -> NDArray[np.int32]:
    """Proteins drawn with replacement, [R, N]; the same for all rows of a table."""
    found: NDArray[np.int32] = np.random.default_rng(0).integers(proteins, size=(count, proteins), dtype=np.int32)
    return found


def _weights(proteins: int, count: int) -> NDArray[np.float32]:
    """How often each protein is in each draw, [R, N]."""
    return np.stack([np.bincount(row, minlength=proteins).astype(np.float32) for row in draws(proteins, count)])


def confusion(
    classes: int, told: NDArray[Any], actual: NDArray[Any], owners: NDArray[np.int64] | None = None, proteins: int = 1
) -> NDArray[np.int64]:
    """Rows of each actual class that were told to be each, of each protein: [N, C, C]."""
    owner = np.zeros(len(actual), np.int64) if owners is None else owners
    place = (owner * classes + actual.astype(np.int64)) * classes + told.astype(np.int64)
    return np.bincount(place, minlength=proteins * classes**2).reshape(proteins, classes, classes)


def _of_classes(
    task: Task, told: NDArray[Any], actual: NDArray[Any], owners: NDArray[np.int64], proteins: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    classes = task.outputs
    weights = _weights(proteins, DRAWS)
    whole: list[dict[str, Floats]] = []
    drawn: list[dict[str, Floats]] = []
    for row in told:
        of_proteins = confusion(classes, row, actual, owners, proteins)
        whole.append(of_confusion(of_proteins.sum(axis=0)[None]))
        drawn_RCC = weights @ of_proteins.reshape(proteins, -1).astype(np.float32)
        drawn.append(of_confusion(drawn_RCC.reshape(-1, classes, classes)))
    return (
        {name: np.concatenate([one[name] for one in whole]) for name in whole[0]},
        {name: np.stack([one[name] for one in drawn]) for name in drawn[0]},
    )


def of_confusion(counts_RCC: NDArray[Any]) -> dict[str, Floats]:
    """Scores of confusion matrices whose rows are what is and whose columns are what was told, [R] each.

    ``accuracy``; ``balanced_accuracy``, the mean over classes that are there; ``macro_f1`` over classes that are there
    or told; ``mcc`` (Gorodkin 2004), 0 where a side has one class alone. As scikit-learn has them.
    """
    counts = np.asarray(counts_RCC, np.float64)
    right_RC, total_R = np.diagonal(counts, axis1=1, axis2=2), counts.sum((1, 2))
    there_RC, told_RC = counts.sum(2), counts.sum(1)
    recall = np.divide(right_RC, there_RC, out=np.zeros_like(right_RC), where=there_RC > 0)
    either = there_RC + told_RC
    f1 = np.divide(2 * right_RC, either, out=np.zeros_like(right_RC), where=either > 0)
    covariance = right_RC.sum(1) * total_R - (there_RC * told_RC).sum(1)
    scale = np.sqrt((total_R**2 - (told_RC**2).sum(1)) * (total_R**2 - (there_RC**2).sum(1)))
    return {
        "accuracy": right_RC.sum(1) / np.maximum(1, total_R),
        "balanced_accuracy": recall.sum(1) / np.maximum(1, (there_RC > 0).sum(1)),
        "macro_f1": f1.sum(1) / np.maximum(1, (either > 0).sum(1)),
        "mcc": np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0),
    }


def _rank_correlations(one: Floats, other: Floats) -> Floats:
    """Spearman's of each row with its partner, [R]; 0 where either is constant. As metrics.spearman, row by row."""
    from scipy.stats import rankdata

    a, b = rankdata(one, axis=1), rankdata(other, axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found: Floats = np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0)
    return found


def _of_numbers(
    task: Task, told: NDArray[Any], actual: NDArray[Any], owners: NDArray[np.int64], proteins: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    del task, owners  # a row is a protein
    told = np.asarray(told, np.float64)
    squares = (told - actual) ** 2
    weights = _weights(proteins, FEWER_DRAWS)
    mse = squares @ weights.T.astype(np.float64) / proteins
    drawn = draws(proteins, FEWER_DRAWS)
    blocks = [drawn[first : first + _AT_ONCE] for first in range(0, len(drawn), _AT_ONCE)]
    ranked = [[_rank_correlations(row[chosen], actual[chosen]) for chosen in blocks] for row in told]
    whole = {
        "spearman": np.array([spearman(row, actual) for row in told]),
        "mse": squares.mean(axis=1),
        "rmse": np.sqrt(squares.mean(axis=1)),
    }
    return whole, {"spearman": np.stack([np.concatenate(row) for row in ranked]), "mse": mse, "rmse": np.sqrt(mse)}
