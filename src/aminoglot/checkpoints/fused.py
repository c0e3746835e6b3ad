"""Matrices in which NVIDIA's formats keep queries, keys and values together, and vocabularies that they pad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aminoglot.checkpoints.checkpoint import same
from aminoglot.errors import ModelError

QKV = ("query", "key", "value")


def unfused(where: str, tensor: Tensor, count: int, size: int, legacy: bool = False) -> tuple[Tensor, ...]:
    """Queries, keys and values of one matrix or bias.

    Args:
        where: what messages call it.
        tensor: its rows are [heads, count, size]; those of old Megatron [count, heads, size].
        count: how many there are in it.
        size: of a head.
        legacy: whether it is of old Megatron.

    Raises:
        ModelError: when its rows are no multiple of ``count * size``.
    """
    if tensor.ndim == 0 or not tensor.shape[0] or tensor.shape[0] % (count * size):
        raise ModelError(f"{where}: shape {list(tensor.shape)} does not hold {count} times heads of {size}")
    heads = tensor.shape[0] // (count * size)
    rows = tensor.unflatten(0, (count, heads, size) if legacy else (heads, count, size))
    return tuple(part.flatten(0, 1) for part in rows.unbind(0 if legacy else 1))


def fused(parts: Sequence[Tensor], size: int) -> Tensor:
    """The reverse of :func:`unfused`, head by head."""
    return torch.stack([part.unflatten(0, (-1, size)) for part in parts], 1).flatten(0, 2)


def padded(tensor: Tensor, multiple: int) -> Tensor:
    """Rows of zeros up to a multiple."""
    more = -len(tensor) % multiple
    return torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])]) if more else tensor


MOST_PADDED = 1024
"""Rows of ESM-2's or ProtT5nv's vocabulary, filled up to a multiple of 128 on each of eight GPUs."""


def unpadded(where: str, tensor: Tensor, rows: int) -> Tensor:
    """The first rows.

    Raises:
        ModelError: when there are more than filling up explains: the vocabulary is another model's.
    """
    if tensor.ndim and len(tensor) > MOST_PADDED:
        raise ModelError(
            f"{where}: {len(tensor):,} tokens are the vocabulary of another model, neither ESM-2 nor ProtT5nv"
        )
    return tensor[:rows] if tensor.ndim else tensor


class Tied:
    """Matrices that a format has under a second name: the same numbers, or it is another model.

    Args:
        where: what messages call the model.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._found: list[tuple[str, str, Tensor]] = []

    def add(self, key: str, ours: str, tensor: Tensor) -> None:
        """``key`` in the file shall be our tensor ``ours`` again."""
        self._found.append((key, ours, tensor))

    def compare(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold all against our tensors.

        Raises:
            ModelError: naming the first that differs.
        """
        for key, ours, tensor in self._found:
            if ours not in tensors or tensors[ours].ndim != 2:  # the latter is refused when all are looked at
                continue
            rows = (
                unpadded(f"{self._where}: {key}", tensor, len(tensors[ours])) if ours == "embedding.weight" else tensor
            )
            if not same(rows, tensors[ours]):
                raise ModelError(f"{self._where}: {key} differs from the embedding: in this model they are one matrix")
