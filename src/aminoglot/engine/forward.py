"""Pieces of proteins through the network, in packed batches; a batch that does not fit in memory is halved.

Shapes: T packed tokens, D values a token, C channels (layers, or one for logits).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aminoglot.engine.hardware import Hardware, exact
from aminoglot.engine.pieces import Piece
from aminoglot.packing import Packed, batches
from aminoglot.tokens import Alphabet

_SIGNS = ("DefaultCPUAllocator", "allocate memory", "out of memory", "STATUS_ALLOC_FAILED")

Work = Callable[[Sequence[Piece], Packed], Tensor]
"""What is done with a batch: run again, with half of it, where memory does not suffice."""


class Outcome(NamedTuple):
    """Some pieces and what was made of them; ``values`` is None where memory did not suffice for one alone."""

    pieces: Sequence[Piece]
    batch: Packed
    values: Tensor | None


class Forward:
    """Runs pieces through a network.

    Args:
        alphabet: the family's vocabulary.
        hardware: where to compute.
        budget: tokens a batch.
    """

    def __init__(self, alphabet: Alphabet, hardware: Hardware, budget: int) -> None:
        self.alphabet = alphabet
        self.hardware = hardware
        self.budget = budget

    def __call__(self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work) -> Iterator[Outcome]:
        """Batches of ``pieces``, in order. ``texts`` holds the residues of each owner."""
        special = 1 + self.alphabet.prefix_length
        for chosen in batches([piece.length + special for piece in pieces], self.budget):
            yield from self._halving(pieces[chosen], texts, work)

    def _halving(self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work) -> Iterator[Outcome]:
        batch = self._pack(pieces, texts)
        values = self._attempt(pieces, batch, work)
        if values is not None or len(pieces) == 1:
            yield Outcome(pieces, batch, values)
            return
        middle = len(pieces) // 2
        yield from self._halving(pieces[:middle], texts, work)
        yield from self._halving(pieces[middle:], texts, work)

    def _pack(self, pieces: Sequence[Piece], texts: Sequence[bytes]) -> Packed:
        framed = [self.alphabet.framed(texts[p.owner][p.start : p.stop], start=p.cls, end=p.eos) for p in pieces]
        return Packed.of(self.alphabet.encode(framed), [len(f) for f in framed], self.hardware.device)

    def _attempt(self, pieces: Sequence[Piece], batch: Packed, work: Work) -> Tensor | None:
        """The values, or None when an allocation failed."""
        try:
            with torch.inference_mode(), exact(self.hardware):
                return work(pieces, batch)
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
        gc.collect()  # outside the handler, where the failed pass is no longer referenced
        if self.hardware.kind == "cuda":
            torch.cuda.empty_cache()
        return None


def is_allocation_failure(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in _SIGNS)
