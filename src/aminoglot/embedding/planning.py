"""What embedding will take, before it is begun: arithmetic on the proteins' lengths, and the rate of a worker.

Shapes: K different lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot.checkpoints import Checkpoint, named, resolve
from aminoglot.embedding.lengths import Lengths, check_free, counted, read, write
from aminoglot.embedding.plan_options import PlanOptions
from aminoglot.embedding.rates import Rate, hardware_for, known, rate_for
from aminoglot.embedding.report import BYTES_A_PROTEIN, roughly, size
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model
from aminoglot.engine.pieces import pieces
from aminoglot.errors import InputError, plural
from aminoglot.jobs import ShardLimits
from aminoglot.screen import Screen

_ROUNDING = 1 - 1e-12
"""What keeps a sum's last digit from costing a worker, or a shard."""
_LONG = {
    "truncate": "truncated",
    "window": "windowed",
    "full": "embedded whole",
    "skip": "left out (--long skip)",
    "error": "where `embed` will stop; not planned for (choose another --long)",
}
BYTES_TO_PLAN = 240
"""Memory that planning a job takes a protein, as benchmarks/planning.py sees it."""
_MUCH = 16_000_000_000
_VECTORS = {"protein": "one vector a protein", "residue": "one vector a residue", "both": "of proteins and of residues"}
_BACKENDS = {"openvino": "OpenVINO", "torch": "torch"}
_SOURCES = {"measured": "measured here", "given": "by the rate given", "assumed": "assumed"}


@dataclass(frozen=True)
class Estimate:
    """What embedding takes, were no two sequences equal.

    Attributes:
        lengths: of all proteins.
        proteins: that get an embedding.
        over: proteins over the model's limit; under ``long`` skip and error they are none of ``proteins``.
        residues: that get an embedding.
        tokens: that go through the network: residues, special tokens, and where windows overlap residues again.
        operations: floating-point operations of the network (FLOPs).
        cost: :meth:`EmbeddingTask.cost` of all.
        shards: how many, about.
        output_bytes: of the output on disk, to a few percent.
        folder_bytes: of the job's folder beside it, until the output is written: computed shards and cleaned sequences.
        rate: of one worker, where it is known.
    """

    lengths: Lengths
    proteins: int
    over: int
    residues: int
    tokens: int
    operations: float
    cost: float
    shards: int
    output_bytes: int
    folder_bytes: int
    rate: Rate | None = None

    def hours(self, workers: int = 1) -> float | None:
        """Hours of so many workers that share the work evenly; None without a rate."""
        if self.rate is None:
            return None
        amount = {"tokens": float(self.tokens), "operations": self.operations, "cost": self.cost}[self.rate.unit]
        return amount / self.rate.a_second / 3600 / workers

    def workers(self, deadline: float) -> int | None:
        """How many workers are done within so many hours; None without a rate."""
        hours = self.hours()
        return None if hours is None else max(1, math.ceil(hours / deadline * _ROUNDING))


def plan_of(lengths: Lengths, task: EmbeddingTask, rate: Rate | None = None) -> Estimate:
    """What embedding proteins of these lengths takes.

    It is arithmetic on K lengths, so a billion proteins take no longer than a million, and no more memory.

    Args:
        lengths: of the proteins.
        task: a model, whose weights are not needed, and what is asked of it.
        rate: of one worker, where it is known.

    Raises:
        InputError: when none of the proteins would get an embedding.
    """
    request = task.request
    kept = request.embedded(lengths.residues) > 0
    whole, counts = lengths.residues[kept], lengths.counts[kept]
    if not len(counts):
        raise InputError(
            f"every protein is over {request.limit:,} residues, so nothing would be embedded; "
            "choose another --long: truncate, window or full"
        )
    residues = request.embedded(whole)
    tokens = _tokens(residues, task)
    context = np.minimum(tokens, request.limit) if request.long == "window" else tokens
    cost, output = task.cost(whole), task.output(whole)
    written = _total(output, counts) * task.dtype.itemsize // 4
    proteins = int(counts.sum())
    return Estimate(
        lengths=lengths,
        proteins=proteins,
        over=int(lengths.counts[lengths.residues > request.limit].sum()),
        residues=_total(residues, counts),
        tokens=_total(tokens, counts),
        operations=float((tokens * task.model.config.flops_per_token(context)) @ counts),
        cost=float(cost @ counts),
        shards=_shards(cost, output, counts, task.limits),
        output_bytes=written + proteins * BYTES_A_PROTEIN * (2 if request.per == "both" else 1),
        folder_bytes=written + _total(whole, counts),
        rate=rate,
    )


def _tokens(residues: NDArray[np.int64], task: EmbeddingTask) -> NDArray[np.int64]:
    """Tokens that go through the network for a protein of which so many residues get an embedding, int64 [K]."""
    request, special = task.request, task.model.alphabet.special_length
    tokens = residues + special
    if request.long == "window":
        for index in np.flatnonzero(residues > request.limit).tolist():
            cut = pieces(0, int(residues[index]), request)
            tokens[index] = sum(piece.length for piece in cut) + special
    return tokens


def _shards(
    cost: NDArray[np.float64], output: NDArray[np.int64], counts: NDArray[np.int64], limits: ShardLimits
) -> int:
    """About as many as `aminoglot.jobs.plan.cut_shards` cuts: whole proteins, up to the limit that is met first."""
    work = float(cost @ counts)
    near_equal = work / max(1, round(work / limits.cost))
    fitting = np.minimum(np.minimum(near_equal / cost, limits.output / output), limits.proteins)
    return math.ceil(float((counts / np.floor(fitting).clip(min=1)).sum()) * _ROUNDING)


def _total(each: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """A sum over all proteins, in whole numbers of any size."""
    return sum(map(mul, each.tolist(), counts.tolist()))


def planned(inputs: Sequence[str | Path], options: PlanOptions, screen: Screen) -> tuple[Estimate, EmbeddingTask]:
    """Plan what a user names: count or read the lengths, do the arithmetic, find the rate.

    Args:
        inputs: files, folders or ``-``; none where ``options`` names a table of lengths.
        options: what would be embedded, and how.
        screen: told of notes, and of what takes long.

    Returns:
        What it takes, and the task it was found for.

    Raises:
        AminoglotError: with a sentence that says what to do.
    """
    if bool(inputs) == (options.lengths is not None):
        if inputs:
            raise InputError("name proteins or a table of lengths (--lengths), not both")
        raise InputError("name proteins (files, a folder, or - for standard input), or else a table with --lengths")
    if options.write_lengths is not None:
        check_free(options.write_lengths)
    task = task_for(options, screen)
    lengths = counted(inputs, options, screen) if options.lengths is None else read(options.lengths)
    if options.write_lengths is not None:
        write(lengths, options.write_lengths)
    if options.proteins is not None:
        lengths = lengths.scaled(options.proteins)
    estimate = plan_of(lengths, task)
    rate = rate_for(lengths, task, options, screen) if options.rate is None else Rate.given(options.rate)
    return replace(estimate, rate=rate), task


def task_for(options: PlanOptions, screen: Screen) -> EmbeddingTask:
    """The task that options name; of a model with a known name the shape is enough, weights are not looked for.

    Raises:
        InputError: for a device, precision or backend that is neither here nor known.
        ModelError: when there is no such model.
    """
    name = named(options.model, screen.note)
    found = known(name)
    hardware = hardware_for(options)
    checkpoint = resolve(name) if found is None else Checkpoint(name, "untrained", found.config, {})
    model = Model(checkpoint, hardware, lazily=True)
    request = model.request(options.per, options.layer, "mean", options.long)  # no pool takes longer
    return EmbeddingTask(model, request, np.dtype(options.dtype))


def lines(estimate: Estimate, task: EmbeddingTask, options: PlanOptions) -> list[tuple[str, str]]:
    """An estimate in words: the rows of a table.

    Args:
        estimate: what was found.
        task: what it was found for.
        options: name a number of workers, or a deadline.
    """
    model, request, lengths, hardware = task.model, task.request, estimate.lengths, task.model.hardware
    mean = _total(lengths.residues, lengths.counts) / lengths.proteins
    written = f"{_VECTORS[request.per]}, {plural(len(request.layers), 'layer')}, {task.dtype.name}"
    over = [(f"over {request.limit:,} residues", f"{estimate.over:,}, {_LONG[request.long]}")]
    rows = [
        ("model", f"{model.name}, {model.config.parameters:,} parameters"),
        ("device", f"{hardware.device}, {hardware.precision} ({hardware.reason}), by {_BACKENDS[hardware.backend]}"),
        ("proteins", f"{estimate.proteins:,}"),
        ("lengths", f"{lengths.residues[0]:,} to {lengths.residues[-1]:,} residues, {mean:,.1f} on average"),
        *over[: estimate.over],
        ("residues embedded", f"{estimate.residues:,}"),
        ("tokens", f"{estimate.tokens:,}"),
        ("operations in all", f"{estimate.operations:.3g} FLOPs"),
        ("output", f"{_size(estimate.output_bytes)}: {written}"),
        ("the job's folder meanwhile", f"{_size(estimate.folder_bytes)} beside the output"),
        ("shards", f"about {estimate.shards:,}"),
        ("rate of a worker", _rate(estimate)),
    ]
    measured = estimate.rate is not None and estimate.rate.source == "measured"
    each = ", a machine like this one" if measured and hardware.kind == "cpu" else ""
    counts = dict.fromkeys((1, options.workers or 1))
    rows += [(f"{plural(count, 'worker')}", f"{_hours(estimate, count)}{each}") for count in counts]
    if (deadline := options.deadline) is not None:
        rows.append((f"done in {deadline:,g} {'hour' if deadline == 1 else 'hours'}", _workers(estimate, deadline)))
    return rows


def remarks(estimate: Estimate) -> list[str]:
    """What has to be known of an estimate."""
    said = [
        "Equal sequences, which `embed` computes once, are not looked for: these figures are an upper bound. "
        "The hours are those of computing, without reading and writing files."
    ]
    if (memory := estimate.proteins * BYTES_TO_PLAN) > _MUCH:
        said.append(
            f"`embed` plans a job in memory, and this one would take about {size(memory)}: cut the input into "
            f"{math.ceil(memory / _MUCH):,} files or more, and make each a job."
        )
    if estimate.rate is not None and estimate.rate.source == "assumed":
        said.append(
            "The rate is an assumption, and small models reach less. For a measured one run this on such a machine "
            "with --device cuda; or give one that you know with --rate."
        )
    return said


def _rate(estimate: Estimate) -> str:
    hours = estimate.hours()
    if estimate.rate is None or hours is None:
        return "not known"
    return f"{estimate.tokens / hours / 3600:,.0f} tokens a second, {estimate.rate.words}"


def _hours(estimate: Estimate, workers: int) -> str:
    hours = estimate.hours(workers)
    if estimate.rate is None or hours is None:
        return "not known"
    shown = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours >= 0.1 else "less than 0.1"
    return f"{shown} hours (about {roughly(3600 * hours)}), {_SOURCES[estimate.rate.source]}"


def _workers(estimate: Estimate, deadline: float) -> str:
    wanted = estimate.workers(deadline)
    if estimate.rate is None or wanted is None:
        return "not known"
    idle = f"; there are only about {estimate.shards:,} shards to share out" if wanted > estimate.shards else ""
    return f"{plural(wanted, 'worker')}, {_SOURCES[estimate.rate.source]}{idle}"


def _size(count: int) -> str:
    return size(count) if count < 10**15 else f"{count / 1e15:,.1f} PB"
