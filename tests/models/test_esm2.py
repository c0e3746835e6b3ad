"""ESM-2 against transformers and fair-esm, on random weights of every size that fits a test."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aminoglot.models import attention
from aminoglot.models.esm2 import ESM2, SIZES, ESM2Config
from tests.reference import fair_esm_model, packed, padded, randomised, transformers_model, unpadded

MIXED = [
    "MKTVRQGXBUZOMKTAYIAKQRQISFVKSHFSRQ",
    "M<mask>TVR<mask><mask>QG",
    "ACDEFGHIKLMNPQRSTVWY" * 7,
    "W",
    "LLLLLLLLLL<mask>",
    "GAVLIMFWPS",
]
"""Mixed lengths, masks, every letter with a token, a protein of one residue, two of equal length apart."""

PARAMETERS = {
    "esm2-8m": 7_512_474,
    "esm2-35m": 33_501_394,
    "esm2-150m": 148_140_154,
    "esm2-650m": 651_043_254,
    "esm2-3b": 2_839_005_634,
    "esm2-15b": 15_129_100_194,
}
SIZES_TO_RUN = ["esm2-tiny", "esm2-8m", "esm2-35m", pytest.param("esm2-150m", marks=pytest.mark.slow)]


def assert_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    """The issue's bound: within 1e-4, or 2e-5 of the largest value, whichever is larger."""
    bound = max(1e-4, 2e-5 * theirs.abs().max().item())
    worst = (ours - theirs).abs().max().item()
    assert ours.shape == theirs.shape, what
    assert worst <= bound, f"{what}: differs by {worst:.2e}, allowed {bound:.2e}"


@pytest.mark.parametrize("name", SIZES_TO_RUN)
@torch.inference_mode()
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    checkpoint = randomised(name)
    batch = packed(MIXED)
    tokens = padded(batch)
    mask = (tokens != 1).long()
    theirs = transformers_model(checkpoint, tmp_path / "hf")
    expected = theirs(tokens, attention_mask=mask, output_hidden_states=True)
    ours = checkpoint.network()
    layers = range(checkpoint.config.layers + 1)
    found = ours.representations(batch, layers)
    for layer in layers:
        assert_same(found[layer], unpadded(expected.hidden_states[layer], batch), f"layer {layer}")
    assert_same(ours(batch), unpadded(expected.logits, batch), "logits")
    contacts = theirs.predict_contacts(tokens, mask)
    for index, mine in enumerate(ours.contacts(batch)):
        assert_same(mine, contacts[index, : len(mine), : len(mine)], f"contacts of protein {index}")


@pytest.mark.parametrize("name", SIZES_TO_RUN)
@torch.inference_mode()
def test_equals_fair_esm(name: str, tmp_path: Path) -> None:
    checkpoint = randomised(name, seed=1)
    batch = packed(MIXED)
    layers = range(checkpoint.config.layers + 1)
    expected = fair_esm_model(checkpoint, tmp_path / "fair")(padded(batch), list(layers), return_contacts=True)
    ours = checkpoint.network()
    found = ours.representations(batch, layers)
    for layer in layers:
        assert_same(found[layer], unpadded(expected["representations"][layer], batch), f"layer {layer}")
    assert_same(ours(batch), unpadded(expected["logits"], batch), "logits")
    for index, mine in enumerate(ours.contacts(batch)):
        assert_same(mine, expected["contacts"][index, : len(mine), : len(mine)], f"contacts of protein {index}")


@torch.inference_mode()
def test_long_protein_keeps_the_rounded_frequencies(tmp_path: Path) -> None:
    """At 1,022 residues fp16-rounded and exact frequencies part ways; the checkpoint's own must be used."""
    checkpoint = randomised("esm2-tiny")
    batch = packed(["ACDEFGHIKLMNPQRSTVWY" * 51 + "AC"])
    expected = transformers_model(checkpoint, tmp_path / "hf")(batch.tokens_T[None], output_hidden_states=True)
    ours = checkpoint.network()
    assert_same(ours.representations(batch, [2])[0], expected.hidden_states[2][0], "last layer")
    exact = ESM2(checkpoint.config).frequencies
    assert (ours.frequencies - exact).abs().max() > 1e-5


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts(name: str, expected: int) -> None:
    with torch.device("meta"):
        network = ESM2(SIZES[name])
    assert sum(p.numel() for p in network.parameters()) == expected
    assert SIZES[name].parameters == expected


@torch.inference_mode()
def test_contacts_alone_equal_contacts_in_a_batch() -> None:
    network = randomised("esm2-8m").network()
    together = network.contacts(packed(MIXED))
    for sequence, expected in zip(MIXED, together, strict=True):
        alone = network.contacts(packed([sequence]))[0]
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_batch_mates_do_not_matter() -> None:
    network = randomised("esm2-8m").network()
    together = network.representations(packed(MIXED), [0, 3, 6]).split(packed(MIXED).lengths, dim=1)
    for sequence, expected in zip(MIXED, together, strict=True):
        torch.testing.assert_close(network.representations(packed([sequence]), [0, 3, 6]), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_layers_come_in_the_order_asked_and_nothing_above_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised("esm2-8m").network()
    batch = packed(MIXED)
    everything = network.representations(batch, range(7))
    monkeypatch.setattr(network.layers[4], "forward", lambda *_: pytest.fail("layer 5 was computed"))
    assert torch.equal(network.representations(batch, [4, 1]), everything[[4, 1]])


@pytest.mark.parametrize("kernel", [attention.by_runs])
def test_kernels_equal_the_textbook(kernel: attention.Kernel) -> None:
    torch.manual_seed(0)
    batch = packed(["M" * 5, "A" * 9, "C" * 9, "G" * 9, "W", "K" * 300])
    q, k, v = torch.randn(3, len(batch.tokens_T), 4, 16)
    torch.testing.assert_close(
        kernel(q, k, v, batch, batch, False), attention.reference(q, k, v, batch), rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_variable_length_kernel_equals_the_textbook() -> None:
    torch.manual_seed(0)
    batch = packed(["M" * 5, "A" * 9, "K" * 300])
    batch = type(batch)(batch.tokens_T.cuda(), batch.lengths)
    q, k, v = torch.randn(3, len(batch.tokens_T), 4, 16, device="cuda", dtype=torch.bfloat16)
    found = attention.variable_length(q, k, v, batch, batch, False)
    torch.testing.assert_close(found, attention.reference(q, k, v, batch), rtol=2e-2, atol=2e-2)


def test_what_the_variable_length_kernel_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake, which computes what torch documents: rows of sequences one after the other, by cumulated lengths."""
    from torch.nn.attention import varlen

    batch = packed(["M" * 5, "A" * 9, "K" * 30])

    def fake(q: Tensor, k: Tensor, v: Tensor, *given: Any, **options: Any) -> Tensor:
        cu_q, cu_k, most_q, most_k = given
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert (cu_q.tolist(), most_q) == ([0, 7, 18, 50], 32)
        assert options == {"num_splits": 1, "window_size": (-1, -1)}
        assert (cu_k.tolist(), most_k) == (cu_q.tolist(), most_q)
        starts = cu_q.tolist()
        parts = [
            F.scaled_dot_product_attention(*(x[a:b].transpose(0, 1)[None] for x in (q, k, v)))[0].transpose(0, 1)
            for a, b in pairwise(starts)
        ]
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", fake)
    q, k, v = torch.randn(3, 50, 4, 16)
    expected = attention.reference(q, k, v, batch)
    torch.testing.assert_close(attention.variable_length(q, k, v, batch, batch, False), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "capability", "kernel"),
    [
        (torch.bfloat16, (8, 0), attention.variable_length),
        (torch.float16, (9, 0), attention.variable_length),
        (torch.float32, (9, 0), attention.by_runs),
        (torch.float16, (7, 0), attention.by_runs),
    ],
)
def test_the_kernel_of_each_gpu(
    dtype: torch.dtype, capability: tuple[int, int], kernel: attention.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    queries: Any = SimpleNamespace(dtype=dtype, is_cuda=True, device=torch.device("cuda", 0))
    assert attention.choose(queries) is kernel
    assert attention.choose(torch.zeros(2, 4, 16, dtype=dtype)) is attention.by_runs


def test_a_shape_that_cannot_rotate_is_refused() -> None:
    with pytest.raises(ValueError, match="even multiple"):
        ESM2Config(layers=1, hidden=30, heads=4)
