"""Scores as scikit-learn has them, and intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aminoglot.evaluate.scoring import _rank_correlations, confusion, difference, main_score, of_confusion, scored
from aminoglot.evaluate.tasks import TASKS
from aminoglot.finetune import metrics
from tests.evaluate.helpers import random_labels

SCL, GB1, STRUCTURE = TASKS["scl"], TASKS["gb1"], TASKS["secondary_structure"]


@pytest.mark.parametrize("classes", [2, 10])
def test_scores_of_classes_are_scikit_learn_s(classes: int) -> None:
    actual, told = random_labels(200, classes, 0), random_labels(200, classes, 1)
    told[:120] = actual[:120]
    found = of_confusion(confusion(classes, told, actual))
    for name, value in metrics.scores("classes", told.astype(np.int64), actual.astype(np.int64)).items():
        assert found[name][0] == pytest.approx(value, abs=1e-12), name


def test_one_class_alone() -> None:
    actual = np.zeros(5, np.uint8)
    found = of_confusion(confusion(3, actual, actual))
    assert [float(found[name][0]) for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc")] == [1, 1, 1, 0]


def test_scores_of_numbers() -> None:
    generator = np.random.default_rng(0)
    actual = generator.normal(size=80)
    told = np.stack([actual + generator.normal(size=80), np.full(80, 1.5)])
    found = scored(GB1, told, actual, np.arange(80), 80).scores
    assert found["mse"].values == pytest.approx([((row - actual) ** 2).mean() for row in told])
    assert found["rmse"].values == pytest.approx(np.sqrt(found["mse"].values))
    assert found["spearman"].values == pytest.approx([stats.spearmanr(told[0], actual).statistic, 0])
    assert found["spearman"].spread == pytest.approx(np.std(found["spearman"].values, ddof=1))
    assert main_score(GB1, told, actual) == found["spearman"].values


def test_correlations_of_draws_are_those_of_rows() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 9, (6, 30)).astype(float), generator.normal(size=(6, 30))
    one[3] = 2.0
    found = _rank_correlations(one, other)
    assert found == pytest.approx([metrics.spearman(a, b) for a, b in zip(one, other, strict=True)])
    assert found[3] == 0


def test_one_seed_has_no_spread() -> None:
    actual = random_labels(30, 10)
    found = scored(SCL, actual[None], actual, np.arange(30), 30).scores["accuracy"]
    assert (found.mean, found.spread, found.low, found.high) == (1, None, 1, 1)


def test_intervals_are_over_proteins() -> None:
    """Ten proteins of 1,000 residues, half of them told wholly right: as uncertain as ten coins, not as 10,000."""
    owners = np.repeat(np.arange(10), 1000)
    actual = np.zeros(10_000, np.uint8)
    told = (owners % 2).astype(np.uint8)[None]
    score = scored(STRUCTURE, told, actual, owners, 10).scores["accuracy"]
    assert score.mean == 0.5
    assert 0.1 <= score.low <= 0.3
    assert 0.7 <= score.high <= 0.9


def test_an_interval_covers_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        actual = np.zeros(150, np.uint8)
        told = (generator.random(150) > 0.7).astype(np.uint8)
        score = scored(SCL, told[None], actual, np.arange(150), 150).scores["accuracy"]
        covered += score.low <= 0.7 <= score.high
    assert covered >= 50


def test_differences_are_paired() -> None:
    """Two rows that are right on the same proteins but for a few differ by little, and surely."""
    actual = np.zeros(400, np.uint8)
    one = (np.random.default_rng(0).random(400) > 0.6).astype(np.uint8)
    other = one.copy()
    other[np.flatnonzero(one == 0)[:20]] = 1
    first, second = (scored(SCL, row[None], actual, np.arange(400), 400) for row in (one, other))
    found = difference(first, second, "accuracy")
    assert found.value == pytest.approx(0.05)
    assert 0.02 < found.low < 0.05 < found.high < 0.08
    alone = first.scores["accuracy"]
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


def test_confusion_of_proteins() -> None:
    actual, told = np.array([0, 1, 2, 2], np.uint8), np.array([0, 2, 2, 1], np.uint8)
    found = confusion(3, told, actual, np.array([0, 0, 1, 1]), 2)
    assert found.sum(axis=0).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert found[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]
