"""LoRA (Hu et al. 2021, arXiv:2106.09685), applied from outside: W x becomes W x + alpha / rank * B A x.

A is drawn uniformly within +-1/sqrt(inputs), as peft draws it (Kaiming with a = sqrt(5)), B begins as zeros, so that
nothing changes before the first update. W stays as it is.

Shapes: r rank, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aminoglot.checkpoints.peft import Adapter
from aminoglot.errors import ModelError
from aminoglot.finetune.options import Target
from aminoglot.models.family import Network
from aminoglot.models.linear import Linear

_IN_ATTENTION = ("query", "key", "value", "output")


class LoRA(nn.Module):
    """A linear layer with two small matrices beside it.

    Attributes:
        lora_A: [r, I]
        lora_B: [O, r]
        scale: alpha / r.
    """

    def __init__(self, base: Linear, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        bound = base.in_features**-0.5
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, input: Tensor) -> Tensor:
        dtype = self.base.product or self.base.weight.dtype
        input = input.to(dtype)  # once for both
        low = F.linear(input, self.lora_A.to(dtype))
        out: Tensor = self.base(input)
        return out + F.linear(low, (self.lora_B * self.scale).to(dtype))


def adapt(network: Network, targets: Sequence[Target], rank: int, alpha: float, seed: int, layers: int) -> None:
    """Put LoRA beside matrices of the encoder's first blocks, in place; all else is frozen.

    Args:
        network: of either family.
        targets: which matrices of each block.
        rank: r.
        alpha: see the top of this file.
        seed: each matrix draws by this and its name.
        layers: blocks that are adapted.
    """
    network.requires_grad_(False)
    for index in range(layers):
        block = network.layers[index]
        for target in targets:
            holder = block.attention if target in _IN_ATTENTION else block
            assert isinstance(holder, nn.Module)
            name = f"layers.{index}.{'attention.' if target in _IN_ATTENTION else ''}{target}"
            base = getattr(holder, target)
            assert isinstance(base, Linear)
            drawn = int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])
            setattr(holder, target, LoRA(base, rank, alpha, drawn))


def attach(network: Network, made: Adapter) -> None:
    """Put an adapter that was learnt beside a network's matrices, in place, as it was in training.

    Raises:
        ModelError: when it does not fit.
    """
    rank = made.rank
    for name, (a_rI, b_Or) in made.matrices.items():
        holder_name, _, target = name.rpartition(".")
        try:
            holder = network.get_submodule(holder_name)
            base = getattr(holder, target)
        except AttributeError as error:
            raise ModelError(f"{made.base}: the adapter has {name}, which this model has not") from error
        if not isinstance(base, Linear) or base.weight.shape != (len(b_Or), a_rI.shape[1]):
            raise ModelError(f"{made.base}: the adapter's {name} does not fit this model")
        beside = LoRA(base, rank, made.scale * rank, 0).requires_grad_(False)
        beside.lora_A.copy_(a_rI)
        beside.lora_B.copy_(b_Or)
        setattr(holder, target, beside.eval())


def adapted(network: nn.Module) -> Iterator[tuple[str, LoRA]]:
    """Every adapted matrix, by the name of its layer."""
    for name, module in network.named_modules():
        if isinstance(module, LoRA):
            yield name, module


def adapter(network: nn.Module, base: str, digest: str, alpha: float) -> Adapter:
    """What was learnt, apart from the network.

    Args:
        network: with LoRA.
        base: the model that it belongs to, as a user names it.
        digest: of that model's weights.
        alpha: as it was given.
    """
    found = {name: (one.lora_A.detach().cpu(), one.lora_B.detach().cpu()) for name, one in adapted(network)}
    return Adapter(base, alpha, found, digest)
