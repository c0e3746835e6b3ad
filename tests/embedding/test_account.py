"""N in = written + merged + skipped + failed: the audit and the table of proteins, for every mix of records."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aminoglot
from aminoglot import InputError
from aminoglot.embedding.export import COLUMNS
from tests.embedding.conftest import Computed
from tests.embedding.helpers import Driver, embed, protein, proteins, table, write_fasta


def digest(sequence: str) -> str:
    return hashlib.sha256(sequence.encode()).hexdigest()


def test_the_table_says_what_became_of_every_record(out: Path, tmp_path: Path) -> None:
    """One row a record in the order of the input, with everything the design promises."""
    long = protein(1100)
    source = write_fasta(
        tmp_path / "a.fasta",
        [
            ("sp|P12345|ONE_HUMAN", "mktv*"),
            ("P2", "MJ*V"),
            ("bad", "MK-V"),
            ("P12345", "MKTV"),
            ("P2", "GAVL"),
            ("twin", "MKTV"),
            ("long", long),
            ("P2", "GAVL"),
        ],
    )
    made = embed(source, out / "x.h5", per="residue", bad_records="skip", duplicates="number")
    assert made.audit is not None
    assert str(made.audit) == "8 in = 5 written + 2 merged + 1 skipped + 0 failed"
    rows = table(out / "x.h5")
    assert tuple(rows[0]) == COLUMNS
    assert [tuple(row.values()) for row in rows] == [
        ("P12345", "sp|P12345|ONE_HUMAN", "written", "4", "4", "0", "", digest("MKTV"), ""),
        ("P2", "P2", "written", "4", "4", "2", "", digest("MXXV"), ""),
        ("bad", "bad", "skipped", "0", "0", "0", "", "", rows[2]["note"]),
        ("P12345", "P12345", "merged", "4", "0", "0", "P12345", digest("MKTV"), ""),
        ("P2_2", "P2", "written", "4", "4", "0", "", digest("GAVL"), rows[4]["note"]),
        ("twin", "twin", "written", "4", "4", "0", "P12345", digest("MKTV"), ""),
        ("long", "long", "written", "1100", "1022", "0", "", digest(long), rows[6]["note"]),
        ("P2", "P2", "merged", "4", "0", "0", "P2_2", digest("GAVL"), ""),
    ]
    assert "a gap" in rows[2]["note"]
    assert "renamed" in rows[4]["note"]
    assert "truncated to 1022 residues" in rows[6]["note"]
    assert made.complete is False, "a bad record counts against it"


def expected_status(records: list[tuple[str, str]], limit: int, skip: bool) -> list[str]:
    """The rules of the design, word for word and as slow as can be."""
    seen: set[tuple[str, str]] = set()
    found = []
    for name, sequence in records:
        cleaned = sequence.replace("J", "X")
        if not cleaned.isalpha() or (skip and len(cleaned) > limit):
            found.append("skipped")
        elif (name, cleaned) in seen:
            found.append("merged")  # with one that is written: repeats of a skipped one are skipped, above
        else:
            found.append("written")
        seen.add((name, cleaned))
    return found


def random_records(seed: int) -> list[tuple[str, str]]:
    """A mix of good, bad, long and repeated records, with as many clashes as can be."""
    choose = random.Random(seed)
    pool = [protein(length, seed) for length in (1, 1, 5, 40, 1022, 1023, 1500)]
    pool += ["MJTV", "MXTV", "MK1V", "M-"]
    names = [f"P{i}" for i in range(choose.randint(1, 8))]
    return [(choose.choice([*names, "P1_2"]), choose.choice(pool)) for _ in range(choose.randint(1, 40))]


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("seed", range(12))
def test_every_mix_adds_up(out: Path, tmp_path: Path, computed: Computed, seed: int) -> None:
    records = [*random_records(seed), ("last", "GAVLIM")]
    source = write_fasta(tmp_path / "a.fasta", records)
    skip = seed % 2 == 1
    long = "skip" if skip else "truncate"
    made = embed(source, out / "x.h5", bad_records="skip", duplicates="number", long=long)
    expected = expected_status(records, 1022, skip)
    rows = table(out / "x.h5")
    assert made.audit is not None
    account = Counter(expected)
    assert made.audit.records == len(records) == sum(account.values())
    assert (made.audit.written, made.audit.merged, made.audit.skipped, made.audit.failed) == (
        account["written"],
        account["merged"],
        account["skipped"],
        0,
    )
    assert [row["status"] for row in rows] == expected
    assert [row["original_id"] for row in rows] == [name for name, _ in records]
    written = [row for row in rows if row["status"] == "written"]
    with aminoglot.open(out / "x.h5") as store:
        assert sorted(store.ids) == sorted(row["id"] for row in written)
        assert len(set(store.ids)) == len(written)
        for row in written:
            if row["duplicate_of"]:
                assert np.array_equal(store[row["id"]], store[row["duplicate_of"]])
    assert computed.sequences == len({row["sequence_sha256"] for row in written}), "equal sequences are computed once"
    assert made.complete is not any("1" in s or "-" in s for _, s in records)


def test_bad_records_stop_the_job_before_it_computes(out: Path, tmp_path: Path, computed: Computed) -> None:
    """All are counted, the first twenty are named with file and line, and nothing was computed."""
    records = {f"b{i}": "MK-V" for i in range(25)} | {"good": "MKTV"}
    source = write_fasta(tmp_path / "a.fasta", records)
    with pytest.raises(InputError) as caught:
        embed(source, out / "x.h5")
    text = str(caught.value)
    assert text.startswith("25 records of 26 cannot be used:\n")
    assert f"{source}, line 39, id 'b19'" in text
    assert "b20" not in text
    assert "... and 5 more" in text
    assert "--bad-records skip" in text
    assert computed.shards == []


def test_nothing_but_bad_records(out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MK-V", "b": "M1"})
    with pytest.raises(InputError, match=r"no protein in the input:\n.*line 1, id 'a'"):
        embed(source, out / "x.h5", bad_records="skip")


def test_a_table_with_a_header_alone(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("id,sequence\n")
    with pytest.raises(InputError, match=r"no protein|without rows"):
        embed(source, out / "x.h5")


def test_skipped_records_exit_1_and_the_rest_is_written(driver: Driver, out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV", "b": "MK-V"})
    answer = driver.embed(source, out / "x.h5", "--bad-records", "skip")
    assert answer.status == 1
    assert "2 in = 1 written + 0 merged + 1 skipped + 0 failed" in answer.screen
    assert "line 3, id 'b'" in answer.screen
    assert list(aminoglot.open(out / "x.h5").ids) == ["a"]


def test_ids_that_would_tear_the_table(out: Path, tmp_path: Path) -> None:
    """A cell of a CSV may hold a tab or a line break; the table keeps one row a record all the same."""
    source = tmp_path / "a.csv"
    source.write_text('id,sequence\n"a\tb",MKTV\n"c\nd",MKTV\ngood,GAVL\n"e\rf",MKTV\n', newline="")
    embed(source, out / "x.h5", bad_records="skip")
    assert len((out / "x.h5.proteins.tsv").read_bytes().splitlines()) == 5
    assert [row["status"] for row in table(out / "x.h5")] == ["skipped", "skipped", "written", "skipped"]


def test_one_id_with_two_sequences_names_both_places(out: Path, tmp_path: Path, computed: Computed) -> None:
    source = write_fasta(tmp_path / "a.fasta", [("P1", "MKTV"), ("P2", "MK"), ("P1", "GAVL")])
    other = write_fasta(tmp_path / "b.fasta", [("P2", "GA")])
    with pytest.raises(InputError) as caught:
        embed([source, other], out / "x.h5")
    assert f"'P1': {source}, line 1 and {source}, line 5" in str(caught.value)
    assert f"'P2': {source}, line 3 and {other}, line 1" in str(caught.value)
    assert "--duplicates number" in str(caught.value)
    assert computed.shards == []


def test_numbered_ids_avoid_those_that_exist(out: Path, tmp_path: Path) -> None:
    """P1_2 is in the input already, before or after the clash."""
    records = [("P1", "M"), ("P1_3", "MM"), ("P1", "MMM"), ("P1", "MMMM"), ("P1_2", "MMMMM"), ("P1", "M")]
    source = write_fasta(tmp_path / "a.fasta", records)
    embed(source, out / "x.npz", duplicates="number")
    rows = table(out / "x.npz")
    assert [row["id"] for row in rows] == ["P1", "P1_3", "P1_4", "P1_5", "P1_2", "P1"]
    assert [row["status"] for row in rows] == ["written"] * 5 + ["merged"]
    with aminoglot.open(out / "x.npz") as store:
        assert list(store.ids) == ["P1", "P1_3", "P1_4", "P1_5", "P1_2"]
    assert [str(name) for name in np.load(out / "x.npz")["original_ids"]] == ["P1", "P1_3", "P1", "P1", "P1_2"]


def test_equal_sequences_are_computed_once(out: Path, tmp_path: Path, computed: Computed) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV", "b": "GAVL", "c": "MKTV", "d": "mktv*"})
    made = embed(source, out / "x.h5", per="residue")
    assert computed.sequences == 2
    assert made.audit is not None
    assert made.audit.written == 4
    assert [row["duplicate_of"] for row in table(out / "x.h5")] == ["", "", "a", "a"]
    with aminoglot.open(out / "x.h5") as store:
        assert np.array_equal(store["a"], store["d"])
        assert not np.array_equal(store["a"], store["b"])


@pytest.mark.parametrize("count", [1, 8191, 8192, 8193])
def test_batch_borders(out: Path, tmp_path: Path, count: int) -> None:
    """Records are kept in batches of 8,192; nothing is lost or doubled where one begins."""
    records = [(f"P{i}", "ACDEFGHIKLMNPQRSTVWY"[i % 20] + "GAVLIM"[: i % 6]) for i in range(count)]
    source = write_fasta(tmp_path / "a.fasta", records)
    made = embed(source, out / "x.npz")
    assert made.audit is not None
    assert made.audit.written == count
    assert [row["id"] for row in table(out / "x.npz")] == [name for name, _ in records]
    with aminoglot.open(out / "x.npz") as store:
        assert list(store.ids) == [name for name, _ in records]
        matrix = store.matrix()
    first = {sequence: i for i, (_, sequence) in reversed(list(enumerate(records)))}
    assert np.array_equal(matrix, matrix[[first[sequence] for _, sequence in records]])


def test_one_protein_of_one_residue(out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"W": "W"})
    embed(source, out / "x.h5", per="residue")
    with aminoglot.open(out / "x.h5") as store:
        assert store["W"].shape == (1, 32)


def test_order_and_shard_size_change_no_value(out: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """fp32: 1e-5, whatever a protein's neighbours are."""
    records = list(proteins(60, longest=120).items())
    first = write_fasta(tmp_path / "a.fasta", records)
    random.Random(0).shuffle(records)
    shuffled = write_fasta(tmp_path / "b.fasta", records)
    embed(first, out / "a.h5", per="residue")
    embed(shuffled, out / "b.h5", per="residue")
    request.getfixturevalue("small_shards")
    embed(shuffled, out / "c.h5", per="residue")
    with aminoglot.open(out / "a.h5") as a, aminoglot.open(out / "b.h5") as b, aminoglot.open(out / "c.h5") as c:
        assert list(b.ids) == list(c.ids) == [name for name, _ in records]
        assert sorted(a.ids) == sorted(b.ids)
        for name, array in a:
            np.testing.assert_array_equal(array, b[name])
            np.testing.assert_allclose(array, c[name], rtol=0, atol=1e-5)
    assert [row["id"] for row in table(out / "b.h5")] == [name for name, _ in records]


UNUSUAL = [
    "a/b", "a%2Fb", "a%b", "%2E", ".", "..", "./x", "/", "a b", "é", "日本", "x" * 200, "'\"", "a,b", "<c>", "*", "-",
    "NaN", "0", "a\u2028b", "a\u00a0b", "sp|lower|x", "tr|A0A024R1R8|N", "ends/", "%25", "%252F", "\\", "~", "con",
]  # fmt: skip


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"])
def test_unusual_ids_come_back_as_they_were(out: Path, tmp_path: Path, name: str) -> None:
    records = [(word, protein(i + 1, i)) for i, word in enumerate(UNUSUAL)]
    source = tmp_path / "a.csv"
    cells = [[word.replace('"', '""'), sequence] for word, sequence in records]
    source.write_text("id,sequence\n" + "".join(f'"{word}","{sequence}"\n' for word, sequence in cells), "utf-8")
    embed(source, out / name, per="residue")
    expected = ["A0A024R1R8" if word.startswith("tr|") else word for word, _ in records]
    with aminoglot.open(out / name) as store:
        assert sorted(store.ids) == sorted(expected)
        for word, (_, sequence) in zip(expected, records, strict=True):
            assert word in store
            assert store[word].shape == (len(sequence), 32)
    rows = table(out / name)
    assert [row["id"] for row in rows] == expected
    assert [row["original_id"] for row in rows] == UNUSUAL
    assert embed(source, out / name, per="residue").complete, "and they pass the verification"


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "x.npz", "x.safetensors"])
def test_the_longest_ids(out: Path, tmp_path: Path, name: str) -> None:
    """As long as records may have them, also where each of their characters is three bytes or escaped."""
    words = ["x" * 1000, "\u65e5" * 1000, "/" * 1000]
    source = write_fasta(tmp_path / "a.fasta", dict.fromkeys(words, "MKTV"))
    embed(source, out / name)
    with aminoglot.open(out / name) as store:
        assert sorted(store.ids) == sorted(words)
        assert all(store[word].shape == (32,) for word in words)
    assert [row["id"] for row in table(out / name)] == words


def test_ids_too_long_for_file_names_are_refused_before_computing(
    out: Path, tmp_path: Path, computed: Computed
) -> None:
    """A folder of .pt files names a file after each protein; nobody should learn at the end that it cannot."""
    source = write_fasta(tmp_path / "a.fasta", {"x" * 300: "MKTV", "b": "GAVL"})
    with pytest.raises(aminoglot.AminoglotError, match=r"too long for a file name.*\.h5"):
        embed(source, out / "folder")
    assert computed.shards == []


@pytest.mark.parametrize("long", ["skip", "error"])
def test_long_proteins_left_out_or_refused(out: Path, tmp_path: Path, computed: Computed, long: Any) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"short": "M" * 1022, "long": "M" * 1023, "longer": "M" * 2000})
    if long == "error":
        with pytest.raises(InputError, match=r"2 proteins over 1,022 residues:\n.*line 3, id 'long': 1,023 residues\n"):
            embed(source, out / "x.h5", long=long)
        assert computed.shards == []
        return
    made = embed(source, out / "x.h5", long=long)
    assert made.complete, "the user chose to leave them out"
    assert [(row["id"], row["status"], row["length"], row["note"]) for row in table(out / "x.h5")] == [
        ("short", "written", "1022", ""),
        ("long", "skipped", "1023", "longer than 1022 residues"),
        ("longer", "skipped", "2000", "longer than 1022 residues"),
    ]
    assert list(aminoglot.open(out / "x.h5").ids) == ["short"]


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"])
@pytest.mark.parametrize("per", ["protein", "residue"])
def test_a_job_whose_every_protein_is_left_out(out: Path, tmp_path: Path, name: str, per: str) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"long": "M" * 1023})
    made = embed(source, out / name, per=per, long="skip")
    assert made.complete
    with aminoglot.open(out / name) as store:
        assert len(store) == 0
        assert list(store) == []
        if per == "protein":
            assert store.matrix().shape == (0, 32)
    assert embed(source, out / name, per=per, long="skip").complete
