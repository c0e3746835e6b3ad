"""``random:NAME``: the shape of a known model with weights that nobody trained, the same on every machine."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from aminoglot.checkpoints.checkpoint import Checkpoint
from aminoglot.models.esm2 import rotary_frequencies
from aminoglot.models.family import SIZES, Config, family_of

SEED = 2023


def untrained(name: str, seed: int = SEED) -> Checkpoint:
    """Random weights for one of :data:`aminoglot.models.family.SIZES`.

    Matrices are uniform after Glorot, biases zero, norms one; rotary frequencies are rounded to fp16 as in the released
    files. Only integer random numbers and exact float32 arithmetic are used, so that the weights are the same to the
    bit everywhere.
    """
    return shaped(SIZES[name], f"random:{name}", seed)


def shaped(config: Config, name: str, seed: int = SEED) -> Checkpoint:
    """Random weights for any shape, drawn as :func:`untrained` draws them.

    Args:
        config: the shape.
        name: what messages call it.
        seed: other seeds, other weights.
    """
    tensors = {key: _draw(key, shape, seed) for key, shape in _shapes(config).items()}
    note = f"{name} was never trained: its embeddings mean nothing and serve tests and benchmarks only"
    return Checkpoint(name, "untrained", config, tensors, (note,))


def _shapes(config: Config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in family_of(config).build(config).state_dict().items()}


def _draw(key: str, shape: torch.Size, seed: int) -> Tensor:
    if key == "frequencies":
        return rotary_frequencies(2 * shape[0]).half().float()
    if len(shape) < 2:
        return torch.ones(shape) if key.endswith("norm.weight") else torch.zeros(shape)
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    values = generator.random(tuple(shape), dtype=np.float32)
    bound = np.float32((6 / (shape[0] + shape[1])) ** 0.5)
    values *= 2 * bound
    values -= bound
    return torch.from_numpy(values)
