"""What a run will need, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aminoglot.corpus import Corpus
from aminoglot.models.family import Config, family_of
from aminoglot.models.products import SCORES_KEPT, lengthened
from aminoglot.pretrain.config import RunConfig
from aminoglot.pretrain.objective import Objective, objective_for, samples_for
from aminoglot.pretrain.run import corpus_for, fits, hardware_of
from aminoglot.pretrain.start import checkpoint_of

_SAMPLED = 2_000


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        parameters: trained values.
        state_bytes: weights, gradients and what the optimizer remembers, in all processes together.
        activation_bytes: what is kept for the backward pass, on each process.
        staged_bytes: the copy of weights and optimizer that is written to disk while training goes on.
        proteins: an update, about.
        tokens: an update, about.
        epochs: how often each cluster will have been seen.
        flops: of the whole run.
    """

    parameters: int
    state_bytes: int
    activation_bytes: int
    staged_bytes: int
    proteins: float
    tokens: float
    epochs: float
    flops: float


def estimate(config: RunConfig, shape: Config, corpus: Corpus, half: bool, cpu: bool = False) -> Estimate:
    """Estimate a run from samples of its corpus, without computing anything.

    Args:
        config: of the run.
        shape: of the network.
        corpus: what it trains on.
        half: whether products are computed in 16 bits.
        cpu: whether on a CPU, where attention in 16 bits keeps exponentials (:mod:`aminoglot.models.products`).
    """
    with torch.device("meta"):
        network = family_of(shape).build(shape)
        if hasattr(network, "contact_head"):
            network.contact_head = None
    objective = objective_for(network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    samples = samples_for(network, corpus, "train", config.seed)
    lengths = np.array([samples.tokens_of(n) for n in range(min(_SAMPLED, len(samples)))])
    mean = float(lengths.mean())
    proteins = config.batch.proteins or max(1.0, (config.batch.tokens or 0) / mean)
    fitting = int(np.searchsorted(np.cumsum(lengths), config.batch.at_once, side="right"))
    piece = sorted(range(max(1, fitting)), key=lambda n: -lengths[n])
    batch = objective.batch([samples[n] for n in piece], torch.device("cpu"))
    flops = objective.flops(batch) / lengths[piece].sum()
    remembered = 4 if config.optimizer.name == "muon" else 8
    return Estimate(
        parameters=parameters,
        state_bytes=parameters * (4 + 4 + remembered),
        activation_bytes=activation_bytes(objective, batch, half, config.compute.recompute)
        + (_kept_by_products(shape, lengths[piece], config.compute.recompute) if half and cpu else 0),
        staged_bytes=parameters * (4 + remembered),
        proteins=proteins,
        tokens=proteins * mean,
        epochs=proteins * config.schedule.updates / len(samples),
        flops=flops * proteins * mean * config.schedule.updates,
    )


def activation_bytes(objective: Objective[Any], batch: Any, half: bool, recompute: bool) -> int:
    """Bytes that the backward pass needs of a batch, beside the weights.

    A block keeps, for each value of its width: the stream before either norm in float32; what goes into each product,
    queries, keys, values and what attention found in the product's type; and four times the width before and behind
    GELU. Products in 16 bits have copies of the weights in them, too.

    Args:
        objective: the network and its task.
        batch: of it.
        half: whether products are computed in 16 bits.
        recompute: whether blocks keep only what goes into them.
    """
    network = objective.network
    layers, d = network.config.layers, network.config.hidden
    product = 2 if half else 4
    shared = 3 if half else 1  # one input for queries, keys and values; in 16 bits each makes a copy of its own
    block = d * (2 * 4 + product * (shared + 1 + 1 + 3 + 1 + 4 + 4))
    cross = d * (4 + product * (1 + 1 + 3 + 1))
    source = len(batch.source.tokens_T)
    target = len(batch.target.tokens_T) if hasattr(batch, "target") else 0
    whole = layers * (source * block + target * (block + cross))
    if recompute:
        whole = whole // layers + layers * 4 * d * (source + target)
    return whole + (2 * sum(one.numel() for one in network.parameters()) if half else 0)


def _kept_by_products(shape: Config, lengths: NDArray[np.int64], recompute: bool) -> int:
    """Bytes that attention on CPUs in 16 bits keeps beside what :func:`activation_bytes` counts, of a block or of all:

    exponentials, what was found before it was moved back, its sums, and what is filled up.
    """
    long = lengthened(lengths)
    scores = shape.heads * long**2
    width = shape.hidden
    beside = (
        lengths.sum() * (2 * width + 4 * shape.heads)
        + 6 * width * (long - lengths).sum()
        + 2 * shape.heads * long.sum()
    )
    return int(2 * scores[scores <= SCORES_KEPT].sum() + beside) * (1 if recompute else shape.layers)


def lines(config: RunConfig) -> list[tuple[str, str]]:
    """What a run will need, in words.

    Raises:
        InputError: when the config contradicts the corpus or the model.
    """
    hardware = hardware_of(config.compute)
    shape = config.model.shape() or checkpoint_of(config.model).config
    corpus = corpus_for(config, family_of(shape).name)
    fits(config, shape, corpus)
    found = estimate(config, shape, corpus, hardware.precision != "fp32", hardware.kind == "cpu")
    schedule = config.rates()
    return [
        ("model", f"{family_of(shape).name}, {shape.layers} layers, width {shape.hidden}, {shape.heads} heads"),
        ("parameters", f"{found.parameters:,}"),
        ("device", f"{hardware.device}, {hardware.precision} ({hardware.reason})"),
        (
            "memory, weights and optimizer",
            _size(found.state_bytes)
            + ("" if config.optimizer.name == "muon" else ", shared out among processes by fsdp"),
        ),
        (
            "memory, activations",
            f"{_size(found.activation_bytes)} kept for the backward pass of {config.batch.at_once:,} tokens at once; "
            "what it computes with for a moment comes on top",
        ),
        ("memory, a state being written", f"{_size(found.staged_bytes)} of the host's, among all processes"),
        ("clusters for training", f"{len(corpus.split('train')):,}"),
        ("proteins an update", f"{found.proteins:,.0f}"),
        ("tokens an update", f"{found.tokens:,.0f}"),
        ("updates", f"{schedule.updates:,}"),
        ("tokens in all", f"{found.tokens * schedule.updates:,.0f}"),
        ("epochs", f"{found.epochs:,.2f}"),
        ("operations in all", f"{found.flops:.3g}"),
        (
            "learning rate",
            f"{schedule.rate(1):.3g}, at its peak {schedule.peak:.3g}, {schedule.rate(schedule.updates):.3g}",
        ),
    ]


def _size(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB"
