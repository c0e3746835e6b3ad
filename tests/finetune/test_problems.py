"""Learning from features: losses by hand, labels that do not count, rows in blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aminoglot.errors import JobError
from aminoglot.finetune import problems
from aminoglot.finetune.heads import Head
from aminoglot.finetune.problems import Labelled, OnFeatures, chunks, losses

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
STARTS = np.array([0, 3, 4, 11, 20])
CLASSES = np.random.default_rng(1).integers(3, size=20)


def residues(counted: np.ndarray | None = None) -> Labelled:
    return Labelled(X, CLASSES, STARTS, counted)


def test_labelled_residues() -> None:
    mask = np.arange(20) % 3 > 0
    found = residues(mask)
    assert len(found) == 4
    assert found.owners.tolist() == np.repeat(np.arange(4), [3, 1, 7, 9])[mask].tolist()
    assert found.actual.tolist() == CLASSES[mask].tolist()
    rows, lengths = found.places(np.array([2, 0]))
    assert rows.tolist() == [*range(4, 11), 0, 1, 2]
    assert lengths == [7, 3]


def test_moments_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_ROWS_AT_ONCE", 7)
    mean, spread = Labelled(X, CLASSES).moments()
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(spread, X.std(0), rtol=1e-5)
    assert np.concatenate(list(chunks(Labelled(X, CLASSES)))).tolist() == list(range(20))
    assert np.concatenate(list(chunks(residues()))).tolist() == list(range(4))


def test_cross_entropy_with_and_without_weights() -> None:
    y = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 5.0, 0.5])
    labels = torch.from_numpy(CLASSES)
    for given in (None, weights):
        expected = torch.stack([F.cross_entropy(one, labels, given) for one in y])
        torch.testing.assert_close(losses(y, CLASSES, "classes", torch.ones(()), given), expected)


def test_squared_error_in_units_of_variance() -> None:
    y = torch.tensor([[[1.0], [4.0]]])
    found = losses(y, np.array([0.0, 0.0]), "number", torch.tensor(2.0))
    assert found.tolist() == [(0.25 + 4) / 2]
    assert losses(y[:, :0], np.zeros(0), "number", torch.ones(())).tolist() == [0]  # no label counts: no loss


def test_what_does_not_count_changes_nothing() -> None:
    """Neither in the loss nor in the score on validation; yet its features are seen by its neighbours."""
    mask = np.arange(20) % 4 > 0
    other = np.where(mask, CLASSES, 2 - CLASSES)
    head = Head("convolution", 4, 3)
    found = []
    for labels in (CLASSES, other):
        of = Labelled(X, labels, STARTS, mask)
        made = OnFeatures(head, of, of, "classes")
        head.eval()
        with torch.no_grad():
            found.append((made.loss(np.arange(4)).item(), made.validate()[0]))
        assert made.predict(of).shape == (1, mask.sum(), 3)
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(found[0][1], rel=1e-6)


def test_a_head_is_given_the_training_set_s_moments_and_units() -> None:
    numbers = np.random.default_rng(5).normal(7, 3, size=20)
    made = OnFeatures(Head("linear", 4, 1), Labelled(X[:12], numbers[:12]), Labelled(X[12:], numbers[12:]), "number")
    np.testing.assert_allclose(made.module.standardise.mean_D, X[:12].mean(0), rtol=1e-4, atol=1e-6)
    assert made.module.units.centre.item() == pytest.approx(numbers[:12].mean())
    assert made.module.units.unit.item() == pytest.approx(numbers[:12].std())


def test_predictions_in_blocks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    of = residues()
    made = OnFeatures(Head("convolution", 4, 3, (0, 1)), of, of, "classes")
    whole = made.predict(of)
    monkeypatch.setattr(problems, "_ROWS_AT_ONCE", 5)
    np.testing.assert_allclose(made.predict(of), whole, atol=1e-6)
    assert whole.shape == (2, 20, 3)


WEIGHTS = torch.tensor([1.0, 3.0, 0.0])
"""Class 2 has no training label."""


def test_a_class_that_training_lacks_loses_nothing() -> None:
    y = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    assert losses(y, np.full(4, 2), "classes", torch.ones(()), WEIGHTS).tolist() == [0.0]


def test_validation_weighs_by_class_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows are cut, also where a block has only labels that weigh nothing."""
    labels = np.array([2] * 5 + [0, 1] * 7 + [1])
    of = Labelled(X, labels)
    made = OnFeatures(Head("linear", 4, 3), of, of, "classes", WEIGHTS)
    made.module.eval()
    with torch.no_grad():
        whole = made.validate()
        monkeypatch.setattr(problems, "_ROWS_AT_ONCE", 5)
        np.testing.assert_allclose(made.validate(), whole, rtol=1e-6)
        expected = F.cross_entropy(made.module(torch.from_numpy(X), None)[0], torch.from_numpy(labels), WEIGHTS)
    assert whole[0] == pytest.approx(expected.item(), rel=1e-5)


def test_validation_that_weighs_nothing_chooses_no_epoch() -> None:
    of = Labelled(X, np.full(20, 2))
    made = OnFeatures(Head("linear", 4, 3), of, of, "classes", WEIGHTS)
    with torch.no_grad(), pytest.raises(JobError, match="no protein that validates is of a class that training has"):
        made.validate()
