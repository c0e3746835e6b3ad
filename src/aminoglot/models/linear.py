"""The only place where a matrix-product path is chosen.

Models are built from :class:`Linear` and stay plain; :func:`prepare` changes how their products are computed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
_LARGEST_FP8 = 448.0
"""The largest number of e4m3, four bits of exponent and three of mantissa."""


class Linear(nn.Linear):
    """A linear layer that computes in the type of its weights, whatever the type of its input.

    With bf16 weights, what flows between the blocks stays float32: adding a bf16 product to a float32 residual
    stream gives float32, so rounding does not pile up from layer to layer.

    Attributes:
        product: another type to compute in, see :func:`train_in`.
    """

    product: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:
        dtype = self.product or self.weight.dtype
        return F.linear(input.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class Float8Linear(nn.Module):
    """A product of 8-bit numbers (e4m3) on GPUs that multiply them, results in bf16.

    Every row of the weights, and every token, is scaled so that its largest value is the type's largest.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _to_float8(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t())
        self.register_buffer("bias", linear.bias.data.bfloat16())

    def forward(self, input: Tensor) -> Tensor:
        x, scale = _to_float8(input)
        by_row = F.ScalingType.RowWise
        out = F.scaled_mm(x, self.weight.t(), scale, by_row, self.scale, by_row, output_dtype=torch.bfloat16)
        return out + self.bias


def _to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as 8-bit numbers, and float32 [rows, 1] to multiply them with."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / _LARGEST_FP8
    return (x / scale).to(torch.float8_e4m3fn), scale


def prepare(model: nn.Module, precision: Precision) -> None:
    """Set the precision of every matrix product of ``model``, in place.

    Embeddings, layer norms, rotary tables, softmax and heads' sums stay float32 in every precision.

    Args:
        model: a network made of :class:`Linear` layers.
        precision: ``fp32`` is exact everywhere; ``bf16`` and ``fp16`` halve the weights; ``fp8`` halves them again,
            but for those of the language-model head, which are bf16 then.
    """
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    product = torch.float32 if precision == "fp32" else half
    if precision == "fp8":
        _replace(model)
    for module in model.modules():
        if isinstance(module, Float8Linear):
            continue
        dtype = product if isinstance(module, Linear) else torch.float32
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dtype != dtype:
                setattr(module, name, nn.Parameter(parameter.data.to(dtype), requires_grad=parameter.requires_grad))


def train_in(model: nn.Module, precision: Literal["fp32", "bf16", "fp16"]) -> None:
    """Compute the matrix products of ``model`` in this precision, forwards and backwards; its weights stay float32.

    So training computes as :func:`prepare` makes inference compute: norms, softmax, the residual stream and the sums of
    heads are float32. (On CPUs in bf16 attention's exponentials are bf16, see :mod:`aminoglot.models.products`.)
    """
    product = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for module in model.modules():
        if isinstance(module, Linear):
            module.product = product


def _replace(module: nn.Module) -> None:
    """Exchange the layers of the encoder's blocks; heads lie outside of module lists."""
    for child in module.modules():
        if isinstance(child, nn.ModuleList):
            for block in child.modules():
                for name, layer in list(block.named_children()):
                    if isinstance(layer, Linear):
                        setattr(block, name, Float8Linear(layer))
