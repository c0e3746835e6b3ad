"""How well labels are told, with intervals by bootstrap over proteins."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import DependencyError

Kind = Literal["classes", "number"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
DRAWS = 1_000
FEWER_DRAWS = 300
"""Of bootstraps that need the rows themselves."""
MAIN: dict[Kind, str] = {"classes": "accuracy", "number": "spearman"}
"""What models are compared by."""


@dataclass(frozen=True)
class Interval:
    """A score, and between what limits 95 % of the bootstrap's draws lie; NaN where there are too few to draw from."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.limits()})"

    def limits(self, sign: str = "") -> str:
        """In words; a sign of ``+`` is for differences."""
        return f"{self.low:{sign}.3f} to {self.high:{sign}.3f}" if self.known else "too few proteins for an interval"

    @property
    def known(self) -> bool:
        """Whether there are limits."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_dict(self) -> dict[str, float | None]:
        """Value, low and high; None where there are no limits, for JSON has no NaN."""
        known = self.known
        return {"value": self.value, "low": self.low if known else None, "high": self.high if known else None}


def scores(kind: Kind, predicted: NDArray[Any], actual: NDArray[Any]) -> dict[str, float]:
    """All scores of a kind.

    Args:
        kind: classes (integers), or numbers.
        predicted: [n]
        actual: [n]

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean over classes), ``macro_f1``, ``mcc``; or ``mse``, ``rmse``, ``mae``,
        ``spearman``, ``pearson``, ``r2``. A correlation with a constant is 0: it orders nothing.

    Raises:
        DependencyError: without scikit-learn and SciPy.
    """
    return _of_classes(predicted, actual) if kind == "classes" else _of_numbers(predicted, actual)


def _of_classes(predicted: Integers, actual: Integers) -> dict[str, float]:
    metrics = _sklearn()
    with warnings.catch_warnings():  # a class that is predicted and never there, or one class alone
        warnings.simplefilter("ignore")
        return {
            "accuracy": float((predicted == actual).mean()),
            "balanced_accuracy": float(metrics.balanced_accuracy_score(actual, predicted)),
            "macro_f1": float(metrics.f1_score(actual, predicted, average="macro", zero_division=0.0)),
            "mcc": float(metrics.matthews_corrcoef(actual, predicted)),
        }


def _of_numbers(predicted: Floats, actual: Floats) -> dict[str, float]:
    errors = np.asarray(predicted, np.float64) - actual
    variance = float(np.var(actual))
    mse = float(np.mean(errors**2))
    return {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(np.abs(errors).mean()),
        "spearman": spearman(predicted, actual),
        "pearson": _correlation(np.asarray(predicted, np.float64), np.asarray(actual, np.float64)),
        "r2": 1 - mse / variance if variance > 0 else 0.0,
    }


def spearman(predicted: Floats, actual: Floats) -> float:
    """Correlation of ranks, ties at their mean rank; 0 where either is constant.

    Raises:
        DependencyError: without SciPy.
    """
    rank = _ranks()
    return _correlation(rank(predicted), rank(actual))


def _correlation(a: Floats, b: Floats) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def accuracy_interval(correct: NDArray[np.bool_], owners: Integers, seed: int = 0) -> Interval:
    """Share of rows told right, its limits by drawing whole proteins.

    Args:
        correct: [n], one a residue or a protein.
        owners: [n], which protein each row is of.
        seed: of the draws.
    """
    _, owner = np.unique(owners, return_inverse=True)
    right, rows = np.bincount(owner, correct), np.bincount(owner)
    generator = np.random.default_rng(seed)
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = generator.integers(len(rows), size=len(rows))
        found[draw] = right[chosen].sum() / rows[chosen].sum()
    return _limits(float(correct.mean()), found)


def interval(
    measure: Callable[[NDArray[Any], NDArray[Any]], float],
    predicted: NDArray[Any],
    actual: NDArray[Any],
    seed: int = 0,
    owners: Integers | None = None,
) -> Interval:
    """Any score, its limits by drawing whole proteins.

    Args:
        measure: from predicted and actual rows to a score.
        predicted: [n]
        actual: [n]
        seed: of the draws.
        owners: [n], which protein each row is of; None where each is one of its own.
    """
    generator = np.random.default_rng(seed)
    found = np.empty(FEWER_DRAWS)
    rows = np.arange(len(actual))
    of = None
    if owners is not None:
        _, owner = np.unique(owners, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        of = np.split(rows[order], np.cumsum(np.bincount(owner))[:-1])
    for draw in range(FEWER_DRAWS):
        chosen = generator.integers(len(rows if of is None else of), size=len(rows if of is None else of))
        if of is not None:
            chosen = np.concatenate([of[one] for one in chosen])
        found[draw] = measure(predicted[chosen], actual[chosen])
    return _limits(measure(predicted, actual), found)


def _limits(value: float, found: Floats) -> Interval:
    low, high = np.percentile(found, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _sklearn() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise DependencyError("scores need scikit-learn: pip install 'aminoglot[eval]'") from error
    return metrics


def _ranks() -> Callable[[Floats], Floats]:
    try:
        from scipy.stats import rankdata
    except ImportError as error:
        raise DependencyError("scores need SciPy: pip install 'aminoglot[eval]'") from error
    ranks: Callable[[Floats], Floats] = rankdata
    return ranks
