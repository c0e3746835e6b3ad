"""Linear and prepare: which tensors change their type, and that nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aminoglot.models.esm2 import ESM2
from aminoglot.models.linear import Float8Linear, Linear, prepare
from tests.reference import packed, randomised


@pytest.fixture
def network() -> ESM2:
    return randomised("esm2-tiny").network()


def linear_names(model: nn.Module) -> set[str]:
    return {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        for parameter in ("weight", "bias")
    }


def test_unprepared_it_is_torchs_own_and_differentiable() -> None:
    """Training uses it as it is."""
    torch.manual_seed(0)
    layer, x = Linear(8, 4), torch.randn(5, 8, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, F.linear(x, layer.weight, layer.bias))
    y.square().sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_computes_in_the_type_of_its_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(8, 4), torch.randn(5, 8, dtype=dtype)
    assert layer(x).dtype == torch.float32
    prepare(layer, "bf16")
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.linear(x.bfloat16(), layer.weight, layer.bias))


def test_a_prepared_layer_still_passes_gradients_to_its_input() -> None:
    layer, x = Linear(8, 4), torch.randn(5, 8, requires_grad=True)
    prepare(layer, "bf16")
    layer(x).float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert x.grad.abs().sum() > 0


def test_bf16_rounds_the_products_and_nothing_else(network: ESM2) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    rounded = linear_names(network)
    prepare(network, "bf16")
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert {key for key, tensor in after.items() if tensor.dtype == torch.bfloat16} == rounded
    for key, tensor in after.items():
        assert torch.equal(tensor, before[key].bfloat16() if key in rounded else before[key]), key
    assert len(rounded) == 2 * (2 * 6 + 1), "six products a layer, one of the language-model head"
    exact = {"embedding.weight", "frequencies", "final_norm.weight", "lm_head.bias", "contact_head.weight"}
    assert not exact & rounded


def test_fp32_widens_half_precision_without_a_change_of_value(network: ESM2) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.half()
    half = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    prepare(network, "fp32")
    for key, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32, key
        assert torch.equal(tensor, half[key].float()), key


def test_what_has_its_type_already_is_not_copied(network: ESM2) -> None:
    """Mapped weights stay mapped."""
    before = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    prepare(network, "fp32")
    assert {key: tensor.data_ptr() for key, tensor in network.state_dict().items()} == before
    prepare(network, "bf16")
    same = {key for key, tensor in network.state_dict().items() if tensor.data_ptr() == before[key]}
    assert same == before.keys() - linear_names(network)


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_a_weight_is_trained_does_not_change(wanted: bool, network: ESM2) -> None:
    network.requires_grad_(wanted)
    prepare(network, "bf16")
    assert {parameter.requires_grad for parameter in network.parameters()} == {wanted}


def test_preparing_twice_is_preparing_once(network: ESM2) -> None:
    prepare(network, "bf16")
    before = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    prepare(network, "bf16")
    assert {key: tensor.data_ptr() for key, tensor in network.state_dict().items()} == before


@torch.inference_mode()
def test_the_stream_between_rounded_products_is_float32(network: ESM2) -> None:
    prepare(network, "bf16")
    batch = packed(["MKTAYIAK", "W"])
    seen: list[torch.dtype] = []
    for block in network.layers:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    assert network.representations(batch, [0, 1, 2]).dtype == torch.float32
    assert network(batch).dtype == torch.float32
    assert {contacts.dtype for contacts in network.contacts(batch)} == {torch.float32}
    assert set(seen) == {torch.float32}
    assert len(seen) == 6


def test_float8_scales_every_row() -> None:
    """Rows of very different size keep their digits: 3 bits of mantissa, so about 4 percent a product."""
    torch.manual_seed(0)
    layer, x = Linear(64, 32), torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None]
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 2, 32)[:, None]
    exact = layer(x)
    rounded = Float8Linear(layer)(x)
    assert rounded.dtype == torch.bfloat16
    assert Float8Linear(layer).weight.dtype == torch.float8_e4m3fn
    error = (rounded.float() - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.min() > 0.001
    assert error.median() < 0.06
    assert error.max() < 0.2, "one scale for all would lose the small rows altogether"


def test_float8_is_for_the_encoder(network: ESM2) -> None:
    """Heads keep bf16; results are close, and nothing is left to train."""
    batch = packed(["MKTAYIAKQRQISFVKSHFSRQ", "GAVLIMFWPS", "MMM"])
    exact = network.representations(batch, [2])
    prepare(network, "fp8")
    kinds = [type(module) for module in network.layers.modules() if isinstance(module, Linear | Float8Linear)]
    assert kinds == [Float8Linear] * 12
    assert network.lm_head is not None
    assert network.lm_head.dense.weight.dtype == torch.bfloat16
    found = network.representations(batch, [2])
    assert found.dtype == torch.float32
    cosine = F.cosine_similarity(found, exact, dim=-1)
    assert 0.99 < cosine.min() < 0.99999


def test_fp16_is_closer_than_bf16(network: ESM2) -> None:
    """It has three bits more; what it lacks is range, and a number that is none is noticed by the engine."""
    batch = packed(["MKTAYIAKQRQISFVKSHFSRQ", "GAVLIMFWPS", "MMM"])
    exact = network.representations(batch, [2])
    errors = {}
    for precision in ("fp16", "bf16"):
        rounded = randomised("esm2-tiny").network()
        prepare(rounded, precision)  # type: ignore[arg-type]
        errors[precision] = (rounded.representations(batch, [2]) - exact).norm()
    assert 0 < errors["fp16"] < errors["bf16"] / 2
