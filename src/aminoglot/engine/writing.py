"""What an encoder-decoder writes: hidden residues, distributions of amino acids, logits, tokens of its own choice.

Shapes: B proteins, V vocabulary, M hidden residues of one protein, L residues, U tokens of a target.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aminoglot.checkpoints import Checkpoint, missing
from aminoglot.engine.embed import NOT_FINITE
from aminoglot.engine.forward import Forward
from aminoglot.engine.hardware import Hardware
from aminoglot.engine.pieces import Piece
from aminoglot.errors import InputError, ModelError
from aminoglot.models.linear import prepare
from aminoglot.models.prott5nv import END, FIRST_SENTINEL, MOST_MASKS, START, UNKNOWN, Decoder, Decoding, ProtT5nv
from aminoglot.packing import Packed
from aminoglot.tokens import MASK, PROTT5NV_ALPHABET

Array = NDArray[np.float32]
_MOST_WRITTEN = 256
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
"""Columns of all distributions."""
Sentinels = Literal["proper", "collapsed", "unknown"]
SENTINEL_NOTES = {
    "collapsed": "trained with <unk> in place of every sentinel (a fault of later NeMo); it is used that way",
    "unknown": "whether sentinels or <unk> hid residues in its training cannot be told; sentinels are used",
}
_AMINO_IDS = [PROTT5NV_ALPHABET.tokens.index(letter) for letter in AMINO_ACIDS]
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
    """A ProtT5nv with its decoder. Sources are computed as embeddings are: in batches, lanes, halved where need be.

    Args:
        network: with its decoder.
        encode: its last layer for a packed batch, float32 [T, D].
        hardware: where to compute.
        budget: tokens a batch.

    Raises:
        ModelError: where what the decoder says is not finite.
    """

    def __init__(self, network: ProtT5nv, encode: Callable[[Packed], Tensor], hardware: Hardware, budget: int) -> None:
        self._network, self._encode, self._hardware, self._budget = network, encode, hardware, budget
        self.sentinels: Sentinels = self._probed()

    def infill(self, text: bytes) -> Infilled:
        """Write the masks of one protein, from left to right; each sees those written before it."""
        places = [place for place, letter in enumerate(text) if letter == MASK[0]]
        if not places:
            raise InputError("nothing to fill in: hide residues as <mask>")

        def work(_: list[int], source: Packed) -> Tensor:
            decoding = Decoding(self._network, self._encode(source), source)
            rows, told = [], [START]
            for number in range(len(places)):
                logits_V = self._extended(decoding, [[*told, _sentinel(number, self.sentinels)]])[-1]
                rows.append(logits_V[_AMINO_IDS].softmax(0))
                told = [_AMINO_IDS[int(rows[-1].argmax())]]
            return torch.stack(rows)

        ((_, found),) = self._run([text], 2 * len(places), work)
        written = bytearray(text)
        for place, row in zip(places, found.tolist(), strict=True):
            written[place] = ord(AMINO_ACIDS[row.index(max(row))])
        return Infilled(written.decode(), found.cpu().numpy())

    def distributions(self, text: bytes) -> Array:
        """The 20 amino acids at each residue, when that one alone is hidden: float32 [L, 20]."""
        hidden = [text[:place] + MASK + text[place + 1 :] for place in range(len(text))]
        told = [START, _sentinel(0, self.sentinels)]

        def work(owners: list[int], source: Packed) -> Tensor:
            logits_UV = self._forced(source, [told] * len(owners))
            return logits_UV[1::2, _AMINO_IDS].softmax(-1)

        return np.concatenate([found.cpu().numpy() for _, found in self._run(hidden, len(told), work)])

    def forced(self, texts: Sequence[bytes], targets: Sequence[str]) -> list[Array]:
        """Logits after ``<s>`` and after each token of the targets, float32 [1 + tokens, V] a protein."""
        if len(texts) != len(targets):
            raise InputError(f"{len(texts):,} sequences and {len(targets):,} targets: each sequence has one")
        told = [self._told(target) for target in targets]
        rows: list[Array] = []
        for owners, found in self._run(
            texts, max(map(len, told)), lambda owners, source: self._forced(source, [told[owner] for owner in owners])
        ):
            rows += [part.cpu().numpy() for part in found.split([len(told[owner]) for owner in owners])]
        return rows

    def generate(
        self, texts: Sequence[bytes], most: int | None, top_p: float | None, temperature: float, seed: int
    ) -> list[str]:
        """What the decoder writes of its own choice, without its end."""
        most = min(_MOST_WRITTEN, self._places - 1) if most is None else most
        if not 1 <= most < self._places:
            raise InputError(f"most={most}: the decoder writes 1 to {self._places - 1} tokens")
        choosers = _choosers(texts, top_p, temperature, seed)

        def work(owners: list[int], source: Packed) -> Tensor:
            return self._written(source, [choosers[owner]() for owner in owners], most)

        found: list[str] = []
        for _, written in self._run(texts, most, work):
            for row in written.tolist():
                tokens = row[: row.index(END)] if END in row else row
                found.append("".join(PROTT5NV_ALPHABET.tokens[token] for token in tokens))
        return found

    def _written(self, source: Packed, choosers: Sequence[Chooser], most: int) -> Tensor:
        """Tokens chosen one after the other, int64 [B, most], ``</s>`` behind the end."""
        decoding = Decoding(self._network, self._encode(source), source)
        written = torch.full((len(choosers), most), END)
        last = [START] * len(choosers)
        going = set(range(len(choosers)))
        for step in range(most):
            logits_BV = self._extended(decoding, [[token] for token in last]).cpu().numpy()
            for index in sorted(going):
                last[index] = choosers[index](logits_BV[index])
                written[index, step] = last[index]
            going -= {index for index in going if last[index] == END}
            if not going:
                break
        return written

    def _forced(self, source: Packed, told: Sequence[Sequence[int]]) -> Tensor:
        return self._extended(Decoding(self._network, self._encode(source), source), told)

    def _extended(self, decoding: Decoding, told: Sequence[Sequence[int]]) -> Tensor:
        """Logits of targets that grow, [U, V], looked at before anything is made of them."""
        ids = np.array([token for target in told for token in target], dtype=np.uint8)
        logits_UV = decoding.extend(Packed.of(ids, [len(target) for target in told], self._hardware.device))
        if not logits_UV.isfinite().all():
            raise ModelError(NOT_FINITE)
        return logits_UV

    def _run(
        self,
        texts: Sequence[bytes],
        added: int,
        work: Callable[[list[int], Packed], Tensor],
        sentinels: Sentinels | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of sources, in order, and what was made of them.

        Args:
            texts: residues, hidden ones as :data:`MASK`.
            added: tokens that the decoder is told or writes of each, at most: they take memory as sources do.
            work: takes numbers of texts and the packed sources.
            sentinels: what stands for hidden residues, where that is not known yet.
        """
        for number, text in enumerate(texts):
            self._check(number, text)

        def hidden(pieces: Sequence[Piece], batch: Packed) -> Tensor:
            return work([piece.owner for piece in pieces], _hidden(batch, sentinels or self.sentinels))

        longest = max(map(len, texts))
        forward = Forward(PROTT5NV_ALPHABET, self._hardware, max(1, self._budget * longest // (longest + added)))
        pieces = [Piece(number, 0, len(text)) for number, text in enumerate(texts)]
        for outcome in forward(pieces, texts, hidden):
            owners = [piece.owner for piece in outcome.pieces]
            if outcome.values is None:
                raise ModelError(
                    f"sequence {owners[0]}: not enough memory to write, {len(texts[owners[0]]):,} residues"
                )
            yield owners, outcome.values

    def _check(self, number: int, text: bytes) -> None:
        longest = self._network.config.longest
        if len(text) > longest:
            raise InputError(f"sequence {number}: {len(text):,} residues; {longest} at most go in: give it a part")
        most = min(MOST_MASKS, self._places // 2)  # a sentinel and a residue each
        if text.count(MASK) > most:
            raise InputError(f"sequence {number}: {text.count(MASK)} masks; this model was trained on {most} at most")

    @property
    def _places(self) -> int:
        """How many tokens a target may have, ``<s>`` among them."""
        return self._network.config.positions

    def _told(self, target: str) -> list[int]:
        """What the decoder is told of a target, ``<s>`` first; sentinels as the model was trained."""
        told = [START, *_tokens(target)]
        if len(told) > self._places:
            raise InputError(f"target {target[:60]!r}: {len(told) - 1:,} tokens, more than {self._places - 1}")
        if self.sentinels == "collapsed":
            return [UNKNOWN if token >= FIRST_SENTINEL else token for token in told]
        return told

    def _probed(self) -> Sentinels:
        """Which tokens stood for hidden residues in training: what the decoder writes first tells.

        NeMo from 1.13 on gave every sentinel the id of ``<unk>``; ProtT5nv is older, but may have been trained again.
        """
        texts = [(text[:40] + MASK + text[41:])[: self._network.config.longest] for text in PROBES]
        run = self._run(texts, 1, lambda owners, source: self._forced(source, [[START]] * len(owners)), "proper")
        first = {token for _, logits_BV in run for token in logits_BV.argmax(-1).tolist()}
        if first == {FIRST_SENTINEL}:
            return "proper"
        return "collapsed" if first == {UNKNOWN} else "unknown"


def opened(
    name: str,
    network: ProtT5nv,
    checkpoint: Checkpoint,
    encode: Callable[[Packed], Tensor],
    hardware: Hardware,
    budget: int,
) -> Writer:
    """Load the decoder, which embedding does without, and try it.

    Raises:
        ModelError: when the checkpoint has none.
    """
    if not checkpoint.has("decoder"):
        raise ModelError(f"{name}: {missing('decoder', checkpoint.notes)}")
    decoder = cast(Decoder, checkpoint.part("decoder"))
    prepare(decoder, "fp32" if hardware.backend == "openvino" else hardware.precision)
    network.decoder = decoder.to(hardware.device)
    return Writer(network, encode, hardware, budget)


def _sentinel(number: int, sentinels: Sentinels) -> int:
    return UNKNOWN if sentinels == "collapsed" else FIRST_SENTINEL + number


def _hidden(batch: Packed, sentinels: Sentinels) -> Packed:
    """The k-th mask of each sequence as the k-th sentinel."""
    assert PROTT5NV_ALPHABET.mask is not None
    mask_T = batch.tokens_T.eq(PROTT5NV_ALPHABET.mask)
    masks_B = batch.per_sequence_sum(mask_T.long())
    number_T = mask_T.cumsum(0) - 1 - batch.per_token(masks_B.cumsum(0) - masks_B)
    sentinel_T = number_T.new_full((), UNKNOWN) if sentinels == "collapsed" else FIRST_SENTINEL + number_T
    return Packed(torch.where(mask_T, sentinel_T, batch.tokens_T), batch.lengths)


def _tokens(target: str) -> list[int]:
    """Ids of tokens written one after the other."""
    known = {token: number for number, token in enumerate(PROTT5NV_ALPHABET.tokens)}
    words = re.findall(r"<[^<>]*>|.", target, re.DOTALL)
    if words[:1] == ["<s>"]:
        raise InputError(f"target {target[:60]!r}: <s> is put before every target; leave it out")
    strangers = [word for word in words if word not in known]
    if strangers:
        raise InputError(f"target {target[:60]!r}: {strangers[0]!r} is no token of ProtT5nv's")
    return [known[word] for word in words]


Chooser = Callable[[NDArray[np.float32]], int]
"""Takes a token for logits [V]."""


def _choosers(
    texts: Sequence[bytes], top_p: float | None, temperature: float, seed: int
) -> list[Callable[[], Chooser]]:
    """For each text what makes one that takes the likeliest token, or one that draws, from its beginning.

    What is drawn depends on the seed, the sequence, and how often that came before in the list, not on what else is in
    it: a sequence that is there ten times is written in ten ways.

    Raises:
        InputError: for values that cannot be, and for those that would be without effect.
    """
    if not temperature > 0:
        raise InputError(f"temperature={temperature}: it must be above 0")
    if seed < 0:
        raise InputError(f"seed={seed}: a number from 0 on is wanted")
    if top_p is None:
        if temperature != 1 or seed:
            raise InputError("temperature and seed are for drawing: give top_p too (1.0 draws from all tokens)")
        return [lambda: _likeliest] * len(texts)
    if not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p}: a probability above 0, up to 1, is wanted")
    found: list[Callable[[], Chooser]] = []
    before = Counter[bytes]()
    for text in texts:
        found.append(partial(_drawing, (seed, zlib.crc32(text), before[text]), top_p, temperature))
        before[text] += 1
    return found


def _likeliest(logits_V: NDArray[np.float32]) -> int:
    return int(logits_V.argmax())


def _drawing(seed: Sequence[int], top_p: float, temperature: float) -> Chooser:
    """Draws from the fewest tokens that together have a probability of ``top_p``."""
    generator = np.random.default_rng(seed)

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
