"""ProtT5nv (NVIDIA BioNeMo, 2022), on packed batches: an encoder-decoder trained to restore hidden residues.

A T5 by its training only. Where the model card and the code that trained it differ, this follows the code:

- pre-norm blocks with biases and ordinary layer norms, positions learned and added to the embeddings, GELU by its tanh
  approximation, scores scaled by K^-0.5: the network that Hugging Face calls Pegasus;
- one table of tokens and one of positions serve the encoder and the decoder, and the table of tokens is also the last
  matrix, to which only a bias is added;
- 198,970,496 parameters (the card says 192M), 12 blocks in the encoder and 12 in the decoder;
- the encoder sees residues only, no token before or after them; a decoder's input begins with ``<s>``, its output ends
  with ``</s>``;
- in training 15 % of the residues, at most 76, were each replaced by a sentinel ``<extra_id_k>``, k counted from the
  left, and the decoder wrote every sentinel and the residue behind it: ``S0 a0 S1 a1 ... </s>``. Proteins were cut to
  510 residues, so positions 510 and 511 were never trained though the card allows them.

Shapes: T packed tokens of sources, U packed tokens of targets, B sequences, D hidden, H heads, K head size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from aminoglot.tokens import PROTT5NV_ALPHABET

NORM_EPSILON = 1e-5
LONGEST = 512
"""The model card's limit, in residues, which are tokens here."""
MOST_MASKS = 76
"""As many residues were hidden in training at most; later sentinels were never seen."""
UNKNOWN, START, END = (PROTT5NV_ALPHABET.tokens.index(token) for token in ("<unk>", "<s>", "</s>"))
FIRST_SENTINEL = PROTT5NV_ALPHABET.tokens.index("<extra_id_0>")
_VOCABULARY = len(PROTT5NV_ALPHABET.tokens)


@dataclass(frozen=True)
class ProtT5nvConfig:
    """The shape of a ProtT5nv.

    Attributes:
        layers: blocks of the encoder, and of the decoder.
        hidden: width of the residual stream, D.
        heads: attention heads a block, H.
        positions: how many learned positions there are.
    """

    layers: int
    hidden: int
    heads: int
    positions: int = LONGEST

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def longest(self) -> int:
        """The longest protein of the model card that there are positions for."""
        return min(LONGEST, self.positions)

    @property
    def encoder_parameters(self) -> int:
        """Number of trained values that embedding needs: tables, encoder blocks, a final norm."""
        d = self.hidden
        return (_VOCABULARY + self.positions) * d + self.layers * (12 * d * d + 13 * d) + 2 * d

    @property
    def parameters(self) -> int:
        """Number of trained values: encoder, decoder and the bias of the last matrix."""
        d = self.hidden
        return self.encoder_parameters + self.layers * (16 * d * d + 19 * d) + 2 * d + _VOCABULARY

    def flops_per_token(self, length: NDArray[np.int64]) -> NDArray[np.float64]:
        """Floating-point operations of one pass through the encoder, for a token of sequences of these lengths."""
        products = 2.0 * self.layers * 12 * self.hidden**2
        return np.asarray(products + 4.0 * self.layers * self.hidden * length, dtype=np.float64)


SIZES = {
    "prott5nv-tiny": ProtT5nvConfig(layers=2, hidden=32, heads=2),
    "prott5nv": ProtT5nvConfig(layers=12, hidden=768, heads=12),
}
"""The released size, and ``prott5nv-tiny``, which exists for tests and was never trained by anyone."""


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [T, H, K]."""


class Attention(nn.Module):
    """Multi-head attention of some tokens to others: their own sequence's, or those of its source."""

    def __init__(self, config: ProtT5nvConfig) -> None:
        super().__init__()
        self.shape = (config.heads, config.head_size)
        self.query = Linear(config.hidden, config.hidden)
        self.key = Linear(config.hidden, config.hidden)
        self.value = Linear(config.hidden, config.hidden)
        self.output = Linear(config.hidden, config.hidden)
        self.dropout = nn.Dropout(0.0)

    def keys_values(self, x_TD: Tensor) -> KeysValues:
        """Keys and values of the tokens that are looked at, each [T, H, K]."""
        return self.key(x_TD).unflatten(-1, self.shape), self.value(x_TD).unflatten(-1, self.shape)

    def forward(
        self, x_UD: Tensor, keys_values: KeysValues, target: Packed, source: Packed, causal: bool = False
    ) -> Tensor:
        """What the tokens of ``target`` find in those of ``source``: [U, D].

        Args:
            x_UD: the tokens that look.
            keys_values: of the tokens that are looked at.
            target: how those that look lie.
            source: how those that are looked at lie; the same, where a sequence looks at itself.
            causal: no token looks at later ones.
        """
        q_UHK = self.query(x_UD).unflatten(-1, self.shape)
        dropout = self.dropout.p if self.training else 0.0
        o_UHK = attention.attention(q_UHK, *keys_values, target, source, causal, dropout)
        out_UD: Tensor = self.output(o_UHK.flatten(-2))
        return out_UD


class Layer(nn.Module):
    """What blocks of the encoder and of the decoder have in common."""

    def __init__(self, config: ProtT5nvConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.up = Linear(config.hidden, 4 * config.hidden)
        self.down = Linear(4 * config.hidden, config.hidden)
        self.dropout = nn.Dropout(0.0)

    def feed_forward(self, x_TD: Tensor) -> Tensor:
        """What the feed-forward network adds to the stream, [T, D]."""
        out_TD: Tensor = self.down(F.gelu(self.up(self.feed_forward_norm(x_TD)), approximate="tanh"))
        return self.dropped(out_TD)

    def dropped(self, x_TD: Tensor) -> Tensor:
        """What is added to the stream, some of it left out in training."""
        out_TD: Tensor = self.dropout(x_TD)
        return out_TD


class Block(Layer):
    """One block of the encoder: attention, then a feed-forward network, each added to the stream."""

    def forward(self, x_TD: Tensor, batch: Packed) -> Tensor:
        y_TD = self.attention_norm(x_TD)
        x_TD = x_TD + self.dropped(self.attention(y_TD, self.attention.keys_values(y_TD), batch, batch))
        return x_TD + self.feed_forward(x_TD)


class DecoderBlock(Layer):
    """One block of the decoder: attention to what was written before, attention to the source, feed-forward."""

    def __init__(self, config: ProtT5nvConfig) -> None:
        super().__init__(config)
        self.source_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.source_attention = Attention(config)

    def forward(self, x_UD: Tensor, target: Packed, source_TD: Tensor, source: Packed) -> Tensor:
        """The stream after this block, [U, D], of whole targets.

        Args:
            x_UD: the stream.
            target: how its tokens lie.
            source_TD: the encoder's last layer.
            source: how that lies.
        """
        y_UD = self.attention_norm(x_UD)
        found_UD = self.attention(y_UD, self.attention.keys_values(y_UD), target, target, causal=True)
        return self._behind(x_UD + self.dropped(found_UD), target, self.source_attention.keys_values(source_TD), source)

    def extend(
        self, x_UD: Tensor, target: Packed, memory: Memory, written: Packed, of_source: KeysValues, source: Packed
    ) -> Tensor:
        """The stream after this block, [U, D], of tokens that come after others.

        Args:
            x_UD: the stream of the tokens that are new.
            target: how they lie.
            memory: this layer's, of the tokens before them; it takes the new ones in.
            written: how all those tokens lie then.
            of_source: this layer's keys and values of the sources.
            source: how those lie.
        """
        y_UD = self.attention_norm(x_UD)
        keys_values = memory.extended(self.attention.keys_values(y_UD), len(target.lengths))
        found_UD = self.attention(y_UD, keys_values, target, written, causal=True)
        return self._behind(x_UD + self.dropped(found_UD), target, of_source, source)

    def _behind(self, x_UD: Tensor, target: Packed, of_source: KeysValues, source: Packed) -> Tensor:
        """What comes behind the attention to what was written."""
        x_UD = x_UD + self.dropped(self.source_attention(self.source_norm(x_UD), of_source, target, source))
        return x_UD + self.feed_forward(x_UD)


class Memory:
    """One layer's keys and values of all that was written so far, packed target by target."""

    def __init__(self) -> None:
        self._kept: KeysValues | None = None

    def extended(self, new: KeysValues, count: int) -> KeysValues:
        """With new ones behind those of each of ``count`` targets of equal length, which stay."""
        if self._kept is not None:
            key, value = (
                torch.cat((old.unflatten(0, (count, -1)), more.unflatten(0, (count, -1))), 1).flatten(0, 1)
                for old, more in zip(self._kept, new, strict=True)
            )
            new = key, value
        self._kept = new
        return new


class Decoder(nn.Module):
    """The decoder's blocks, and the bias of the last matrix."""

    def __init__(self, config: ProtT5nvConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.hidden, NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(_VOCABULARY))

    @property
    def blocks(self) -> list[DecoderBlock]:
        return [cast(DecoderBlock, block) for block in self.layers]


class ProtT5nv(nn.Module):
    """ProtT5nv on packed batches. Weights come from :mod:`aminoglot.checkpoints`.

    ``decoder`` is None where only the encoder was loaded, which is all that embedding needs.
    """

    def __init__(self, config: ProtT5nvConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden
        self.embedding = nn.Embedding(_VOCABULARY, d, _weight=torch.empty(_VOCABULARY, d))
        self.positions = nn.Embedding(config.positions, d, _weight=torch.empty(config.positions, d))
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(d, NORM_EPSILON)
        self.decoder: Decoder | None = Decoder(config)

    def forward(self, source: Packed, target: Packed) -> Tensor:
        """Logits of every token that could follow each of the target's, float32 [U, V]: teacher forcing.

        Args:
            source: residues and sentinels, as the encoder sees them.
            target: for each source what the decoder is told so far; it begins with ``<s>``.
        """
        assert self.decoder is not None, "this network was loaded without its decoder"
        source_TD = self.representations(source, [self.config.layers])[0]
        x_UD = self.embedded(target)
        for block in self.decoder.blocks:
            x_UD = block(x_UD, target, source_TD, source)
        return self.logits(x_UD)

    def logits(self, x_UD: Tensor) -> Tensor:
        """Logits of the decoder's last layer, float32 [U, V]."""
        assert self.decoder is not None, "this network was loaded without its decoder"
        return F.linear(self.decoder.final_norm(x_UD), self.embedding.weight, self.decoder.bias)

    def representations(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        """What the encoder thinks of every token at some layers.

        Args:
            batch: packed tokens.
            layers: 0 is the embedding with its position, L the stream after the final norm. Nothing beyond the highest
                is computed.

        Returns:
            float32 [len(layers), T, D], in the order asked.
        """
        x_TD = self.embedded(batch)
        kept = {0: x_TD}
        for number, block in enumerate(self.layers[: max(layers)], 1):
            x_TD = block(x_TD, batch)
            if number in layers:
                kept[number] = self.final_norm(x_TD) if number == self.config.layers else x_TD
        return torch.stack([kept[layer] for layer in layers])

    def embedded(self, batch: Packed, first: int = 0) -> Tensor:
        """Embeddings of tokens and of their positions, counted from ``first``, float32 [T, D]."""
        x_TD: Tensor = self.dropout(self.embedding(batch.tokens_T) + self.positions(batch.positions_T + first))
        return x_TD


class Decoding:
    """Targets that grow with the sources they belong to; what was computed of earlier tokens is kept.

    Args:
        network: with its decoder.
        source_TD: the encoder's last layer.
        source: the packed sources.
    """

    def __init__(self, network: ProtT5nv, source_TD: Tensor, source: Packed) -> None:
        assert network.decoder is not None, "this network was loaded without its decoder"
        self._network, self._decoder, self._source = network, network.decoder, source
        self._of_source = [block.source_attention.keys_values(source_TD) for block in self._decoder.blocks]
        self._memories = [Memory() for _ in self._decoder.blocks]
        self._lengths = (0,) * len(source.lengths)

    def extend(self, target: Packed) -> Tensor:
        """Logits after each of the tokens that are added, float32 [U, V].

        Args:
            target: the next tokens of every target, in the order of the sources. Only the first call may bring targets
                of unequal lengths, and no call may follow it then.
        """
        seen = self._lengths[0]
        even = all(len(set(lengths)) == 1 for lengths in (self._lengths, target.lengths))
        assert not any(self._lengths) or even, "targets that go on must be of equal length"
        self._lengths = tuple(before + more for before, more in zip(self._lengths, target.lengths, strict=True))
        written = Packed(target.tokens_T.new_empty(0), self._lengths) if seen else target
        x_UD = self._network.embedded(target, seen)
        for block, memory, of_source in zip(self._decoder.blocks, self._memories, self._of_source, strict=True):
            x_UD = block.extend(x_UD, target, memory, written, of_source, self._source)
        return self._network.logits(x_UD)
