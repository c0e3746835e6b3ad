"""NVIDIA's layouts: read, used, and given back byte for byte."""

from __future__ import annotations

import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aminoglot.corpus import Corpus, ESM2Samples
from aminoglot.corpus.nvidia import MAPPING, MEMBERS, TRAIN, TRAIN_DB, VALID, export_layout, import_layout
from aminoglot.errors import InputError, JobError, OutputError
from tests.corpus.helpers import QUIET

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "uniref" / "uniref202104_esm2_qc.zip"
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_file(), reason="needs the UniRef 2021_04 sample in ../shared/data/uniref"
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    with zipfile.ZipFile(SAMPLE) as archive:
        for entry in archive.infolist():
            name = Path(entry.filename).name
            if name in (TRAIN, MEMBERS, MAPPING):
                (folder / name).write_bytes(archive.read(entry))
    return folder


@needs_sample
def test_the_uniref_sample_and_back(sample: Path, tmp_path: Path) -> None:
    corpus = import_layout(sample, tmp_path / "corpus", QUIET, threads=2)
    stages = corpus.card["stages"]
    found = stages["clusters"]
    assert (stages["representatives"]["sequences"], stages["members"]["sequences"]) == (5_001, 11_296)
    assert found["members"] == 11_296
    assert len(stages["inputs"][MAPPING]["sha256"]) == 64
    assert (found["largest"], found["representatives_added"], found["alone"]) == (152, 0, 0)
    assert found["without_sequence"] == found["without_cluster"] == 0
    assert len(corpus.split("train")) == 5_001
    for cluster in range(0, 5_001, 7):
        where, row = corpus.place(int(corpus.member_rows(cluster)[0]))
        assert where[row] == corpus.representatives[cluster], "the first member is the representative"
    export_layout(corpus, tmp_path / "back", "fasta")
    for name in (TRAIN, MEMBERS, MAPPING):
        assert (tmp_path / "back" / name).read_bytes() == (sample / name).read_bytes(), name
    assert not (tmp_path / "back" / VALID).exists()
    assert ESM2Samples(corpus)[0].tokens.size


@needs_sample
def test_by_the_other_layout_and_back(sample: Path, tmp_path: Path) -> None:
    first = import_layout(sample, tmp_path / "first", QUIET, threads=2)
    export_layout(first, tmp_path / "sqlite", "sqlite")
    second = import_layout(tmp_path / "sqlite", tmp_path / "second", QUIET, threads=2)
    export_layout(second, tmp_path / "again", "sqlite")
    for name in ("train_clusters.parquet", "valid_clusters.parquet"):
        assert pq.read_table(tmp_path / "again" / name) == pq.read_table(tmp_path / "sqlite" / name)
    assert rows_of(tmp_path / "again" / TRAIN_DB) == rows_of(tmp_path / "sqlite" / TRAIN_DB)
    assert first.card["level"] == second.card["level"] == "members"
    for cluster in range(0, 5_001, 11):
        theirs = [where[row] for where, row in map(first.place, first.member_rows(cluster).tolist())]
        assert [where[row] for where, row in map(second.place, second.member_rows(cluster).tolist())] == theirs


def rows_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, sequence FROM protein ORDER BY id").fetchall()


def bionemo2(folder: Path, lists: list[list[str]], sequences: dict[str, str], valid: dict[str, str]) -> Path:
    """As BioNeMo 2 publishes it."""
    folder.mkdir()
    pq.write_table(pa.table({"ur90_id": lists}), folder / "train_clusters.parquet")
    pq.write_table(pa.table({"ur50_id": list(valid)}), folder / "valid_clusters.parquet")
    for name, rows in ((TRAIN_DB, sequences), ("validation.db", valid)):
        with closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("CREATE TABLE protein (id TEXT PRIMARY KEY, sequence TEXT)")
            connection.executemany("INSERT INTO protein VALUES (?, ?)", rows.items())
    return folder


LISTS = [["UniRef90_a", "UniRef90_b"], ["UniRef90_c"], ["UniRef90_d", "UniRef90_e", "UniRef90_f"]]
SEQUENCES = {f"UniRef90_{letter}": f"MK{letter.upper()}" for letter in "fedcba"}
VALIDATION = {"UniRef50_x": "MKVVV", "UniRef50_y": "MKYYY"}


def test_bionemo_2s_files(tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    corpus = import_layout(source, tmp_path / "corpus", QUIET)
    assert corpus.card["level"] == "uniref90-representatives"
    assert corpus.split("train").tolist() == [0, 1, 2]
    assert corpus.split("validation").tolist() == [3, 4]
    names = [
        [where.name(at) for where, at in map(corpus.place, corpus.member_rows(cluster).tolist())]
        for cluster in range(5)
    ]
    assert names == [*LISTS, ["UniRef50_x"], ["UniRef50_y"]]
    assert [corpus.representatives[cluster] for cluster in range(5)] == [b"MKA", b"MKC", b"MKD", b"MKVVV", b"MKYYY"]
    assert ESM2Samples(corpus, "validation")[1].cluster == 4
    export_layout(corpus, tmp_path / "out", "sqlite")
    assert rows_of(tmp_path / "out" / TRAIN_DB) == sorted(SEQUENCES.items())
    assert rows_of(tmp_path / "out" / "validation.db") == sorted(VALIDATION.items())


def test_a_member_without_a_sequence_is_named(tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", [["UniRef90_a", "UniRef90_z"]], SEQUENCES, VALIDATION)
    with pytest.raises(InputError, match=r"train\.db: no sequence of UniRef90_z, which train_clusters\.parquet names"):
        import_layout(source, tmp_path / "corpus", QUIET)


def test_sequences_without_a_cluster_and_members_twice(tmp_path: Path) -> None:
    lists = [["UniRef90_b", "UniRef90_a", "UniRef90_b"], ["UniRef90_c"]]
    corpus = import_layout(bionemo2(tmp_path / "in", lists, SEQUENCES, {}), tmp_path / "corpus", QUIET)
    found = corpus.card["stages"]["clusters"]
    assert found["sequences without a cluster"] == 3
    assert found["members listed twice in a cluster"] == 1
    names = [where.name(at) for where, at in map(corpus.place, corpus.member_rows(0).tolist())]
    assert names == ["UniRef90_b", "UniRef90_a"]
    assert corpus.card["stages"]["result"] == {"train": 2, "validation": 0, "filtered": False}


def test_names_with_blanks(tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", [["a b", "a c"]], {"a b": "MKT", "a c": "MKV"}, {})
    corpus = import_layout(source, tmp_path / "corpus", QUIET)
    export_layout(corpus, tmp_path / "out", "sqlite")
    assert rows_of(tmp_path / "out" / TRAIN_DB) == [("a b", "MKT"), ("a c", "MKV")]
    with pytest.raises(InputError, match="'a b': a name with a comma, a tab or a blank"):
        export_layout(corpus, tmp_path / "text", "fasta")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    pq.write_table(pa.table({"other": [1]}), source / "valid_clusters.parquet")
    with pytest.raises(InputError, match=r"valid_clusters\.parquet: it has no column ur50_id, but other"):
        import_layout(source, tmp_path / "corpus", QUIET)
    (source / "train_clusters.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"train_clusters\.parquet: no Parquet file"):
        import_layout(source, tmp_path / "other", QUIET)


def test_a_table_that_is_a_view(tmp_path: Path) -> None:
    """It could have rows without end."""
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    with closing(sqlite3.connect(source / TRAIN_DB)) as connection, connection:
        connection.execute("ALTER TABLE protein RENAME TO real")
        connection.execute("CREATE VIEW protein AS SELECT * FROM real")
    with pytest.raises(InputError, match="no SQLite database with a table `protein`"):
        import_layout(source, tmp_path / "corpus", QUIET)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of NVIDIA's files is here"):
        import_layout(tmp_path, tmp_path / "corpus", QUIET)
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    (source / TRAIN_DB).unlink()
    with pytest.raises(InputError, match=r"train\.db is missing"):
        import_layout(source, tmp_path / "corpus", QUIET)
    source = bionemo2(tmp_path / "two", LISTS, SEQUENCES, VALIDATION)
    (source / "valid_clusters.parquet").unlink()
    with pytest.raises(InputError, match=r"valid_clusters\.parquet and validation\.db go together"):
        import_layout(source, tmp_path / "corpus", QUIET)


def test_a_database_that_is_none(tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    (source / TRAIN_DB).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"train\.db: no SQLite database with a table `protein`"):
        import_layout(source, tmp_path / "corpus", QUIET)


def test_nothing_is_written_over(built: Corpus, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is there already"):
        export_layout(built, tmp_path, "fasta")


def test_a_built_corpus_is_exported(built: Corpus, tmp_path: Path) -> None:
    """What is held out goes into a file of its own, and both come back."""
    export_layout(built, tmp_path / "out", "fasta")
    again = import_layout(tmp_path / "out", tmp_path / "again", QUIET)
    for name in ("train", "validation"):
        theirs = [built.representatives.header(int(cluster)) for cluster in built.split(name)]
        assert [again.representatives.header(int(cluster)) for cluster in again.split(name)] == theirs
    for mine, theirs in zip(again.split("train").tolist(), built.split("train").tolist(), strict=True):
        members = [where[at] for where, at in map(again.place, again.member_rows(mine).tolist())]
        assert members == [where[at] for where, at in map(built.place, built.member_rows(theirs).tolist())]


def test_a_mapping_of_all_clusters(built: Corpus, tmp_path: Path) -> None:
    """One that names those held out too: none of them is alone, and no count goes below nothing."""
    export_layout(built, tmp_path / "out", "fasta")
    held_out = built.split("validation").tolist()
    with (tmp_path / "out" / MAPPING).open("a") as mapping, (tmp_path / "out" / MEMBERS).open("a") as members:
        for cluster in held_out:
            mapping.write(f"{built.representatives.name(cluster)}\tv{cluster}\n")
            members.write(f">v{cluster}\n{built.representatives[cluster].decode()}\n")
    found = import_layout(tmp_path / "out", tmp_path / "again", QUIET).card["stages"]
    assert found["clusters"]["alone"] == 0
    assert found["representatives"]["sequences"] == len(built.representatives)
    assert found["representatives"]["residues"] == built.representatives.residues


def test_another_folder_into_the_same_corpus(tmp_path: Path) -> None:
    import_layout(bionemo2(tmp_path / "one", LISTS, SEQUENCES, VALIDATION), tmp_path / "corpus", QUIET)
    other = bionemo2(tmp_path / "two", LISTS[:2], SEQUENCES, VALIDATION)
    with pytest.raises(JobError, match="begun with other files"):
        import_layout(other, tmp_path / "corpus", QUIET)


@pytest.mark.parametrize("text", [None, b"MKT", "MK-T", ""])
def test_sequences_that_are_none(text: object, tmp_path: Path) -> None:
    source = bionemo2(tmp_path / "in", LISTS, SEQUENCES, VALIDATION)
    with closing(sqlite3.connect(source / TRAIN_DB)) as connection, connection:
        connection.execute("UPDATE protein SET sequence = ? WHERE id = 'UniRef90_b'", (text,))
    with pytest.raises(InputError, match=r"train\.db, (row|line) \d+, id 'UniRef90_b'"):
        import_layout(source, tmp_path / "corpus", QUIET)


def test_a_mapping_of_something_else(built: Corpus, tmp_path: Path) -> None:
    export_layout(built, tmp_path / "out", "fasta")
    path = tmp_path / "out" / MAPPING
    path.write_text(path.read_text().replace("UniRef50_", "Other_"))
    with pytest.raises(InputError, match="the files are of different releases"):
        import_layout(tmp_path / "out", tmp_path / "again", QUIET)
