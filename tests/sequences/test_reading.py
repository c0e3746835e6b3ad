"""FASTA, CSV, TSV and Parquet as people write them, and as nobody should."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aminoglot.errors import InputError
from aminoglot.sequences import BadRecord, Columns, Protein
from tests.sequences.files import attempt, only_bad, pairs, parquet, proteins, read, write

AB = [("a", "MKVLAA"), ("b", "GGG")]

# FASTA


@pytest.mark.parametrize(
    "text",
    [
        b">a\nMKVLAA\n>b\nGGG\n",
        b">a\nMK\nVLA\nA\n>b\nGG\nG\n",
        b">a\r\nMKV\r\nLAA\r\n>b\r\nGGG\r\n",
        b">a\r\nMKV\nLAA\r\n>b\nGGG",
        b"\n\n>a\n\nMKV\n\n\nLAA\n\n>b\nGGG\n\n\n",
        b"\xef\xbb\xbf>a\nMKVLAA\n>b\nGGG\n",
        b"\xef\xbb\xbf\r\n>a\r\nMKVLAA\r\n>b\r\nGGG\r\n",
        b">a\nmkvlaa\n>b\ngGg\n",
        b">a\nMKVLAA*\n>b\nGGG*\n",
        b">a\nMKVLAA\n*\n>b\nGGG\n*\n",
        b"; a comment\n>a\n;another\nMKV\n; and inside\nLAA\n>b\nGGG\n;the end\n",
        b">a  MKV is no residue here\nMKVLAA\n>b\tnor GGG here\nGGG\n",
        b"> a\n MKV \n\tLAA\t\n>   b and more\nGGG  \n",
        b">a\nMKVLAA\n>b\nGGG",
        b">a caf\xe9 in Latin-1\nMKVLAA\n>b \x01 nr's separator\nGGG\n",
    ],
)
def test_fasta_layouts(text: bytes, tmp_path: Path) -> None:
    """Wrapping, line ends, blank lines, case, comments, a byte order mark: the records are the same."""
    assert pairs(write(tmp_path, "a.fasta", text)) == AB


def test_fasta_lines_and_ids(tmp_path: Path) -> None:
    """A protein knows the line of its header, comments and blank lines counted, and its id as written."""
    text = b"; comment\n\n>sp|P12345|NAME_ECOLI Some protein OS=E. coli\nMK\nVJ\n>b\nGG\n"
    path = write(tmp_path, "a.fasta", text)
    assert proteins(path) == [
        Protein("P12345", "sp|P12345|NAME_ECOLI", b"MKVX", 1, str(path), 3, "Some protein OS=E. coli"),
        Protein("b", "b", b"GG", 0, str(path), 6),
    ]


def test_fasta_ids_beyond_ascii(tmp_path: Path) -> None:
    """Ids are text; only residues are ASCII."""
    assert pairs(write(tmp_path, "a.fasta", ">β-lactamase_é😀\nMKV\n".encode())) == [("β-lactamase_é😀", "MKV")]


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    """FASTA in a .csv or a .txt or a file without suffix is FASTA."""
    for name in ("a.csv", "a.txt", "a"):
        assert pairs(write(tmp_path, name, b">a\nMKVLAA\n>b\nGGG\n")) == AB


def test_blank_lines_beyond_the_first_look(tmp_path: Path) -> None:
    """What the file is, is decided from its first bytes; that many blank lines are no reason to call it empty."""
    assert pairs(write(tmp_path, "a.fasta", b"\n" * 5000 + b">a\nMKVLAA\n>b\nGGG\n")) == AB


def test_a_line_longer_than_every_buffer(tmp_path: Path) -> None:
    """Whole proteomes come with one line a protein."""
    residues = "MKVLAGHE" * 500_000
    assert pairs(write(tmp_path, "a.fasta", f">a\n{residues}\n>b\nGGG\n".encode())) == [("a", residues), AB[1]]


def test_a_bad_record_does_not_hide_the_next(tmp_path: Path) -> None:
    """Under --bad-records skip everything else must still be read, each on its own line."""
    text = b">a\nMK-V\n>b\n>c\nMKV\n>d\n*\n>e\nGG\n"
    records, _ = read(write(tmp_path, "a.fasta", text))
    assert [(type(r), r.id, r.line) for r in records] == [
        (BadRecord, "a", 1),
        (BadRecord, "b", 3),
        (Protein, "c", 4),
        (BadRecord, "d", 6),
        (Protein, "e", 8),
    ]


def test_positions_count_residues_not_characters(tmp_path: Path) -> None:
    """In a wrapped sequence the position is that of the residue, as every tool counts."""
    assert "position 6 " in only_bad(write(tmp_path, "a.fasta", b">a\r\nMKV\r\n\r\nLA-\r\n")).why


def test_a_carriage_return_in_a_header(tmp_path: Path) -> None:
    """`>a\\rMKV\\nLAA` holds MKVLAA; reading the first line as the header would lose MKV in silence."""
    found, said = attempt(write(tmp_path, "a.fasta", b">a\rMKV\nLAA\n"))
    good = [record.sequence for record in found if isinstance(record, Protein)]
    assert good in ([], [b"MKVLAA"])
    assert found or "a.fasta" in said


def test_a_line_of_spaces_is_no_sequence(tmp_path: Path) -> None:
    """A header followed by blanks alone is a header without a sequence."""
    assert "without a sequence" in only_bad(write(tmp_path, "a.fasta", b">a\n   \n\n>b\nGG\n")).why


# Tables


@pytest.mark.parametrize("name", ["id", "name", "accession", "record_id", "record_name", "Entry", "ID", " Name "])
@pytest.mark.parametrize("sequence", ["sequence", "sequences", "Sequence"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_table_columns(name: str, sequence: str, delimiter: str, tmp_path: Path) -> None:
    """The usual names, whatever their case and order, among others."""
    text = f"note{delimiter}{sequence}{delimiter}{name}\nx{delimiter}MKVLAA{delimiter}a\ny{delimiter}GGG{delimiter}b\n"
    assert pairs(write(tmp_path, "a.txt", text.encode())) == AB


@pytest.mark.parametrize(
    "text",
    [
        b"id,sequence\na,MKVLAA\nb,GGG\n",
        b"id,sequence\r\na,MKVLAA\r\nb,GGG\r\n",
        b"\xef\xbb\xbfid,sequence\na,MKVLAA\nb,GGG",
        b'"id","sequence"\n"a","MKVLAA"\n"b","GGG"\n',
        b"id,sequence\n\na,mkvlaa*\n\n\nb, GGG \n\n",
        b"id,sequence,note\na,MKVLAA\nb,GGG,x,y,z\n",
        b'id,note,sequence\na,"a comma, a ""quote"", a line\nend",MKVLAA\nb,,GGG\n',
        b"sp,id,sequence\n1,a,MKVLAA\n2,b,GGG\n",
    ],
)
def test_csv_layouts(text: bytes, tmp_path: Path) -> None:
    """Quoting, line ends, blank lines, a byte order mark, short and long rows."""
    assert pairs(write(tmp_path, "a.csv", text)) == AB


def test_csv_header_may_span_lines(tmp_path: Path) -> None:
    """Spreadsheets write line ends inside quoted column names."""
    path = write(tmp_path, "a.csv", b'id,"sequence","melting\npoint"\na,MKVLAA,1\nb,GGG,2\n')
    assert pairs(path) == AB


@pytest.mark.parametrize(
    "text",
    [
        "id;sequence\na;MKVLAA\nb;GGG\n",
        "\ufeffid;name;sequence\r\na;x, y;MKVLAA\r\nb;;GGG\r\n",
        'id;"name, in full";sequence\na;x;MKVLAA\nb;"y; z";GGG\n',
    ],
)
def test_csv_with_semicolons(text: str, tmp_path: Path) -> None:
    """What spreadsheets of half of Europe call CSV."""
    assert pairs(write(tmp_path, "a.csv", text.encode())) == AB


def test_semicolons_inside_a_table_with_commas(tmp_path: Path) -> None:
    text = b"id,sequence,keywords; such as\na,MKVLAA,x;y;z;w\nb,GGG,;;;;\n"
    assert pairs(write(tmp_path, "a.csv", text)) == AB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"@read1\nACGT\n+\nIIII\n", "this looks like FASTQ"),
        (b'[{"id": "a", "sequence": "MKTV"}]', "this looks like JSON"),
        (b'{"a": "MKTV"}', "this looks like JSON"),
        (b"\n<!DOCTYPE html>\n", "this looks like a web page"),
        (b"PK\x03\x04" + bytes(range(256)), "a workbook of Excel"),
        (b"PK\x03\x04\x14", "a workbook of Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Office: save its sheet as CSV"),
        (b"HEADER    OXYGEN\nATOM      1\n", "neither FASTA, which starts with '>', nor a table"),
        (b"seq\nMKTV\n", "its first line is seq. If this is the name of a column of sequences, add --sequence-column"),
        (b"MKTAYIAKQRQISFVKSHFSRQ\n", "a sequence where the names of the columns should be"),
        (b"a,MKTAYIAKQRQISFVKSHFSRQ\nb,GAVL\n", "a sequence where the names of the columns should be"),
        (b"gene,peptide\na,MKTV\n", "the columns are gene, peptide. Name yours with --sequence-column"),
        (b"SEQUENCE_OF_THE_PROTEIN,id\nMKTV,a\n", "the columns are SEQUENCE_OF_THE_PROTEIN, id. Name yours"),
    ],
)
def test_what_is_no_table_is_called_by_its_name(text: bytes, said: str, tmp_path: Path) -> None:
    """People drop in what they have; which columns a web page lacks is no help."""
    path = write(tmp_path, "a.txt", text)
    records, message = attempt(path)
    assert records == []
    assert message.startswith(str(path))
    assert said in message


def test_table_rows_know_their_lines(tmp_path: Path) -> None:
    """A row that spans lines is where it starts: that is the line a user will look for."""
    text = b'id,sequence,note\na,MKVLAA,"one\ntwo"\nb,G-G,\n"c\nd",MK,\n'
    records, _ = read(write(tmp_path, "a.csv", text))
    assert [record.line for record in records] == [2, 4, 5]


def test_table_ids_keep_the_policy(tmp_path: Path) -> None:
    """UniProt's form is shortened in a table too, and the original kept."""
    (protein,) = proteins(write(tmp_path, "a.csv", b"id,sequence\nsp|P12345|NAME,MKV\n"))
    assert (protein.id, protein.original_id) == ("P12345", "sp|P12345|NAME")


def test_the_best_id_column_wins(tmp_path: Path) -> None:
    """UniProt's tables have an entry and a name; with both an id and a name, the id is the id."""
    path = write(tmp_path, "a.tsv", b"name\tid\tsequence\nthe name\ta\tMKV\n")
    assert pairs(path) == [("a", "MKV")]


def test_table_without_ids_is_numbered_and_says_so(tmp_path: Path) -> None:
    """Rows are counted on through all files, so that no two proteins share a number."""
    first = write(tmp_path, "a.csv", b"sequence\nMKVLAA\nGGG\n")
    named = write(tmp_path, "b.fasta", b">b\nVV\n")
    second = write(tmp_path, "c.parquet", parquet({"sequence": ["LL"]}))
    records, notes = read([first, named, second])
    assert [record.id for record in records] == ["row_1", "row_2", "b", "row_3"]
    assert len(notes) == 2
    for path, note in zip((first, second), notes, strict=True):
        assert str(path) in note
        assert "no id column" in note
        assert "row_1" in note


def test_table_with_ids_says_nothing(tmp_path: Path) -> None:
    """A note for every file would be read by nobody."""
    assert read(write(tmp_path, "a.csv", b"id,sequence\na,MKV\n"))[1] == []


def test_asked_columns(tmp_path: Path) -> None:
    """--id-column and --sequence-column go before the usual names."""
    path = write(tmp_path, "a.csv", b"id,sequence,mutant,mutated_sequence\nx,WW,a,MKVLAA\ny,WW,b,GGG\n")
    assert pairs(path, Columns("mutant", "mutated_sequence")) == AB
    assert pairs(path, Columns(sequence="mutated_sequence")) == [("x", "MKVLAA"), ("y", "GGG")]


@pytest.mark.parametrize(
    "columns", [Columns(id="nope"), Columns(sequence="nope"), Columns("nope", "sequence"), Columns("id", "nope")]
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_asked_columns_that_are_not_there(columns: Columns, name: str, tmp_path: Path) -> None:
    """The message lists what is there."""
    text = parquet({"id": ["a"], "sequence": ["MK"]}) if name == "a.parquet" else b"id,sequence\na,MK\n"
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*'nope'.*id, sequence"):
        read(write(tmp_path, name, text), columns)


def test_an_open_quote_swallows_no_rows(tmp_path: Path) -> None:
    """A stray quote (5" end) makes a lenient reader take all that follows for one cell: two proteins lost unseen."""
    path = write(tmp_path, "a.csv", b'id,sequence,note\na,MKV,"5 prime end\nb,GG,x\nc,LL,y\n')
    found, said = attempt(path)
    assert [record.id for record in found] == ["a", "b", "c"] or "a.csv" in said


def test_a_cell_longer_than_csv_allows(tmp_path: Path) -> None:
    """Python's csv stops at 131,072 characters; titin has 34,350 residues, but polyproteins and mistakes are longer.

    The limit is the process's own, so it must be put back.
    """
    before = csv.field_size_limit()
    residues = "MKVL" * 50_000
    assert pairs(write(tmp_path, "a.csv", f"id,sequence\na,{residues}\n".encode())) == [("a", residues)]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_without_rows(name: str, tmp_path: Path) -> None:
    """It is as empty as an empty file, and named as one, also among files that are not."""
    empty = pa.array([], pa.string())
    text = parquet({"id": empty, "sequence": empty}) if name == "a.parquet" else b"id,sequence\n"
    with pytest.raises(InputError, match=re.escape(name)):
        read([write(tmp_path, name, text), write(tmp_path, "b.fasta", b">b\nGG\n")])


# Parquet


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.utf8())]
)
def test_parquet_text(kind: pa.DataType, tmp_path: Path) -> None:
    """Whichever of Arrow's kinds of text pandas, polars or Spark chose."""
    columns = {"id": pa.array(["a", "b"]).cast(kind), "sequence": pa.array(["MKVLAA", "GGG"]).cast(kind)}
    assert pairs(write(tmp_path, "a.parquet", parquet(columns))) == AB


def test_parquet_bytes(tmp_path: Path) -> None:
    """Writers without the text annotation (older Spark and Impala) leave bytes: an id is its text, not b'a'."""
    columns = {"id": pa.array([b"a", b"b"]), "sequence": pa.array([b"MKVLAA", b"GGG"])}
    assert pairs(write(tmp_path, "a.parquet", parquet(columns))) == AB


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_parquet_cells_are_trimmed(kind: pa.DataType, tmp_path: Path) -> None:
    """Blanks around a cell are no gaps in a sequence; tables from fixed-width files are full of them."""
    columns = {"id": pa.array([" a", "b "]), "sequence": pa.array(["MKVLAA  ", "\tGGG"]).cast(kind)}
    assert pairs(write(tmp_path, "a.parquet", parquet(columns))) == AB


def test_parquet_numbers_as_ids(tmp_path: Path) -> None:
    """A table's running number is a fine id."""
    columns = {"id": [7, 8], "sequence": ["MKVLAA", "GGG"]}
    assert pairs(write(tmp_path, "a.parquet", parquet(columns))) == [("7", "MKVLAA"), ("8", "GGG")]


def test_parquet_row_groups(tmp_path: Path) -> None:
    """More rows than a batch and a row group hold, in order, each knowing its row."""
    ids = [f"p{i}" for i in range(10_000)]
    columns = {"sequence": ["MK" + "A" * (i % 7) for i in range(10_000)], "other": list(range(10_000)), "id": ids}
    found = proteins(write(tmp_path, "a.parquet", parquet(columns, row_group_size=3000)))
    assert [protein.id for protein in found] == ids
    assert [len(protein.sequence) for protein in found] == [2 + i % 7 for i in range(10_000)]
    assert [protein.line for protein in found] == list(range(1, 10_001))


def test_parquet_cells_that_are_no_sequence(tmp_path: Path) -> None:
    """Missing values and other types are bad records, one a row."""
    text = write(tmp_path, "a.parquet", parquet({"id": ["a", None, "c"], "sequence": [None, "MK", "MK"]}))
    records, _ = read(text)
    assert [(type(record), record.line) for record in records] == [(BadRecord, 1), (BadRecord, 2), (Protein, 3)]
    assert "missing" in str(records[0])
    assert "no id" in str(records[1])
    numbers = write(tmp_path, "b.parquet", parquet({"id": ["a"], "sequence": [1.5]}))
    assert "float" in only_bad(numbers).why


def test_parquet_columns_of_one_name(tmp_path: Path) -> None:
    """Joins leave two columns of one name; which one is meant nobody can know."""
    arrays = [pa.array(["a"]), pa.array(["MK"]), pa.array(["GG"])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["id", "sequence", "sequence"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet.*sequence"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("column", ["id", "sequence"])
def test_parquet_text_that_is_not_utf8(column: str, tmp_path: Path) -> None:
    """Arrow does not check what a writer calls text; reading it must not end in a UnicodeDecodeError."""
    buffers = [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"M\xffK")]
    columns = {"id": pa.array(["a"]), "sequence": pa.array(["MKV"])}
    columns[column] = pa.Array.from_buffers(pa.string(), 1, buffers)
    path = write(tmp_path, "a.parquet", parquet(columns))
    found, said = attempt(path)
    assert not any(isinstance(record, Protein) for record in found)
    assert "a.parquet" in f"{said}{found}"


@pytest.mark.parametrize("codec", ["snappy", "gzip", "zstd", "none"])
def test_damaged_parquet(codec: str, tmp_path: Path) -> None:
    """Damage inside a page is found while reading; the sentence names the file, not a system call."""
    rows = [f"MKVL{'ACDEFGHIKL'[i % 10] * (i % 50)}" for i in range(3000)]
    options = {"compression": codec, "use_dictionary": False, "write_page_checksum": False}
    text = bytearray(parquet({"id": [str(i) for i in range(3000)], "sequence": rows}, **options))
    text[4:300] = b"\xff" * 296
    with pytest.raises(InputError, match=r"a\.parquet"):
        read(write(tmp_path, "a.parquet", bytes(text)))


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_other_columns_come_along(tmp_path: Path, form: str) -> None:
    """As text, in the order asked, whatever their order and type in the table; cells of a short row are empty."""
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        path.write_bytes(parquet({"y": [0.5, None], "sequence": ["MKV", "MA"], "z": [[1, 2], [3]], "id": ["a", "b"]}))
    else:
        text = 'y,sequence,id,z\n0.5,MKV,a,"1,2"\n,MA,b,3\n0,MC,c\n'
        path.write_text(text if form == "csv" else text.replace('"1,2"', "1;2").replace(",", "\t").replace(";", ","))
    found = proteins(path, Columns(others=("z", "y")))
    assert [one.cells for one in found[:2]] == [("1,2", "0.5"), ("3", "")]
    if form != "parquet":
        assert found[2].cells == ("", "0")
    assert all(one.cells == () for one in proteins(path))
    with pytest.raises(InputError, match="there is no column 'x'; the columns are y, sequence"):
        read(path, Columns(others=("x",)))
    with pytest.raises(InputError, match="; did you mean sequence"):
        read(path, Columns(others=("Sequenze",)))


def test_fasta_has_no_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.fasta", b">a y=1\nMKV\n")
    assert [(one.cells, one.description) for one in proteins(path, Columns(others=("y",)))] == [((), "y=1")]
