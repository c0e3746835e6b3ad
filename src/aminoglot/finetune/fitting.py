"""Fitting: epochs over labelled rows, the best one kept by validation alone.

Shapes: S copies that are fitted side by side (see :mod:`aminoglot.finetune.heads`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aminoglot.errors import JobError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How a head is fitted.

    Attributes:
        epochs: at most.
        rate: the learning rate of Adam, after ``warmup`` steps; from there it falls in a line to ``floor``.
        floor: the learning rate of the last step.
        warmup: steps of rising.
        decay: weight decay, decoupled (AdamW).
        batch: rows (proteins) an update.
        patience: epochs without a better validation before it ends; None goes on to the last.
        clip: largest norm of all gradients together; None leaves them.
    """

    epochs: int = 20
    rate: float = 1e-3
    floor: float = 1e-5
    warmup: int = 10
    decay: float = 0.01
    batch: int = 64
    patience: int | None = None
    clip: float | None = None

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied by at a step, from 0 on, of so many."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        left = (steps - step) / max(1, steps - self.warmup)
        least = self.floor / self.rate
        return least + (1 - least) * left


class Problem(Protocol):
    """What is learnt: a module, rows to learn from, and how well it does on rows held out.

    A problem that also has ``parts``, see :class:`Parted`, is asked for those instead of its ``loss``.
    """

    rows: int

    @property
    def module(self) -> nn.Module: ...

    def loss(self, rows: Rows) -> Tensor:
        """Mean loss of each copy on these rows of the training set, [S], differentiable."""
        ...

    def validate(self) -> NDArray[np.float64]:
        """How far from right each copy is on what validation holds, [S]: the smaller the better."""
        ...


@runtime_checkable
class Parted(Protocol):
    """A problem whose loss comes in parts, so that memory holds what one of them needs to be differentiated."""

    def parts(self, rows: Rows) -> Iterator[Tensor]:
        """What adds up to the mean loss of each copy on these rows, each [S]."""
        ...


@dataclass
class History:
    """What fitting went through: a row an epoch, each of a number a copy."""

    train: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)

    @property
    def best(self) -> list[int]:
        """The best epoch of each copy, from 0 on."""
        return [int(epoch) for epoch in np.argmin(np.array(self.validation), axis=0)]


class Keeper(Protocol):
    """Where a run's state is kept between epochs; see :func:`fit`."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: dict[str, Any]) -> None: ...


def order(rows: int, seed: int, epoch: int) -> Rows:
    """The rows of an epoch in their random order, a function of seed and epoch alone."""
    found: Rows = np.random.default_rng((seed, epoch)).permutation(rows)
    return found


def batches(rows: int, size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """An epoch's batches; none is left out, the last may be small."""
    whole = order(rows, seed, epoch)
    for first in range(0, rows, size):
        yield whole[first : first + size]


def fit(
    problem: Problem,
    schedule: Schedule,
    seed: int = 0,
    copies: int = 1,
    done: Callable[[int], None] = lambda _: None,
    keeper: Keeper | None = None,
) -> History:
    """Fit, and leave each copy with the weights of its best epoch on validation.

    Args:
        problem: what is learnt. Where there are several copies every trained parameter has a leading axis for them.
        schedule: how.
        seed: of the order of rows, and of dropout.
        copies: S.
        done: told how many rows were done.
        keeper: keeps the state after each epoch, so that a run that was killed goes on, to the bit on one processor.

    Raises:
        JobError: when a loss is no number, of training or of validation.
    """
    parameters = {name: one for name, one in problem.module.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=schedule.rate, weight_decay=schedule.decay)
    history, best = History(), {name: one.detach().clone() for name, one in parameters.items()}
    first = 0
    state = keeper.load() if keeper is not None else None
    if state is not None:
        with torch.no_grad():
            for name, one in parameters.items():
                one.copy_(state["parameters"][name])
        best = state["best"]
        optimizer.load_state_dict(state["optimizer"])
        history = History(state["train"], state["validation"])
        first = len(history.train)
        done(first * problem.rows)
    steps = schedule.epochs * -(-problem.rows // schedule.batch)
    for epoch in range(first, schedule.epochs):
        if schedule.patience is not None and _waited(history) > schedule.patience:
            break
        history.train.append(_epoch(problem, schedule, optimizer, (seed, epoch, steps), copies, done))
        problem.module.eval()
        with torch.no_grad():
            history.validation.append(_finite(problem.validate(), epoch))
        _keep(best, parameters, history, copies)
        if keeper is not None:
            keeper.save(
                {
                    "parameters": {name: one.detach() for name, one in parameters.items()},
                    "best": best,
                    "optimizer": optimizer.state_dict(),
                    "train": history.train,
                    "validation": history.validation,
                }
            )
    with torch.no_grad():
        for name, one in parameters.items():
            one.copy_(best[name])
    problem.module.eval()
    return history


def _finite(loss_S: NDArray[np.float64], epoch: int) -> list[float]:
    """The losses on validation; of one that is no number, NumPy would take the epoch for the best."""
    if not np.isfinite(loss_S).all():
        raise JobError(f"epoch {epoch + 1}: the loss on validation is {loss_S.tolist()}; a lower rate may help")
    return [float(value) for value in loss_S]


def _epoch(
    problem: Problem,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    where: tuple[int, int, int],
    copies: int,
    done: Callable[[int], None],
) -> list[float]:
    """One pass over all rows; the mean loss of each copy."""
    seed, epoch, steps = where
    total = torch.zeros(copies, dtype=torch.float64)
    torch.manual_seed(seed * 1_000_003 + epoch)
    problem.module.train()
    step = epoch * -(-problem.rows // schedule.batch)
    for number, rows in enumerate(batches(problem.rows, schedule.batch, seed, epoch), step):
        optimizer.zero_grad(set_to_none=True)
        loss_S = _differentiated(problem, rows)
        if not bool(torch.isfinite(loss_S).all()):
            raise JobError(f"epoch {epoch + 1}: the loss is {loss_S.tolist()}; a lower rate may help")
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * schedule.factor(number, steps)
        if schedule.clip is not None:
            nn.utils.clip_grad_norm_(
                [one for group in optimizer.param_groups for one in group["params"]], schedule.clip
            )
        optimizer.step()
        total += loss_S.cpu().double() * len(rows)
        done(len(rows))
    return (total / problem.rows).tolist()


def _differentiated(problem: Problem, rows: Rows) -> Tensor:
    """The mean loss of each copy, [S], once its gradients are in the parameters."""
    whole: Tensor | None = None
    for loss_S in problem.parts(rows) if isinstance(problem, Parted) else (problem.loss(rows),):
        loss_S.sum().backward()
        whole = loss_S.detach() if whole is None else whole + loss_S.detach()
    assert whole is not None, "a batch without rows"
    return whole


def _keep(best: dict[str, Tensor], parameters: dict[str, nn.Parameter], history: History, copies: int) -> None:
    """Take over the weights of those copies for which the epoch that just ended was the best."""
    improved = [epoch == len(history.validation) - 1 for epoch in history.best]
    with torch.no_grad():
        for name, one in parameters.items():
            if copies == 1:
                if improved[0]:
                    best[name].copy_(one)
            else:
                chosen = torch.tensor(improved, device=one.device)
                best[name][chosen] = one[chosen]


def _waited(history: History) -> int:
    """Epochs since the last copy got better."""
    return len(history.validation) - 1 - max(history.best) if history.validation else 0
