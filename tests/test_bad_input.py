"""Bad input through the whole command: one sentence with file, line and id, a non-zero exit, no traceback.

The command runs in this process, so that anything but an exit fails the test by itself.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import aminoglot
from aminoglot import cli, errors
from aminoglot.embedding.export import COLUMNS
from tests.sequences.files import COMPRESSIONS, parquet, write

GOOD = b">a\nMKV\n>b\nGAVLIM\n"
LONGEST_MESSAGE = 4000
"""Characters that twenty bad records and a hint may take; a message longer than a screen is not read."""


@dataclass(frozen=True)
class Run:
    """How a command ended: its exit code and what it said on standard error."""

    status: int
    said: str


Embed = Callable[..., Run]


@pytest.fixture
def embed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Embed:
    """``aminoglot embed`` in this process, in an empty folder, with a model that takes no time."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, output: str | Path = "out.h5", stdin: bytes | None = None) -> Run:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        options = ["--output", str(output), "--model", "random:esm2-tiny", "--precision", "fp32"]
        with pytest.raises(SystemExit) as ended:
            cli.main(["embed", *map(str, arguments), *options])
        said = capfd.readouterr()
        assert said.out == ""
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, said.err)

    return run


def rows(output: Path) -> list[dict[str, str]]:
    """The table of proteins as any tool reads it: tabs, one record a line, no quoting."""
    with output.with_name(f"{output.name}.proteins.tsv").open(encoding="utf-8", newline="\n") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert tuple(lines[0]) == COLUMNS
    assert {len(line) for line in lines} == {len(COLUMNS)}
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]


# One file each that cannot be used


def _twice(name: str) -> bytes:
    sink = io.BytesIO()
    arrays = [pa.array(["a"]), pa.array(["MK"]), pa.array(["GG"])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["id", name, name]), sink)
    return sink.getvalue()


def _damaged_parquet() -> bytes:
    content = bytearray(parquet({"id": [f"p{i}" for i in range(500)], "sequence": ["MKVL"] * 500}))
    content[4:200] = b"\xff" * 196
    return bytes(content)


def _not_utf8(column: str) -> bytes:
    buffers = [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"M\xffK")]
    columns = {"id": pa.array(["a"]), "sequence": pa.array(["MKV"])}
    return parquet({**columns, column: pa.Array.from_buffers(pa.string(), 1, buffers)})


TEXT = GOOD.decode()
LONG = b">p\n" + b"MKVLAGHE" * 4000
REFUSED: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    # what it is: its name, its bytes, what must be said beside the file's name
    "empty": ("a.fasta", b"", ("empty",)),
    "blank": ("a.fasta", b"\n \r\n\t\n", ("empty",)),
    "byte order mark alone": ("a.fasta", b"\xef\xbb\xbf\n", ("empty",)),
    "comments alone": ("a.fasta", b"; a\n; b\n", ("no protein",)),
    "table without rows": ("a.csv", b"id,sequence\n", ()),
    "Parquet without rows": ("a.parquet", parquet({"id": pa.array([], "str"), "sequence": pa.array([], "str")}), ()),
    "header without a sequence": ("a.fasta", b">a\n>b\nMKV\n", ("line 1", "'a'", "without a sequence")),
    "header at the end": ("a.fasta", b">a\nMKV\n>b\n", ("line 3", "'b'", "without a sequence")),
    "stop alone": ("a.fasta", b">a\n*\n", ("line 1", "'a'", "empty")),
    "header without an id": ("a.fasta", b">\nMKV\n", ("line 1", "no id")),
    "no header": ("a.fasta", b"MKV\n>a\nGG\n", ("line 1", "MKV")),
    "residues before a header": ("a.fasta", b"; comment\nMKV\n>a\nGG\n", ("line 2", "MKV", "before")),
    "gap": ("a.fasta", b">a\nMKV\n>b x\nGA\n-L\n", ("line 3", "'b'", "'-' at position 3", "alignment")),
    "digit": ("a.fasta", b">a\n1 MKV\n", ("line 1", "'a'", "'1' at position 1", "listing")),
    "space": ("a.fasta", b">a\nMKV LAG\n", ("line 1", "'a'", "' ' at position 4", "join")),
    "not ASCII": ("a.fasta", ">a\nMKé\n".encode(), ("line 1", "'a'", "'é' at position 3", "A to Z")),
    "NUL": ("a.fasta", b">a\nMK\0V\n", ("line 1", "'a'", "position 3")),
    "NUL after many residues": ("a.fasta", LONG + b"\0V\n", ("line 1", "'p'", "position 32001")),
    "NUL in a table": (
        "a.csv",
        b"id,sequence\n" + b"p,MKV\n" * 2000 + b"q,M\0K\n",
        ("line 2,002", "'q'", "position 2"),
    ),
    "binary": ("a.fasta", b"\x89HDF\r\n\x1a\n" + bytes(range(64)), ("binary",)),
    "binary after >": ("a.fasta", b">" + bytes(range(128, 256)) * 200, ("line 1",)),
    "Latin-1 id": ("a.fasta", b">caf\xe9\nMKV\n", ("line 1", "UTF-8")),
    "Latin-1 table": ("a.csv", b"id,sequence\ncaf\xe9,MKV\n", ("UTF-8",)),
    "UTF-16 from Windows": ("a.fasta", b"\xff\xfe" + TEXT.encode("utf-16-le"), ("UTF-16", "UTF-8")),
    "UTF-16, big end first": ("a.fasta", b"\xfe\xff" + TEXT.encode("utf-16-be"), ("UTF-16", "UTF-8")),
    "UTF-16 table": ("a.csv", "id,sequence\na,MKV\n".encode("utf-16"), ("UTF-16", "UTF-8")),
    "UTF-16 without a mark": ("a.fasta", TEXT.encode("utf-16-le"), ("binary",)),
    "carriage returns alone": ("a.fasta", b">a\rMKV\r>b\rGG\r", ("carriage return",)),
    "carriage return in a header": ("a.fasta", b">a\rMKV\nLAA\n", ("carriage return",)),
    "table as FASTA": ("a.fasta", b"id,sequence\na,MKV\n", ("line 1", "'>'", "id,sequence")),
    "table as compressed FASTA": ("A.FAA.GZ", b"id,sequence\na,MKV\n", ("line 1", "'>'", "id,sequence")),
    "web page": ("a.fasta", b"<!DOCTYPE html><html>404</html>", ("line 1", "'>'", "DOCTYPE")),
    "no sequence column": ("a.csv", b"id,mutant\na,MKV\n", ("line 1", "id, mutant", "--sequence-column")),
    "no sequence column in Parquet": ("a.parquet", parquet({"x": ["MK"]}), ("sequence", "x", "--sequence-column")),
    "empty cell": ("a.csv", b"id,sequence\na,MKV\nb,\n", ("line 3", "'b'", "empty")),
    "empty id cell": ("a.csv", b"id,sequence\n,MKV\n", ("line 2", "no id")),
    "short row": ("a.tsv", b"id\tx\tsequence\na\tMKV\n", ("line 2", "'a'")),
    "gap in a table": ("a.csv", b"id,sequence\na,MK-V\n", ("line 2", "'a'", "'-' at position 3")),
    "open quote": ("a.csv", b'id,sequence,note\na,MKV,"5 prime end\nb,GG,x\n', ()),
    "missing value in Parquet": (
        "a.parquet",
        parquet({"id": ["a", "b"], "sequence": ["MK", None]}),
        ("'b'", "missing"),
    ),
    "numbers in Parquet": ("a.parquet", parquet({"id": ["a"], "sequence": [7]}), ("'a'", "int")),
    "Parquet cut short": ("a.parquet", parquet({"id": ["a"], "sequence": ["MK"]})[:-5], ("Parquet",)),
    "Parquet damaged": ("a.parquet", _damaged_parquet(), ("Parquet",)),
    "Parquet with one name twice": ("a.parquet", _twice("sequence"), ("sequence",)),
    "Parquet ids that are not UTF-8": ("a.parquet", _not_utf8("id"), ()),
    "Parquet sequences that are not UTF-8": ("a.parquet", _not_utf8("sequence"), ()),
    "an id too long for any format": ("a.fasta", b">" + b"x" * 70_000 + b"\nMKV\n", ("line 1",)),
    **{
        f"empty inside {suffix}": (f"a.fasta{suffix}", compress(b""), ("empty",))
        for suffix, compress in COMPRESSIONS.items()
    },
    **{
        f"{suffix} cut short": (f"a.fasta{suffix}", compress(LONG)[:-3], ("cut short",))
        for suffix, compress in COMPRESSIONS.items()
    },
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, embed: Embed, tmp_path: Path) -> None:
    """Every way to go wrong in one table; each is refused before anything is computed or written."""
    name, content, words = REFUSED[what]
    run = embed(write(tmp_path, name, content))
    assert run.status == 1
    assert f"{os.sep}{name}" in run.said
    for word in words:
        assert word in run.said
    assert "error: " in run.said
    assert "Traceback" not in run.said
    assert len(run.said) < LONGEST_MESSAGE
    assert list(tmp_path.glob("out.h5*")) == []


@pytest.mark.parametrize("where", ["gone.fasta", "no/such/folder/a.fasta", "x" * 300 + ".fasta"])
def test_a_missing_file(where: str, embed: Embed) -> None:
    """Also among files that are there, and with a name that no system takes."""
    write(Path(), "a.fasta", GOOD)
    for arguments in ([where], ["a.fasta", where]):
        run = embed(*arguments)
        assert run.status == 1
        assert f"error: {where}" in run.said
        assert not Path("out.h5").exists()


def test_an_empty_name_is_not_the_current_folder(embed: Embed) -> None:
    """`aminoglot embed "$UNSET"` must not embed whatever lies around."""
    write(Path(), "a.fasta", GOOD)
    run = embed("")
    assert run.status != 0
    assert not Path("out.h5").exists()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails, as Linux has one")
def test_a_file_that_cannot_be_read_to_the_end(embed: Embed) -> None:
    """A bad disk or a lost network folder: the sentence names the input, and does not call it an output."""
    run = embed("/proc/self/mem")
    assert run.status == 1
    assert "error: /proc/self/mem" in run.said
    assert "written" not in run.said


@pytest.mark.parametrize("flag", ["--id-column", "--sequence-column"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_that_is_not_there(flag: str, name: str, embed: Embed, tmp_path: Path) -> None:
    """What was asked for and what there is."""
    columns = {"acc": ["a"], "seq": ["MKV"], "sequence": ["MKV"]}
    content = parquet(columns) if name == "a.parquet" else b"acc,seq,sequence\na,MKV,MKV\n"
    run = embed(write(tmp_path, name, content), flag, "nope")
    assert run.status == 1
    for word in (name, "'nope'", "acc, seq, sequence"):
        assert word in run.said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.fasta", b">" + b"x" * 100_000 + b"\nMK-V\n"),
        ("a.fasta", b">a\n" + b"MK-V" * 100_000 + b"\n"),
        ("a.csv", b'id,sequence\n"a,MKV\n' + b"b,GG\n" * 20_000),
        ("a.csv", b",".join(b"column%d" % i for i in range(20_000)) + b"\n"),
        ("a.txt", b"MKVLAGHE" * 10_000),
        ("a.json", b'{"proteins": [' + b'"MKV", ' * 10_000),
        ("a.parquet", parquet({f"column{i}": ["MK"] for i in range(2000)})),
        ("a.fasta", b"".join(b">p%d\nMK-V\n" % i for i in range(5000))),
    ],
    ids=["id", "sequence", "open quote", "columns", "one line", "json", "Parquet columns", "many records"],
)
def test_messages_fit_a_screen(name: str, content: bytes, embed: Embed, tmp_path: Path) -> None:
    """However long ids, lines and lists of columns are: a message nobody can read says nothing."""
    run = embed(write(tmp_path, name, content))
    assert run.status == 1
    assert name in run.said
    assert len(run.said) < LONGEST_MESSAGE


# Records among good ones


def test_the_first_twenty_bad_records_are_listed(embed: Embed, tmp_path: Path) -> None:
    """All together, before any computing, with the count of the rest and the way on."""
    text = b"".join(b">p%d\nMK%sV\n" % (i, b"-" * (i % 2)) for i in range(50))
    run = embed(write(tmp_path, "a.fasta", text))
    assert run.status == 1
    assert "25 records of 50 cannot be used" in run.said
    assert run.said.count(", id 'p") == 20
    assert "5 more" in run.said
    assert "--bad-records skip" in run.said
    assert not Path("out.h5").exists()


def test_skipped_records_are_all_listed(embed: Embed, tmp_path: Path) -> None:
    """--bad-records skip embeds the rest, lists every bad one with its reason, and still does not exit with 0."""
    text = b"".join(b">p%d\nMK%sV\n" % (i, b"-" * (i % 2)) for i in range(50))
    run = embed(write(tmp_path, "a.fasta", text), "--bad-records", "skip")
    assert run.status == 1
    assert "50 in = 25 written + 0 merged + 25 skipped + 0 failed" in run.said
    with aminoglot.open("out.h5") as store:
        assert sorted(store.ids) == sorted(f"p{i}" for i in range(0, 50, 2))
    table = rows(Path("out.h5"))
    assert [row["id"] for row in table] == [f"p{i}" for i in range(50)]
    skipped = [row for row in table if row["status"] == "skipped"]
    assert [row["id"] for row in skipped] == [f"p{i}" for i in range(1, 50, 2)]
    assert all("'-' at position 3" in row["note"] for row in skipped)


def test_no_id_can_break_the_table(embed: Embed, tmp_path: Path) -> None:
    """A tab or a line end in a cell of the input must not shift the columns of the table of proteins."""
    text = b'id,sequence\n"tab\there",MKV\n"line\nend",GG\n"return\rhere",LL\nok,MKV\n"no\tsequence"\n'
    run = embed(write(tmp_path, "a.csv", text), "--bad-records", "skip")
    assert run.status == 1
    assert [row["status"] for row in rows(Path("out.h5"))] == ["skipped", "skipped", "skipped", "written", "skipped"]


def test_nothing_left_after_skipping(embed: Embed, tmp_path: Path) -> None:
    """Only bad records: no empty output, but an error that shows them."""
    run = embed(write(tmp_path, "a.fasta", b">a\nMK-V\n>b\n"), "--bad-records", "skip")
    assert run.status == 1
    assert "no protein" in run.said
    assert "'a'" in run.said
    assert "'b'" in run.said
    assert not Path("out.h5").exists()


def test_ids_are_shown_as_they_are(embed: Embed, tmp_path: Path) -> None:
    """Brackets and colons are common in ids; the console must not take them for markup or emoji."""
    text = b">HLA:a:b[red]\nMK-V\n>ok\nMKV\n"
    run = embed(write(tmp_path, "a.fasta", text), "--bad-records", "skip")
    assert "'HLA:a:b[red]'" in run.said


def test_one_id_for_two_sequences(embed: Embed, tmp_path: Path) -> None:
    """The error names both places and the way out."""
    first = write(tmp_path, "a.fasta", b">P1\nMKV\n>sp|P2|X\nGG\n")
    second = write(tmp_path, "b.csv", b"id,sequence\nP1,MKV\nP2,LL\n")
    run = embed(first, second)
    assert run.status == 1
    assert "1 id used again" in run.said
    for word in ("'P2'", f"{first}, line 3", f"{second}, line 3", "--duplicates number"):
        assert word in run.said


def test_replaced_letters_are_counted(embed: Embed, tmp_path: Path) -> None:
    """J and inner * become X, said once in numbers, and marked for each protein."""
    run = embed(write(tmp_path, "a.fasta", b">a\nMJ*K*\n>b\nmkv*\n>c\nXBUZO\n"))
    assert run.status == 0
    assert "2 letters (J or *) became X in 1 protein" in run.said
    assert [(row["id"], row["length"], row["replaced_letters"]) for row in rows(Path("out.h5"))] == [
        ("a", "4", "2"),
        ("b", "3", "0"),
        ("c", "5", "0"),
    ]


def test_ids_in_the_output(embed: Embed, tmp_path: Path) -> None:
    """UniProt's accession is the key, the id as written is kept; a table without ids gets numbers and a note."""
    fasta = write(tmp_path, "a.fasta", b">sp|P12345|NAME_ECOLI words\nMKV\n")
    table = write(tmp_path, "b.tsv", b"sequences\nGG\nLL\n")
    run = embed(fasta, table)
    assert run.status == 0
    assert f"{table}: no id column" in run.said
    assert "row_1" in run.said
    assert [(row["id"], row["original_id"]) for row in rows(Path("out.h5"))] == [
        ("P12345", "sp|P12345|NAME_ECOLI"),
        ("row_1", "row_1"),
        ("row_2", "row_2"),
    ]
    with aminoglot.open("out.h5") as store:
        assert sorted(store.ids) == ["P12345", "row_1", "row_2"]


# Where input comes from


@pytest.mark.parametrize("compress", [bytes, *COMPRESSIONS.values()], ids=["plain", *COMPRESSIONS])
def test_standard_input(compress: Callable[[bytes], bytes], embed: Embed) -> None:
    """`zcat proteins.fasta.gz | aminoglot embed -`, and without the zcat."""
    run = embed("-", stdin=compress(GOOD))
    assert run.status == 0
    assert [row["id"] for row in rows(Path("out.h5"))] == ["a", "b"]


def test_bad_standard_input(embed: Embed) -> None:
    """It is called what the user calls it."""
    run = embed("-", stdin=b">a\nMK-V\n")
    assert run.status == 1
    assert "standard input, line 1, id 'a'" in run.said
    run = embed("-", stdin=b"")
    assert run.status == 1
    assert "standard input: the file is empty" in run.said


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_process_substitution(embed: Embed) -> None:
    """`aminoglot embed <(zcat a.fasta.gz)` names a pipe, which can be read only once, as standard input can."""
    text = b"".join(b">p%d\nMKVLAGHE\n" % i for i in range(1000))
    reading, writing = os.pipe()
    try:
        os.write(writing, text)
        os.close(writing)
        run = embed(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert run.status == 0
    assert [row["id"] for row in rows(Path("out.h5"))] == [f"p{i}" for i in range(1000)]


def test_a_file_name_that_is_not_utf8(embed: Embed) -> None:
    """Old systems left Latin-1 names; what is in the file counts."""
    name = os.fsdecode(b"caf\xe9.fasta")
    try:
        write(Path(), name, GOOD)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert embed(name).status == 0
    write(Path(), name, b">x\nMK-V\n")
    run = embed(name, output="other.h5")
    assert run.status == 1
    assert "line 1, id 'x'" in run.said


def test_a_folder_says_what_it_leaves_out(embed: Embed, tmp_path: Path) -> None:
    """Through the whole command: the note reaches the user."""
    (tmp_path / "proteome").mkdir()
    write(tmp_path / "proteome", "a.fasta", GOOD)
    write(tmp_path / "proteome", "notes.docx", b"PK")
    run = embed("proteome")
    assert run.status == 0
    assert "notes.docx" in run.said
    assert "2 proteins, 9 residues" in run.said


@pytest.mark.parametrize("output", ["out.h5", "out.parquet"])
def test_an_output_in_the_folder_of_the_input(output: str, embed: Embed, tmp_path: Path) -> None:
    """A finished job exits with 0 when run again, also where its output lies among its input: it is no input."""
    (tmp_path / "proteome").mkdir()
    write(tmp_path / "proteome", "a.fasta", GOOD)
    for _ in range(2):
        run = embed("proteome", output=Path("proteome", output))
        assert run.status == 0, run.said
    assert "complete already" in run.said


def test_the_input_is_not_overwritten(embed: Embed, tmp_path: Path) -> None:
    """--overwrite gives up an old result, never the proteins themselves."""
    content = parquet({"id": ["a"], "sequence": ["MKV"]})
    path = write(tmp_path, "a.parquet", content)
    run = embed(path, "--overwrite", output=path)
    assert run.status == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("output", ["", ".", ".."])
def test_an_output_without_a_name(output: str, embed: Embed, tmp_path: Path) -> None:
    """-o "$UNSET" is a sentence too."""
    run = embed(write(tmp_path, "a.fasta", GOOD), output=output)
    assert run.status in (1, 2)
    assert "rror" in run.said


# As a user runs it


def command(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    line = [sys.executable, "-W", "error", "-m", "aminoglot", "embed", *arguments, "-o", "out.h5"]
    return subprocess.run(
        [*line, "-m", "random:esm2-tiny"], input=stdin, capture_output=True, timeout=120, cwd=folder, check=False
    )


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """Exit code, streams and the absence of a traceback, with nothing of the test's in between."""
    write(tmp_path, "a.fasta", b">a\nMKV\n>b\nMK-V\n")
    done = command(tmp_path, "a.fasta")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"a.fasta, line 3, id 'b': '-' at position 3" in done.stderr
    assert b"Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.fasta"]


def test_a_pipe_into_a_process_of_its_own(tmp_path: Path) -> None:
    """The command that help shows for standard input."""
    done = command(tmp_path, "-", stdin=GOOD)
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in rows(tmp_path / "out.h5")] == ["a", "b"]


# The words of errors


def test_one_tree_of_errors() -> None:
    """Whoever catches AminoglotError catches everything raised on purpose; a warning is no error."""
    kinds = (errors.InputError, errors.ModelError, errors.JobError, errors.OutputError, errors.DependencyError)
    assert all(issubclass(kind, errors.AminoglotError) for kind in kinds)
    assert not any(issubclass(a, b) for a in kinds for b in kinds if a is not b)
    assert issubclass(errors.AminoglotWarning, UserWarning)
    assert all(getattr(aminoglot, kind.__name__) is kind for kind in kinds)


@pytest.mark.parametrize(
    ("count", "total", "lines", "last"),
    [
        (1, None, 1, "  item 0"),
        (20, None, 20, "  item 19"),
        (21, None, 21, "  ... and 1 more"),
        (5000, None, 21, "  ... and 4,980 more"),
        (20, 1500, 21, "  ... and 1,480 more"),
    ],
)
def test_listing(count: int, total: int | None, lines: int, last: str) -> None:
    """At most twenty, and the rest counted."""
    shown = errors.listing([f"item {i}" for i in range(count)], total).split("\n")
    assert len(shown) == lines
    assert shown[0] == "  item 0"
    assert shown[-1] == last


def test_plural() -> None:
    """Numbers as people write them."""
    assert [errors.plural(count, "protein") for count in (0, 1, 2, 1234567)] == [
        "0 proteins",
        "1 protein",
        "2 proteins",
        "1,234,567 proteins",
    ]
