"""Attention as it is trained: the gradients of every kernel are those of the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aminoglot.models import attention, products
from aminoglot.packing import Packed

LENGTHS = (40, 40, 7, 1, 90)
KERNELS = (attention.attention, torch.bfloat16), (attention.reference, torch.float32)


def gradients(kernel: object, dtype: torch.dtype, size: float = 1.0, offset: float = 0.0) -> list[torch.Tensor]:
    """Of queries, keys and values, for a loss that weighs all results differently.

    Args:
        kernel: what computes.
        dtype: of the inputs.
        size: of the queries.
        offset: of all values and weights.
    """
    heads = 3
    batch = Packed.of(np.zeros(sum(LENGTHS), np.uint8), LENGTHS)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(sum(LENGTHS), heads, 16, generator=generator) for _ in range(3)]
    inputs = [inputs[0] * size, inputs[1], inputs[2] + offset]
    inputs = [one.to(dtype).requires_grad_() for one in inputs]
    weights = torch.randn(sum(LENGTHS), heads, 16, generator=generator) + offset
    assert callable(kernel)
    (kernel(*inputs, batch).float() * weights).sum().backward()
    return [one.grad.float() for one in inputs if one.grad is not None]


def test_fp32() -> None:
    for mine, theirs in zip(
        gradients(attention.attention, torch.float32), gradients(attention.reference, torch.float32), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(("size", "offset", "most_off"), [(1, 0, 0.01), (1, 3, 0.015), (8, 0, 0.04), (8, 3, 0.04)])
@pytest.mark.parametrize(("at_once", "kept"), [(10**9, 10**9), (10_000, 10**9), (10_000, 0)])
def test_bf16(
    at_once: int, kept: int, size: float, offset: float, most_off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All heads at once or some at a time, exponentials kept or computed again."""
    monkeypatch.setattr(products, "_SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(products, "SCORES_KEPT", kept)
    used: list[int] = []
    apply = products.Products.apply
    monkeypatch.setattr(products.Products, "apply", lambda *given: (used.append(1), apply(*given))[1])
    mine = gradients(attention.attention, torch.bfloat16, size, offset)
    theirs = gradients(attention.reference, torch.float32, size, offset)
    for one, other in zip(mine, theirs, strict=True):
        assert float((one - other).norm() / other.norm()) < most_off
    assert used


def off(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest relative error."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("at_once", [10**9, 10_000])
@pytest.mark.parametrize("kept", [10**9, 0])
def test_large_scores(at_once: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponentials that 16 bits, or 32, cannot hold are shifted; elsewhere that changes nothing."""
    monkeypatch.setattr(products, "_SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(products, "SCORES_KEPT", kept)
    found: list[int] = []
    original = products._exponentials

    def noted(q: torch.Tensor, k: torch.Tensor, shifted: int = 0) -> torch.Tensor:
        found.append(shifted)
        return original(q, k, shifted)

    monkeypatch.setattr(products, "_exponentials", noted)
    plain = gradients(*KERNELS[0])
    assert not any(found)
    with monkeypatch.context() as forced:
        forced.setattr(products, "_in_range", lambda _: False)
        assert off(plain, gradients(*KERNELS[0])) < 0.01
    assert any(found)
    found.clear()
    assert off(gradients(*KERNELS[0], 40.0), gradients(*KERNELS[1], 40.0)) < 0.15
    assert any(found)
    assert all(one.isfinite().all() for one in gradients(*KERNELS[0], 1e4))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_all_scores_are_tiny_or_huge(sign: float) -> None:
    """All scores lie near 400, or near -400: far below and far above what exponentials can be."""
    batch = Packed.of(np.zeros(40, np.uint8), (40,))
    noise = torch.randn(3, 40, 1, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = (noise + torch.tensor([10.0, 10.0 * sign, 0.0])[:, None, None, None]).bfloat16().unbind()
    out = attention.attention(q.requires_grad_(), k, v, batch)
    out.float().sum().backward()
    expected = attention.reference(q.detach().float(), k.float(), v.float(), batch)
    assert out.isfinite().all()
    assert float((out.detach().float() - expected).norm() / expected.norm()) < 0.3, "scores of 400 are rounded to 2"
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_what_is_in_range() -> None:
    ones = torch.ones(3, 4, dtype=torch.bfloat16)
    assert products._in_range(ones)
    for value in (0.0, 1e-20, 1e20, torch.inf, torch.nan):
        spoilt = ones.clone()
        spoilt[1, 2] = value
        assert not products._in_range(spoilt)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kept", [10**9, 0])
def test_attention_to_another_sequence(shifted: bool, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a decoder looks at its source: other lengths, some of them alike, with offsets of their own."""
    monkeypatch.setattr(products, "SCORES_KEPT", kept)
    if shifted:
        monkeypatch.setattr(products, "_in_range", lambda _: False)
    queries, keys = (33, 33, 33, 2, 2, 7), (65, 65, 65, 1, 1, 40)
    batch, source = (Packed.of(np.zeros(sum(one), np.uint8), one) for one in (queries, keys))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(sum(one), 3, 16, generator=generator) for one in (queries, keys, keys)]
    drawn[2] += torch.tensor([3.0, -3.0, 0.0, 5.0, 1.0, 8.0]).repeat_interleave(torch.tensor(keys))[:, None, None]
    weights = torch.randn(sum(queries), 3, 16, generator=generator)
    every = []
    for kernel, dtype in KERNELS:
        inputs = [one.to(dtype).requires_grad_() for one in drawn]
        out = kernel(*inputs, batch, source)  # type: ignore[operator]
        (out.float() * weights).sum().backward()
        every.append([out.detach().float(), *(one.grad.float() for one in inputs if one.grad is not None)])
    assert off(*every) < 0.01


def test_no_second_derivatives() -> None:
    batch = Packed.of(np.zeros(8, np.uint8), (8,))
    q = torch.randn(8, 1, 4, dtype=torch.bfloat16, requires_grad=True)
    (first,) = torch.autograd.grad(attention.attention(q, q, q, batch).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()


def test_what_is_no_number_stays_none() -> None:
    batch = Packed.of(np.zeros(40, np.uint8), (40,))
    q = torch.randn(40, 2, 16, dtype=torch.bfloat16)
    q[3, 1, 5] = torch.nan
    out = attention.attention(q.requires_grad_(), q.detach(), q.detach().nan_to_num(), batch)
    assert out[:, 1].isnan().all(1).all()
    assert out[:, 0].isfinite().all()


def test_products_are_for_training() -> None:
    """Inference stays as it was measured."""
    batch = Packed.of(np.zeros(50, np.uint8), (50,))
    q = torch.randn(50, 2, 16, dtype=torch.bfloat16)
    plain = attention.attention(q, q, q, batch)
    with torch.no_grad():
        again = attention.attention(q.requires_grad_(), q, q, batch)
    assert torch.equal(plain, again)


def test_dropout_leaves_out_its_share() -> None:
    batch = Packed.of(np.zeros(400, np.uint8), (400,))
    q, v = torch.zeros(400, 1, 2), torch.ones(400, 1, 2)
    torch.manual_seed(0)
    out = attention.attention(q, q, v, batch, dropout=0.25)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.02), "what stays is scaled up"
    assert float(out.std()) == pytest.approx((0.25 / 0.75 / 400) ** 0.5, rel=0.2)
