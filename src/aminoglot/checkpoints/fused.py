"""Matrices in which NVIDIA's formats keep queries, keys and values together, and vocabularies that they pad."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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


def unpadded(tensor: Tensor, rows: int) -> Tensor:
    """The first rows."""
    return tensor[:rows] if tensor.ndim else tensor
