"""Pictures: drawn for every kind of label, whatever a run was like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aminoglot.finetune import pictures
from aminoglot.finetune.fitting import History
from aminoglot.finetune.outcome import Answers
from aminoglot.finetune.splits import Splits
from tests.finetune.helpers import dataset, rows, write_table

pytestmark = pytest.mark.usefixtures("thorough")
PNG = b"\x89PNG\r\n"


def splits(count: int) -> Splits:
    where = np.arange(count)
    return Splits(where[: count // 2], where[count // 2 : -5], where[-5:], "as told")


def test_learning() -> None:
    for epochs in (1, 5, 40):
        history = History([[1 / (i + 1)] for i in range(epochs)], [[0.5 + (i - 3) ** 2] for i in range(epochs)])
        for kind in ("classes", "number"):
            assert pictures.learning(history, kind).startswith(PNG)


def test_predictions() -> None:
    generator = np.random.default_rng(0)
    actual = generator.normal(size=30_000)
    found = Answers(actual + 0.1, actual, np.arange(30_000))
    assert pictures.scatter(found, "x", "test", "0.5").startswith(PNG)
    for count in (2, 10, 45):
        classes = [f"a class with a long name, number {i}" for i in range(count)]
        labels = generator.integers(count, size=100)
        answers = Answers(np.roll(labels, 1), labels, np.arange(100))
        assert pictures.confusion(answers, classes, "test", "0.5").startswith(PNG)


@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("kind", ["number", "classes"])
def test_labels(tmp_path: Path, per: str, kind: str) -> None:
    found = dataset(write_table(tmp_path / "a.csv", rows(20, per, kind)), per=per)
    assert pictures.labels(found, splits(20), "x").startswith(PNG)
