"""Learning rates: a function of the update, nothing more.

Updates are counted from 1: ``rate(1)`` is that of a run's first update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aminoglot.errors import InputError
from aminoglot.settings import known

Shape = Literal["linear", "inverse-square-root", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes.

    - ``linear``: up in ``warmup`` updates, down to ``floor`` of the peak at ``decayed`` of all, then held. ESM-2's (Lin
      et al. 2023): a tenth of the peak at 90 % of 500,000 updates, after a warm-up of 2,000.
    - ``inverse-square-root``: ``peak * n / (w + 1)`` in the warm-up, ``peak / sqrt(n / (w + 1))`` after it, for the
      n-th update and a warm-up of w; ``floor`` after the last. ProtT5nv's (NeMo's InverseSquareRootAnnealing).
    - ``cosine``: up in ``warmup`` updates, down to ``floor`` along half a cosine at ``decayed`` of all, then held.

    Attributes:
        peak: the largest rate.
        updates: of the whole run.
        warmup: updates until the peak.
        shape: see above.
        floor: share of the peak at the end.
        decayed: share of the updates after which the floor is reached; those with a fall only.
    """

    peak: float
    updates: int
    warmup: int
    shape: Shape = "linear"
    floor: float = 0.1
    decayed: float = 0.9

    def __post_init__(self) -> None:
        known("schedule.shape", self.shape, Shape)
        if not self.peak > 0:
            raise InputError(f"rate {self.peak}: it must be above 0")
        if self.updates < 1:
            raise InputError(f"updates = {self.updates}: at least 1")
        if self.warmup < 0:
            raise InputError(f"warmup = {self.warmup}: 0 or more")
        if not 0 <= self.floor <= 1 or not 0 < self.decayed <= 1:
            raise InputError(f"floor {self.floor}, decayed {self.decayed}: both are shares, from 0 to 1")
        if self.warmup >= self.updates * (self.decayed if self.shape != "inverse-square-root" else 1):
            raise InputError(f"warm-up of {self.warmup:,} updates leaves no time to decay in a run of {self.updates:,}")

    def rate(self, update: int) -> float:
        """The learning rate of the ``update``-th update, counted from 1."""
        if self.shape == "inverse-square-root":
            return self._inverse_square_root(update)
        if update <= self.warmup:
            return self.peak * update / self.warmup
        end = self.decayed * self.updates
        passed = min(1.0, (update - self.warmup) / (end - self.warmup))
        fall = passed if self.shape == "linear" else (1 - math.cos(math.pi * passed)) / 2
        return self.peak * (1 - (1 - self.floor) * fall)

    def _inverse_square_root(self, update: int) -> float:
        if update > self.updates:
            return self.peak * self.floor
        share = update / (self.warmup + 1)
        return self.peak * (share if update <= self.warmup + 1 else share**-0.5)
