"""What a model sees of a protein in training: a function of seed, epoch and index, and of nothing else.

So it does not matter how many workers or processes ask, and a run goes on after a stop by one integer, the number of
samples it has seen.

Shapes: T tokens of one sample, N hidden residues.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from operator import index as index_of
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus.draws import Draws, Order, below, draws, mixed, threshold
from aminoglot.corpus.reader import SPLITS, Corpus
from aminoglot.corpus.recipes import CANONICAL, Recipe
from aminoglot.corpus.store import Sequences
from aminoglot.errors import InputError
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET, Alphabet

IGNORED = -100
"""The label of a token that is not scored; what torch's cross entropy leaves out."""
_START, _END, _FIRST_SENTINEL = 1, 2, 32
MOST_HIDDEN = 76
_MASKED, _REPLACED = 0.8, 0.9
"""Of the scored tokens 80 % are masked, 10 % replaced, 10 % left."""
_LARGEST = np.uint64(2**64 - 1)
_CROP, _PLACES, _LETTERS = 1, 2, 3
"""Streams of one sample beside its first, which draws the member."""


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
        member: place of the protein in the member table.
        start: first token of the crop.
    """

    tokens: NDArray[np.uint8]
    decoder: NDArray[np.uint8]
    labels: NDArray[np.int64]
    cluster: int
    member: int
    start: int


Sample = TypeVar("Sample", Masked, Hidden)


class Samples(Generic[Sample]):
    """Samples of a corpus; ``samples[n]`` is the n-th of a run, which goes on through epochs without end.

    An epoch has every cluster once, in an order of its own, and of each one member, drawn uniformly. Validation and
    test have the representatives, in their own order, made the same every time and whatever the seed.

    Args:
        corpus: whose recipe says how.
        split: ``train``, ``validation`` or ``test``.
        seed: of the run.

    Raises:
        InputError: for a split without proteins.
    """

    alphabet: Alphabet

    def __init__(self, corpus: Corpus, split: str = "train", seed: int = 0) -> None:
        self.corpus, self.recipe, self.split, self.seed = corpus, corpus.recipe, split, index_of(seed)
        self.clusters = corpus.split(split)
        self.fixed = split != "train"
        if not len(self.clusters):
            raise InputError(f"{corpus.folder}: no protein for {split}")
        self._key = mixed(self.recipe.seed if self.fixed else self.seed, SPLITS.index(split))
        self._ordered = (-1, Order(1, 0))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.corpus, self.split, self.seed)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.clusters)

    def __iter__(self) -> Iterator[Sample]:
        """The samples of the first epoch; those of later ones have higher numbers."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        cluster, member, key = self._address(position)
        sequences, row = self.corpus.member_at(member)
        tokens, start = cropped(sequences, row, self.recipe, self.alphabet, mixed(key, _CROP))
        return self._made(tokens, key, (cluster, member, start))

    @abstractmethod
    def _made(self, tokens: NDArray[np.uint8], key: int, origin: tuple[int, int, int]) -> Sample:
        """A sample of some tokens; ``origin`` is cluster, member and start."""

    def tokens_of(self, position: int) -> int:
        """How many tokens a sample has, without making it."""
        _, member, _ = self._address(position)
        sequences, row = self.corpus.member_at(member)
        return min(self.recipe.tokens, sequences.length(row) + self.alphabet.special_length)

    def _address(self, position: int) -> tuple[int, int, int]:
        """Cluster, place of the member, and the key of all that is drawn for a sample."""
        position = index_of(position)
        if position < 0:
            raise IndexError(f"sample {position}: they are counted from 0")
        epoch, index = divmod(position, len(self))
        if self.fixed:
            cluster, key = int(self.clusters[index]), mixed(self._key, 0, index)
            return cluster, self.corpus.member_range(cluster)[0], key
        ordered = self._ordered  # other threads may be in other epochs
        if ordered[0] != epoch:
            ordered = self._ordered = (epoch, Order(len(self), mixed(self._key, epoch)))
        cluster, key = int(self.clusters[ordered[1][index]]), mixed(self._key, epoch, index)
        first, last = self.corpus.member_range(cluster)
        return cluster, first + below(key, last - first), key


class ESM2Samples(Samples[Masked]):
    """Masked samples: some residues are hidden, and asked for."""

    alphabet = ESM2_ALPHABET

    def __init__(self, corpus: Corpus, split: str = "train", seed: int = 0) -> None:
        super().__init__(corpus, split, seed)
        chosen: Any = self.alphabet.tokens if self.recipe.letters == "all" else CANONICAL
        self._letters = np.array([self.alphabet.tokens.index(token) for token in chosen], np.uint8)
        share = self.recipe.masked
        self._asked, self._masked, self._replaced = map(threshold, (share, share * _MASKED, share * _REPLACED))

    def _made(self, tokens: NDArray[np.uint8], key: int, origin: tuple[int, int, int]) -> Masked:
        """One draw a token says whether it is asked for, and what is seen of it; special tokens are left alone."""
        draw = draws(mixed(key, _PLACES), len(tokens))
        if tokens[0] == self.alphabet.cls:
            draw[0] = _LARGEST
        if tokens[-1] == self.alphabet.eos:
            draw[-1] = _LARGEST
        asked = np.flatnonzero(draw < self._asked)
        labels = np.full(len(tokens), IGNORED, np.int64)
        labels[asked] = tokens[asked]
        draw = draw[asked]
        assert self.alphabet.mask is not None
        tokens[asked[draw < self._masked]] = self.alphabet.mask
        replaced = asked[(draw >= self._masked) & (draw < self._replaced)]
        chosen = (draws(mixed(key, _LETTERS), len(replaced)) >> np.uint64(32)) * np.uint64(len(self._letters))
        tokens[replaced] = self._letters[chosen >> np.uint64(32)]
        return Masked(tokens, labels, *origin)


class ProtT5nvSamples(Samples[Hidden]):
    """Samples for ProtT5nv's encoder and decoder: single residues behind sentinels."""

    alphabet = PROTT5NV_ALPHABET

    def _made(self, tokens: NDArray[np.uint8], key: int, origin: tuple[int, int, int]) -> Hidden:
        return Hidden(*hide(tokens, self.recipe.masked, draws(mixed(key, _PLACES), len(tokens))), *origin)


def hide(
    tokens: NDArray[np.uint8], share: float, draw: Draws
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Hide single residues behind sentinels; what the encoder sees, the decoder is told, and should say.

    One residue a span, neighbours too, for NeMo's spans were clipped to one; at least one residue, at most 76.

    Args:
        tokens: of one protein, uint8 [T].
        share: how many of them to hide.
        draw: a random number for each: the smallest are hidden.
    """
    count = min(MOST_HIDDEN, max(1, round(share * len(tokens))))
    return spans(tokens, np.sort(np.argsort(draw, kind="stable")[:count]))


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


def cropped(
    sequences: Sequences, row: int, recipe: Recipe, alphabet: Alphabet, draw: int
) -> tuple[NDArray[np.uint8], int]:
    """A part of a protein's list of tokens, and where it begins: special tokens stand only at true ends."""
    residues, before = sequences.length(row), alphabet.prefix_length
    whole = residues + alphabet.special_length
    start = 0
    if whole > recipe.tokens and recipe.crop == "random":
        start = below(draw, whole - recipe.tokens + 1)
    stop = min(whole, start + recipe.tokens)
    text = sequences.part(row, max(0, start - before), min(residues, stop - before))
    return alphabet.encode([alphabet.framed(text, start=start == 0, end=stop == whole)]), start
