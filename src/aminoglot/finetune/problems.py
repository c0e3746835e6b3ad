"""Learning from features that are computed already: a head on a frozen network.

Shapes: S copies, N proteins, T residues of all of them end to end, D features, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aminoglot.errors import JobError
from aminoglot.finetune.fitting import Rows
from aminoglot.finetune.heads import Head
from aminoglot.finetune.metrics import Kind

_ROWS_AT_ONCE = 32_768


@dataclass(frozen=True)
class Labelled:
    """Proteins with features and labels.

    Attributes:
        features: [N, D], or of residues [T, D]; may be a mapped file, in any type of number.
        labels: [N] or [T]; whole numbers from 0 on for classes, else float.
        starts: [N + 1], where each protein's residues begin; None where a row is a protein.
        counted: [T], which residues have a label; None where all have.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    starts: NDArray[np.int64] | None = None
    counted: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.features) if self.starts is None else len(self.starts) - 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """Which protein each counted row is of."""
        if self.starts is None:
            return np.arange(len(self.features))
        owners: NDArray[np.int64] = np.repeat(np.arange(len(self)), np.diff(self.starts))
        return owners if self.counted is None else owners[self.counted]

    @property
    def actual(self) -> NDArray[Any]:
        """The labels of counted rows."""
        return self.labels if self.counted is None else self.labels[self.counted]

    def places(self, proteins: Rows) -> tuple[Any, list[int] | None]:
        """Rows of these proteins, and the residues of each."""
        if self.starts is None:
            return proteins, None
        spans = [(int(self.starts[one]), int(self.starts[one + 1])) for one in proteins]
        rows = np.concatenate([np.arange(start, stop) for start, stop in spans])
        return rows, [stop - start for start, stop in spans]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and spread of each feature, float32 [D], taken block by block."""
        count, total, squares = 0, np.zeros(self.features.shape[1]), np.zeros(self.features.shape[1])
        for first in range(0, len(self.features), _ROWS_AT_ONCE):
            block = np.asarray(self.features[first : first + _ROWS_AT_ONCE], np.float64)
            count, total, squares = count + len(block), total + block.sum(0), squares + (block**2).sum(0)
        mean = total / count
        spread = np.sqrt(np.maximum(0, squares / count - mean**2))
        return torch.from_numpy(mean).float(), torch.from_numpy(spread).float()


class OnFeatures:
    """A :class:`~aminoglot.finetune.fitting.Problem`: a head is fitted to features that do not change.

    Args:
        head: which is given the training set's moments and units.
        train: to learn from.
        validation: to choose by.
        kind: classes (cross-entropy) or a number (squared error).
        weights: of classes, [C].
        dtype: what products are computed in.
    """

    def __init__(
        self,
        head: Head,
        train: Labelled,
        validation: Labelled,
        kind: Kind,
        weights: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module, self.train, self.held_out, self.kind = head, train, validation, kind
        self.rows, self._weights, self._dtype = len(train), weights, dtype
        head.standardise.measure(*train.moments())
        if kind == "number":
            head.units.measure(torch.from_numpy(np.asarray(train.actual, np.float64)))

    def loss(self, rows: Rows) -> Tensor:
        return self._losses(self.train, rows)[0]

    def validate(self) -> NDArray[np.float64]:
        total, weight = np.zeros(self.module.copies), 0.0
        for rows in chunks(self.held_out):
            losses, share = self._losses(self.held_out, rows)
            total, weight = total + losses.double().numpy() * share, weight + share
        return total / weighed(weight) if self._weights is not None else total / max(1, weight)

    def _losses(self, of: Labelled, proteins: Rows) -> tuple[Tensor, float]:
        """Mean loss of each copy on the counted rows of these proteins, [S], and what those weigh."""
        places, lengths = of.places(proteins)
        y_SNC = self.module(self._read(of, places), lengths)
        labels, counted = of.labels[places], None if of.counted is None else of.counted[places]
        if counted is not None:
            y_SNC, labels = y_SNC[:, torch.from_numpy(counted)], labels[counted]
        found = losses(y_SNC, labels, self.kind, self.module.units.unit, self._weights)
        return found, weight_of(labels, self._weights)

    def _read(self, of: Labelled, places: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(of.features[places])).to(self._dtype)

    @torch.no_grad()
    def predict(self, of: Labelled) -> NDArray[np.float32]:
        """Outputs of every counted row, float32 [S, n, C]."""
        self.module.eval()
        found = []
        for rows in chunks(of):
            places, lengths = of.places(rows)
            y = self.module(self._read(of, places), lengths).numpy()
            found.append(y if of.counted is None else y[:, of.counted[places]])
        return np.concatenate(found, axis=1)


def chunks(of: Labelled) -> Sequence[Rows]:
    """All proteins in order, so many at once as memory should hold."""
    if of.starts is None:
        return [np.arange(a, min(a + _ROWS_AT_ONCE, len(of))) for a in range(0, len(of), _ROWS_AT_ONCE)]
    block = of.starts[1:] // _ROWS_AT_ONCE
    return [np.flatnonzero(block == one) for one in np.unique(block)]


def losses(y_SNC: Tensor, labels: NDArray[Any], kind: Kind, unit: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean loss of each copy, [S]: cross-entropy in nats, or squared error in units of the labels' variance."""
    copies = len(y_SNC)
    if len(labels) == 0:
        return y_SNC.sum((1, 2)) * 0.0
    if kind == "number":
        target_N = torch.from_numpy(np.asarray(labels, np.float32)).to(y_SNC.device)
        return (((y_SNC[..., 0] - target_N) / unit) ** 2).mean(1)
    target_SN = torch.from_numpy(np.asarray(labels, np.int64)).to(y_SNC.device).expand(copies, -1)
    found_SN = F.cross_entropy(y_SNC.transpose(1, 2), target_SN, reduction="none")
    if weights is None:
        return found_SN.mean(1)
    weight_N = weights[target_SN[0]]
    # classes that training lacks weigh nothing: of those alone the loss is 0, not 0 / 0
    return (found_SN * weight_N).sum(1) / weight_N.sum().clamp(min=torch.finfo(weight_N.dtype).tiny)


def weight_of(labels: NDArray[Any], weights: Tensor | None) -> float:
    """What labels [n] weigh together: their number, or the sum of their classes' weights."""
    if weights is None:
        return float(len(labels))
    return float(weights.cpu()[torch.from_numpy(np.asarray(labels, np.int64))].double().sum())


def weighed(weight: float) -> float:
    """The weight of all that validates.

    Raises:
        JobError: when it is nothing, so that all epochs would look alike.
    """
    if weight == 0:
        raise JobError(
            "no protein that validates is of a class that training has, so that no epoch can be chosen: take "
            "--class-weights none, a larger --validation-share, or another split"
        )
    return weight
