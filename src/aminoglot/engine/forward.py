"""Pieces of proteins through the network, in packed batches; a batch that does not fit in memory is halved.

Shapes: T packed tokens, D values a token, C channels (layers, or one for logits).
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from aminoglot.engine.hardware import MOST_LANES, Hardware, exact
from aminoglot.engine.pieces import Piece
from aminoglot.errors import is_allocation_failure
from aminoglot.packing import Packed, batches
from aminoglot.tokens import Alphabet

LEAST_TOKENS = 128
"""Of a batch of few proteins, which are shared out among as many batches as there can be lanes."""

Work = Callable[[Sequence[Piece], Packed], Tensor]
"""What is done with a batch: run again, with half of it, where memory does not suffice."""


class Outcome(NamedTuple):
    """Some pieces and what was made of them; ``values`` is None where memory did not suffice for one alone.

    Attributes:
        lengths: tokens of each piece.
    """

    pieces: Sequence[Piece]
    lengths: Sequence[int]
    values: Tensor | None


class Forward:
    """Runs pieces through a network, several batches at once where the hardware has lanes.

    Cores that each take a batch of their own are busier than cores that share one: nobody waits for the slowest at
    every operation, a batch stays in one core's cache, and packing and pooling one overlap with computing another.

    Args:
        alphabet: the family's vocabulary.
        hardware: where to compute, and in how many lanes.
        budget: tokens a batch.
        least: few proteins are shared out among the lanes, but not in smaller batches than this.
        lone: whether a batch that is the only one has all cores. The last digits of torch's products in fp32 depend on
            how many those are, so jobs do without.
    """

    def __init__(
        self, alphabet: Alphabet, hardware: Hardware, budget: int, least: int = LEAST_TOKENS, lone: bool = True
    ) -> None:
        self.alphabet = alphabet
        self.hardware = hardware
        self.budget, self.least, self.lone = budget, least, lone

    def __call__(
        self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work, ahead: int = 1
    ) -> Iterator[Outcome]:
        """Batches of ``pieces``, in order.

        Args:
            pieces: what to compute.
            texts: the residues of each owner.
            work: what is done with a batch; it may run in threads.
            ahead: batches that a lane may do while the oldest, perhaps one very long protein, is in work. Their values
                wait in memory, so more than one is for work that files its results itself.
        """
        lengths = [piece.length + self.alphabet.special_length for piece in pieces]
        budget = self.budget
        if self.hardware.kind == "cpu":  # few proteins are shared out among the lanes too
            budget = min(budget, max(self.least, -(-sum(lengths) // MOST_LANES)))
        cut = [pieces[chosen] for chosen in batches(lengths, budget)]
        with exact(self.hardware):
            if (len(cut) == 1 and self.lone) or self.hardware.lanes == 1:
                for part in cut:
                    yield from self._halving(part, texts, work)
            else:
                yield from self._in_lanes(cut, texts, work, ahead)

    def _in_lanes(
        self, cut: Sequence[Sequence[Piece]], texts: Sequence[bytes], work: Work, ahead: int
    ) -> Iterator[Outcome]:
        waiting: deque[Future[list[Outcome]]] = deque()
        lanes = self.hardware.lanes
        before = torch.get_num_threads()
        streams = iter(_streams(self.hardware.device, lanes) if self.hardware.kind == "cuda" else ())
        with ThreadPoolExecutor(lanes, initializer=_enter_lane, initargs=(self.hardware, streams)) as pool:
            try:
                for part in cut:
                    waiting.append(pool.submit(self._batch, part, texts, work))
                    if len(waiting) > ahead * lanes:
                        yield from self._taken(waiting, texts, work)
                while waiting:
                    yield from self._taken(waiting, texts, work)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                torch.set_num_threads(before)  # a lane's number became that of threads born later

    def _batch(self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work) -> list[Outcome]:
        outcomes = list(self._halving(pieces, texts, work))
        if self.hardware.kind == "cuda":  # whoever takes them has another stream
            torch.cuda.current_stream(self.hardware.device).synchronize()
        return outcomes

    def _taken(self, waiting: deque[Future[list[Outcome]]], texts: Sequence[bytes], work: Work) -> Iterator[Outcome]:
        """The next batch's outcomes; what did not fit beside other lanes is tried again alone."""
        for outcome in waiting.popleft().result():
            if outcome.values is None:
                wait(waiting)
                yield from self._halving(outcome.pieces, texts, work)
            else:
                if outcome.values.is_cuda:  # no lane may write over them while they are looked at
                    outcome.values.record_stream(torch.cuda.current_stream(outcome.values.device))
                yield outcome

    def _halving(self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work) -> Iterator[Outcome]:
        outcome = self._attempt(pieces, texts, work)
        if outcome.values is not None or len(pieces) == 1:
            yield outcome
            return
        middle = len(pieces) // 2
        yield from self._halving(pieces[:middle], texts, work)
        yield from self._halving(pieces[middle:], texts, work)

    def _pack(self, pieces: Sequence[Piece], texts: Sequence[bytes]) -> Packed:
        framed = [self.alphabet.framed(texts[p.owner][p.start : p.stop], start=p.cls, end=p.eos) for p in pieces]
        return Packed.of(self.alphabet.encode(framed), [len(f) for f in framed], self.hardware.device)

    def _attempt(self, pieces: Sequence[Piece], texts: Sequence[bytes], work: Work) -> Outcome:
        """Without values where an allocation failed."""
        try:
            batch = self._pack(pieces, texts)
            with torch.inference_mode(), torch.autocast(self.hardware.kind, enabled=False):
                return Outcome(pieces, batch.lengths, work(pieces, batch))
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
        gc.collect()  # outside the handler, where the failed pass is no longer referenced
        if self.hardware.kind == "cuda":
            torch.cuda.empty_cache()
        return Outcome(pieces, (), None)


def _enter_lane(hardware: Hardware, streams: Iterator[torch.cuda.Stream]) -> None:
    """What a lane's thread begins with: its share of the cores, or a stream of its own on the GPU."""
    torch.set_num_threads(hardware.threads)
    if hardware.kind == "cuda":
        torch.cuda.set_device(hardware.device)  # a new thread's is the first
        torch.cuda.set_stream(next(streams))


@cache
def _streams(device: torch.device, lanes: int) -> tuple[torch.cuda.Stream, ...]:
    """The lanes' streams, the same in every call: torch keeps freed memory for the stream that had it."""
    return tuple(torch.cuda.Stream(device) for _ in range(lanes))
