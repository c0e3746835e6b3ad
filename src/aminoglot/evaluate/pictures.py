"""Pictures of a split: bars beside baselines, confusion, learning curves, layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.drawing import BLUE, GREEN, GREY, ORANGE, RED, figure, plain, png
from aminoglot.evaluate.results import Row, SplitResult

COLOURS = {"model": BLUE, "untrained": ORANGE, "one-hot": GREEN, "composition": "#7d5ba6", "none": GREY}
"""Of kinds of features."""
_DOTS = 4_000


def bars(split: SplitResult) -> bytes:
    """The main score of every head at its best layer: limits of the bootstrap as lines, seeds as dots."""
    rows = split.best_rows
    drawn = figure(8, 0.9 + 0.34 * len(rows) + 0.2 * len(split.marks))
    below = "\n".join([split.score, *(f"* {mark}" for mark in split.marks)])
    axes = plain(drawn.add_subplot(), f"{split.title}, {split.split}", below)
    for place, row in enumerate(reversed(rows)):
        score = row.scores[split.main]
        axes.barh(place, score.mean, color=COLOURS[row.features], alpha=1 if row.chosen else 0.45, height=0.7)
        axes.plot([score.low, score.high], [place, place], color="#222222", linewidth=1.2)
        axes.plot(
            score.values, [place] * len(score.values), ".", color="white", markersize=4, markeredgecolor="#222222"
        )
    axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axes.axvline(0, color="#222222", linewidth=0.6)
    axes.margins(y=0.02)
    for label, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        label.set_fontweight("bold" if row.chosen else "normal")
    return png(drawn)


def _label(row: Row) -> str:
    marks = " *" if row.marks else ""
    return f"{row.name}: {row.head}{marks}" if row.features != "none" else f"constant{marks}"


def confusion(split: SplitResult) -> bytes:
    """Of each actual class, how much was predicted to be each."""
    counts = np.array(split.confusion, np.float64)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    size = 3.4 + 0.42 * len(counts)
    drawn = figure(size + 0.6, size)
    row = split.chosen("model")
    head = f": {row.head}" if row else ""
    axes = plain(drawn.add_subplot(), f"Share of each class{head}", "predicted", "actual")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name.replace("_", " ") for name in split.classes]
    long = max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(
        range(len(names)), [f"{name} ({int(n):,})" for name, n in zip(names, _of_one_seed(split), strict=True)]
    )
    for (actual, told), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else "#222222"
        axes.text(told, actual, f"{share:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    return png(drawn)


def _of_one_seed(split: SplitResult) -> NDArray[np.int64]:
    """Labelled rows of each class."""
    row = split.chosen("model")
    found: NDArray[np.int64] = np.array(split.confusion).sum(axis=1) // (row.seeds if row else 1)
    return found


def scatter(split: SplitResult, told: NDArray[Any], actual: NDArray[Any]) -> bytes:
    """Predicted against measured, the mean of all seeds; of many proteins some thousands."""
    mean = np.asarray(told, np.float64).mean(axis=0)
    chosen = np.random.default_rng(0).permutation(len(actual))[:_DOTS]
    drawn = figure(5.2, 4.8)
    row = split.chosen("model")
    score = row.scores["spearman"].mean if row else 0.0
    title = f"{row.head if row else ''}: Spearman {score:.3f}"
    unit = f" ({split.unit})" if split.unit else ""
    axes = plain(drawn.add_subplot(), title, f"measured{unit}", f"predicted{unit}")
    axes.plot(actual[chosen], mean[chosen], ".", color=BLUE, markersize=3, alpha=0.35, markeredgewidth=0)
    low, high = float(min(actual.min(), mean.min())), float(max(actual.max(), mean.max()))
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.8)
    return png(drawn)


def curves(split: SplitResult) -> bytes:
    """Losses of the published head, epoch by epoch: training dashed, validation whole; a line a seed."""
    drawn = figure(8, 3.4)
    axes = plain(drawn.add_subplot(), "Learning curves of the published head", "epoch", _loss(split))
    for row in split.rows:
        if not (row.published_head and row.best_layer and row.history):
            continue
        for name, style in (("train", "--"), ("validation", "-")):
            losses = np.array(row.history[name])
            for seed in range(losses.shape[1]):
                label = row.name if (name, seed) == ("validation", 0) else None
                axes.plot(
                    range(1, len(losses) + 1), losses[:, seed], style, color=COLOURS[row.features],
                    linewidth=1, alpha=0.8, label=label,
                )  # fmt: skip
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, title="dashed: training", alignment="left", loc="center left", bbox_to_anchor=(1, 0.5))
    return png(drawn)


def _loss(split: SplitResult) -> str:
    return "cross-entropy (nats)" if split.kind == "classes" else "squared error / variance"


def layers(split: SplitResult) -> bytes:
    """The main score at each layer: validation, which chooses, and test."""
    drawn = figure(8, 3.4)
    heads = list(dict.fromkeys(row.head for row in split.rows if row.layer is not None))
    for number, (axes, head) in enumerate(
        zip(drawn.subplots(1, len(heads), sharey=True, squeeze=False)[0], heads, strict=True)
    ):
        plain(axes, head, "layer", split.score if number == 0 else "")
        for kind in ("model", "untrained"):
            rows = sorted((r for r in split.rows if (r.features, r.head) == (kind, head)), key=lambda r: r.layer or 0)
            numbers = [row.layer for row in rows]
            test = [row.scores[split.main] for row in rows]
            axes.plot(
                numbers, [one.mean for one in test], "o-", color=COLOURS[kind], markersize=3, label=f"{kind}, test"
            )
            axes.fill_between(
                numbers,
                [one.low for one in test],
                [one.high for one in test],
                color=COLOURS[kind],
                alpha=0.15,
                linewidth=0,
            )
            held_out = [row.validation.mean for row in rows]
            axes.plot(numbers, held_out, ":", color=COLOURS[kind], label=f"{kind}, validation")
            best = next((row for row in rows if row.best_layer), None)
            if best is not None:
                axes.plot([best.layer], [best.scores[split.main].mean], "o", color=RED, markersize=7, fillstyle="none")
        axes.xaxis.get_major_locator().set_params(integer=True)
    drawn.axes[0].legend(frameon=False, fontsize=8)
    return png(drawn)


def pictures(split: SplitResult, told: NDArray[Any], actual: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """All of a split's, by name."""
    yield "scores", bars(split)
    if split.kind == "classes":
        yield "confusion", confusion(split)
    else:
        yield "predicted and measured", scatter(split, told, actual)
    yield "learning curves", curves(split)
    if len({row.layer for row in split.rows if row.features == "model"}) > 1:
        yield "layers", layers(split)
