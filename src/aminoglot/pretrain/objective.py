"""What a network is asked in training, and how well it answers.

Shapes: T packed tokens, U packed tokens of targets, N tokens that are asked for, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aminoglot.corpus import IGNORED, Corpus, ESM2Samples, Hidden, Masked, ProtT5nvSamples, Samples
from aminoglot.models.esm2 import ESM2, ESM2Config
from aminoglot.models.family import Network
from aminoglot.models.prott5nv import END, FIRST_SENTINEL, START, ProtT5nv
from aminoglot.packing import Packed
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET


@dataclass(frozen=True)
class MaskedBatch:
    """Masked proteins: what ESM-2 sees, where it is asked, and what it should say there."""

    source: Packed
    places_N: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class HiddenBatch:
    """Proteins with sentinels, and their targets: what ProtT5nv's decoder is told, and should say."""

    source: Packed
    target: Packed
    labels_U: Tensor
    asked: int


Batch = TypeVar("Batch", MaskedBatch, HiddenBatch)

SUMS = ("loss", "targets", "correct", "residue_loss", "residues")
"""What :class:`Objective` returns: sums over a batch. Residues are those targets that are no sentinels and no ends."""


class Objective(nn.Module, Generic[Batch]):
    """A network and its task; a module, so that what parallelises networks can wrap it.

    Args:
        network: whose gradients are wanted.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def batch(self, samples: Sequence[Any], device: torch.device) -> Batch:
        """Pack samples; none at all make a batch in which nothing is asked."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The sums that :data:`SUMS` names, float32 [5]; the first can be differentiated."""

    @abstractmethod
    def targets(self, batch: Batch) -> int:
        """How many targets a batch has."""

    @abstractmethod
    def flops(self, batch: Batch) -> float:
        """Floating-point operations of one forward and backward pass: three times those of the forward."""


class MaskedResidues(Objective[MaskedBatch]):
    """ESM-2's: say what was at the masked places. Only there are logits computed."""

    def batch(self, samples: Sequence[Masked], device: torch.device) -> MaskedBatch:
        tokens = [sample.tokens for sample in samples] or [np.array([ESM2_ALPHABET.cls], np.uint8)]
        labels = np.concatenate([sample.labels for sample in samples] or [np.array([IGNORED])])
        places = np.flatnonzero(labels != IGNORED)
        source = Packed.of(np.concatenate(tokens), [len(one) for one in tokens], device)
        return MaskedBatch(source, torch.from_numpy(places).to(device), torch.from_numpy(labels[places]).to(device))

    def forward(self, batch: MaskedBatch) -> Tensor:
        network = cast(ESM2, self.network)
        x_TD = network.representations(batch.source, [network.config.layers])[0]
        logits_NV = network.logits(x_TD[batch.places_N])
        loss = F.cross_entropy(logits_NV, batch.labels_N, reduction="sum")
        correct = logits_NV.argmax(-1).eq(batch.labels_N).sum()
        count = torch.tensor(len(batch.labels_N), dtype=torch.float32, device=loss.device)
        return torch.stack((loss, count, correct.float(), loss.detach(), count))

    def targets(self, batch: MaskedBatch) -> int:
        return len(batch.labels_N)

    def flops(self, batch: MaskedBatch) -> float:
        config = cast(ESM2Config, self.network.config)
        head = 2.0 * (config.hidden + len(ESM2_ALPHABET.tokens)) * config.hidden * len(batch.labels_N)
        return 3 * (_encoder_flops(self.network, batch.source) + head)


class HiddenResidues(Objective[HiddenBatch]):
    """ProtT5nv's: write each sentinel and the residue behind it, all targets weighing the same."""

    def batch(self, samples: Sequence[Hidden], device: torch.device) -> HiddenBatch:
        tokens = [sample.tokens for sample in samples] or [np.array([FIRST_SENTINEL], np.uint8)]
        told = [sample.decoder for sample in samples] or [np.array([START], np.uint8)]
        labels = np.concatenate([sample.labels for sample in samples] or [np.array([IGNORED])])
        source = Packed.of(np.concatenate(tokens), [len(one) for one in tokens], device)
        target = Packed.of(np.concatenate(told), [len(one) for one in told], device)
        return HiddenBatch(source, target, torch.from_numpy(labels).to(device), int((labels != IGNORED).sum()))

    def forward(self, batch: HiddenBatch) -> Tensor:
        logits_UV = cast(ProtT5nv, self.network)(batch.source, batch.target)
        labels_U = batch.labels_U
        loss_U = F.cross_entropy(logits_UV, labels_U, ignore_index=IGNORED, reduction="none")
        asked_U = labels_U.ne(IGNORED)
        residue_U = asked_U & labels_U.ne(END) & labels_U.lt(FIRST_SENTINEL)
        correct = logits_UV.argmax(-1).eq(labels_U).sum()
        residue_loss = (loss_U.detach() * residue_U).sum()
        return torch.stack(
            (loss_U.sum(), asked_U.sum().float(), correct.float(), residue_loss, residue_U.sum().float())
        )

    def targets(self, batch: HiddenBatch) -> int:
        return batch.asked

    def flops(self, batch: HiddenBatch) -> float:
        config = self.network.config
        d, layers = config.hidden, config.layers
        target, source = np.array(batch.target.lengths, float), np.array(batch.source.lengths, float)
        products = 2.0 * layers * d**2 * (14 * target.sum() + 2 * source.sum())
        scores = 4.0 * layers * d * (target * (target / 2 + source)).sum()
        head = 2.0 * len(PROTT5NV_ALPHABET.tokens) * d * target.sum()
        return float(3 * (_encoder_flops(self.network, batch.source) + products + scores + head))


def _encoder_flops(network: Network, source: Packed) -> float:
    lengths = np.array(source.lengths)
    return float((network.config.flops_per_token(lengths) * lengths).sum())


def objective_for(network: Network) -> Objective[Any]:
    """The task of a network's family."""
    return MaskedResidues(network) if isinstance(network, ESM2) else HiddenResidues(network)


def samples_for(network: Network, corpus: Corpus, split: str, seed: int) -> Samples[Any]:
    """Samples as a network's family sees them."""
    made = ESM2Samples if isinstance(network, ESM2) else ProtT5nvSamples
    return made(corpus, split, seed)
