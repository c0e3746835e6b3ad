"""How long a job will take on this machine: a few batches of it are timed, the rest is arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aminoglot.embedding.task import EmbeddingTask
from aminoglot.jobs import Plan

_SAMPLE = 0.1
"""How much is timed, in shards; a shard is some ten seconds of a laptop, or of a large GPU."""
_BATCHES = 3
"""How many batches a sample is, where the model allows: one alone would show what a new size of batch costs."""
_WORTH = 60
"""A job of fewer samples than this gets no estimate: it is over soon, and one would wait for the timing."""
_FEWEST_TOKENS = 256
"""Batches of fewer are so slow a token that they tell nothing about large ones."""
_PLACES = (0.5, 0.1, 0.9, 0.3, 0.7)
"""Where in the job's work batches are taken from: first its middle, then its long and its short proteins."""
_LETTERS = b"LAGVSERTIDPKQNFYMHWC"

Timed = Callable[[list[bytes]], float | None]
"""Embeds some proteins; in how many seconds, or None where memory did not suffice."""


def estimate(plan: Plan, task: EmbeddingTask, todo: Sequence[int], timed: Timed | None = None) -> float | None:
    """Seconds that computing some shards will take; None for a job too short to ask, or one that memory is short for.

    Batches of made-up proteins, as long as those of the job, go through the model. How much work they are beside the
    whole is known from the network's shape. Timing is a sixtieth of the job's work or less. Reading and writing of
    files is not counted.

    Args:
        plan: the job.
        task: what computes it.
        todo: shards that are left.
        timed: a stopwatch to use instead of the model (tests).
    """
    if not todo:
        return None
    lengths = np.concatenate([plan.shard_lengths(shard) for shard in todo])
    return extrapolated(lengths, np.ones_like(lengths), task, timed, _WORTH)


def extrapolated(
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    task: EmbeddingTask,
    timed: Timed | None = None,
    worth: int = 0,
) -> float | None:
    """Seconds that so many proteins of these lengths will take, as :func:`estimate` says; longest first.

    Args:
        lengths: residues, [K].
        counts: how many proteins have each, [K].
        task: what computes them.
        timed: a stopwatch to use instead of the model (tests).
        worth: a job of fewer samples than this is not timed.
    """
    timed = timed or (lambda texts: _timed(task, texts))
    work = np.cumsum(task.cost(lengths) * counts)
    sample = _SAMPLE * task.limits.cost
    done = seconds = 0.0
    for place in _PLACES:
        first = int(np.searchsorted(work, place * work[-1]))
        texts, cost = _batch(_first(lengths[first:], counts[first:], task.model.budget), task, sample / _BATCHES)
        if done and done + cost > sample:
            break
        if not done:
            if work[-1] < worth * max(cost, sample):
                return None
            timed([texts[0][:16]])  # wakes threads and touches all weights
        took = timed(texts)
        if took is None:
            return None
        done, seconds = done + cost, seconds + took
    return float(seconds * work[-1] / done)


def _first(lengths: NDArray[np.int64], counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The lengths of the first proteins, each for itself; never many more than are wanted, however many there are."""
    counts = np.minimum(counts[:most], most)
    enough = int(np.searchsorted(np.cumsum(counts), most)) + 1
    return np.repeat(lengths[:enough], counts[:enough])[:most]


def _batch(lengths: NDArray[np.int64], task: EmbeddingTask, most: float) -> tuple[list[bytes], float]:
    """Made-up proteins of the first of these lengths, up to a batch or so much work, and how much work they are.

    Every lane of the hardware gets the same, for together they are the machine.
    """
    lanes = task.model.hardware.lanes
    lengths = np.minimum(lengths, task.request.limit)
    tokens, cost = np.cumsum(lengths), np.cumsum(task.cost(lengths))
    fits = (tokens <= task.model.budget) & ((cost * lanes <= most) | (tokens <= _FEWEST_TOKENS))
    count = max(1, int(fits.sum()))
    longest = _LETTERS * (task.request.limit // len(_LETTERS) + 1)
    return [longest[:length] for length in lengths[:count].tolist()] * lanes, float(cost[count - 1]) * lanes


def _timed(task: EmbeddingTask, texts: list[bytes]) -> float | None:
    started = time.perf_counter()
    failed = task.model.embed_cleaned(texts, task.request, full_batches=True).failed
    return None if failed else time.perf_counter() - started
