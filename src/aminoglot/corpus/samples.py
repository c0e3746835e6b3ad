"""What a model sees of a protein in training: a function of seed, epoch and index, and of nothing else.

So it does not matter how many workers or processes ask, and a run goes on after a stop by one integer, the number of
samples it has seen.

Shapes: T tokens of one sample, N hidden residues.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus.order import Order
from aminoglot.corpus.reader import Corpus
from aminoglot.corpus.recipes import CANONICAL, Recipe
from aminoglot.corpus.store import Sequences
from aminoglot.errors import InputError
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET, Alphabet

IGNORED = -100
"""The label of a token that is not scored; what torch's cross entropy leaves out."""
_START, _END, _FIRST_SENTINEL = 1, 2, 32
_MOST_HIDDEN = 76
_MASKED, _REPLACED = 0.8, 0.9
"""Of the scored tokens 80 % are masked, 10 % replaced, 10 % left."""


class Masked(NamedTuple):
    """A sample of ESM-2's: what it sees, and what it should say.

    Attributes:
        tokens: uint8 [T].
        labels: int64 [T], :data:`IGNORED` where nothing is asked.
        cluster: number of the cluster.
        member: place of the protein in the member table.
        start: first token of the crop.
    """

    tokens: NDArray[np.uint8]
    labels: NDArray[np.int64]
    cluster: int
    member: int
    start: int


class Hidden(NamedTuple):
    """A sample of ProtT5nv's.

    Attributes:
        tokens: what the encoder sees, uint8 [T], a sentinel for each hidden residue.
        decoder: what the decoder is told, uint8 [1 + 2N]: ``<s>``, then each sentinel and its residue.
        labels: what it should say, int64 [1 + 2N]: the same without ``<s>``, and ``</s>``.
        cluster: number of the protein.
    """

    tokens: NDArray[np.uint8]
    decoder: NDArray[np.uint8]
    labels: NDArray[np.int64]
    cluster: int


class ESM2Samples:
    """Masked samples of a corpus of clusters; ``samples[n]`` is the n-th of a run.

    An epoch has every cluster once, in an order of its own, one member of each, drawn uniformly. Validation has the
    representatives, in their own order, cropped and masked the same every time.

    Args:
        corpus: whose recipe says how.
        split: ``train``, ``validation`` or ``test``.
        seed: of the run.
    """

    def __init__(self, corpus: Corpus, split: str = "train", seed: int = 0) -> None:
        self.corpus, self.recipe, self.seed = corpus, corpus.recipe, seed
        self.clusters = corpus.split(split)
        self.fixed = split != "train"
        if not len(self.clusters):
            raise InputError(f"{corpus.folder}: no protein for {split}")
        self._letters = _letters(self.recipe, ESM2_ALPHABET)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.clusters)

    def __getitem__(self, position: int) -> Masked:
        epoch, index = _epoch(position, len(self), self.fixed)
        at = index if self.fixed else _order(len(self), self.seed, epoch)[index]
        cluster = int(self.clusters[at])
        generator = _generator(self.seed, epoch, index)
        first, last = self.corpus.member_range(cluster)
        member = first if self.fixed else int(generator.integers(first, last))
        tokens, start = _cropped(*self.corpus.member_at(member), self.recipe, ESM2_ALPHABET, generator)
        return Masked(*self._masked(tokens, generator), cluster, member, start)

    def _masked(
        self, tokens: NDArray[np.uint8], generator: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Hide some residues; one draw a token says whether and how, special tokens are left alone."""
        draw = generator.random(len(tokens))
        draw[(tokens == ESM2_ALPHABET.cls) | (tokens == ESM2_ALPHABET.eos)] = 1
        share = self.recipe.masked
        labels = np.where(draw < share, tokens, np.int64(IGNORED))
        seen = tokens.copy()
        seen[draw < share * _MASKED] = ESM2_ALPHABET.mask
        replaced = np.flatnonzero((draw >= share * _MASKED) & (draw < share * _REPLACED))
        seen[replaced] = self._letters[generator.integers(0, len(self._letters), len(replaced))]
        return seen, labels


class ProtT5nvSamples:
    """Samples for ProtT5nv's encoder and decoder; ``samples[n]`` is the n-th of a run.

    Args:
        corpus: whose recipe says how.
        split: ``train``, ``validation`` or ``test``.
        seed: of the run.
    """

    def __init__(self, corpus: Corpus, split: str = "train", seed: int = 0) -> None:
        self.corpus, self.recipe, self.seed = corpus, corpus.recipe, seed
        self.clusters = corpus.split(split)
        self.fixed = split != "train"
        if not len(self.clusters):
            raise InputError(f"{corpus.folder}: no protein for {split}")

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.clusters)

    def __getitem__(self, position: int) -> Hidden:
        epoch, index = _epoch(position, len(self), self.fixed)
        cluster = int(self.clusters[index if self.fixed else _order(len(self), self.seed, epoch)[index]])
        generator = _generator(self.seed, epoch, index)
        tokens, _ = _cropped(self.corpus.representatives, cluster, self.recipe, PROTT5NV_ALPHABET, generator)
        return Hidden(*hide(tokens, self.recipe.masked, generator), cluster)


def hide(
    tokens: NDArray[np.uint8], share: float, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Hide single residues behind sentinels; what the encoder sees, the decoder is told, and should say.

    One residue a span, neighbours too, for NeMo's spans were clipped to one; at least one residue, at most 76.
    """
    count = min(_MOST_HIDDEN, max(1, round(share * len(tokens))))
    places = np.sort(generator.permutation(len(tokens))[:count])
    return spans(tokens, places)


def spans(
    tokens: NDArray[np.uint8], places: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """The three rows of :func:`hide` for residues at these places, in order."""
    sentinels = np.arange(_FIRST_SENTINEL, _FIRST_SENTINEL + len(places), dtype=np.uint8)
    seen = tokens.copy()
    seen[places] = sentinels
    told = np.empty(2 * len(places) + 1, np.uint8)
    told[0], told[1::2], told[2::2] = _START, sentinels, tokens[places]
    labels = np.append(told[1:], np.uint8(_END)).astype(np.int64)
    return seen, told, labels


def _epoch(position: int, size: int, fixed: bool) -> tuple[int, int]:
    if position < 0:
        raise IndexError(f"sample {position}: they are counted from 0")
    epoch, index = divmod(position, size)
    return (0 if fixed else epoch), index


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> Order:
    return Order(count, (seed, epoch))


def _generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """A stream of its own for every sample: Philox is addressed, not run up to it (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, epoch]))


def _letters(recipe: Recipe, alphabet: Alphabet) -> NDArray[np.uint8]:
    chosen: Any = alphabet.tokens if recipe.letters == "all" else CANONICAL
    return np.array([alphabet.tokens.index(token) for token in chosen], np.uint8)


def _cropped(
    sequences: Sequences, row: int, recipe: Recipe, alphabet: Alphabet, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], int]:
    """A part of a protein's list of tokens, and where it begins: special tokens stand only at true ends."""
    residues, before = sequences.length(row), alphabet.prefix_length
    whole = residues + alphabet.special_length
    start = 0
    if whole > recipe.tokens and recipe.crop == "random":
        start = int(generator.integers(0, whole - recipe.tokens + 1))
    stop = min(whole, start + recipe.tokens)
    text = sequences.part(row, max(0, start - before), min(residues, stop - before))
    framed = alphabet.framed(text, start=start == 0, end=stop == whole)
    return alphabet.encode([framed]), start
