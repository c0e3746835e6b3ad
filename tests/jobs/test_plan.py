"""Planning: who is computed where, what is merged, renamed, skipped or refused, and that a plan reads back."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot import InputError, JobError
from aminoglot.jobs import JobFolder, ShardLimits, Status, changes, read_plan
from aminoglot.jobs.plan import cut_shards
from aminoglot.jobs.scan import BATCH, RecordFile, find_duplicates, scan
from tests.jobs.helpers import CountingTask, plan, records

limits = st.builds(
    ShardLimits, cost=st.floats(1, 1e4), output=st.integers(1, 2000), proteins=st.integers(1, 50)
)  # fmt: skip


@given(lengths=st.lists(st.integers(1, 3000), max_size=200), limits=limits)
@settings(deadline=None)
def test_shards_cover_everything_within_their_limits(lengths: list[int], limits: ShardLimits) -> None:
    """Each protein is in exactly one shard; a shard over a limit holds one protein, which cannot be cut."""
    task = CountingTask(limits)
    ordered = np.array(sorted(lengths, reverse=True), dtype=np.int64)
    starts = cut_shards(ordered, task)
    assert (starts[0], starts[-1]) == (0, len(lengths))
    assert (np.diff(starts) > 0).all()
    for start, stop in pairwise(starts):
        shard = ordered[start:stop]
        if len(shard) > 1:
            assert len(shard) <= limits.proteins
            assert task.output(shard).sum() <= limits.output
            assert task.cost(shard).sum() <= 1.6 * limits.cost


def test_shards_are_of_near_equal_cost() -> None:
    """No crumb at the end that a second machine would wait for."""
    lengths = np.full(1000, 10, dtype=np.int64)
    sizes = np.diff(cut_shards(lengths, CountingTask(ShardLimits(cost=990))))
    assert sizes.max() - sizes.min() <= 1


def test_longest_first_and_input_order_does_not_matter(tmp_path: Path) -> None:
    sequences = {f"P{i}": "ACDEFGHIKL"[: i % 9 + 1] + "MNPQRSTVWY"[i % 10] * (i % 7) for i in range(60)}
    shuffled = list(sequences.items())
    random.Random(0).shuffle(shuffled)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = plan(tmp_path / "a", sequences), plan(tmp_path / "b", shuffled)
    shards = [first.sequences(shard) for shard in range(first.shards)]
    assert shards == [second.sequences(shard) for shard in range(second.shards)]
    flat = [s for shard in shards for s in shard]
    assert [len(s) for s in flat] == sorted(map(len, flat), reverse=True)
    assert sorted(flat) == sorted({s.encode() for s in sequences.values()})
    for shard in range(first.shards):
        assert first.shard_lengths(shard).tolist() == [len(s) for s in shards[shard]]


def test_every_record_finds_its_result(tmp_path: Path) -> None:
    """Position, twin and status, as the export will use them."""
    pairs = [
        ("a", "MKTV"),
        ("b", ""),
        ("a", "MKTV"),
        ("c", "MKTV"),
        ("d", "GG"),
        ("d", "WW"),
        ("d", "WW"),
        ("e", "L" * 9),
    ]
    made = plan(tmp_path, pairs, bad_records="skip", duplicates="number", skip_over=8)
    w, m, s = Status.WRITTEN, Status.MERGED, Status.SKIPPED
    assert made.status.tolist() == [w, s, m, w, w, w, m, s]
    assert made.twin.tolist() == [-1, -1, 0, 0, -1, -1, 5, -1]
    assert made.renamed == {5: "d_2"}
    assert made.lengths.tolist() == [4, 0, 4, 4, 2, 2, 2, 9]
    flat = [s for shard in range(made.shards) for s in made.sequences(shard)]
    for index, (_, text) in enumerate(pairs):
        if made.status[index] in (w, m):
            assert flat[made.position[index]].decode() == text
            assert made.digests[index].tobytes() == hashlib.sha256(text.encode()).digest()
        else:
            assert made.position[index] == -1
    assert made.counts == {
        "records": 8, "bad": 1, "merged": 2, "skipped": 2, "renamed": 1, "shared": 1,
        "replaced_letters": 0, "replaced_proteins": 0,
    }  # fmt: skip
    assert list(made.named(np.array([5, 3]))) == [("d_2", 5), ("c", 3)]


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(["a", "b", "a_2", "a_3", "b_2_2"]), st.sampled_from(["", "M", "MM", "G", "L" * 7])),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_mix_against_the_rules_in_words(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    """A duplicate has the id and the sequence of an earlier record; a clash has the id alone and gets a new one."""
    pairs = [*pairs, ("last", "WWW")]
    made = plan(tmp_path_factory.mktemp("mix"), pairs, bad_records="skip", duplicates="number", skip_over=5)
    seen: dict[tuple[str, str], int] = {}
    names: set[str] = set()
    for index, (name, text) in enumerate(pairs):
        status = made.status[index]
        if not text:
            assert status == Status.SKIPPED
            continue
        if (name, text) in seen:
            if len(text) > 5:
                assert status == Status.SKIPPED, "merged with nothing would be lost"
            else:
                assert status == Status.MERGED
                assert made.twin[index] == seen[name, text]
            continue
        assert status == (Status.SKIPPED if len(text) > 5 else Status.WRITTEN)
        final = made.renamed.get(index, name)
        first = not any(other == name for other, _ in seen)
        assert (final == name) is first
        assert final not in names
        names.add(final)
        seen[name, text] = index
    computed = [s.decode() for shard in range(made.shards) for s in made.sequences(shard)]
    assert sorted(computed) == sorted({text for _, text in seen if len(text) <= 5})


def test_a_plan_reads_back(tmp_path: Path) -> None:
    made = plan(tmp_path, {"a": "MKTV", "b": "GG"})
    again = read_plan(JobFolder(tmp_path / "x.h5"))
    assert (again.provenance, list(again.notes)) == ({"a": 1}, ["a note"])
    for name in ("status", "position", "twin", "lengths", "digests", "starts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[]", b"null", b'{"layout": 99}', b"\0" * 100, b'{"layout": 1}', b"\xff\xfe{"]
)
def test_a_plan_that_cannot_be_read_is_a_sentence(tmp_path: Path, damage: bytes) -> None:
    """Also one of another version: what to do is said."""
    made = plan(tmp_path, {"a": "MKTV"})
    made.folder.plan.write_bytes(damage)
    with pytest.raises(JobError, match=r"cannot be read .*--overwrite"):
        read_plan(made.folder)


def test_decisions_of_another_job_are_noticed(tmp_path: Path) -> None:
    """A file of the right kind with the wrong arrays."""
    made = plan(tmp_path, {"a": "MKTV"})
    safetensors.numpy.save_file({"status": np.zeros(3, np.int8)}, made.folder.decisions)
    with pytest.raises(JobError, match="cannot be read"):
        read_plan(made.folder)


def test_planning_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    """Shards and a manifest of an older plan must not be taken for this one's; standard input stays."""
    made = plan(tmp_path, {"a": "MKTV"})
    made.folder.shard(0).write_text("old")
    made.folder.manifest.write_text("old")
    made.folder.stdin.write_text("kept")
    (made.folder.path / "export-x").mkdir()
    plan(tmp_path, {"b": "GG"})
    names = {path.name for path in made.folder.path.iterdir()}
    assert names == {"plan.json", "decisions.safetensors", "records.arrow", "proteins.arrow", "stdin"}


def test_refusals_come_before_the_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 record of 2 cannot be used"):
        plan(tmp_path, {"a": "MKTV", "b": ""})
    with pytest.raises(InputError, match=r"2 proteins over 3 residues:\n.*'b': 4 residues\n.*'c': 5"):
        plan(tmp_path, {"a": "MK", "b": "MKTV", "c": "MKTVV"}, refuse_over=3)
    with pytest.raises(InputError, match=r"'a': a\.fasta, line 1 and a\.fasta, line 2"):
        plan(tmp_path, [("a", "MK"), ("a", "MKTV")])
    with pytest.raises(InputError, match="no protein in the input"):
        plan(tmp_path, {"a": ""}, bad_records="skip")
    with pytest.raises(InputError, match="no protein in the input"):
        plan(tmp_path, {})
    assert not JobFolder(tmp_path / "x.h5").planned


def test_changes_in_words() -> None:
    assert changes({"a": 1, "b": [1], "c": 1}, {"a": 1, "b": [1], "c": 2}, ("a", "b")) == []
    assert changes({"a": 1, "gone": 2}, {"a": 3, "new": 4}, ("new", "gone", "a")) == [
        "a: 1 before, 3 now",
        "gone: 2 before, none now",
        "new: none before, 4 now",
    ]


# The scan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_records_are_found_again_across_batches(tmp_path: Path, count: int) -> None:
    given_ = records({f"P{i}": "M" * (i % 5 + 1) for i in range(count)})
    found = scan(given_, tmp_path / "records", tmp_path / "sequences")
    assert len(found.lengths) == len(found.digests) == len(found.id_digests) == count
    with RecordFile(tmp_path / "records") as names:
        assert names.batches == -(-count // BATCH)
        for index in {0, count // 2, count - 1, min(BATCH - 1, count - 1), min(BATCH, count - 1)}:
            assert names.id(index) == f"P{index}"
            assert names.place(index) == f"a.fasta, line {index + 1:,}"


def test_duplicates_across_batches(tmp_path: Path) -> None:
    """The first of two equal records may lie thousands of records before."""
    pairs = [(f"P{i}", f"{'M' * (i % 3)}{'ACDEFGHIKL'[i % 10]}") for i in range(BATCH + 3)]
    pairs[-1] = pairs[0]
    pairs[-2] = (pairs[1][0], "WWWW")
    found = scan(records(pairs), tmp_path / "records", tmp_path / "sequences")
    result = find_duplicates(found, tmp_path / "records", "number")
    assert result.first_id[-1] == 0
    assert result.first_id[-2] == len(pairs) - 2
    assert result.renamed == {len(pairs) - 2: "P1_2"}
    first: dict[str, int] = {}
    for index, (_, text) in enumerate(pairs):
        assert result.first_sequence[index] == first.setdefault(text, index)


def test_the_first_twenty_clashes_are_named(tmp_path: Path) -> None:
    pairs = [(f"P{i}", "M" * (i + 1)) for i in range(25)] + [(f"P{i}", "G" * (i + 1)) for i in range(25)]
    found = scan(records(pairs), tmp_path / "records", tmp_path / "sequences")
    with pytest.raises(InputError, match=r"25 ids used again(?s:.*)'P19'(?s:.*)and 5 more"):
        find_duplicates(found, tmp_path / "records", "error")


def test_many_clashes_of_one_id(tmp_path: Path) -> None:
    """P_2, P_3, ... P_100, with some of those names taken."""
    pairs = [("P", "M" * (i + 1)) for i in range(100)] + [("P_7", "W"), ("P_50", "")]
    found = scan(records(pairs), tmp_path / "records", tmp_path / "sequences")
    renamed = find_duplicates(found, tmp_path / "records", "number").renamed
    numbers = [n for n in range(2, 103) if n not in (7, 50)]
    assert list(renamed.values()) == [f"P_{n}" for n in numbers]
    assert list(renamed) == list(range(1, 100))
