"""The only place where an attention kernel is chosen.

Attention runs inside each sequence of a packed batch, or from it to another sequence of its own; no score between two
proteins, and none with padding, is ever computed.

Shapes: U packed tokens that look, T packed tokens that are looked at (the same, but in a decoder), H heads, K head
size, N sequences of equal length, S their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from aminoglot.models.products import Products
from aminoglot.packing import Packed, Run, paired_runs

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
    return choose(q_UHK, causal, dropout)(q_UHK, k_THK, v_THK, batch, keys or batch, causal, dropout)


def choose(q_UHK: Tensor, causal: bool = False, dropout: float = 0.0) -> Kernel:
    """The kernel for these queries.

    On CUDA in half precision torch's variable-length one, which has no float32 and no dropout and needs compute
    capability 8.0 (Ampere); there is none for a CPU. In training on CPUs in bf16 products, which have no mask and no
    dropout. Else runs of equal length.
    """
    half = q_UHK.dtype in (torch.bfloat16, torch.float16)
    if q_UHK.is_cuda:
        packed = half and not dropout and torch.cuda.get_device_capability(q_UHK.device) >= (8, 0)
        return variable_length if packed else by_runs
    training = torch.is_grad_enabled() and q_UHK.requires_grad and not causal and not dropout
    return by_products if training and q_UHK.is_cpu and q_UHK.dtype == torch.bfloat16 else by_runs


def by_products(
    q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed, causal: bool, dropout: float = 0.0
) -> Tensor:
    """Plain products and their gradient: what training on CPUs in bf16 is fastest with."""
    assert not causal, "they have no mask"
    assert not dropout, "they have none"
    out_UHK: Tensor = Products.apply(q_UHK, k_THK, v_THK, batch, keys)  # type: ignore[no-untyped-call]
    return out_UHK


def by_runs(
    q_UHK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: Packed, keys: Packed, causal: bool, dropout: float = 0.0
) -> Tensor:
    """One fused kernel a run of equal lengths: batches sorted by length need few, and none of them pads."""
    pairs = paired_runs(batch, keys)
    looking, asked = [run.stop - run.start for run, _ in pairs], [run.stop - run.start for _, run in pairs]
    parts = []  # split and joined, not sliced: the backward pass of a slice fills a tensor of all tokens
    for (run, of), q, k, v in zip(pairs, q_UHK.split(looking), k_THK.split(asked), v_THK.split(asked), strict=True):
        q_NHSK, k_NHSK, v_NHSK = _rectangle(q, run), _rectangle(k, of), _rectangle(v, of)
        mask = _causal_mask(run.length, of.length, q_UHK.device) if causal and run.length > 1 else None
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


def _rectangle(x_THK: Tensor, run: Run) -> Tensor:
    """The rows of one run as [N, H, S, K]: a view, nothing is copied."""
    return x_THK.view(run.count, run.length, *x_THK.shape[1:]).transpose(1, 2)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a query may look, [queries, keys]."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
