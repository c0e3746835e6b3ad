"""``aminoglot embed`` and ``aminoglot.embed``: the words, the exit codes, and what is said."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import aminoglot
from aminoglot import AminoglotError, InputError
from aminoglot.embedding import job
from aminoglot.embedding.report import Report
from tests.embedding.helpers import MODEL, Driver, embed, files, protein, proteins, write_fasta


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(5))


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), {}),
        (("--per", "residue"), {"per": "residue"}),
        (("--layer", "0"), {"layer": 0}),
        (("--layer", "-2"), {"layer": -2}),
        (("--layer", "0,2"), {"layer": [0, 2]}),
        (("--layer", "0", "2"), {"layer": [0, 2]}),
        (("--layer", "2", "--layer", "0"), {"layer": [2, 0]}),
        (("--layer", "all"), {"layer": "all"}),
        (("--pool", "max"), {"pool": "max"}),
        (("--pool", "cls"), {"pool": "cls"}),
        (("--long", "window"), {"long": "window"}),
        (("--dtype", "float16"), {"dtype": "float16"}),
        (("--per=residue", "--layer=1", "--dtype=float16"), {"per": "residue", "layer": 1, "dtype": "float16"}),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_both_languages_have_the_same_words(
    driver: Driver, source: Path, out: Path, tmp_path: Path, flags: tuple[str, ...], options: dict[str, Any]
) -> None:
    """The same bytes by the command and by Python: nothing is lost between flag and option."""
    answer = driver.embed(source, out / "x.h5", *flags)
    assert answer.status == 0, answer.screen
    (tmp_path / "python").mkdir()
    embed(source, tmp_path / "python" / "x.h5", **options)
    assert files(out) == files(tmp_path / "python")


def test_the_order_of_words_is_free(driver: Driver, source: Path, out: Path, tmp_path: Path) -> None:
    """Inputs before, between and after options; a list of layers does not swallow them."""
    other = write_fasta(tmp_path / "b.fasta", {"other": "MKTV"})
    standard = ["-m", MODEL, "--precision", "fp32", "--backend", "torch"]
    for number, words in enumerate(
        (
            [str(source), str(other), "-o", "OUT", *standard],
            ["-o", "OUT", *standard, str(source), str(other)],
            [str(source), "-o", "OUT", str(other), *standard],
            [*standard, "--output", "OUT", str(source), "--per", "protein", str(other)],
        )
    ):
        words = [str(out / f"{number}.h5") if word == "OUT" else word for word in words]
        answer = driver.run(["embed", *words])
        assert answer.status == 0, answer.screen
        with aminoglot.open(out / f"{number}.h5") as store:
            assert sorted(store.ids) == [f"P{i:04d}" for i in range(5)] + ["other"]


def test_standard_input(driver: Driver, source: Path, out: Path, tmp_path: Path) -> None:
    """A single dash, as everywhere; the bytes are those of the file, and so is the output."""
    answer = driver.embed("-", out / "x.h5", stdin=source.read_text())
    assert answer.status == 0, answer.screen
    (tmp_path / "file").mkdir()
    assert driver.embed(source, tmp_path / "file" / "x.h5").status == 0
    assert files(out) == files(tmp_path / "file")
    assert "complete already" in driver.embed("-", out / "x.h5", stdin=source.read_text()).screen


def test_standard_input_goes_on(driver: Driver, source: Path, out: Path) -> None:
    """The same pipe again finishes an interrupted job; another pipe is refused."""
    text = source.read_text()
    command = ["embed", "-o", str(out / "x.h5"), "-m", MODEL, "--", "-"]
    assert driver.run(command, stdin=text, limit={"phase": "export", "bytes": 10}).status == 1
    refused = driver.run(command, stdin=text + ">more\nMKTV\n")
    assert refused.status == 1
    assert "input_sha256" in refused.screen
    again = driver.run(command, stdin=text)
    assert again.status == 0, again.screen
    assert "already done" in again.screen


def test_compressed_input_is_the_same_proteins(source: Path, out: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.fasta.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    embed(source, out / "a.npz")
    embed(packed, out / "b.npz")
    with aminoglot.open(out / "a.npz") as a, aminoglot.open(out / "b.npz") as b:
        np.testing.assert_array_equal(a.matrix(), b.matrix())


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (("--per", "proteins"), 2, "per"),
        (("--pool", "sum"), 2, "pool"),
        (("--nonsense",), 2, "nonsense"),
        (("--layer", "99"), 1, "this model has layers 0 to 2"),
        (("--layer", "last"), 1, "neither a number nor"),
        (("--device", "abacus"), 1, "choose auto, cpu"),
        (("--reuse", "nothing.h5"), 1, "no such file"),
        (("--sequence-column", "x", "--id-column", "y"), 1, "a.fasta: a FASTA file has no columns"),
        (("--layer",), 2, "layer"),
    ],
)
def test_wrong_words(driver: Driver, source: Path, out: Path, flags: tuple[str, ...], status: int, said: str) -> None:
    """2 for a command that cannot be understood, 1 for one that cannot be done; never a traceback."""
    answer = driver.embed(source, out / "x.h5", *flags)
    assert answer.status == status, answer.screen
    assert said in answer.screen
    assert "Traceback" not in answer.screen
    if status:
        assert list(out.iterdir()) == []


def test_no_input(driver: Driver, out: Path) -> None:
    without_input = driver.run(["embed", "-o", str(out / "x.h5"), "-m", MODEL])
    assert without_input.status in (1, 2)
    missing = driver.embed(out / "nothing.fasta", out / "x.h5")
    assert missing.status == 1
    assert "nothing.fasta: no such file" in missing.screen
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"per": "proteins"},
        {"per": "residues"},
        {"pool": "sum"},
        {"long": "cut"},
        {"dtype": "float64"},
        {"dtype": "int8"},
        {"precision": "fp16"},
        {"bad_records": "ignore"},
        {"duplicates": "keep"},
        {"layer": "last"},
        {"layer": []},
    ],
    ids=str,
)
def test_python_refuses_words_it_does_not_know(source: Path, out: Path, options: dict[str, Any]) -> None:
    """A Literal is a promise that nobody checks at run time; a misspelt policy must not become another one."""
    with pytest.raises(InputError):
        embed(source, out / "x.h5", **options)
    assert list(out.iterdir()) == []


def test_python_takes_one_input_or_several_as_strings_or_paths(source: Path, out: Path, tmp_path: Path) -> None:
    other = write_fasta(tmp_path / "b.fasta", {"other": "MKTV"})
    found = []
    spellings: tuple[Any, ...] = (str(source), source, [source], [str(source), other])
    for number, inputs in enumerate(spellings):
        made = aminoglot.embed(inputs, str(out / f"{number}.npz"), model=MODEL)
        with aminoglot.open(made.files[0]) as store:
            found.append(len(store))
    assert found == [5, 5, 5, 6]


def test_the_screen_tells_what_happens(driver: Driver, out: Path, tmp_path: Path) -> None:
    """What is planned, in which precision and why, every policy that took hold, the account, and where it is."""
    records = [("a", "MKTV"), ("a", "MKTV"), ("b", "MJTV*"), ("long", protein(1100)), ("twin", "MKTV"), ("b", "GG")]
    source = write_fasta(tmp_path / "a.fasta", records)
    answer = driver.embed(source, out / "x.h5", "--duplicates", "number")
    assert answer.status == 0
    for said in (
        "never trained",
        "5 proteins, 1,114 residues; 1 protein truncated to 1,022 residues; random:esm2-tiny in fp32 on cpu (as asked)",
        "1 record merged: same id and same sequence",
        "1 protein renamed (--duplicates number)",
        "1 protein with the sequence of another, computed once",
        "1 letter (J or *) became X in 1 protein",
        "6 in = 5 written + 1 merged + 0 skipped + 0 failed",
        f"wrote {out / 'x.h5'} (",
        "x.h5.proteins.tsv (",
    ):
        assert said in answer.screen


def test_a_terminal_sees_a_bar_and_the_same_account(source: Path, out: Path) -> None:
    """Bars go away when they are done; the lines that count stay."""
    screen = io.StringIO()
    report = Report(Console(file=screen, force_terminal=True, width=200, color_system=None))
    job.embed([source], out / "x.h5", job.Options(model=MODEL), report)
    shown = screen.getvalue()
    assert "embedding" in shown
    assert "residues/s" not in shown.splitlines()[-1]
    assert "5 in = 5 written + 0 merged + 0 skipped + 0 failed" in shown
    assert "x.h5.proteins.tsv" in shown


@pytest.mark.usefixtures("small_shards")
def test_a_log_sees_progress_now_and_then(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where there is no terminal, a line with what is done, of how much, and what is left."""
    monkeypatch.setattr("aminoglot.screen._LINE_EVERY", 0.0)
    write_fasta(source, proteins(40))
    embed(source, out / "x.h5")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("embedding: ")]
    assert len(lines) > 3
    made = [int(line.split()[1].replace(",", "")) for line in lines]
    assert made == sorted(made)
    total = sum(map(len, proteins(40).values()))
    assert made[-1] == total
    assert all(f" of {total:,} residues, " in line and line.endswith(" left") for line in lines)


def test_a_clock_that_stands_still(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems count in steps of 16 milliseconds, and a job with nothing left to compute takes fewer."""
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    assert embed(source, out / "x.h5").complete


def test_names_of_columns_are_for_tables(source: Path, out: Path, tmp_path: Path) -> None:
    """Among FASTA files one table is enough for them to mean something, wherever it stands; without any they say so."""
    other = tmp_path / "b.csv"
    other.write_text("acc,seq\nother,MKTV\n")
    named = {"id_column": "acc", "sequence_column": "seq"}
    for number, inputs in enumerate(([source, other], [other, source])):
        embed(inputs, out / f"{number}.h5", **named)
        with aminoglot.open(out / f"{number}.h5") as store:
            assert len(store) == 6
            assert "other" in store
    for options in ({"id_column": "acc"}, {"sequence_column": "seq"}):
        with pytest.raises(InputError, match=r"a\.fasta: a FASTA file has no columns"):
            embed(source, out / "x.h5", **options)


def test_an_outcome_in_words(source: Path, out: Path) -> None:
    """What a prompt shows of it: one line, no arrays."""
    made = embed(source, out / "x.h5")
    account = "5 in = 5 written + 0 merged + 0 skipped + 0 failed"
    assert repr(made) == f"<aminoglot.Outcome {out / 'x.h5'}, {out / 'x.h5.proteins.tsv'}: {account}; complete>"
    assert repr(embed(source, out / "x.h5")).endswith("x.h5.proteins.tsv: nothing computed; complete>")
    assert repr(embed(source, out / "y.h5", dry_run=True)) == "<aminoglot.Outcome no file: nothing computed; complete>"
    write_fasta(source, {"a": "MKTV", "b": "MK-V"})
    assert repr(embed(source, out / "z.h5", bad_records="skip")).endswith("; not complete>")


@pytest.mark.parametrize("length", [100, 200, 228, 236, 244, 252])
def test_long_names_of_outputs(source: Path, out: Path, length: int) -> None:
    """A name that leaves no room for those beside it is refused at the start, not after the computing."""
    name = "x" * (length - 3) + ".h5"
    try:
        embed(source, out / name)
    except AminoglotError:
        assert list(out.iterdir()) == []
    else:
        assert set(files(out)) == {name, f"{name}.proteins.tsv"}


def test_per_both_writes_two_h5(driver: Driver, source: Path, out: Path) -> None:
    assert driver.embed(source, out / "x.h5", "--per", "both").status == 0
    assert set(files(out)) == {"x.per-protein.h5", "x.per-residue.h5", "x.h5.proteins.tsv"}
    with h5py.File(out / "x.per-protein.h5") as proteins_, h5py.File(out / "x.per-residue.h5") as residues:
        for key in proteins_:
            np.testing.assert_allclose(proteins_[key][()], residues[key][()].mean(0), rtol=0, atol=1e-5)


def test_an_output_in_the_working_folder(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name, the way most people type it."""
    monkeypatch.chdir(out)
    assert embed(source, Path("x.h5")).complete
    assert set(files(out)) == {"x.h5", "x.h5.proteins.tsv"}


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "folder"])
def test_a_folder_of_inputs_may_hold_outputs(tmp_path: Path, name: str) -> None:
    """Results beside the sequences, and a second one later: neither they nor their tables are taken for proteins."""
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    suffix = Path(name).suffix
    first = embed(tmp_path, tmp_path / name)
    assert embed(tmp_path, tmp_path / name).complete, "the same job as before"
    second = embed(tmp_path, tmp_path / f"second{suffix}", per="residue")
    assert first.audit is not None
    assert second.audit is not None
    assert first.audit.records == second.audit.records == 5
    assert source.exists()


LOCALE = """
import sys, warnings
from pathlib import Path
warnings.filterwarnings("error", category=EncodingWarning, module=r"aminoglot\\b")
import aminoglot
folder = Path(sys.argv[1])
for name in ("x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"):
    options = {"model": "random:esm2-tiny"}
    made = aminoglot.embed(folder / "a.fasta", folder / name, **options)
    aminoglot.embed(folder / "a.fasta", folder / name, **options)
    aminoglot.embed(folder / "b.fasta", folder / f"other{Path(name).suffix}", reuse=folder / name, **options)
    with aminoglot.open(folder / name) as store:
        assert "\\u65e5" in store
"""


def test_no_file_depends_on_the_locale(tmp_path: Path) -> None:
    """Ids beyond ASCII are the same everywhere: every text file says its encoding."""
    write_fasta(tmp_path / "a.fasta", {"\u65e5": "MKTV", "b": "GAVL"})
    write_fasta(tmp_path / "b.fasta", {"\u65e5": "MKTV", "c": "GGG"})
    command = [sys.executable, "-X", "warn_default_encoding", "-c", LOCALE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["ä ö.h5", "a.b.c.h5", "-x.h5", "'quoted'.h5", ".hidden.h5"])
def test_unusual_names_of_outputs(driver: Driver, source: Path, out: Path, name: str) -> None:
    answer = driver.embed(source, out / name)
    assert answer.status == 0, answer.screen
    assert set(files(out)) == {name, f"{name}.proteins.tsv"}


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    """A Parquet table of proteins has a suffix of ours; it must not be replaced by embeddings."""
    source = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MKTV"]}), source)
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(AminoglotError):
            embed(source, source, overwrite=overwrite)
        assert source.read_bytes() == before
