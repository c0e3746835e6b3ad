"""Linear and prepare: which tensors change their type, and that nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aminoglot.models.esm2 import ESM2
from aminoglot.models.linear import Linear, prepare
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
