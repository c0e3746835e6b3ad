"""One process or many, started by torchrun: who I am, and how gradients come together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from aminoglot.errors import AminoglotError, InputError, JobError
from aminoglot.models import attention, esm2, prott5nv
from aminoglot.pretrain.config import ComputePart
from aminoglot.pretrain.objective import Objective

BLOCKS = (esm2.Block, prott5nv.Block, prott5nv.DecoderBlock)
_TIMEOUT = timedelta(minutes=30)
_ROOM = 0.5
"""The share of a GPU's memory that weights, gradients and the optimizer may take; above it ``auto`` shares them out."""


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: where this one computes.
        beside: a group of their own for what goes on beside the training, whose messages must not mix with its.
    """

    rank: int
    size: int
    device: torch.device
    beside: ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, *wanted: bool) -> tuple[bool, ...]:
        """Whether any process wants each of some things."""
        if self.size == 1:
            return wanted
        return tuple(bool(one) for one in self.sum(torch.tensor(wanted, dtype=torch.float32, device=self.device)))

    def led(self, work: Callable[[], object]) -> None:
        """Let the process that leads do something; where it cannot, all end, and none waits for it.

        Raises:
            AminoglotError: what the work raised; on the other processes a JobError.
        """
        trouble: AminoglotError | None = None
        if self.leads:
            try:
                work()
            except AminoglotError as error:
                trouble = error
        self.agree(trouble)

    def agree(self, trouble: AminoglotError | None) -> None:
        """Go on together, or end together, when one process has trouble."""
        (failed,) = self.any(trouble is not None)
        if trouble is not None:
            raise trouble
        if failed:
            raise JobError("another process of this run could not go on; it says why")


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the other processes, where torchrun started several.

    Args:
        device: ``cuda`` becomes this process's own.

    Raises:
        InputError: for more processes than GPUs on a machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs that are here")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield World(distributed.get_rank(), size, device, distributed.new_group(backend="gloo", timeout=_TIMEOUT))
    finally:
        distributed.destroy_process_group()


def wrapped(objective: Objective[Any], part: ComputePart, here: World) -> nn.Module:
    """The objective as it is trained: recomputed, compiled, shared out, or simply itself.

    Args:
        objective: on ``here.device``.
        part: what is wanted.
        here: the processes.
    """
    if part.recompute:
        apply_activation_checkpointing(objective, check_fn=lambda module: isinstance(module, BLOCKS))
    if part.compile:  # attention loops over lengths, of which no two batches have the same
        if not getattr(attention.attention, "_torchdynamo_disable", False):
            attention.attention = torch.compiler.disable(attention.attention)
        for module in objective.modules():
            if isinstance(module, BLOCKS):
                module.compile(dynamic=True)
    if here.size == 1:
        return objective
    if shared_out(objective, part, here.device):
        for module in objective.modules():
            if isinstance(module, BLOCKS):
                fully_shard(module)
        fully_shard(objective)
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def shared_out(objective: nn.Module, part: ComputePart, device: torch.device) -> bool:
    """Whether weights are to be shared out among the processes (FSDP2), not copied to each (DDP)."""
    if part.parallel != "auto":
        return part.parallel == "fsdp"
    need = 16 * sum(parameter.numel() for parameter in objective.parameters())
    return device.type == "cuda" and need > _ROOM * torch.cuda.get_device_properties(device).total_memory


def exchange(module: nn.Module, now: bool) -> None:
    """Whether the next backward pass brings gradients together; of those that are copied only the last has to.

    Where they are shared out every pass does: else each process would hold all of them between.
    """
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = now
