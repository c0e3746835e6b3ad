"""Random records, written in random layouts, read back equal; and random bytes, which must never surprise."""

from __future__ import annotations

import csv
import io
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot.errors import InputError
from aminoglot.sequences import BadRecord, Columns, Protein, Reader, Source, sources
from tests.sequences.files import COMPRESSIONS, attempt, pairs, parquet, write

RESIDUES = "ACDEFGHIKLMNPQRSTVWYXBUZO"
Record = tuple[str, str]

ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="|"), min_size=1, max_size=12)
records = st.lists(st.tuples(ids, st.text(RESIDUES, min_size=1, max_size=90)), min_size=1, max_size=8)
line_ends = st.sampled_from(["\n", "\r\n"])
compressions = st.sampled_from([bytes, *COMPRESSIONS.values()])


@st.composite
def fasta(draw: st.DrawFn, written: list[Record]) -> bytes:
    """One of the many ways to write the same records: every choice is one that people make."""
    end = draw(line_ends)
    lines = ["; a comment"] * draw(st.integers(0, 1)) + [""] * draw(st.integers(0, 2))
    for name, sequence in written:
        width = draw(st.integers(1, 100))
        text = sequence.lower() if draw(st.booleans()) else sequence
        text += "*" * draw(st.booleans())
        lines.append(f">{name}{draw(st.sampled_from(['', ' some words >here; *', chr(9) + 'MKV']))}")
        for start in range(0, len(text), width):
            lines += [text[start : start + width] + " " * draw(st.integers(0, 1))]
            lines += draw(st.sampled_from([[], [], [], [""], ["; > a comment"]]))
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    return mark + (end.join(lines) + draw(st.sampled_from(["", end]))).encode()


@st.composite
def table(draw: st.DrawFn, written: list[Record]) -> bytes:
    """CSV or TSV, any order of columns, any quoting."""
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=draw(st.sampled_from([",", "\t"])),
        lineterminator=draw(line_ends),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    columns = draw(st.permutations(["id", "sequence", "note"]))
    writer.writerow(columns)
    characters = st.one_of(st.characters(exclude_categories=["Cs", "Cc"]), st.sampled_from('\n",\t'))
    notes = st.text(characters, max_size=10)
    for name, sequence in written:
        row = {"id": name, "sequence": sequence, "note": draw(notes)}
        writer.writerow([row[column] for column in columns])
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.getvalue().encode()


def read_back(content: bytes, name: str) -> list[Record]:
    """Through a file, as a user's would be."""
    with tempfile.TemporaryDirectory() as folder:
        return pairs(write(Path(folder), name, content))


@given(st.data(), records, compressions)
@settings(max_examples=150, deadline=None)
def test_fasta(data: st.DataObject, written: list[Record], compress: Callable[[bytes], bytes]) -> None:
    """Ids and residues survive every layout and compression."""
    assert read_back(compress(data.draw(fasta(written))), "a.fasta") == written


@given(st.data(), records, compressions)
@settings(max_examples=150, deadline=None)
def test_tables(data: st.DataObject, written: list[Record], compress: Callable[[bytes], bytes]) -> None:
    """Ids with commas, quotes and letters of any script too."""
    assert read_back(compress(data.draw(table(written))), "a.csv") == written


@given(records, compressions, st.sampled_from(["snappy", "zstd", "none"]))
@settings(max_examples=40, deadline=None)
def test_parquet(written: list[Record], compress: Callable[[bytes], bytes], codec: str) -> None:
    """Also gzipped around, as some archives are."""
    names, sequences = zip(*written, strict=True)
    content = parquet({"sequence": list(sequences), "id": list(names)}, compression=codec)
    assert read_back(compress(content), "a.parquet") == written


SEEDS = [
    b">sp|P12345|X words\r\nMKVLAA\r\nGGGG*\n;c\n>b\nmkvj\n\n>c d\nWWW\n",
    b'id,sequence,note\na,MKV,"x,y"\nb,GG,"q ""z"""\nc,AAA,\n',
    b"id\tsequence\na\tMKV\nb\tGG\n",
    parquet({"id": ["a", "b"], "sequence": ["MKV", "GG"]}),
]
PIECES = [
    b"\0",
    b"\r",
    b"\n",
    b">",
    b";",
    b'"',
    b",",
    b"\t",
    b"\xff",
    b"\xef\xbb\xbf",
    "é".encode(),
    b"*",
    b" ",
    b"PAR1",
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file, compressed or not, with a few bytes changed, added, or cut."""
    compress = draw(compressions)
    content = bytearray(compress(draw(st.sampled_from(SEEDS))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.sampled_from([0, 0, 1, 1, 8, 10_000]))
        content[start:stop] = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)))
    return bytes(content)


@given(st.one_of(damaged(), st.binary(max_size=200)), st.sampled_from(["a.fasta", "a.csv", "a"]))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_records_or_a_sentence(content: bytes, name: str) -> None:
    """Whatever is in a file: proteins of capital letters, bad records with a reason, or one InputError naming it."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, content)
        found, said = attempt(path)
    assert found or str(path) in said
    for record in found:
        if isinstance(record, Protein):
            assert record.id
            assert record.original_id
            assert record.sequence
            assert set(record.sequence) <= set(string.ascii_uppercase.replace("J", "").encode())
        else:
            assert record.why


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_cut_of_a_compressed_file_is_found(suffix: str, data: st.DataObject) -> None:
    """Wherever a download stops after the magic bytes, it is an error; never fewer proteins."""
    content = COMPRESSIONS[suffix](b"".join(b">p%d\nMKVLAG\n" % i for i in range(50)))
    cut = data.draw(st.integers(6, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.fasta", content[:cut])
        with pytest.raises(InputError, match="cut short"):
            list(Reader([Source("a.fasta", path)], Columns()))


def test_the_fuzzer_reaches_all_kinds(tmp_path: Path) -> None:
    """The seeds are good files: were they not, the test of damaged ones would test nothing."""
    for number, seed in enumerate(SEEDS):
        found = list(Reader(sources([write(tmp_path, f"{number}", seed)], tmp_path / "stdin")[0]))
        assert len(found) >= 2
        assert not any(isinstance(record, BadRecord) for record in found)
