"""What is trained: the device, the network with or without LoRA, and how fast it learns."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine.hardware import Hardware, choose, keep_freed_memory, remember_kernels
from aminoglot.errors import InputError
from aminoglot.finetune import lora
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.fitting import Schedule
from aminoglot.finetune.heads import Head
from aminoglot.finetune.network import Live
from aminoglot.finetune.options import Method, Options
from aminoglot.models.family import Network
from aminoglot.models.linear import prepare, train_in
from aminoglot.settings import Request

_SCHEDULES: dict[Method, Schedule] = {
    "head": Schedule(epochs=100, rate=1e-3, batch=64, patience=10),
    "lora": Schedule(epochs=20, rate=1e-3, batch=32, patience=3, warmup=50, clip=1.0),
    "full": Schedule(epochs=20, rate=1e-4, batch=32, patience=3, warmup=50, clip=1.0),
}
_FLOOR = 0.01
"""The last step's learning rate, as a share of the first's."""
HIDDEN = 256
"""Units of a perceptron."""


def schedule(options: Options) -> Schedule:
    """How it is fitted: what the user asks, else what suits the method."""
    usual = _SCHEDULES[options.method]
    rate = usual.rate if options.rate is None else options.rate
    return replace(
        usual,
        epochs=usual.epochs if options.epochs is None else options.epochs,
        patience=usual.patience if options.patience is None else options.patience,
        batch=usual.batch if options.batch is None else options.batch,
        rate=rate,
        floor=rate * _FLOOR,
    )


def hardware(options: Options) -> Hardware:
    """Where the network is trained, and in which precision.

    Raises:
        InputError: for fp16 and fp8, whose gradients would overflow or vanish.
    """
    remember_kernels()
    found = choose(options.device, options.precision, "torch")
    if found.kind == "cpu":
        keep_freed_memory()
    if found.precision in ("fp16", "fp8"):
        if options.precision != "auto":
            raise InputError(f"precision {options.precision} is not for training; choose bf16 or fp32")
        return replace(found, precision="fp32", reason="fp16 is not for training")
    return found


def budget(width: int, where: Hardware) -> int:
    """Tokens that go through the network at once. On a CPU few, so that what they need stays in its cache."""
    if where.kind != "cpu":
        return 16384
    return 1024 if width >= 128 else 8192


def new_head(dataset: Dataset, options: Options, width: int) -> Head:
    """A head with its first weights."""
    return Head(options.head_name, width, dataset.outputs, (options.seed,), HIDDEN)


def live(checkpoint: Checkpoint, head: Head, request: Request, options: Options, where: Hardware) -> Live:
    """The network with its head, ready to learn.

    Raises:
        InputError: when the layer that is asked for lies below all that could be adapted.
    """
    depth = max(request.layers)
    if depth == 0:
        raise InputError(
            f"layer 0 is the embedding of letters: there is nothing to adapt with --method {options.method}"
        )
    network = _network(checkpoint, options, where, depth)
    if options.method == "lora":
        lora.adapt(network, options.adapted, options.rank, options.alpha, options.seed, depth)
    return Live(network.to(where.device), head.to(where.device), request, budget(network.config.hidden, where))


def _network(checkpoint: Checkpoint, options: Options, where: Hardware, depth: int) -> Network:
    """The frozen network in its precision; or one whose float32 weights are its own, and learn up to a layer."""
    assert where.precision in ("fp32", "bf16")
    if options.method == "lora":
        network = checkpoint.network()
        prepare(network, where.precision)
        return network
    own = {key: tensor.float().clone() for key, tensor in checkpoint.tensors.items()}
    network = replace(checkpoint, tensors=own).network()
    train_in(network, where.precision)
    network.requires_grad_(True)
    above: list[nn.Module | None] = list(network.layers[depth:])
    if depth < network.config.layers:
        above.append(network.final_norm)
    for part in (*above, getattr(network, "lm_head", None), getattr(network, "contact_head", None)):  # not asked
        if part is not None:
            part.requires_grad_(False)
    return network


def class_weights(dataset: Dataset, rows: list[int], options: Options) -> Tensor | None:
    """Weights of classes that make all count alike, mean 1 over the training labels; of one that has none, 0."""
    if options.class_weights == "none" or dataset.kind == "number":
        return None
    counts = torch.zeros(len(dataset.classes))
    for row in rows:
        one = dataset.examples[row]
        counts += torch.from_numpy(one.label[one.counted]).bincount(minlength=len(counts))
    there = counts > 0
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), torch.zeros_like(counts))
