"""How well a fit does on proteins that it never saw, beside what is known without the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.finetune.examples import Example
from aminoglot.finetune.metrics import MAIN, Interval, Kind, accuracy_interval, interval, scores, spearman

FEWEST = 3
"""Proteins from which on there is an interval."""
MODEL, COMPOSITION, CONSTANT = "model", "composition", "constant"


@dataclass(frozen=True)
class Answers:
    """Predictions beside labels, of all counted rows of some proteins.

    Attributes:
        predicted: [n], numbers or places of classes.
        actual: [n]
        owners: [n], which protein each is of.
    """

    predicted: NDArray[Any]
    actual: NDArray[Any]
    owners: NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """Scores of one way of predicting.

    Attributes:
        name: ``model``, ``composition`` or ``constant``.
        scores: all of :func:`aminoglot.finetune.metrics.scores`.
        main: the one that counts, with its interval.
    """

    name: str
    scores: dict[str, float]
    main: Interval

    def as_dict(self) -> dict[str, Any]:
        main = self.main.as_dict()
        return {"scores": self.scores, "interval": [main["low"], main["high"]]}


def told(outputs: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    """From outputs [n, C] to what is predicted: [n] numbers or places of classes."""
    return outputs[:, 0].astype(np.float64) if kind == "number" else outputs.argmax(1)


def answers(examples: Sequence[Example], outputs: Sequence[NDArray[np.float32]], kind: Kind) -> Answers:
    """Predictions of some proteins beside their labels; of residues those that have one.

    Args:
        examples: proteins.
        outputs: of each [rows, C], as many rows as were embedded.
        kind: of labels.
    """
    parts = []
    for owner, (one, found) in enumerate(zip(examples, outputs, strict=True)):
        counted = one.counted[: len(found)]
        parts.append((told(found[counted], kind), one.label[: len(found)][counted], np.full(counted.sum(), owner)))
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def scored(name: str, found: Answers, kind: Kind, per_residue: bool, seed: int) -> Scored:
    """All scores, the main one with its interval by bootstrap over proteins."""
    main = _few(_main(found, kind, per_residue, seed), found)
    return Scored(name, scores(kind, found.predicted, found.actual), main)


def _few(made: Interval, found: Answers) -> Interval:
    """A score, without limits where they would be drawn from so few proteins that they say nothing."""
    return made if len(np.unique(found.owners)) >= FEWEST else Interval(made.value, math.nan, math.nan)


def _main(found: Answers, kind: Kind, per_residue: bool, seed: int) -> Interval:
    if kind == "classes":
        return accuracy_interval(found.predicted == found.actual, found.owners, seed)
    return interval(spearman, found.predicted, found.actual, seed, found.owners if per_residue else None)


def difference(model: Answers, other: Answers, kind: Kind, per_residue: bool, seed: int) -> Interval:
    """How much better the model is by the main score, its interval by drawing the same proteins for both."""
    both = np.stack((model.predicted, other.predicted), axis=1)

    def measure(predicted: NDArray[Any], actual: NDArray[Any]) -> float:
        if kind == "classes":
            right = (predicted == actual[:, None]).mean(0)
            return float(right[0] - right[1])
        return spearman(predicted[:, 0], actual) - spearman(predicted[:, 1], actual)

    return _few(interval(measure, both, model.actual, seed, model.owners if per_residue else None), model)


def headline(split: str, kind: Kind, rows: Sequence[Scored], gained: Interval) -> str:
    """The model's score, and what it adds to what is known without it."""
    others = ", ".join(f"{one.name} {one.main.value:.3f}" for one in rows[1:])
    clear = "better than" if gained.low > 0 else "worse than" if gained.high < 0 else "not clearly different from"
    return (
        f"{split} {MAIN[kind]} {rows[0].main}; {others}. The model is {clear} composition: {gained.value:+.3f} "
        f"({gained.limits('+')})"
    )
