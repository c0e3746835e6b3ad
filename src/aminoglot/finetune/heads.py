"""Small networks on top of embeddings.

Several copies of a head, which differ in their random beginnings alone, are fitted side by side: each parameter has a
leading axis for them, and features are read once for all. One head is a stack of one.

Shapes: S copies (seeds), N proteins, T packed residues, D features, W hidden units, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadName = Literal["convolution", "no-context", "perceptron", "linear"]
REACH = 3
"""Residues on each side that one of the convolution's two filters sees."""


def _drawn(seeds: Sequence[int], shape: Sequence[int], fan_in: int) -> nn.Parameter:
    """Uniform within +-1/sqrt(fan in), as torch's own layers begin; each copy by a seed of its own."""
    bound = 1 / math.sqrt(fan_in)
    copies = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        copies.append(torch.empty(*shape).uniform_(-bound, bound, generator=generator))
    return nn.Parameter(torch.stack(copies))


class Linear(nn.Module):
    """One linear layer a copy: [S, N, inputs] or [N, inputs], shared by all copies, to [S, N, outputs]."""

    def __init__(self, seeds: Sequence[int], inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = _drawn(seeds, (outputs, inputs), inputs)
        self.bias = _drawn([seed + 1 for seed in seeds], (outputs,), inputs)

    def forward(self, x: Tensor) -> Tensor:
        copies, outputs, _ = self.weight.shape
        if x.dim() == 2:  # one product for all copies
            y = F.linear(x, self.weight.flatten(0, 1).to(x.dtype), self.bias.flatten().to(x.dtype))
            rows: Tensor = y.unflatten(-1, (copies, outputs)).movedim(-2, 0)
            return rows
        return torch.baddbmm(self.bias[:, None].to(x.dtype), x, self.weight.transpose(1, 2).to(x.dtype))


class Units(nn.Module):
    """What fitted numbers are counted in: a head works with labels less their mean, divided by their spread."""

    centre: Tensor
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def measure(self, labels: Tensor) -> None:
        """Take over the training set's; labels that never vary are only centred."""
        spread = labels.double().std(correction=0)
        self.centre.copy_(labels.double().mean())
        self.unit.copy_(spread if spread > 0 else torch.ones_like(spread))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.unit + self.centre


class Standardise(nn.Module):
    """Features with their mean taken off and divided by their spread, both of the training set; never trained."""

    mean_D: Tensor
    spread_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("spread_D", torch.ones(width))

    def measure(self, mean_D: Tensor, spread_D: Tensor) -> None:
        """Take over what the training set has; a feature that never varies is only centred."""
        self.mean_D.copy_(mean_D)
        self.spread_D.copy_(torch.where(spread_D > 1e-6, spread_D, torch.ones_like(spread_D)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean_D.to(x.dtype)) / self.spread_D.to(x.dtype)


class Head(nn.Module):
    """Outputs from features.

    Args:
        name: which of :data:`HeadName`.
        width: features, D.
        outputs: classes, or numbers; C.
        seeds: one for each copy.
        hidden: units of the perceptron, W.
    """

    def __init__(
        self, name: HeadName, width: int, outputs: int, seeds: Sequence[int] = (0,), hidden: int = 256
    ) -> None:
        super().__init__()
        self.name, self.width, self.outputs, self.copies = name, width, outputs, len(seeds)
        self.standardise, self.units = Standardise(width), Units()
        self.body = _BODIES[name](width, outputs, seeds, hidden)

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Outputs of every row.

        Args:
            x: [N, D], a row a protein; or [T, D], a row a residue, proteins end to end.
            lengths: residues of each protein, for heads that look at neighbours.

        Returns:
            float32 [S, N, C] or [S, T, C]: logits of classes, or numbers in the labels' own units.
        """
        y: Tensor = self.units(self.body(self.standardise(x), lengths).float())
        return y


class _Linear(nn.Module):
    """Logistic or linear regression."""

    def __init__(self, width: int, outputs: int, seeds: Sequence[int], _: int) -> None:
        super().__init__()
        self.out = Linear(seeds, width, outputs)

    def forward(self, x: Tensor, _: Sequence[int] | None) -> Tensor:
        y: Tensor = self.out(x)
        return y


class _Perceptron(nn.Module):
    """One hidden layer: the published head of proteins (BioNeMo 1's MLPModel: ReLU, dropout 0.1)."""

    dropout = 0.1

    def __init__(self, width: int, outputs: int, seeds: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.into = Linear(seeds, width, hidden)
        self.out = Linear([seed + 2 for seed in seeds], hidden, outputs)

    def forward(self, x: Tensor, _: Sequence[int] | None) -> Tensor:
        y: Tensor = self.out(F.dropout(F.relu(self.into(x)), self.dropout, self.training))
        return y


class _NoContext(_Perceptron):
    """The perceptron on each residue alone, 32 hidden units: what the embedding itself knows of a residue."""

    dropout = 0.25

    def __init__(self, width: int, outputs: int, seeds: Sequence[int], _: int) -> None:
        super().__init__(width, outputs, seeds, 32)


class _Convolution(nn.Module):
    """Two filters of 7 residues with 32 channels between them: the published head of residues (BioNeMo 1's ConvNet:
    ReLU, dropout 0.25), so that 6 residues on each side are seen. Beyond a protein's ends are zeros.
    """

    channels, dropout = 32, 0.25

    def __init__(self, width: int, outputs: int, seeds: Sequence[int], _: int) -> None:
        super().__init__()
        taps, narrow = 2 * REACH + 1, self.channels
        self.into = _drawn(seeds, (narrow, width, taps), width * taps)
        self.into_bias = _drawn([seed + 1 for seed in seeds], (narrow,), width * taps)
        self.out = _drawn([seed + 2 for seed in seeds], (outputs, narrow, taps), narrow * taps)
        self.out_bias = _drawn([seed + 3 for seed in seeds], (outputs,), narrow * taps)

    def forward(self, x_TD: Tensor, lengths: Sequence[int] | None) -> Tensor:
        assert lengths is not None, "a convolution must know where proteins end"
        copies = len(self.into)
        rows_T, last = apart(lengths, x_TD.device)
        x_PD = x_TD.new_zeros(last, x_TD.shape[1]).index_copy(0, rows_T, x_TD)
        inside_P = torch.zeros(last, dtype=torch.bool, device=x_TD.device).index_fill(0, rows_T, True)
        h_1CP = F.relu(_filtered(x_PD.t()[None], self.into, self.into_bias))
        h_1CP = F.dropout(h_1CP * inside_P, self.dropout, self.training)
        y_SPC: Tensor = _narrowly_filtered(h_1CP[0].unflatten(0, (copies, -1)), self.out, self.out_bias)
        return y_SPC[:, rows_T]


def apart(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, int]:
    """Where residues lie when so many zeros stand between proteins that no filter reaches over; and how many rows."""
    sizes_B = torch.tensor(lengths, device=device)
    before_B = REACH * torch.arange(1, len(lengths) + 1, device=device)
    rows_T = torch.arange(int(sizes_B.sum()), device=device) + before_B.repeat_interleave(sizes_B)
    return rows_T, int(sizes_B.sum()) + REACH * (len(lengths) + 1)


def _filtered(x_1DP: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All copies' filters on the features that they share, [1, S x channels, P]."""
    dtype = x_1DP.dtype
    return F.conv1d(x_1DP, weight.flatten(0, 1).to(dtype), bias.flatten().to(dtype), padding=REACH)


def _narrowly_filtered(h_SCP: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each copy's filters on its own channels, [S, P, outputs].

    A grouped convolution with as few outputs as here takes a CPU longer than one product for all taps, whose
    results are then added, each as far along as its tap is.
    """
    copies, outputs, channels, taps = weight.shape
    rows = h_SCP.shape[-1]
    by_tap = weight.permute(0, 3, 1, 2).reshape(copies, taps * outputs, channels).to(h_SCP.dtype)
    z_SKCP = F.pad(torch.bmm(by_tap, h_SCP).unflatten(1, (taps, outputs)), (REACH, REACH))
    y_SCP = torch.stack([z_SKCP[:, tap, :, tap : tap + rows] for tap in range(taps)]).float().sum(0)
    return (y_SCP + bias[..., None]).transpose(1, 2)


_BODIES: dict[HeadName, type[_Linear] | type[_Perceptron] | type[_Convolution]] = {
    "linear": _Linear,
    "perceptron": _Perceptron,
    "no-context": _NoContext,
    "convolution": _Convolution,
}
