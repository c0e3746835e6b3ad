"""Pictures of a run: how it learnt, what it predicts, what its labels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aminoglot.drawing import BLUE, GREY, ORANGE, PALETTE, figure, plain, png
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.fitting import History
from aminoglot.finetune.outcome import Answers
from aminoglot.finetune.splits import NAMES, Splits

_WRITTEN = 12
"""Confusion matrices of so many classes have their numbers written in."""
_SHOWN = 40
"""Classes whose names fit beside a picture."""
_POINTS = 20_000


def learning(history: History, kind: str) -> bytes:
    """Losses of training and validation, epoch by epoch, and which epoch was kept."""
    drawn = figure(7, 3.4)
    unit = "cross-entropy (nats)" if kind == "classes" else "squared error / variance of labels"
    axes = plain(drawn.subplots(), "Learning", "epoch", unit)
    epochs = np.arange(1, len(history.train) + 1)
    axes.plot(epochs, [one[0] for one in history.train], color=BLUE, label="training")
    held_out = [one[0] for one in history.validation]
    axes.plot(epochs, held_out, color=ORANGE, label="validation")
    best = history.best[0]
    axes.plot(best + 1, held_out[best], "o", color=ORANGE, label=f"kept: epoch {best + 1}")
    axes.legend(frameon=False)
    if len(epochs) < 12:
        axes.set_xticks(epochs)
    return png(drawn)


def scatter(found: Answers, target: str, split: str, score: str) -> bytes:
    """Predicted beside measured numbers."""
    drawn = figure(4.6, 4.4)
    axes = plain(drawn.subplots(), f"{split}: {score}", f"measured {target}", f"predicted {target}")
    actual, predicted = found.actual, found.predicted
    if len(actual) > _POINTS:
        chosen = np.random.default_rng(0).choice(len(actual), _POINTS, replace=False)
        actual, predicted = actual[chosen], predicted[chosen]
    alpha = float(np.clip(300 / len(actual), 0.15, 0.8))
    axes.plot(actual, predicted, ".", color=BLUE, alpha=alpha, markersize=5, markeredgewidth=0)
    low, high = float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=0)
    return png(drawn)


def confusion(found: Answers, classes: Sequence[str], split: str, score: str) -> bytes:
    """What was predicted of each class: shares of its proteins or residues."""
    count = len(classes)
    table = np.bincount(found.actual * count + found.predicted.astype(np.int64), minlength=count**2)
    table = table.reshape(count, count)
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    side = float(np.clip(2.6 + 0.32 * count, 4.2, 12))
    drawn = figure(side + 0.6, side)
    axes = plain(drawn.subplots(), f"{split}: {score}", "predicted", "measured")
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    drawn.colorbar(shown, ax=axes, shrink=0.7, label="share of the measured class")
    if count <= _SHOWN:
        axes.set_xticks(range(count), [_short(name) for name in classes], rotation=90 if count > 4 else 0)
        axes.set_yticks(
            range(count), [f"{_short(name)} ({n:,})" for name, n in zip(classes, table.sum(1), strict=True)]
        )
    if count <= _WRITTEN:
        for i, j in np.ndindex(count, count):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{shares[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    return png(drawn)


def labels(dataset: Dataset, splits: Splits, target: str) -> bytes:
    """How labels are spread, split by split."""
    drawn = figure(7, 3.4)
    axes = plain(drawn.subplots(), "Labels", target, "proteins" if not dataset.per_residue else "residues")
    found = {name: _of(dataset, splits, name) for name in NAMES if len(splits.rows(name))}
    if dataset.kind == "number":
        edges = np.histogram_bin_edges(np.concatenate(list(found.values())), 40)
        axes.hist(list(found.values()), edges, stacked=True, color=PALETTE[: len(found)], label=list(found))
    else:
        base = np.zeros(len(dataset.classes))
        for colour, (name, values) in zip(PALETTE, found.items(), strict=False):
            counts = np.bincount(values.astype(np.int64), minlength=len(base))
            axes.bar(np.arange(len(base)), counts, bottom=base, color=colour, label=name)
            base += counts
        if len(base) <= _SHOWN:
            turn = 90 if max(map(len, dataset.classes)) > 3 else 0
            axes.set_xticks(range(len(base)), [_short(name) for name in dataset.classes], rotation=turn)
    axes.legend(frameon=False)
    return png(drawn)


def _of(dataset: Dataset, splits: Splits, name: str) -> Any:
    examples = [dataset.examples[row] for row in splits.rows(name).tolist()]
    return np.concatenate([one.label[one.counted] for one in examples])


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
