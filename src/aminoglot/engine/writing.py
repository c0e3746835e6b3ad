"""What an encoder-decoder writes: hidden residues, distributions of amino acids, logits, tokens of its own choice.

Shapes: B proteins, V vocabulary, M hidden residues of one protein, L residues, U tokens of a target.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aminoglot.errors import InputError
from aminoglot.models.prott5nv import END, FIRST_SENTINEL, LONGEST, MOST_MASKS, START, Decoding, ProtT5nv
from aminoglot.packing import Packed, batches
from aminoglot.tokens import MASK, PROTT5NV_ALPHABET

Array = NDArray[np.float32]
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
"""Columns of all distributions."""
Sentinels = Literal["proper", "collapsed", "unknown"]
SENTINEL_NOTES = {
    "collapsed": "trained with <unk> in place of every sentinel (a fault of later NeMo); it is used that way",
    "unknown": "whether sentinels or <unk> hid residues in its training cannot be told; sentinels are used",
}
_AMINO_IDS = [PROTT5NV_ALPHABET.tokens.index(letter) for letter in AMINO_ACIDS]
_UNKNOWN = 0
PROBES = (
    b"MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQTLGQHDFSAGEGLYTHM",
    b"MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLTYGVQCFSRYPDHMKQHDFFKSAMPEGYVQER",
    b"MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDP",
)


class Infilled(NamedTuple):
    """A protein whose hidden residues were written.

    Attributes:
        sequence: with the likeliest amino acid at every mask.
        probabilities: of the 20 amino acids at each mask, float32 [M, 20], columns as in ``ACDEFGHIKLMNPQRSTVWY``.
    """

    sequence: str
    probabilities: Array


class Writer:
    """A ProtT5nv with its decoder.

    Args:
        network: with its decoder.
        encode: its last layer for a packed batch, float32 [T, D].
        budget: tokens a batch.
    """

    def __init__(self, network: ProtT5nv, encode: Callable[[Packed], Tensor], budget: int) -> None:
        self._network, self._encode, self._budget = network, encode, budget
        self.sentinels: Sentinels = "proper"
        self.sentinels = self._probed()

    def infill(self, text: bytes) -> Infilled:
        """Write the masks of one protein, from left to right; each sees those written before it."""
        places = [place for place, letter in enumerate(text) if letter == MASK[0]]
        if not places:
            raise InputError("nothing to fill in: hide residues as <mask>")
        source = self._source([text])
        decoding = Decoding(self._network, self._encode(source), source)
        written, rows = bytearray(text), []
        told = [START]
        for number, place in enumerate(places):
            logits_V = decoding.extend(self._packed([[*told, self._sentinel(number)]]))[-1]
            probabilities = logits_V[_AMINO_IDS].softmax(0).cpu().numpy()
            best = int(probabilities.argmax())
            rows.append(probabilities)
            written[place] = ord(AMINO_ACIDS[best])
            told = [_AMINO_IDS[best]]
        return Infilled(written.decode(), np.stack(rows))

    def distributions(self, text: bytes) -> Array:
        """The 20 amino acids at each residue, when that one alone is hidden: float32 [L, 20]."""
        rows = np.empty((len(text), len(AMINO_ACIDS)), np.float32)
        hidden = [text[:place] + MASK + text[place + 1 :] for place in range(len(text))]
        for chosen in batches([len(text)] * len(text), self._budget):
            part = hidden[chosen]
            target = self._packed([[START, self._sentinel(0)]] * len(part))
            logits_BV = self._forced(self._source(part), target)[1::2]
            rows[chosen] = logits_BV[:, _AMINO_IDS].softmax(-1).cpu().numpy()
        return rows

    def forced(self, texts: Sequence[bytes], targets: Sequence[str]) -> list[Array]:
        """Logits after ``<s>`` and after each token of the targets, float32 [1 + tokens, V] a protein."""
        if len(texts) != len(targets):
            raise InputError(f"{len(texts):,} sequences and {len(targets):,} targets: each sequence has one")
        told = [[START, *_tokens(target)] for target in targets]
        rows: list[Array] = []
        for chosen in batches([len(text) for text in texts], self._budget):
            target = self._packed(told[chosen])
            logits_UV = self._forced(self._source(texts[chosen]), target)
            rows += [part.cpu().numpy() for part in logits_UV.split(target.lengths)]
        return rows

    def generate(
        self, texts: Sequence[bytes], most: int, top_p: float | None, temperature: float, seed: int
    ) -> list[str]:
        """What the decoder writes of its own choice, without its end."""
        if not 1 <= most < LONGEST:
            raise InputError(f"most={most}: the decoder writes 1 to {LONGEST - 1} tokens")
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p={top_p}: a probability above 0, up to 1, is wanted")
        if not temperature > 0:
            raise InputError(f"temperature={temperature}: it must be above 0")
        found: list[str] = []
        for chosen in batches([len(text) for text in texts], self._budget):
            part = texts[chosen]
            choosers = [_chooser(text, top_p, temperature, seed) for text in part]
            written = self._written(self._source(part), choosers, most)
            found += ["".join(PROTT5NV_ALPHABET.tokens[token] for token in tokens) for tokens in written]
        return found

    def _written(self, source: Packed, choosers: Sequence[Chooser], most: int) -> list[list[int]]:
        decoding = Decoding(self._network, self._encode(source), source)
        written: list[list[int]] = [[] for _ in choosers]
        ended = [False] * len(choosers)
        last = [START] * len(choosers)
        for _ in range(most):
            logits_BV = decoding.extend(self._packed([[token] for token in last])).cpu().numpy()
            for index, (choose, logits_V) in enumerate(zip(choosers, logits_BV, strict=True)):
                if ended[index]:
                    continue
                last[index] = choose(logits_V)
                ended[index] = last[index] == END
                if not ended[index]:
                    written[index].append(last[index])
            if all(ended):
                break
        return written

    def _forced(self, source: Packed, target: Packed) -> Tensor:
        return Decoding(self._network, self._encode(source), source).extend(target)

    def _source(self, texts: Sequence[bytes]) -> Packed:
        """Residues as they are, the k-th mask of each protein as the k-th sentinel."""
        for text in texts:
            if len(text) > LONGEST:
                raise InputError(f"a sequence of {len(text):,} residues: ProtT5nv's decoder takes {LONGEST} at most")
            if text.count(MASK) > MOST_MASKS:
                raise InputError(
                    f"{text.count(MASK)} masks in a sequence: ProtT5nv was trained on {MOST_MASKS} at most"
                )
        joined = b"".join(texts)
        ids = PROTT5NV_ALPHABET.encode([joined.replace(MASK, b"X")])
        at = 0
        for text in texts:
            places = [at + place for place, letter in enumerate(text) if letter == MASK[0]]
            ids[places] = [self._sentinel(number) for number in range(len(places))]
            at += len(text)
        return Packed.of(ids, [len(text) for text in texts], self._device)

    def _packed(self, targets: Sequence[Sequence[int]]) -> Packed:
        ids = np.array([token for target in targets for token in target], dtype=np.uint8)
        return Packed.of(ids, [len(target) for target in targets], self._device)

    @property
    def _device(self) -> torch.device:
        return self._network.embedding.weight.device

    def _sentinel(self, number: int) -> int:
        return _UNKNOWN if self.sentinels == "collapsed" else FIRST_SENTINEL + number

    def _probed(self) -> Sentinels:
        """Which tokens stood for hidden residues in training: what the decoder writes first tells.

        NeMo from 1.13 on gave every sentinel the id of ``<unk>``; ProtT5nv is older, but may have been trained again.
        """
        texts = [text[:40] + MASK + text[41:] for text in PROBES]
        logits_BV = self._forced(self._source(texts), self._packed([[START]] * len(texts)))
        first = set(logits_BV.argmax(-1).tolist())
        if first == {FIRST_SENTINEL}:
            return "proper"
        return "collapsed" if first == {_UNKNOWN} else "unknown"


def _tokens(target: str) -> list[int]:
    """Ids of tokens written one after the other."""
    known = {token: number for number, token in enumerate(PROTT5NV_ALPHABET.tokens)}
    words = re.findall(r"<[^<>]*>|.", target)
    strangers = [word for word in words if word not in known]
    if strangers:
        raise InputError(f"target {target[:60]!r}: {strangers[0]!r} is no token of ProtT5nv's")
    return [known[word] for word in words]


Chooser = Callable[[NDArray[np.float32]], int]
"""Takes a token for logits [V]."""


def _chooser(text: bytes, top_p: float | None, temperature: float, seed: int) -> Chooser:
    """The likeliest token; or one drawn from the fewest that together have a probability of ``top_p``.

    What is drawn for a protein depends on the seed and on its sequence, not on what else is in the batch.
    """
    if top_p is None:
        return lambda logits_V: int(logits_V.argmax())
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(text)]))

    def draw(logits_V: NDArray[np.float32]) -> int:
        scaled = logits_V.astype(np.float64) / temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        sums = np.cumsum(probabilities[order])
        kept = order[: int(np.searchsorted(sums, top_p)) + 1]
        share = np.cumsum(probabilities[kept])
        return int(kept[np.searchsorted(share, generator.random() * share[-1], side="right").clip(max=len(kept) - 1)])

    return draw
