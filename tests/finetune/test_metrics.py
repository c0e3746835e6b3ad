"""Scores, beside those of scikit-learn and SciPy; and intervals, which are over proteins."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from aminoglot.errors import DependencyError
from aminoglot.finetune.metrics import accuracy_interval, interval, scores, spearman
from aminoglot.finetune.outcome import Answers, difference, headline, scored

pytestmark = pytest.mark.usefixtures("thorough")


def test_scores_of_classes() -> None:
    generator = np.random.default_rng(0)
    actual = generator.integers(4, size=300)
    predicted = np.where(generator.random(300) < 0.6, actual, generator.integers(4, size=300))
    found = scores("classes", predicted, actual)
    assert found == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(actual, predicted),
            "balanced_accuracy": theirs.balanced_accuracy_score(actual, predicted),
            "macro_f1": theirs.f1_score(actual, predicted, average="macro"),
            "mcc": theirs.matthews_corrcoef(actual, predicted),
        }
    )


def test_scores_of_numbers() -> None:
    generator = np.random.default_rng(1)
    actual = generator.normal(size=200).round(1)  # with ties
    predicted = (actual + generator.normal(size=200)).round(1)
    found = scores("number", predicted, actual)
    assert found == pytest.approx(
        {
            "mse": theirs.mean_squared_error(actual, predicted),
            "rmse": theirs.root_mean_squared_error(actual, predicted),
            "mae": theirs.mean_absolute_error(actual, predicted),
            "spearman": stats.spearmanr(actual, predicted).statistic,
            "pearson": stats.pearsonr(actual, predicted).statistic,
            "r2": theirs.r2_score(actual, predicted),
        }
    )


def test_a_constant_orders_nothing() -> None:
    """Where libraries warn and give NaN; and one class alone, or one that is never there."""
    found = scores("number", np.ones(5), np.arange(5.0))
    assert (found["spearman"], found["pearson"]) == (0, 0)
    assert scores("number", np.arange(3.0), np.ones(3))["r2"] == 0
    assert spearman(np.ones(1), np.ones(1)) == 0
    assert scores("classes", np.zeros(4, int), np.zeros(4, int))["accuracy"] == 1
    assert scores("classes", np.ones(4, int), np.zeros(4, int))["mcc"] == 0


def test_accuracy_is_drawn_by_proteins() -> None:
    """Ten proteins of 100 residues, each right or wrong as a whole, are ten answers and no thousand."""
    correct = np.repeat(np.arange(10) < 5, 100)
    owners = np.repeat(np.arange(10), 100)
    whole = accuracy_interval(correct, owners)
    rows = accuracy_interval(correct, np.arange(1000))
    assert whole.value == rows.value == 0.5
    assert whole.high - whole.low > 4 * (rows.high - rows.low)
    low, high = np.array(stats.binom.interval(0.95, 10, 0.5)) / 10
    assert (whole.low, whole.high) == pytest.approx((low, high), abs=0.1)
    assert accuracy_interval(correct, np.zeros(1000, int)).low == 0.5  # one protein: every draw is the same


def test_any_score_is_drawn_by_proteins() -> None:
    generator = np.random.default_rng(3)
    of = generator.normal(size=12)
    owners = np.repeat(np.arange(12) * 7, 50)  # numbers of proteins need not be 0, 1, 2 ...
    actual = np.repeat(of, 50)
    predicted = np.repeat(of + generator.normal(size=12), 50)
    whole, rows = interval(spearman, predicted, actual, owners=owners), interval(spearman, predicted, actual)
    assert whole.value == rows.value == pytest.approx(stats.spearmanr(predicted, actual).statistic)
    assert whole.high - whole.low > 3 * (rows.high - rows.low)
    shuffled = generator.permutation(len(owners))
    again = interval(spearman, predicted[shuffled], actual[shuffled], owners=owners[shuffled])
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high), abs=1e-9)


def test_an_interval_is_the_same_every_time() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(2, 80))
    assert interval(spearman, a, b, seed=1) == interval(spearman, a, b, seed=1)
    assert interval(spearman, a, b, seed=1) != interval(spearman, a, b, seed=2)
    found = interval(spearman, a, b)
    assert found.low < found.value < found.high
    assert str(found) == f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


@pytest.mark.parametrize(("kind", "module"), [("classes", "sklearn"), ("number", "scipy.stats")])
def test_what_is_not_installed_is_said(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=r"pip install 'aminoglot\[eval\]'"):
        scores(kind, np.zeros(3), np.arange(3))  # type: ignore[arg-type]


def test_too_few_proteins_have_no_interval() -> None:
    """Not even one of a single value; residues are not proteins."""
    few = Answers(np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    made = scored("model", few, "classes", True, 0)
    assert str(made.main) == "0.750 (too few proteins for an interval)"
    assert made.as_dict()["interval"] == [None, None]
    gained = difference(few, few, "classes", True, 0)
    assert gained.as_dict() == {"value": 0.0, "low": None, "high": None}
    said = headline("test", "classes", [made, made], gained)
    assert said.endswith("not clearly different from composition: +0.000 (too few proteins for an interval)")
    enough = Answers(few.predicted, few.actual, np.array([0, 1, 2, 2]))
    assert scored("model", enough, "classes", True, 0).main.known
