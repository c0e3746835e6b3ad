"""The only place where an attention kernel is chosen.

Attention runs inside each sequence of a packed batch, or from it to another sequence of its own; no score between two
proteins, and none with padding, is ever computed.

Shapes: T packed tokens that ask, U packed tokens that are asked (the same, but in a decoder), H heads, K head size, N
sequences of equal length, S their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from aminoglot.packing import Packed, Run

Kernel = Callable[[Tensor, Tensor, Tensor, Packed, Packed, bool], Tensor]


def attention(
    q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, batch: Packed, keys: Packed | None = None, causal: bool = False
) -> Tensor:
    """Attention of each sequence to itself or to another of its own, scores scaled by K^-0.5.

    Args:
        q_THK: queries.
        k_UHK: keys.
        v_UHK: values.
        batch: how the queries lie.
        keys: how keys and values lie, where that is different.
        causal: no token looks at later ones; the last query is at the place of the last key.

    Returns:
        [T, H, K], in the type of the values.
    """
    return choose(q_THK)(q_THK, k_UHK, v_UHK, batch, keys or batch, causal)


def choose(q_THK: Tensor) -> Kernel:
    """The kernel for these queries: torch's variable-length one on CUDA in half precision, else runs of equal length.

    The variable-length kernel has no float32, needs compute capability 8.0 (Ampere), and there is none for a CPU.
    """
    half = q_THK.dtype in (torch.bfloat16, torch.float16)
    if q_THK.is_cuda and half and torch.cuda.get_device_capability(q_THK.device) >= (8, 0):
        return variable_length
    return by_runs


def by_runs(q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, batch: Packed, keys: Packed, causal: bool) -> Tensor:
    """One fused kernel a run of equal lengths: batches sorted by length need few, and none of them pads."""
    out_THK = torch.empty_like(q_THK)
    for run, asked in runs_of_pairs(batch, keys):
        q_NHSK = _rectangle(q_THK, run)
        k_NHSK, v_NHSK = _rectangle(k_UHK, asked), _rectangle(v_UHK, asked)
        mask_SS = _causal_mask(run.length, asked.length, q_THK.device) if causal and run.length > 1 else None
        o_NHSK = F.scaled_dot_product_attention(q_NHSK, k_NHSK, v_NHSK, mask_SS)
        out_THK[run.start : run.stop] = o_NHSK.transpose(1, 2).reshape(-1, *q_THK.shape[1:])
    return out_THK


def variable_length(q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, batch: Packed, keys: Packed, causal: bool) -> Tensor:
    """torch's packed kernel for CUDA in half precision; unsplit, so that batch mates do not change a sum's order."""
    from torch.nn.attention.varlen import varlen_attn

    out_THK = varlen_attn(
        q_THK,
        k_UHK,
        v_UHK,
        batch.cu_seqlens,
        keys.cu_seqlens,
        max(batch.lengths),
        max(keys.lengths),
        window_size=(-1, 0) if causal else (-1, -1),
        num_splits=1,
    )
    assert isinstance(out_THK, Tensor)
    return out_THK


def reference(
    q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, batch: Packed, keys: Packed | None = None, causal: bool = False
) -> Tensor:
    """Attention as it is written in a textbook: what the kernels are tested against."""
    lengths = (keys or batch).lengths
    parts = []
    for q_SHK, k_SHK, v_SHK in zip(q_THK.split(batch.lengths), k_UHK.split(lengths), v_UHK.split(lengths), strict=True):
        scores_HSS = torch.einsum("shk,thk->hst", q_SHK.float(), k_SHK.float()) * q_SHK.shape[-1] ** -0.5
        if causal:
            later = torch.arange(len(k_SHK)) > torch.arange(len(q_SHK))[:, None] + len(k_SHK) - len(q_SHK)
            scores_HSS = scores_HSS.masked_fill(later.to(scores_HSS.device), -torch.inf)
        parts.append(torch.einsum("hst,thk->shk", scores_HSS.softmax(-1), v_SHK.float()))
    return torch.cat(parts).to(v_UHK.dtype)


def probabilities(q_THK: Tensor, k_THK: Tensor, batch: Packed) -> Iterator[Tensor]:
    """The attention probabilities of each sequence, float32 [H, S, S], one sequence at a time."""
    for q_SHK, k_SHK in zip(q_THK.split(batch.lengths), k_THK.split(batch.lengths), strict=True):
        scores_HSS = q_SHK.transpose(0, 1).float() @ k_SHK.permute(1, 2, 0).float()
        yield (scores_HSS * q_SHK.shape[-1] ** -0.5).softmax(-1)


def runs_of_pairs(batch: Packed, keys: Packed) -> Iterator[tuple[Run, Run]]:
    """Neighbours that have both lengths in common, as two rectangles."""
    row = asked = 0
    for (length, keys_length), pairs in groupby(zip(batch.lengths, keys.lengths, strict=True)):
        count = len(list(pairs))
        yield Run(row, count, length), Run(asked, count, keys_length)
        row, asked = row + count * length, asked + count * keys_length


def _rectangle(x_THK: Tensor, run: Run) -> Tensor:
    """Rows of one run as [N, H, S, K]: a view, nothing is copied."""
    return x_THK[run.start : run.stop].view(run.count, run.length, *x_THK.shape[1:]).transpose(1, 2)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a query may look, [queries, keys]."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
