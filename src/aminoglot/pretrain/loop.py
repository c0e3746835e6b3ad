"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aminoglot.corpus import Samples
from aminoglot.corpus.draws import mixed
from aminoglot.errors import JobError, is_allocation_failure
from aminoglot.pretrain.batching import Update, dealt, updates
from aminoglot.pretrain.config import RunConfig
from aminoglot.pretrain.objective import SUMS, Objective
from aminoglot.pretrain.parallel import World, exchange
from aminoglot.pretrain.state import Progress, whole

_FIRST_SCALE, _LEAST_SCALE, _GROW_AFTER = 2.0**16, 2.0**-8, 2_000


@dataclass(frozen=True)
class Scores:
    """How well targets were told.

    Attributes:
        loss: mean cross-entropy of a target, nats.
        perplexity: its exponential.
        accuracy: share of targets that were the likeliest.
        residue_loss: of targets that are residues; ESM-2 has no others.
        targets: how many.
    """

    loss: float
    perplexity: float
    accuracy: float
    residue_loss: float
    targets: int

    @classmethod
    def of(cls, sums: Tensor) -> Scores:
        """From sums over all processes, see :data:`SUMS`."""
        found = dict(zip(SUMS, sums.tolist(), strict=True))
        targets = max(1.0, found["targets"])
        loss = found["loss"] / targets
        return cls(
            loss,
            math.exp(min(loss, 50)),
            found["correct"] / targets,
            found["residue_loss"] / max(1.0, found["residues"]),
            int(found["targets"]),
        )


@dataclass(frozen=True)
class Made:
    """One update that was made.

    Attributes:
        scores: of its batch, before it.
        rate: the learning rate.
        norm: of all gradients together, before clipping.
        tokens: in its batch.
        flops: floating-point operations of it, on this process.
        seconds: it took.
        skipped: whether fp16 overflowed, so that nothing was changed.
    """

    scores: Scores
    rate: float
    norm: float
    tokens: int
    flops: float
    seconds: float
    skipped: bool


class Trainer:
    """Makes updates, one after the other.

    Args:
        config: of the run.
        objective: the network and its task, for packing batches.
        module: the same as it is trained, see :func:`aminoglot.pretrain.parallel.wrapped`.
        optimizers: of its parameters.
        samples: the stream.
        here: the processes.
        half: whether products are computed in fp16, whose gradients need a scale.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective[Any],
        module: nn.Module,
        optimizers: list[Optimizer],
        samples: Samples[Any],
        here: World,
        half: bool = False,
    ) -> None:
        self.config, self.objective, self.module, self.here = config, objective, module, here
        self.optimizers, self.samples, self._half = optimizers, samples, half
        self._schedule = config.rates()
        self._parameters = [one for one in module.parameters() if one.requires_grad]
        self._sums = sums_type(here.device)

    def run(self, progress: Progress) -> Iterator[tuple[Progress, Made]]:
        """Make updates from where a run stands to its end; after each, where it stands then.

        Raises:
            JobError: when the loss or a gradient is no number.
        """
        if self._half and progress.update == 0:
            progress = replace(progress, loss_scale=_FIRST_SCALE)
        started = time.perf_counter()
        for update, batches in self._prepared(progress):
            made, scale, good = self._make(update, batches, progress, started)
            progress = replace(
                progress,
                update=progress.update + 1,
                position=update.next,
                tokens=progress.tokens + made.tokens,
                loss_scale=scale,
                good=good,
            )
            yield progress, made
            started = time.perf_counter()

    def _prepared(self, progress: Progress) -> Iterator[tuple[Update, list[Any]]]:
        """The updates that are left, with this process's batches, each read and masked while another is computed."""
        part, here = self.config.batch, self.here
        stream = updates(self.samples, part.proteins, part.tokens, progress.position)
        left = islice(stream, self.config.schedule.updates - progress.update)

        def prepare() -> tuple[Update, list[Any]] | None:
            update = next(left, None)
            if update is None:
                return None
            pieces = dealt(update.pieces(part.at_once, here.size), here.rank, here.size)
            return update, [self.objective.batch([self.samples[n] for n in piece], here.device) for piece in pieces]

        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(prepare)
            while (ready := following.result()) is not None:
                following = thread.submit(prepare)
                yield ready

    def _make(self, update: Update, batches: list[Any], progress: Progress, started: float) -> tuple[Made, float, int]:
        """One update; the loss scale after it, and for how many updates that has been good."""
        number = progress.update + 1
        rate = self._schedule.rate(number)
        try:
            sums, flops = self._gradients(batches, number, progress.loss_scale)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            raise JobError(
                f"update {number:,}: there is not enough memory for {self.config.batch.at_once:,} tokens at once; a "
                "smaller [batch] at_once computes the same, [compute] recompute = true needs less; the states stay"
            ) from error
        scores = Scores.of(self.here.sum(sums))
        norm = self._norm() / progress.loss_scale
        good = math.isfinite(norm) and math.isfinite(scores.loss)
        if good:
            self._step(rate, norm, progress.loss_scale)
        scale, since = self._next_scale(progress, good, number, scores.loss)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        return Made(scores, rate, norm, sum(update.lengths), flops, seconds, not good), scale, since

    def _gradients(self, batches: list[Any], number: int, scale: float) -> tuple[Tensor, float]:
        """Sum the gradients of a mean over the targets of all processes; sums of scores, and operations."""
        device = self.here.device
        targets = torch.tensor(float(sum(map(self.objective.targets, batches))), device=device)
        weight = scale * self.here.size / self.here.sum(targets).clamp(min=1)  # processes are averaged, not summed
        total, flops = torch.zeros(len(SUMS), device=device, dtype=self._sums), 0.0
        for index, batch in enumerate(batches):
            # what dropout leaves out is a function of these numbers: a run goes on as if it had not stopped
            torch.manual_seed(mixed(self.config.seed, number, self.here.rank, index) >> 1)
            exchange(self.module, index + 1 == len(batches))
            sums = self.module(batch)
            (sums[0] * weight).backward()
            total += sums.detach()
            flops += self.objective.flops(batch)
        return total, flops

    def _norm(self) -> float:
        found = nn.utils.get_total_norm([one.grad for one in self._parameters if one.grad is not None])
        return float(whole(found))

    def _step(self, rate: float, norm: float, scale: float) -> None:
        clip = self.config.optimizer.clip
        factor = (min(1.0, clip / (norm + 1e-6)) if clip else 1.0) / scale
        for parameter in self._parameters:
            if factor != 1.0 and parameter.grad is not None:
                parameter.grad.mul_(factor)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def _next_scale(self, before: Progress, good: bool, number: int, loss: float) -> tuple[float, int]:
        """fp16's scale is halved when something overflowed, and doubled after a long time without."""
        scale = before.loss_scale
        if not self._half and good:
            return scale, 0
        if not self._half or (not good and scale <= _LEAST_SCALE):
            raise JobError(
                f"update {number:,}: the loss is {loss:g} and the gradients are no numbers. Nothing of this update was "
                "kept. A lower rate, a longer warm-up or a smaller clip may help"
            )
        if not good:
            return scale / 2, 0
        return (scale * 2, 0) if before.good + 1 == _GROW_AFTER else (scale, before.good + 1)


def sums_type(device: torch.device) -> torch.dtype:
    """What scores are summed in: float64 where there is such a thing."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def validate(
    objective: Objective[Any], module: nn.Module, samples: Samples[Any], proteins: int, at_once: int, here: World
) -> Scores:
    """Scores on proteins that are held out, whose masks are the same every time.

    Args:
        objective: for packing.
        module: as it is trained.
        samples: of a split that is held out.
        proteins: how many, from the first on; 0 for all.
        at_once: tokens in memory at once.
        here: the processes.
    """
    count = min(proteins or len(samples), len(samples))
    every = Update(0, tuple(samples.tokens_of(position) for position in range(count)))
    module.eval()
    total = torch.zeros(len(SUMS), device=here.device, dtype=sums_type(here.device))
    for piece in dealt(every.pieces(at_once, here.size), here.rank, here.size):
        total += module(objective.batch([samples[n] for n in piece], here.device))
    module.train()
    return Scores.of(here.sum(total))
