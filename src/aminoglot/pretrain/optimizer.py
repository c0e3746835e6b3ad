"""The optimizer: which weights decay, and what changes them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from aminoglot.pretrain.config import OptimizerPart


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, object]]:
    """Matrices and tables decay; biases and norms, which have one dimension, do not (as in Megatron)."""
    flat: list[nn.Parameter] = []
    deep: list[nn.Parameter] = []
    for _, parameter in named:
        (deep if parameter.dim() > 1 else flat).append(parameter)
    groups: list[dict[str, object]] = [{"params": deep, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build(network: nn.Module, part: OptimizerPart) -> list[Optimizer]:
    """The optimizers of a run: one, or two with Muon (Jordan et al. 2024), which takes the matrices of the blocks.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one rate serves both.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    muon = [parameter for name, parameter in named if _is_block_matrix(name, parameter)] if part.name == "muon" else []
    taken = {id(parameter) for parameter in muon}
    groups = decay_groups(((name, one) for name, one in named if id(one) not in taken), part.decay)
    optimizers: list[Optimizer] = [AdamW(groups, lr=part.rate, betas=part.betas, eps=part.epsilon, fused=True)]
    if muon:
        optimizers.append(Muon(muon, lr=part.rate, weight_decay=part.decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    return "layers." in name and parameter.dim() == 2
