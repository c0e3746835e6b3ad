"""ESM-2 (Lin et al. 2023, doi:10.1126/science.ade2574), on packed batches.

A pre-norm transformer encoder with rotary positions. What differs from a textbook, and why results match the
published weights only if it is kept:

- token dropout also scales at inference: embeddings of ``<mask>`` are zeroed, and every sequence is multiplied by
  (1 - 0.12) / (1 - its share of masks), so 0.88 without any (0.12 = 15 % masked in training x 80 % shown as <mask>);
- rotation pairs element i of a head with i + K/2 (not with i + 1);
- the released weights hold rotary frequencies that were rounded to fp16; they are taken as they are, and angles,
  cosines and sines are float32 in every precision;
- GELU is the exact one (erf);
- layer 0 is the scaled embedding, layers 1 to L-1 the residual stream, layer L the stream after the final norm.

Shapes: T packed tokens, B sequences, D hidden, H heads, K head size, V vocabulary, L layers, S one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aminoglot.models import attention
from aminoglot.models.linear import Linear
from aminoglot.packing import Packed
from aminoglot.tokens import ESM2_ALPHABET

NORM_EPSILON = 1e-5
LONGEST = 1022
"""The model card's limit in residues; cls and eos make it 1,024 tokens."""
MASKED_IN_TRAINING = 0.15 * 0.8
MASK_ID = ESM2_ALPHABET.tokens.index("<mask>")


@dataclass(frozen=True)
class ESM2Config:
    """The shape of one ESM-2.

    Attributes:
        layers: transformer blocks, L.
        hidden: width of the residual stream, D.
        heads: attention heads a block, H; D / H must be even.
        token_dropout: whether embeddings are scaled for masks, as in all released models.
    """

    layers: int
    hidden: int
    heads: int
    token_dropout: bool = True

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} must be an even multiple of heads {self.heads}")

    @property
    def longest(self) -> int:
        """The longest protein of the model card."""
        return LONGEST

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Number of trained values: encoder, language-model head and contact head."""
        d, vocabulary = self.hidden, len(ESM2_ALPHABET.tokens)
        encoder = vocabulary * d + self.layers * (12 * d * d + 13 * d) + 2 * d
        heads = (d * d + d) + 2 * d + vocabulary + self.layers * self.heads + 1
        return encoder + heads

    def flops_per_token(self, length: NDArray[np.int64]) -> NDArray[np.float64]:
        """Floating-point operations of one pass through the encoder, for a token of sequences of these lengths."""
        products = 2.0 * self.layers * 12 * self.hidden**2
        return np.asarray(products + 4.0 * self.layers * self.hidden * length, dtype=np.float64)


SIZES = {
    "esm2-tiny": ESM2Config(layers=2, hidden=32, heads=2),
    "aminoglot-5m": ESM2Config(layers=6, hidden=256, heads=4),
    "esm2-8m": ESM2Config(layers=6, hidden=320, heads=20),
    "esm2-35m": ESM2Config(layers=12, hidden=480, heads=20),
    "esm2-150m": ESM2Config(layers=30, hidden=640, heads=20),
    "esm2-650m": ESM2Config(layers=33, hidden=1280, heads=20),
    "esm2-3b": ESM2Config(layers=36, hidden=2560, heads=40),
    "esm2-15b": ESM2Config(layers=48, hidden=5120, heads=40),
}
"""All released sizes by name; ``aminoglot-5m``, the shape of the model that comes with aminoglot; and ``esm2-tiny``,
which exists for tests and was never trained by anyone."""


def rotary_frequencies(head_size: int) -> Tensor:
    """Inverse wavelengths of the rotary embedding, float32 [K/2], before the rounding that released weights carry."""
    return 1.0 / (10000.0 ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size))


@dataclass(frozen=True)
class Rotary:
    """Cosines and signed sines of every token's angles, float32 [T, 1, K]: computed once a batch for all layers."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, positions_T: Tensor, frequencies: Tensor) -> Rotary:
        angles = (positions_T.float()[:, None] * frequencies.float())[:, None, :]
        cos, sin = angles.cos(), angles.sin()
        return cls(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))

    def __call__(self, x_THK: Tensor) -> Tensor:
        """Rotate the pairs (i, i + K/2) of each head; the result has the type of the input."""
        x_THK, dtype = x_THK.float(), x_THK.dtype
        swapped_THK = x_THK.roll(x_THK.shape[-1] // 2, -1)
        return torch.addcmul(x_THK * self.cos, swapped_THK, self.sin).to(dtype)


class Attention(nn.Module):
    """Multi-head self-attention within each protein."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.shape = (config.heads, config.head_size)
        self.query = Linear(config.hidden, config.hidden)
        self.key = Linear(config.hidden, config.hidden)
        self.value = Linear(config.hidden, config.hidden)
        self.output = Linear(config.hidden, config.hidden)

    def queries_keys(self, x_TD: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys, each [T, H, K]."""
        q_THK = self.query(x_TD).unflatten(-1, self.shape)
        k_THK = self.key(x_TD).unflatten(-1, self.shape)
        return rotary(q_THK), rotary(k_THK)

    def forward(self, x_TD: Tensor, rotary: Rotary, batch: Packed) -> Tensor:
        q_THK, k_THK = self.queries_keys(x_TD, rotary)
        v_THK = self.value(x_TD).unflatten(-1, self.shape)
        o_THK = attention.attention(q_THK, k_THK, v_THK, batch)
        out_TD: Tensor = self.output(o_THK.flatten(-2))
        return out_TD


class Block(nn.Module):
    """One transformer layer: attention, then a feed-forward network, each added to the stream."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.up = Linear(config.hidden, 4 * config.hidden)
        self.down = Linear(4 * config.hidden, config.hidden)

    def forward(self, x_TD: Tensor, rotary: Rotary, batch: Packed) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), rotary, batch)
        out_TD: Tensor = x_TD + self.down(F.gelu(self.up(self.feed_forward_norm(x_TD))))
        return out_TD

    def attention_maps(self, x_TD: Tensor, rotary: Rotary, batch: Packed) -> Iterator[Tensor]:
        """This layer's attention probabilities, one protein after the other, float32 [H, S, S]."""
        q_THK, k_THK = self.attention.queries_keys(self.attention_norm(x_TD), rotary)
        return attention.probabilities(q_THK, k_THK, batch)


class LanguageModelHead(nn.Module):
    """From the last representation to logits; its last matrix is the token embedding."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(len(ESM2_ALPHABET.tokens)))

    def forward(self, x_TD: Tensor, embedding_VD: Tensor) -> Tensor:
        x_TD = self.norm(F.gelu(self.dense(x_TD)).float())
        return F.linear(x_TD, embedding_VD, self.bias)


class ContactHead(nn.Module):
    """Logistic regression over all attention maps, symmetrised and corrected (Rao et al. 2021).

    Maps are taken layer by layer, so that memory holds one layer's and never all of them.
    """

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.layers, config.heads))
        self.bias = nn.Parameter(torch.zeros(()))

    def evidence(self, layer: int, map_HSS: Tensor) -> Tensor:
        """What one layer adds to the log odds of contact, [S - 2, S - 2]; cls and eos are cut off."""
        a_HSS = map_HSS[:, 1:-1, 1:-1]
        a_HSS = a_HSS + a_HSS.transpose(1, 2)
        rows, columns = a_HSS.sum(2, keepdim=True), a_HSS.sum(1, keepdim=True)
        corrected_HSS = a_HSS - rows * columns / a_HSS.sum((1, 2), keepdim=True)
        return torch.einsum("h,hst->st", self.weight[layer], corrected_HSS)


class ESM2(nn.Module):
    """ESM-2 on packed batches. Weights come from :mod:`aminoglot.checkpoints`.

    ``lm_head`` and ``contact_head`` are None where the checkpoint has none.
    """

    frequencies: Tensor

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.config = config
        vocabulary = len(ESM2_ALPHABET.tokens)
        self.embedding = nn.Embedding(vocabulary, config.hidden, _weight=torch.empty(vocabulary, config.hidden))
        self.register_buffer("frequencies", rotary_frequencies(config.head_size))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.lm_head: LanguageModelHead | None = LanguageModelHead(config)
        self.contact_head: ContactHead | None = ContactHead(config)

    def forward(self, batch: Packed) -> Tensor:
        """Logits of every token, float32 [T, V]."""
        return self.logits(self.representations(batch, [self.config.layers])[0])

    def logits(self, x_TD: Tensor) -> Tensor:
        """Logits of the last layer's representations, float32 [T, V]."""
        assert self.lm_head is not None, "this network was loaded without its language-model head"
        logits_TV: Tensor = self.lm_head(x_TD, self.embedding.weight)
        return logits_TV

    def representations(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        """What the network thinks of every token at some layers.

        Args:
            batch: packed tokens.
            layers: numbers from 0 to L, see the top of this file. Nothing beyond the highest is computed.

        Returns:
            float32 [len(layers), T, D], in the order asked.
        """
        kept: dict[int, Tensor] = {}

        def keep(layer: int, x_TD: Tensor) -> None:
            if layer in layers:
                kept[layer] = x_TD

        self._run(batch, max(layers), keep)
        return torch.stack([kept[layer] for layer in layers])

    def contacts(self, batch: Packed) -> list[Tensor]:
        """Probability that two residues touch (Cb within 8 Angstrom), one float32 [S - 2, S - 2] a protein.

        Every sequence of ``batch`` must begin with cls and end with eos.
        """
        head = self.contact_head
        assert head is not None, "this network was loaded without its contact head"
        odds = [head.bias.expand(length - 2, length - 2) for length in batch.lengths]
        rotary = Rotary.of(batch.positions_T, self.frequencies)

        def add_evidence(layer: int, x_TD: Tensor) -> None:
            if layer < self.config.layers:
                block = cast(Block, self.layers[layer])
                for index, map_HSS in enumerate(block.attention_maps(x_TD, rotary, batch)):
                    odds[index] = odds[index] + head.evidence(layer, map_HSS)

        self._run(batch, self.config.layers, add_evidence)
        return [o.sigmoid() for o in odds]

    def _run(self, batch: Packed, depth: int, visit: Callable[[int, Tensor], None]) -> None:
        """Run ``depth`` layers and show ``visit`` the stream at layer 0, 1, ... ``depth``, float32 [T, D] each."""
        rotary = Rotary.of(batch.positions_T, self.frequencies)
        x_TD = self.embedded(batch)
        visit(0, x_TD)
        for number, block in enumerate(self.layers[:depth], 1):
            x_TD = block(x_TD, rotary, batch)
            visit(number, self.final_norm(x_TD) if number == self.config.layers else x_TD)

    def embedded(self, batch: Packed) -> Tensor:
        """Layer 0: token embeddings, scaled for masks, float32 [T, D]."""
        x_TD: Tensor = self.embedding(batch.tokens_T)
        if not self.config.token_dropout:
            return x_TD
        masked_T = batch.tokens_T.eq(MASK_ID)
        share_B = batch.per_sequence_sum(masked_T.float()) / batch.lengths_B
        scale_T = (1 - MASKED_IN_TRAINING) / (1 - batch.per_token(share_B))
        scaled_TD: Tensor = x_TD * scale_T.masked_fill(masked_T, 0.0)[:, None]
        return scaled_TD
