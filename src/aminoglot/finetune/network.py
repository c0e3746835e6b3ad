"""Learning with the network: its weights, or LoRA's beside them, change with the head.

A batch is packed: its proteins, sorted by length, go through the network in parts of so many tokens as memory should
hold, each part differentiated before the next is computed.

Shapes: N proteins, T packed tokens, R residues of all proteins end to end, D features, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aminoglot.engine.pieces import Piece, pieces
from aminoglot.finetune.examples import Example
from aminoglot.finetune.fitting import Rows, order
from aminoglot.finetune.heads import Head
from aminoglot.finetune.metrics import Kind
from aminoglot.finetune.problems import losses, weighed, weight_of
from aminoglot.models.family import Network, family_of
from aminoglot.packing import Packed, batches
from aminoglot.settings import Request

MEASURED = 1_000
"""Training proteins from which the spread of features is taken before the first update."""


@dataclass(frozen=True)
class Features:
    """What the network makes of some proteins.

    Attributes:
        x: [N, D], or [R, D] where a row is a residue.
        rows: rows of each protein.
    """

    x: Tensor
    rows: list[int]


class Live(nn.Module):
    """A network and a head, from sequences to outputs.

    Args:
        network: whose trained parameters require gradients.
        head: what stands on it.
        request: per, layer, pool, and what becomes of long proteins.
        budget: tokens at once.
    """

    def __init__(self, network: Network, head: Head, request: Request, budget: int) -> None:
        super().__init__()
        self.network, self.head, self.request, self.budget = network, head, request, budget
        self.alphabet = family_of(network.config).alphabet

    @property
    def device(self) -> torch.device:
        return self.network.embedding.weight.device

    def cut(self, texts: Sequence[bytes]) -> list[list[Piece]]:
        """The stretches of each protein that go through the network."""
        rows = self.request.embedded(np.array([len(text) for text in texts], np.int64)).tolist()
        return [pieces(owner, count, self.request) for owner, count in enumerate(rows)]

    def tokens(self, texts: Sequence[bytes]) -> list[int]:
        """How many tokens each protein costs."""
        return [sum(piece.length + self.alphabet.special_length for piece in cut) for cut in self.cut(texts)]

    def features(self, texts: Sequence[bytes]) -> Features:
        """Embeddings of proteins, or of all their residues, differentiable."""
        cut = [piece for one in self.cut(texts) for piece in one]
        x_TD, lengths = self._stream(cut, texts)
        starts = np.concatenate(([0], np.cumsum(lengths[:-1]))).astype(np.int64)
        if self.request.pool == "cls" and self.request.wants_protein:
            first = [int(start) for start, piece in zip(starts, cut, strict=True) if piece.cls]
            return Features(x_TD[first], [1] * len(texts))
        rows = self.request.embedded(np.array([len(text) for text in texts], np.int64)).tolist()
        x_RD = self._residues(x_TD, starts, cut, rows)
        if self.request.wants_residue:
            return Features(x_RD, rows)
        parts = x_RD.split(rows)
        pooled = [part.mean(0) if self.request.pool == "mean" else part.amax(0) for part in parts]
        return Features(torch.stack(pooled), [1] * len(texts))

    def _stream(self, cut: Sequence[Piece], texts: Sequence[bytes]) -> tuple[Tensor, list[int]]:
        """The network's layer, [T, D], and the tokens of each piece. What is beyond the budget is computed again in
        the backward pass, so that memory holds no more of it than its result."""
        framed = [self.alphabet.framed(texts[p.owner][p.start : p.stop], start=p.cls, end=p.eos) for p in cut]
        lengths = [len(one) for one in framed]
        groups = list(batches(lengths, self.budget))
        found = []
        for chosen in groups:
            batch = Packed.of(self.alphabet.encode(framed[chosen]), lengths[chosen], self.device)
            if len(groups) > 1 and torch.is_grad_enabled():
                found.append(checkpoint(self._layer, batch, use_reentrant=False))
            else:
                found.append(self._layer(batch))
        return (found[0] if len(found) == 1 else torch.cat(found)), lengths

    def _layer(self, batch: Packed) -> Tensor:
        return self.network.representations(batch, self.request.layers)[0]

    def _residues(self, x_TD: Tensor, starts: NDArray[np.int64], cut: Sequence[Piece], rows: Sequence[int]) -> Tensor:
        """Rows of residues alone, [R, D]; where windows overlap, their mean."""
        firsts = np.concatenate(([0], np.cumsum(rows)))
        at, to = [], []
        for start, piece in zip(starts, cut, strict=True):
            before = self.alphabet.prefix_length if piece.cls else 0
            at.append(np.arange(start + before, start + before + piece.length))
            to.append(np.arange(piece.start, piece.stop) + firsts[piece.owner])
        from_T, to_R = np.concatenate(at), np.concatenate(to)
        x_SD = x_TD[torch.from_numpy(from_T).to(x_TD.device)]
        if len(cut) == len(rows):
            return x_SD
        share = 1 / np.bincount(to_R)[to_R]
        weighted = x_SD * torch.from_numpy(share).to(x_SD)[:, None]
        empty = x_SD.new_zeros(int(firsts[-1]), x_SD.shape[1])
        return empty.index_add(0, torch.from_numpy(to_R).to(x_SD.device), weighted)

    def forward(self, texts: Sequence[bytes]) -> Tensor:
        """Outputs of proteins or residues, float32 [1, N, C] or [1, R, C]."""
        found = self.features(texts)
        y: Tensor = self.head(found.x.float(), found.rows)
        return y


class OnNetwork:
    """A :class:`~aminoglot.finetune.fitting.Problem`, in parts: the network and its head learn together.

    Args:
        live: what learns; its head is given the moments of the network's features before the first update.
        train: to learn from.
        validation: to choose by.
        kind: classes (cross-entropy) or a number (squared error).
        seed: of the proteins that moments are taken from.
        weights: of classes, [C].
    """

    def __init__(
        self,
        live: Live,
        train: Sequence[Example],
        validation: Sequence[Example],
        kind: Kind,
        seed: int,
        weights: Tensor | None = None,
    ) -> None:
        self.module, self.train, self.held_out, self.kind = live, train, validation, kind
        self.rows, self._weights = len(train), None if weights is None else weights.to(live.device)
        self._measure(seed)

    def loss(self, rows: Rows) -> Tensor:
        """The sum of :meth:`parts`."""
        return torch.stack(list(self.parts(rows))).sum(0)

    def parts(self, rows: Rows) -> Iterator[Tensor]:
        """Shares of a batch's mean loss, [1] each, that add up to it."""
        chosen = [self.train[row] for row in rows]
        whole = sum(self._weight(one) for one in chosen)
        for part in self._cut(chosen):
            yield self._loss(part) * (sum(self._weight(one) for one in part) / whole)

    @torch.no_grad()
    def validate(self) -> NDArray[np.float64]:
        total = weight = 0.0
        for part in self._cut(self.held_out):
            share = sum(self._weight(one) for one in part)
            total, weight = total + float(self._loss(part)) * share, weight + share
        return np.array([total / weighed(weight)])

    @torch.no_grad()
    def predict(self, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
        """Outputs of each protein, [1, C], or of each residue that was embedded, [L, C]."""
        self.module.eval()
        place = {id(one): index for index, one in enumerate(examples)}
        found: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * len(examples)
        for part in self._cut(examples):
            texts = [one.sequence for one in part]
            y_NC = self.module(texts)[0].float().cpu()
            for one, y in zip(part, y_NC.split(self._outputs(texts)), strict=True):
                found[place[id(one)]] = y.numpy()
        return found

    def _cut(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        """Proteins by length, in parts of so many tokens as go through the network at once."""
        by_length = sorted(examples, key=lambda one: -len(one.sequence))
        tokens = self.module.tokens([one.sequence for one in by_length])
        for chosen in batches(tokens, self.module.budget):
            yield by_length[chosen]

    def _outputs(self, texts: Sequence[bytes]) -> list[int]:
        """Rows of output of each protein."""
        if self.module.request.wants_protein:
            return [1] * len(texts)
        rows: list[int] = self.module.request.embedded(np.array([len(text) for text in texts], np.int64)).tolist()
        return rows

    def _labels(self, example: Example) -> tuple[NDArray[np.float64] | NDArray[np.int64], NDArray[np.bool_]]:
        """Labels and which count, of those residues that are embedded."""
        (rows,) = self._outputs([example.sequence])
        return example.label[:rows], example.counted[:rows]

    def _weight(self, example: Example) -> float:
        label, counted = self._labels(example)
        return weight_of(label[counted], self._weights)

    def _loss(self, part: Sequence[Example]) -> Tensor:
        """Mean loss, [1]."""
        found = [self._labels(one) for one in part]
        labels, counted = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        y_1NC = self.module([one.sequence for one in part])
        if not counted.all():
            y_1NC, labels = y_1NC[:, torch.from_numpy(counted).to(y_1NC.device)], labels[counted]
        return losses(y_1NC, labels, self.kind, self.module.head.units.unit, self._weights)

    @torch.no_grad()
    def _measure(self, seed: int) -> None:
        """Give the head the moments of features, as the network makes them before it is tuned, and of labels."""
        head = self.module.head
        chosen = [self.train[row] for row in order(len(self.train), seed, 0)[:MEASURED]]
        count = 0
        total = squares = torch.zeros(1, dtype=torch.float64)
        self.module.eval()
        for part in self._cut(chosen):
            x_ND = self.module.features([one.sequence for one in part]).x.cpu().double()
            count, total, squares = count + len(x_ND), total + x_ND.sum(0), squares + (x_ND**2).sum(0)
        mean_D = total / count
        spread_D = (squares / count - mean_D**2).clamp(min=0).sqrt()
        head.standardise.measure(mean_D.float(), spread_D.float())
        if self.kind == "number":
            found = [label[counted] for label, counted in map(self._labels, self.train)]
            head.units.measure(torch.from_numpy(np.concatenate(found)))
