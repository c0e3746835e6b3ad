"""The one batch layout: everything, in order, within the budget, and no padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot.packing import Packed, Run, batches

lengths_of = st.lists(st.integers(1, 12), min_size=1, max_size=25)


def packed(lengths: list[int]) -> Packed:
    """Sequences of these lengths; every token has an id of its own, as far as a byte goes."""
    return Packed.of(np.arange(sum(lengths)).astype(np.uint8), lengths)


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 100))
@settings(max_examples=200, deadline=None)
def test_batches(lengths: list[int], budget: int) -> None:
    """Everything once and in order; never over budget but for a sequence that alone is; and no batch cut too early."""
    cut = list(batches(lengths, budget))
    assert [i for part in cut for i in range(len(lengths))[part]] == list(range(len(lengths)))
    sizes = [sum(lengths[part]) for part in cut]
    for part, size in zip(cut, sizes, strict=True):
        assert part.stop > part.start
        assert size <= budget or part.stop - part.start == 1
    for (_, size), (after, _) in pairwise(zip(cut, sizes, strict=True)):
        assert size + lengths[after.start] > budget


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([10], 10, [[10]]),
        ([11], 10, [[11]]),
        ([5, 5, 5], 10, [[5, 5], [5]]),
        ([1, 100, 1, 1], 10, [[1], [100], [1, 1]]),
        ([3, 3], 0, [[3], [3]]),
    ],
)
def test_batches_by_hand(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    """The edges: an exact fit, one too long, one too long between others, no budget at all."""
    assert [lengths[part] for part in batches(lengths, budget)] == expected


@given(lengths_of)
@settings(deadline=None)
def test_runs_tile_the_batch(lengths: list[int]) -> None:
    """Runs are rectangles end to end, each of one length, and none could be longer."""
    runs = packed(lengths).runs
    assert [run.length for run in runs for _ in range(run.count)] == lengths
    assert runs[0].start == 0
    assert runs[-1].stop == sum(lengths)
    for left, right in pairwise(runs):
        assert left.stop == right.start
        assert left.length != right.length


def test_runs_by_hand() -> None:
    """Equal lengths that are apart stay apart: a run is of neighbours."""
    assert packed([3, 3, 1, 3]).runs == (Run(0, 2, 3), Run(6, 1, 1), Run(7, 1, 3))


@given(lengths_of)
@settings(deadline=None)
def test_offsets_and_positions(lengths: list[int]) -> None:
    """Against plain Python: where each sequence starts, and each token's place in its own."""
    batch = packed(lengths)
    assert batch.cu_seqlens.dtype == torch.int32  # what variable-length attention kernels take
    assert batch.cu_seqlens.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert batch.positions_T.tolist() == [place for length in lengths for place in range(length)]
    assert batch.lengths_B.tolist() == lengths
    assert batch.tokens_T.dtype == torch.int64
    assert len(batch.tokens_T) == sum(lengths)


@given(lengths_of, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_sums_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    """Each sequence's sum holds its own tokens and no neighbour's."""
    batch = packed(lengths)
    values = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.stack([part.sum() for part in values.split(lengths)])
    torch.testing.assert_close(batch.per_sequence_sum(values), expected)
    counts = torch.arange(sum(lengths))
    assert batch.per_sequence_sum(counts).tolist() == [int(part.sum()) for part in counts.split(lengths)]


@given(lengths_of)
@settings(deadline=None)
def test_per_token_repeats(lengths: list[int]) -> None:
    """One value a sequence for each of its tokens."""
    values = torch.arange(len(lengths)) * 10
    expected = [10 * index for index, length in enumerate(lengths) for _ in range(length)]
    assert packed(lengths).per_token(values).tolist() == expected


@given(lengths_of)
@settings(deadline=None)
def test_no_padding(lengths: list[int]) -> None:
    """A batch holds the ids that came in, and not one more."""
    ids = np.random.default_rng(0).integers(0, 33, sum(lengths)).astype(np.uint8)
    batch = Packed.of(ids, lengths)
    assert batch.tokens_T.tolist() == ids.tolist()
    assert batch.device == torch.device("cpu")


def test_an_empty_batch() -> None:
    """No sequences: every property is empty and has its own type."""
    batch = packed([])
    assert batch.cu_seqlens.tolist() == [0]
    assert batch.runs == ()
    assert batch.lengths_B.dtype == torch.int64
    assert batch.positions_T.tolist() == []
    assert batch.per_sequence_sum(torch.zeros(0)).tolist() == []
