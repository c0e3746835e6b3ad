"""The only place where an attention kernel is chosen.

Attention runs inside each sequence of a packed batch, or from it to another sequence of its own; no score between two
proteins, and none with padding, is ever computed.

Shapes: U packed tokens that look, T packed tokens that are looked at (the same, but in a decoder), H heads, K head
size, N sequences of equal length, S their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aminoglot.packing import Packed, Run

Kernel = Callable[[Tensor, Tensor, Tensor, Packed, Packed, bool, float], Tensor]


def attention(
    q_UHK: Tensor,
    k_THK: Tensor,
    v_THK: Tensor,
    batch: Packed,
    keys: Packed | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each sequence to itself or to another of its own, scores scaled by K^-0.5.

    Args:
        q_UHK: queries.
        k_THK: keys.
        v_THK: values.
        batch: how the queries lie.
        keys: how keys and values lie, where that is different.
        causal: no token looks at later ones; the last query is at the place of the last key.
        dropout: share of the probabilities that are set to zero; for training.

    Returns:
        [U, H, K], in the type of the values.
    """
    return choose(q_UHK, dropout)(q_UHK, k_THK, v_THK, batch, keys or batch, causal, dropout)


def choose(q_UHK: Tensor, dropout: float = 0.0) -> Kernel:
    """The kernel for these queries: torch's variable-length one on CUDA in half precision, else runs of equal length.

    The variable-length kernel has no float32 and no dropout, needs compute capability 8.0 (Ampere), and there is none
    for a CPU.
    """
    half = q_UHK.dtype in (torch.bfloat16, torch.float16)
    if q_UHK.is_cuda and half and not dropout and torch.cuda.get_device_capability(q_UHK.device) >= (8, 0):
        return variable_length
    return by_runs


def by_runs(
    q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed, causal: bool, dropout: float = 0.0
) -> Tensor:
    """One fused kernel a run of equal lengths: batches sorted by length need few, and none of them pads."""
    pairs = list(_pairs_of_runs(batch, keys))
    looking, asked = [run.stop - run.start for run, _ in pairs], [run.stop - run.start for _, run in pairs]
    parts = []  # split and joined, not sliced: the backward pass of a slice fills a tensor of all tokens
    for (run, of), q, k, v in zip(pairs, q_UHK.split(looking), k_THK.split(asked), v_THK.split(asked), strict=True):
        q_NHSK, k_NHSK, v_NHSK = _rectangle(q, run), _rectangle(k, of), _rectangle(v, of)
        mask = _causal_mask(run.length, of.length, q_UHK.device) if causal and run.length > 1 else None
        if _by_products(q_NHSK, mask, dropout):
            o_NHSK: Tensor = Products.apply(q_NHSK, k_NHSK, v_NHSK)  # type: ignore[no-untyped-call]
        else:
            o_NHSK = F.scaled_dot_product_attention(q_NHSK, k_NHSK, v_NHSK, mask, dropout)
        parts.append(o_NHSK.transpose(1, 2).reshape(-1, *q_UHK.shape[1:]))
    return torch.cat(parts)


def variable_length(
    q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed, causal: bool, dropout: float = 0.0
) -> Tensor:
    """torch's packed kernel for CUDA in half precision; unsplit, so that batch mates do not change a sum's order."""
    assert not dropout, "this kernel has none"
    from torch.nn.attention.varlen import varlen_attn

    out_UHK = varlen_attn(
        q_UHK,
        k_THK,
        v_THK,
        batch.cu_seqlens,
        keys.cu_seqlens,
        max(batch.lengths),
        max(keys.lengths),
        window_size=(-1, 0) if causal else (-1, -1),
        num_splits=1,
    )
    assert isinstance(out_UHK, Tensor)
    return out_UHK


def reference(
    q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed | None = None, causal: bool = False
) -> Tensor:
    """Attention as it is written in a textbook: what the kernels are tested against."""
    lengths = (keys or batch).lengths
    parts = []
    for q_SHK, k_SHK, v_SHK in zip(q_UHK.split(batch.lengths), k_THK.split(lengths), v_THK.split(lengths), strict=True):
        scores_HSS = torch.einsum("shk,thk->hst", q_SHK.float(), k_SHK.float()) * q_SHK.shape[-1] ** -0.5
        if causal:
            later = torch.arange(len(k_SHK)) > torch.arange(len(q_SHK))[:, None] + len(k_SHK) - len(q_SHK)
            scores_HSS = scores_HSS.masked_fill(later.to(scores_HSS.device), -torch.inf)
        parts.append(torch.einsum("hst,thk->shk", scores_HSS.softmax(-1), v_SHK.float()))
    return torch.cat(parts).to(v_THK.dtype)


def probabilities(q_THK: Tensor, k_THK: Tensor, batch: Packed) -> Iterator[Tensor]:
    """The attention probabilities of each sequence, float32 [H, S, S], one sequence at a time."""
    for q_SHK, k_SHK in zip(q_THK.split(batch.lengths), k_THK.split(batch.lengths), strict=True):
        scores_HSS = q_SHK.transpose(0, 1).float() @ k_SHK.permute(1, 2, 0).float()
        yield (scores_HSS * q_SHK.shape[-1] ** -0.5).softmax(-1)


_SCORES_AT_ONCE = 2_000_000
"""Of so many at most the products stay in a core's cache; more are computed some heads at a time."""
SCORES_KEPT = 6_000_000
"""Probabilities of a run that are kept for the backward pass; more are computed again in it."""


def _by_products(q_NHSK: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Whether products are faster than the fused kernel: twice as fast or more, in training on CPUs in bf16."""
    needed = torch.is_grad_enabled() and q_NHSK.requires_grad
    plain = mask is None and not dropout
    return needed and plain and q_NHSK.device.type == "cpu" and q_NHSK.dtype == torch.bfloat16


class Products(torch.autograd.Function):
    """Attention as two products with a softmax between them, whose sums are float32; and its gradient.

    With P the probabilities and dO the gradient of the result: dV = P' dO, dP = dO V', dS = P * (dP - rowsum(P * dP)),
    dQ and dK are dS K and dS' Q, scaled. dS does not change when all values move alike, so they are centred first: a
    common offset would drown the differences in 16 bits.

    Shapes: M heads of all sequences, S queries, Z keys.
    """

    @staticmethod
    def forward(ctx: Any, q_NHSK: Tensor, k_NHSK: Tensor, v_NHSK: Tensor) -> Tensor:
        count = q_NHSK.shape[:3].numel() * k_NHSK.shape[2]
        kept, parts = [], []
        for q_MSK, k_MZK, v_MZK in zip(*_some_heads(count, q_NHSK, k_NHSK, v_NHSK), strict=True):
            p_MSZ = _softmax_of_products(q_MSK, k_MZK)
            parts.append(p_MSZ @ v_MZK)
            if count <= SCORES_KEPT:
                kept.append(p_MSZ)
        ctx.save_for_backward(q_NHSK, k_NHSK, v_NHSK, *kept)  # so that recomputing blocks drops them
        return torch.cat(parts).view(q_NHSK.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (do_NHSK,) = gradients
        q_NHSK, k_NHSK, v_NHSK, *kept = ctx.saved_tensors
        count, scale = q_NHSK.shape[:3].numel() * k_NHSK.shape[2], q_NHSK.shape[-1] ** -0.5
        centred_NHSK = v_NHSK - v_NHSK.mean(-2, keepdim=True)
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        some = zip(*_some_heads(count, q_NHSK, k_NHSK, centred_NHSK, do_NHSK), strict=True)
        for number, (q_MSK, k_MZK, v_MZK, do_MSK) in enumerate(some):
            p_MSZ = kept[number] if kept else _softmax_of_products(q_MSK, k_MZK)
            dp_MSZ = do_MSK @ v_MZK.transpose(-1, -2)
            ds_MSZ = torch._softmax_backward_data(dp_MSZ, p_MSZ, -1, dp_MSZ.dtype)
            found[0].append((ds_MSZ @ k_MZK) * scale)
            # dS' Q as (Q' dS)', and P' dO alike: only the narrow matrices are turned, never the scores
            found[1].append((q_MSK.transpose(-1, -2).contiguous() @ ds_MSZ).transpose(-1, -2) * scale)
            found[2].append((do_MSK.transpose(-1, -2).contiguous() @ p_MSZ).transpose(-1, -2))
        dq, dk, dv = (torch.cat(parts) for parts in found)
        return dq.view(q_NHSK.shape), dk.view(k_NHSK.shape), dv.view(v_NHSK.shape)


def _some_heads(count: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each [N, H, S, K] in parts of some heads, [M, S, K], of few enough of ``count`` scores."""
    heads = tensors[0].shape[0] * tensors[0].shape[1]
    at_once = max(1, _SCORES_AT_ONCE * heads // count)
    return [tensor.flatten(0, 1).split(at_once) for tensor in tensors]


def _softmax_of_products(q_MSK: Tensor, k_MZK: Tensor) -> Tensor:
    return torch._softmax((q_MSK * q_MSK.shape[-1] ** -0.5) @ k_MZK.transpose(-1, -2), -1, False)


def _pairs_of_runs(batch: Packed, keys: Packed) -> Iterable[tuple[Run, Run]]:
    """Neighbours that have both lengths in common, as two rectangles."""
    if keys is batch:
        return zip(batch.runs, batch.runs, strict=True)
    pairs = []
    row = asked = 0
    for (length, keys_length), group in groupby(zip(batch.lengths, keys.lengths, strict=True)):
        count = len(list(group))
        pairs.append((Run(row, count, length), Run(asked, count, keys_length)))
        row, asked = row + count * length, asked + count * keys_length
    return pairs


def _rectangle(x_THK: Tensor, run: Run) -> Tensor:
    """The rows of one run as [N, H, S, K]: a view, nothing is copied."""
    return x_THK.view(run.count, run.length, *x_THK.shape[1:]).transpose(1, 2)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a query may look, [queries, keys]."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
