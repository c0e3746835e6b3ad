"""Sequences on disk: what was written is read, in any order, and damage is noticed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from aminoglot.corpus.store import HEADERS, LETTERS, STARTS, Sequences, SequenceWriter, header_of
from aminoglot.errors import OutputError
from tests.corpus.helpers import protein


@pytest.fixture
def texts() -> list[bytes]:
    return [protein(int(length), number).encode() for number, length in enumerate([5, 1, 300, 40, 40, 2])]


@pytest.fixture
def sequences(tmp_path: Path, texts: list[bytes]) -> Sequences:
    with SequenceWriter(tmp_path, tmp_path / "names.parquet") as writer:
        for number, text in enumerate(texts):
            writer.add(f"id{number}", header_of(f"id{number}", "the rest \u00e9"), text)
        assert (writer.count, writer.residues) == (6, sum(map(len, texts)))
    return Sequences(tmp_path)


def test_what_was_written_is_read(sequences: Sequences, texts: list[bytes]) -> None:
    assert [sequences[row] for row in range(len(sequences))] == texts
    assert sequences.lengths(0, 6).tolist() == [sequences.length(row) for row in range(6)] == [*map(len, texts)]
    assert sequences.lengths(2, 4).tolist() == [300, 40]
    assert sequences.description(3) == "the rest \u00e9"
    assert [sequences.name(row) for row in range(6)] == [f"id{number}" for number in range(6)]
    assert sequences.residues == sum(map(len, texts))


def test_a_part_is_a_slice(sequences: Sequences, texts: list[bytes]) -> None:
    assert sequences.part(2, 10, 50) == texts[2][10:50]
    assert sequences.part(2, 290, 400) == texts[2][290:], "not the next one's"


@pytest.mark.parametrize("row", [-1, 6])
def test_rows_outside_are_refused(row: int, sequences: Sequences) -> None:
    with pytest.raises(IndexError):
        sequences[row]


def test_many_blocks(tmp_path: Path) -> None:
    with SequenceWriter(tmp_path, tmp_path / "names.parquet") as writer:
        for number in range(70_000):
            writer.add(f"p{number}", f"p{number}", b"M" * (number % 3 + 1))
    found = Sequences(tmp_path)
    assert len(found) == 70_000
    assert found.name(69_999) == "p69999"
    assert found.name(65_536) == "p65536"
    assert found[65_536] == b"M" * (65_536 % 3 + 1)
    assert pq.read_table(tmp_path / "names.parquet")["id"].to_pylist() == [f"p{number}" for number in range(70_000)]


def test_uniprots_names(tmp_path: Path) -> None:
    with SequenceWriter(tmp_path, tmp_path / "names.parquet") as writer:
        writer.add("P12345", header_of("sp|P12345|NAME_X", "some protein"), b"MKT")
    assert Sequences(tmp_path).name(0) == "P12345"
    assert Sequences(tmp_path).description(0) == "some protein"


def test_names_with_blanks(tmp_path: Path) -> None:
    """A table may have such; they are not cut."""
    with SequenceWriter(tmp_path, tmp_path / "names.parquet") as writer:
        writer.add("my protein 1", header_of("my protein 1"), b"MKT")
        writer.add("my protein 2", header_of("my protein 2", "of mine"), b"MKT")
    assert [Sequences(tmp_path).name(row) for row in range(2)] == ["my protein 1", "my protein 2"]
    assert Sequences(tmp_path).description(0) == ""


def test_headers_that_are_damaged(sequences: Sequences) -> None:
    path = sequences.folder / HEADERS
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(OutputError, match=f"{HEADERS}: damaged"):
        Sequences(sequences.folder).name(0)


def test_sent_to_another_process(sequences: Sequences) -> None:
    assert pickle.loads(pickle.dumps(sequences))[2] == sequences[2]
    assert len(pickle.dumps(sequences)) < 500, "its folder, not its letters"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no sequences of a corpus here"):
        Sequences(tmp_path)


def test_files_that_do_not_fit_are_noticed(sequences: Sequences) -> None:
    path = sequences.folder / LETTERS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match=f"{LETTERS} has 387 bytes, {STARTS} says 388"):
        Sequences(sequences.folder)


def test_starts_are_little_endian_uint64(sequences: Sequences, texts: list[bytes]) -> None:
    found = np.fromfile(sequences.folder / STARTS, "<u8")
    assert found.tolist() == np.cumsum([0, *map(len, texts)]).tolist()
