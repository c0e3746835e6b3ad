"""The one batch layout: proteins end to end, no padding.

Shapes: T packed tokens, B sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring sequences of one length: ``count`` of them, ``length`` tokens each, from row ``start``."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Packed:
    """A batch of token sequences end to end.

    Attributes:
        tokens_T: token ids, int64 [T].
        lengths: tokens of each sequence, on the host, B of them.
    """

    tokens_T: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, ids: NDArray[np.uint8], lengths: Sequence[int], device: torch.device | None = None) -> Packed:
        """Pack ids that already lie end to end."""
        tokens_T = torch.from_numpy(ids.astype(np.int64))
        if device is not None and device.type == "cuda":  # from pinned memory a copy waits for nothing
            tokens_T = tokens_T.pin_memory().to(device, non_blocking=True)
        return cls(tokens_T.to(device), tuple(lengths))

    @property
    def device(self) -> torch.device:
        return self.tokens_T.device

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """Where each sequence starts, and T at the end: int32 [B + 1]."""
        ends = np.cumsum((0, *self.lengths))
        return torch.from_numpy(ends.astype(np.int32)).to(self.device)

    @cached_property
    def lengths_B(self) -> Tensor:
        """The lengths as a tensor, int64 [B]."""
        return torch.tensor(self.lengths, dtype=torch.int64, device=self.device)

    @cached_property
    def positions_T(self) -> Tensor:
        """Each token's place in its own sequence, from 0: int64 [T]."""
        starts = self.cu_seqlens[:-1].long().repeat_interleave(self.lengths_B, output_size=len(self.tokens_T))
        return torch.arange(len(self.tokens_T), device=self.device) - starts

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Maximal runs of neighbours of equal length: each is a rectangle that needs no padding."""
        return tuple(_runs(self.lengths))

    def per_token(self, values_B: Tensor) -> Tensor:
        """Repeat one value a sequence for each of its tokens: [B] to [T]."""
        return values_B.repeat_interleave(self.lengths_B, output_size=len(self.tokens_T))

    def per_sequence_sum(self, values_T: Tensor) -> Tensor:
        """Sum one value a token over each sequence: [T] to [B]."""
        index = self.per_token(torch.arange(len(self.lengths), device=self.device))
        return torch.zeros(len(self.lengths), dtype=values_T.dtype, device=self.device).index_add_(0, index, values_T)


def _runs(lengths: Sequence[int]) -> Iterator[Run]:
    row = first = 0
    for index, length in enumerate(lengths):
        if index + 1 == len(lengths) or lengths[index + 1] != length:
            count = index + 1 - first
            yield Run(row, count, length)
            row += count * length
            first = index + 1


def paired_runs(batch: Packed, keys: Packed) -> list[tuple[Run, Run]]:
    """Neighbours that have a length in common in each of two batches, as two rectangles."""
    if keys is batch:
        return list(zip(batch.runs, batch.runs, strict=True))
    pairs = []
    row = asked = 0
    for (length, keys_length), group in groupby(zip(batch.lengths, keys.lengths, strict=True)):
        count = len(list(group))
        pairs.append((Run(row, count, length), Run(asked, count, keys_length)))
        row, asked = row + count * length, asked + count * keys_length
    return pairs


def batches(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut a list of sequences into batches of at most ``budget`` tokens; a longer sequence gets one of its own.

    Args:
        lengths: tokens of each sequence; sorted by length they make the longest runs.
        budget: tokens a batch.
    """
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            yield slice(start, index)
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
