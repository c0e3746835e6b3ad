"""Heads and baselines learn what was planted, and validation alone chooses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aminoglot.evaluate.predictors import CONSTANT, fitted, product_type, work
from aminoglot.evaluate.tasks import TASKS, Recipe
from aminoglot.finetune.problems import Labelled

STRUCTURE, SCL, GB1 = TASKS["secondary_structure"], TASKS["scl"], TASKS["gb1"]
QUICK = Recipe(epochs=12, rate=5e-3, batch=16, hidden=32, updates=0)
FP32 = torch.float32


def residues(count: int, seed: int, shift: int = 0) -> Labelled:
    """Classes that the feature of the residue itself, or of one `shift` places before, decides."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(10, 20, count)
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    labels = generator.integers(0, 3, int(starts[-1])).astype(np.uint8)
    features = np.eye(4, dtype=np.float16)[labels] + generator.normal(0, 0.05, (len(labels), 4)).astype(np.float16)
    counted = np.ones(len(labels), np.bool_)
    if shift:
        labels = np.roll(labels, shift)
        for start in starts[:-1]:
            counted[start : start + shift] = False
    return Labelled(features, labels, starts, counted)


def numbers(count: int, seed: int, noise: float = 0.1) -> Labelled:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 6)).astype(np.float32)
    return Labelled(features, 40 + 3 * features[:, 0] - 2 * features[:, 1] + generator.normal(0, noise, count))


def classes(count: int, seed: int) -> Labelled:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    return Labelled((np.eye(10)[labels] + generator.normal(0, 0.15, (count, 10))).astype(np.float32), labels)


def test_residues_alone() -> None:
    task = replace(STRUCTURE, recipe=QUICK)
    for head in task.heads:
        made = fitted(head, task, residues(60, 0), residues(20, 1), 2, FP32)
        test = residues(20, 2)
        told = made.tell(test)
        assert told.shape == (2, len(test.actual))
        assert told.dtype == np.uint8
        assert ((told == test.actual).mean(axis=1) > 0.97).all(), head


def test_neighbours_of_residues_are_the_convolution_s_alone() -> None:
    task, train, held_out, test = replace(STRUCTURE, recipe=QUICK), *(residues(80, seed, 2) for seed in (0, 1, 2))
    context = fitted("convolution", task, train, held_out, 1, FP32).tell(test)
    alone = fitted("no-context", task, train, held_out, 1, FP32).tell(test)
    assert (context == test.actual).mean() > 0.9
    assert (alone == test.actual).mean() < 0.5


def test_bf16_learns_as_well() -> None:
    task = replace(STRUCTURE, recipe=QUICK)
    test = residues(20, 2)
    told = fitted("convolution", task, residues(60, 0), residues(20, 1), 2, torch.bfloat16).tell(test)
    assert ((told == test.actual).mean(axis=1) > 0.97).all()
    assert product_type(GB1) is torch.float32
    assert product_type(STRUCTURE) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("head", GB1.heads)
def test_numbers(head: str) -> None:
    task = replace(GB1, recipe=replace(QUICK, epochs=40))
    train, held_out, test = numbers(300, 0), numbers(60, 1), numbers(100, 2)
    told = fitted(head, task, train, held_out, 2, FP32).tell(test)
    assert told.dtype == np.float32
    left = ((told - test.labels) ** 2).mean() / test.labels.var()
    assert left < (0.5 if head == "neighbours" else 0.05)


@pytest.mark.parametrize("head", SCL.heads)
def test_classes(head: str) -> None:
    task = replace(SCL, recipe=replace(QUICK, epochs=30))
    train, held_out, test = classes(400, 0), classes(60, 1), classes(100, 2)
    told = fitted(head, task, train, held_out, 2, FP32).tell(test)
    assert (told == test.labels).mean() > 0.9


def test_a_class_that_training_lacks_is_only_wrong() -> None:
    train, held_out, test = classes(300, 0), classes(60, 1), classes(100, 2)
    rare = train.labels != 9
    train = Labelled(train.features[rare], train.labels[rare])
    for head in SCL.heads:
        told = fitted(head, replace(SCL, recipe=QUICK), train, held_out, 1, FP32).tell(test)
        assert not (told == 9).any()


def test_constants() -> None:
    train = classes(300, 0)
    most = int(np.bincount(train.labels).argmax())
    made = fitted(CONSTANT, SCL, train, train, 3, FP32)
    assert made.settings == {"class": SCL.classes[most]}
    assert (made.tell(classes(5, 1)) == most).all()
    train_numbers = numbers(100, 0)
    told = fitted(CONSTANT, GB1, train_numbers, train_numbers, 3, FP32).tell(numbers(7, 1))
    assert told.shape == (1, 7)
    assert told[0, 0] == pytest.approx(train_numbers.labels.mean())


@pytest.mark.parametrize("head", [*GB1.heads, CONSTANT])
def test_validation_chooses_and_test_has_no_say(head: str) -> None:
    """A head is fitted without a test set at all; another validation set makes other choices."""
    task = replace(GB1, recipe=QUICK)
    train, held_out = numbers(60, 0, noise=3.0), numbers(40, 1)
    first = fitted(head, task, train, held_out, 2, FP32)
    again = fitted(head, task, train, held_out, 2, FP32)
    test = numbers(30, 2)
    assert (first.tell(test) == again.tell(test)).all(), "to the bit"
    assert first.settings == again.settings
    opposite = Labelled(held_out.features, 80 - held_out.labels)  # for which the less is learnt the better
    other = fitted(head, task, train, opposite, 2, FP32)
    assert head == CONSTANT or other.settings != first.settings


def test_ridge_takes_the_strength_that_validation_likes() -> None:
    """Of many features that say nothing, strong penalties are better; of one that says all, weak ones."""
    generator = np.random.default_rng(0)
    noise = [Labelled(generator.normal(size=(60, 50)).astype(np.float32), generator.normal(size=60)) for _ in range(2)]
    assert fitted("ridge", GB1, *noise, 1, FP32).settings["alpha"] >= 1e3
    assert fitted("ridge", GB1, numbers(200, 0, 0.01), numbers(50, 1, 0.01), 1, FP32).settings["alpha"] <= 1


def test_a_handful_of_training_proteins() -> None:
    """One-vs-rest has 25; a few must do too."""
    train, held_out = numbers(4, 0), numbers(2, 1)
    for head in GB1.heads:
        told = fitted(head, replace(GB1, recipe=QUICK), train, held_out, 1, FP32).tell(numbers(3, 2))
        assert np.isfinite(told).all()


def test_work_is_told_as_it_is_done() -> None:
    task = replace(GB1, recipe=replace(QUICK, epochs=5))
    seen: list[int] = []
    fitted("perceptron", task, numbers(40, 0), numbers(10, 1), 1, FP32, seen.append)
    assert sum(seen) == 200 == work("perceptron", task, 40, 40)
    assert work("ridge", task, 40, 40) == 40
    of_residues = replace(TASKS["secondary_structure"], recipe=replace(QUICK, epochs=5))
    lengths = [3, 9, 4, 7]
    generator = np.random.default_rng(0)
    train = Labelled(
        generator.normal(size=(23, 4)).astype(np.float32),
        generator.integers(0, 3, 23).astype(np.uint8),
        np.concatenate(([0], np.cumsum(lengths))),
    )
    seen.clear()
    fitted("no-context", of_residues, train, train, 1, FP32, seen.append)
    assert sum(seen) == 115 == work("no-context", of_residues, 4, 23)


def test_small_sets_have_more_epochs() -> None:
    recipe = Recipe(epochs=20, rate=1e-3, batch=32, updates=1000)
    assert recipe.epochs_for(22_335) == 20
    assert recipe.epochs_for(381) == 84
    assert recipe.epochs_for(25) == 300
    assert STRUCTURE.recipe.epochs_for(100) == 10
