"""Attention as it is trained on CPUs in bf16: products with an exponential between them, and their gradient.

Shapes: U packed tokens that look, T packed tokens that are looked at, H heads, K head size, C = K + 1 columns; M heads
of sequences of one length, S queries and Z keys of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aminoglot.packing import Packed, Run, paired_runs

STEP = 32
"""Lengths are made multiples of it: products of a shape that is new take a millisecond before they begin."""
SCORES_KEPT = 6_000_000
"""Exponentials of a sequence that are kept for the backward pass; more are computed again in it."""
_SCORES_AT_ONCE = 2_000_000
"""Of so many at most the products stay in a core's cache; more are computed some heads at a time."""


class Products(torch.autograd.Function):
    """Attention of packed queries, keys and values, ``apply(q_UHK, k_THK, v_THK, batch, keys)``; [U, H, K].

    The exponentials E stay undivided: only narrow matrices are divided by their sums s. With dO the gradient of the
    result O, and G = dO / s: dV = E' G, dS = E * (G V' - rowsum(G * O)), dQ and dK are dS K and dS' Q, scaled (Dao et
    al. 2022, doi:10.48550/arXiv.2205.14135, appendix B). O less a constant, and dS, are the same when all values of a
    sequence move alike, so they are centred: a common offset would drown the differences in 16 bits. A column of ones
    beside them makes one product sum and another subtract. Products sum in float32; E, and what they give, are 16 bits.
    """

    @staticmethod
    def forward(ctx: Any, q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed) -> Tensor:
        ctx.rows = rows_U, rows_T = _rows(batch.lengths), _rows(keys.lengths)
        ctx.groups = list(_groups(batch, keys, q_UHK.shape[1]))
        owner_T, owner_U = (
            keys.per_token(torch.arange(len(keys.lengths))),
            batch.per_token(torch.arange(len(batch.lengths))),
        )
        sums_BHK = torch.zeros(len(keys.lengths), *v_THK.shape[1:]).index_add_(0, owner_T, v_THK.float())
        mean_BHK = (sums_BHK / keys.lengths_B[:, None, None]).to(v_THK.dtype)
        q, k = _spread(q_UHK, rows_U), _spread(k_THK, rows_T)
        v = _spread(F.pad(v_THK - mean_BHK[owner_T], (0, 1), value=1.0), rows_T)
        sums = v.new_empty(*q.shape[:2], v.shape[2])
        kept: list[Tensor] = []
        ctx.shifts = []
        for group in ctx.groups:
            found = []
            for q_MSK, k_MZK, v_MZC in group.parts(q, k, v):
                e_MSZ = _exponentials(q_MSK, k_MZK)
                sums_MSC = e_MSZ @ v_MZC
                shift = 0 if _in_range(sums_MSC[..., -1]) else group.keys
                if shift:
                    e_MSZ = _exponentials(q_MSK, k_MZK, shift)
                    sums_MSC = e_MSZ @ v_MZC
                found.append(sums_MSC)
                ctx.shifts.append(shift)
                if group.kept:
                    kept.append(e_MSZ)
            _put(sums, group.looking, found)
        sums_UHC = sums[rows_U].float()
        o_UHK, sums_UH1 = sums_UHC[..., :-1] / sums_UHC[..., -1:], sums_UHC[..., -1:].clone()
        # saved so, and not as attributes, recomputing blocks drops them
        ctx.save_for_backward(q, k, v, o_UHK.to(v_THK.dtype), sums_UH1, *kept)
        return (o_UHK + mean_BHK[owner_U]).to(v_THK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o_UHK, sums_UH1, *kept = ctx.saved_tensors
        rows_U, rows_T = ctx.rows
        every, shifts, scale = iter(kept), iter(ctx.shifts), q.shape[-1] ** -0.5
        g_UHK = gradients[0] / sums_UH1
        g_UHC = torch.cat((g_UHK, -(g_UHK * o_UHK).sum(-1, keepdim=True)), -1)
        g = _spread(g_UHC.to(q.dtype), rows_U)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(k)
        for group in ctx.groups:
            found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            for q_MSK, k_MZK, v_MZC, g_MSC in group.parts(q, k, v, g):
                shift = next(shifts)
                e_MSZ = next(every) if group.kept else _exponentials(q_MSK, k_MZK, shift)
                ds_MSZ = (g_MSC @ v_MZC.transpose(-1, -2)).mul_(e_MSZ)
                found[0].append(_product(ds_MSZ, k_MZK, scale))
                # dS' Q as (Q' dS)', and E' G alike: only the narrow matrices are turned, never the scores
                found[1].append(_product(_turned(q_MSK), ds_MSZ, scale).transpose(-1, -2))
                found[2].append((_turned(g_MSC[..., :-1]) @ e_MSZ).transpose(-1, -2))
            for into, run, parts in zip((dq, dk, dv), (group.looking, group.asked, group.asked), found, strict=True):
                _put(into, run, parts)
        return dq[rows_U], dk[rows_T], dv[rows_T], None, None


@dataclass(frozen=True)
class _Group:
    """Neighbours of one length, where they lie when all lengths are multiples of :data:`STEP`.

    Attributes:
        looking: their queries.
        asked: their keys and values.
        keys: how many of those each has.
        heads: computed at once.
        kept: whether their exponentials are kept.
    """

    looking: Run
    asked: Run
    keys: int
    heads: int
    kept: bool

    def parts(self, q: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Queries, keys, values and what lies as the queries do, some heads of them after the other."""
        runs = (self.looking, self.asked, self.asked, self.looking)
        every = [_of(one, run).flatten(0, 1).split(self.heads) for one, run in zip((q, *others), runs, strict=False)]
        return zip(*every, strict=True)


Lengths = TypeVar("Lengths", int, NDArray[np.int64])


def lengthened(length: Lengths) -> Lengths:
    """The next multiple of :data:`STEP`."""
    return -(-length // STEP) * STEP


def _groups(batch: Packed, keys: Packed, heads: int) -> Iterator[_Group]:
    row = asked = 0
    for queries, those in paired_runs(batch, keys):
        looking = Run(row, queries.count, lengthened(queries.length))
        of = Run(asked, those.count, lengthened(those.length))
        scores = looking.length * of.length
        yield _Group(looking, of, those.length, max(1, _SCORES_AT_ONCE // scores), heads * scores <= SCORES_KEPT)
        row, asked = looking.stop, of.stop


@lru_cache(maxsize=16)
def _rows(lengths: tuple[int, ...]) -> Tensor:
    """Where each token lies when all lengths are multiples of :data:`STEP`: int64 [T]."""
    more = np.cumsum([0, *(lengthened(length) - length for length in lengths)])[:-1]
    return torch.from_numpy(np.arange(sum(lengths)) + np.repeat(more, lengths))


def _spread(x_THK: Tensor, rows_T: Tensor) -> Tensor:
    """With rows of zeros between the sequences, which change no sum of a row's."""
    return x_THK.new_zeros(lengthened(int(rows_T[-1]) + 1), *x_THK.shape[1:]).index_copy_(0, rows_T, x_THK)


def _of(x: Tensor, run: Run) -> Tensor:
    """The rows of one run, [sequences, heads, S, ...]: a view."""
    return x[run.start : run.stop].view(run.count, run.length, *x.shape[1:]).transpose(1, 2)


def _put(x: Tensor, run: Run, parts: Sequence[Tensor]) -> None:
    """Write what was found for some heads after the other where a run lies."""
    found = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    _of(x, run).copy_(found.unflatten(0, (run.count, x.shape[1])))


def _turned(x_MSK: Tensor) -> Tensor:
    return x_MSK.transpose(-1, -2).contiguous()


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scaled before it is rounded."""
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


def _exponentials(q_MSK: Tensor, k_MZK: Tensor, shifted: int = 0) -> Tensor:
    """Of the scaled scores, [M, S, Z]; or of those of the first ``shifted`` keys so that they sum to one, slowly."""
    scale, k_MKZ = q_MSK.shape[-1] ** -0.5, k_MZK.transpose(-1, -2)
    if not shifted:
        return _product(q_MSK, k_MKZ, scale / math.log(2)).exp2_()
    scores_MSZ = _product(q_MSK, k_MKZ, scale)
    scores_MSZ[..., shifted:] = -torch.inf
    return torch._softmax(scores_MSZ, -1, False)


def _in_range(sums: Tensor) -> bool:
    """Whether these sums of exponentials lost nothing that counts, above or below what 16 bits can hold."""
    least, most = sums.aminmax()
    return bool(least > 1e-18) and bool(most < 1e18)  # false also where a sum is no number
