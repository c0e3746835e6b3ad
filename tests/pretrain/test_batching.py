"""Which proteins an update sees, and who computes which."""

from __future__ import annotations

from itertools import islice

import pytest

from aminoglot.corpus import Corpus, ESM2Samples
from aminoglot.pretrain.batching import Update, dealt, updates

AT_ONCE = 700


def some(corpus: Corpus, count: int = 20, **batch: int) -> list[Update]:
    return list(islice(updates(ESM2Samples(corpus), batch.get("proteins"), batch.get("tokens")), count))


@pytest.mark.parametrize("batch", [{"proteins": 37}, {"tokens": 2_000}, {"tokens": 50}])
def test_updates_follow_each_other(batch: dict[str, int], corpus: Corpus) -> None:
    samples, position = ESM2Samples(corpus), 0
    for update in some(corpus, **batch):
        assert update.first == position
        assert update.lengths == tuple(len(samples[n].tokens) for n in range(position, update.next))
        assert len(update.lengths) == batch.get("proteins", len(update.lengths))
        if tokens := batch.get("tokens"):
            assert sum(update.lengths) <= tokens or len(update.lengths) == 1
            assert sum(update.lengths) + samples.tokens_of(update.next) > tokens
        position = update.next


def test_going_on_from_a_position(corpus: Corpus) -> None:
    whole = some(corpus, 10, tokens=2_000)
    rest = updates(ESM2Samples(corpus), None, 2_000, whole[4].next)
    assert list(islice(rest, 5)) == whole[5:]


@pytest.mark.parametrize("processes", [1, 2, 3, 8, 50])
def test_every_protein_is_computed_once(processes: int, corpus: Corpus) -> None:
    for update in some(corpus, tokens=3_000):
        pieces = update.pieces(AT_ONCE, processes)
        assert len(pieces) % processes == 0
        assert sorted(n for piece in pieces for n in piece) == list(range(update.first, update.next))
        shares = [dealt(pieces, process, processes) for process in range(processes)]
        assert len({len(share) for share in shares}) == 1, "as many for each"
        assert sorted(n for share in shares for piece in share for n in piece) == list(range(update.first, update.next))


def test_pieces_fit_and_are_even(corpus: Corpus) -> None:
    for update in some(corpus, tokens=3_000):
        sizes = [sum(update.lengths[n - update.first] for n in piece) for piece in update.pieces(AT_ONCE, 2)]
        assert max(sizes) <= AT_ONCE
        assert max(sizes) - min(sizes) <= 2 * max(update.lengths)


def test_neighbours_are_of_a_length(corpus: Corpus) -> None:
    (update,) = some(corpus, 1, tokens=3_000)
    lengths = [update.lengths[n - update.first] for piece in update.pieces(AT_ONCE, 1) for n in piece]
    assert lengths == sorted(lengths, reverse=True)


def test_a_protein_longer_than_a_piece() -> None:
    """It is computed alone; a corpus never has one, for runs are refused that could not hold its longest sample."""
    assert Update(0, (50, 900, 60)).pieces(AT_ONCE, 1) == [[1], [2, 0]]
