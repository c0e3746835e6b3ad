"""The only place where an attention kernel is chosen.

Attention runs inside each sequence of a packed batch; no score between two proteins, and none with padding, is
ever computed.

Shapes: T packed tokens, H heads, K head size, N sequences of equal length, S their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from aminoglot.packing import Packed

Kernel = Callable[[Tensor, Tensor, Tensor, Packed], Tensor]


def attention(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed) -> Tensor:
    """Bidirectional attention within each sequence, scores scaled by K^-0.5.

    Returns:
        [T, H, K], in the type of the values.
    """
    return choose(q_THK)(q_THK, k_THK, v_THK, batch)


def choose(q_THK: Tensor) -> Kernel:
    """The kernel for these queries: torch's variable-length one on CUDA in half precision, else runs of equal length.

    The variable-length kernel has no float32, needs compute capability 8.0 (Ampere), and there is none for a CPU.
    """
    half = q_THK.dtype in (torch.bfloat16, torch.float16)
    if q_THK.is_cuda and half and torch.cuda.get_device_capability(q_THK.device) >= (8, 0):
        return variable_length
    return by_runs


def by_runs(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed) -> Tensor:
    """One fused kernel a run of equal lengths: batches sorted by length need few, and none of them pads."""
    out_THK = torch.empty_like(v_THK)
    for run in batch.runs:
        q_NHSK, k_NHSK, v_NHSK = (_rectangle(x_THK, run.start, run.stop, run.length) for x_THK in (q_THK, k_THK, v_THK))
        o_NHSK = F.scaled_dot_product_attention(q_NHSK, k_NHSK, v_NHSK)
        out_THK[run.start : run.stop] = o_NHSK.transpose(1, 2).reshape(-1, *v_THK.shape[1:])
    return out_THK


def variable_length(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed) -> Tensor:
    """torch's packed kernel for CUDA in half precision; unsplit, so that batch mates do not change a sum's order."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(batch.lengths)
    cu_seqlens = batch.cu_seqlens
    out_THK = varlen_attn(q_THK, k_THK, v_THK, cu_seqlens, cu_seqlens, longest, longest, num_splits=1)
    assert isinstance(out_THK, Tensor)
    return out_THK


def reference(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed) -> Tensor:
    """Attention as it is written in a textbook: what the kernels are tested against."""
    parts = [
        torch.einsum("hst,thk->shk", a_HSS, v_SHK.float())
        for a_HSS, v_SHK in zip(probabilities(q_THK, k_THK, batch), v_THK.split(batch.lengths), strict=True)
    ]
    return torch.cat(parts).to(v_THK.dtype)


def probabilities(q_THK: Tensor, k_THK: Tensor, batch: Packed) -> Iterator[Tensor]:
    """The attention probabilities of each sequence, float32 [H, S, S], one sequence at a time."""
    for q_SHK, k_SHK in zip(q_THK.split(batch.lengths), k_THK.split(batch.lengths), strict=True):
        scores_HSS = q_SHK.transpose(0, 1).float() @ k_SHK.permute(1, 2, 0).float()
        yield (scores_HSS * q_SHK.shape[-1] ** -0.5).softmax(-1)


def _rectangle(x_THK: Tensor, start: int, stop: int, length: int) -> Tensor:
    """Rows of one run as [N, H, S, K]: a view, nothing is copied."""
    return x_THK[start:stop].view(-1, length, *x_THK.shape[1:]).transpose(1, 2)
