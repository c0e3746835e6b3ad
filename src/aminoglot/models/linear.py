"""The only place where a matrix-product path is chosen.

Models are built from :class:`Linear` and stay plain; :func:`prepare` changes how their products are computed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["fp32", "bf16"]


class Linear(nn.Linear):
    """A linear layer that computes in the type of its weights, whatever the type of its input.

    With bf16 weights, what flows between the blocks stays float32: adding a bf16 product to a float32 residual
    stream gives float32, so rounding does not pile up from layer to layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


def prepare(model: nn.Module, precision: Precision) -> None:
    """Set the precision of every matrix product of ``model``, in place.

    Embeddings, layer norms, rotary tables, softmax and heads' sums stay float32 in every precision.

    Args:
        model: a network made of :class:`Linear` layers.
        precision: ``fp32`` is exact everywhere; ``bf16`` halves the weights.
    """
    product = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for module in model.modules():
        dtype = product if isinstance(module, Linear) else torch.float32
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dtype != dtype:
                setattr(module, name, nn.Parameter(parameter.data.to(dtype), requires_grad=parameter.requires_grad))
