"""NVIDIA's two layouts of UniRef training sets, read and written.

``fasta``: representatives, members and ``mapping.tsv`` (BioNeMo 1). ``sqlite``: clusters as Parquet, sequences in
SQLite (BioNeMo 2). Splits are taken as they are: nothing is held out anew and nothing filtered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aminoglot.corpus import tables
from aminoglot.corpus.members import kind_of
from aminoglot.corpus.reader import Corpus, write_rows
from aminoglot.corpus.recipes import ESM2
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import NUMBER, Sequences, SequenceWriter
from aminoglot.corpus.tables import MEMBER_ROWS, MEMBER_STARTS
from aminoglot.errors import InputError, OutputError
from aminoglot.sequences import Protein, Reader, Source, clean
from aminoglot.version import __version__

Layout = Literal["fasta", "sqlite"]
TRAIN, VALID, MEMBERS, MAPPING = (
    "uniref50_train_filt.fasta",
    "uniref50_valid.fasta",
    "ur90_ur50_sampler.fasta",
    "mapping.tsv",
)
TRAIN_CLUSTERS, VALID_CLUSTERS, TRAIN_DB, VALID_DB = (
    "train_clusters.parquet",
    "valid_clusters.parquet",
    "train.db",
    "validation.db",
)
_WRAP = 80
_ROWS = 1 << 14
_OTHER_NAMES = {MEMBERS: "uniref90membersandreps_ur50trainfiltreps.fasta"}


def import_layout(source: Path, folder: Path, memory: str = "1GB", threads: int = 1) -> Corpus:
    """Make a corpus of a folder of NVIDIA's.

    Args:
        source: the folder, files under NVIDIA's names.
        folder: a new one.
        memory: for DuckDB.
        threads: processor cores.

    Raises:
        InputError: when the folder is neither layout, or its files do not fit each other.
        OutputError: when ``folder`` is taken.
    """
    layout = layout_of(source)
    recipe = replace(ESM2, validation=0)
    with Stages(folder, {"version": __version__, "recipe": recipe.as_dict(), "imported": layout}) as stages:
        if not stages.whole:
            imported = {"fasta": _import_fasta, "sqlite": _import_sqlite}[layout]
            found = stages.run("import", lambda: imported(source, stages, memory, threads))
            stages.finish({"recipe": recipe.as_dict(), "level": found["level"]})
    return Corpus(folder)


def layout_of(source: Path) -> Layout:
    """Which of the two a folder is.

    Raises:
        InputError: when it is neither, naming what is missing.
    """
    if (source / TRAIN_CLUSTERS).exists():
        lacking = [name for name in (TRAIN_DB,) if not (source / name).exists()]
        found: Layout = "sqlite"
    elif _file(source, MAPPING).exists() or _file(source, TRAIN).exists():
        lacking = [name for name in (TRAIN, MEMBERS, MAPPING) if not _file(source, name).exists()]
        found = "fasta"
    else:
        raise InputError(f"{source}: neither {TRAIN_CLUSTERS} nor {MAPPING} is here")
    if lacking:
        raise InputError(f"{source}: {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing")
    return found


def _file(source: Path, name: str) -> Path:
    """A file under its name, an older one, or compressed."""
    for candidate in (name, _OTHER_NAMES.get(name, name)):
        for path in (source / candidate, source / f"{candidate}.gz"):
            if path.exists():
                return path
    return source / name


# ------------------------------------------------------------------------------------------------------------- fasta


def _import_fasta(source: Path, stages: Stages, memory: str, threads: int) -> dict[str, Any]:
    files = {name: _file(source, name) for name in (TRAIN, VALID, MEMBERS, MAPPING)}
    with SequenceWriter(stages.folder / "representatives") as writer:
        _copy(files[TRAIN], writer)
        train = writer.count
        if files[VALID].exists():
            _copy(files[VALID], writer)
        clusters = writer.count
    with SequenceWriter(stages.folder / "members") as writer:
        _copy(files[MEMBERS], writer)
        members = writer.count
    mapping = Source(files[MAPPING].name, files[MAPPING])
    if kind_of(mapping) != "mapping":
        raise InputError(f"{mapping.name}: no table of clusters and members")
    pairs = stages.work / "pairs.parquet"
    tables.write_pairs(mapping, "members", pairs)
    with tables.database(stages.work, memory, threads) as connection:
        for what in ("representatives", "members"):
            tables.refuse_duplicates(connection, stages.folder / what, what)
        joined = tables.join(connection, stages.folder, stages.folder, pairs, in_order=True)
    _save_splits(stages.folder, train, clusters)
    return {"level": "members", "clusters": clusters, "sequences": members, **joined._asdict()}


def _copy(path: Path, writer: SequenceWriter) -> None:
    for record in Reader([Source(path.name, path)]):
        if not isinstance(record, Protein):
            raise InputError(f"{record}: no protein")
        writer.add(record.id, f"{record.original_id} {record.description}".rstrip(), record.sequence)


def _save_splits(folder: Path, train: int, clusters: int) -> None:
    for name, rows in (("train", range(train)), ("validation", range(train, clusters)), ("test", range(0))):
        write_rows(folder / f"{name}.u64", np.array(rows, NUMBER))


# ------------------------------------------------------------------------------------------------------------ sqlite


def _import_sqlite(source: Path, stages: Stages, memory: str, threads: int) -> dict[str, Any]:
    with SequenceWriter(stages.folder / "members") as writer:
        for name, text in _proteins(source / TRAIN_DB):
            writer.add(name, name, text)
        members = writer.count
    with tables.database(stages.work, memory, threads) as connection:
        _join_lists(connection, stages.folder, source / TRAIN_CLUSTERS)
    sequences = Sequences(stages.folder / "members")
    starts = np.fromfile(stages.folder / MEMBER_STARTS, NUMBER)
    rows = np.memmap(stages.folder / MEMBER_ROWS, NUMBER, "r")
    with SequenceWriter(stages.folder / "representatives") as writer:
        for start in starts[:-1].tolist():
            row = int(rows[start])
            writer.add(*sequences.name(row), sequences[row])
        train = writer.count
        if (source / VALID_CLUSTERS).exists():
            wanted = pq.read_table(source / VALID_CLUSTERS, columns=["ur50_id"])["ur50_id"].to_pylist()
            for name, text in _chosen(source / VALID_DB, wanted):
                writer.add(name, name, text)
        clusters = writer.count
    more = len(rows) + np.arange(1, clusters - train + 1)  # a cluster held out has its representative alone
    (stages.folder / MEMBER_STARTS).write_bytes(np.concatenate([starts, more]).astype(NUMBER).tobytes())
    with (stages.folder / MEMBER_ROWS).open("ab") as file:
        file.write((members + np.arange(train, clusters)).astype(NUMBER).tobytes())
    _save_splits(stages.folder, train, clusters)
    return {"level": "uniref90-representatives", "clusters": clusters, "sequences": members, "members": len(rows)}


_LISTS = """
    SELECT clusters.row AS cluster, sequence.row AS row, clusters.member AS member FROM (
        SELECT file_row_number AS row, unnest(ur90_id) AS member, generate_subscripts(ur90_id, 1) AS place
        FROM read_parquet($clusters, file_row_number = true)
    ) AS clusters
    LEFT JOIN (
        SELECT id, file_row_number AS row FROM read_parquet($members, file_row_number = true)
    ) AS sequence ON clusters.member = sequence.id
    ORDER BY clusters.row, clusters.place
"""


def _join_lists(connection: Any, folder: Path, clusters: Path) -> None:
    paths = {"clusters": str(clusters), "members": str(folder / "members" / "names.parquet")}
    reader = connection.execute(_LISTS, paths).to_arrow_reader(1 << 20)
    count, last = 0, -1
    with (folder / MEMBER_STARTS).open("wb") as starts, (folder / MEMBER_ROWS).open("wb") as rows:
        for batch in reader:
            if batch["row"].null_count:
                lacking = batch.filter(batch["row"].is_null())["member"][0].as_py()
                raise InputError(f"{TRAIN_DB}: no sequence of {lacking}, which {TRAIN_CLUSTERS} names")
            cluster = batch["cluster"].to_numpy()
            begins = np.flatnonzero(np.concatenate(([cluster[0] != last], cluster[1:] != cluster[:-1])))
            starts.write((count + begins).astype(NUMBER).tobytes())
            rows.write(batch["row"].to_numpy().astype(NUMBER).tobytes())
            count, last = count + len(cluster), cluster[-1]
        starts.write(np.array([count], NUMBER).tobytes())


def _proteins(path: Path) -> Iterator[tuple[str, bytes]]:
    """All of a database, in its order."""
    with closing(_opened(path)) as connection:
        for name, text in connection.execute("SELECT id, sequence FROM protein ORDER BY rowid"):
            yield name, clean(text.encode())[0]


def _chosen(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    with closing(_opened(path)) as connection:
        for name in wanted:
            found = connection.execute("SELECT sequence FROM protein WHERE id = ?", (name,)).fetchone()
            if found is None:
                raise InputError(f"{path.name}: no sequence of {name}, which {VALID_CLUSTERS} names")
            yield name, clean(found[0].encode())[0]


def _opened(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        connection.execute("SELECT id, sequence FROM protein LIMIT 1")
    except sqlite3.Error as error:
        raise InputError(f"{path}: no SQLite database with a table `protein` of id and sequence ({error})") from error
    return connection


# ------------------------------------------------------------------------------------------------------------ export


def export_layout(corpus: Corpus, folder: Path, layout: Layout) -> None:
    """Write a corpus the way NVIDIA's tools read it: its clusters for training and those held out.

    Raises:
        InputError: for a corpus without clusters.
        OutputError: when the folder exists.
    """
    if corpus.members is None:
        raise InputError(f"{corpus.folder}: a corpus of {corpus.recipe.name} has no clusters to export")
    if folder.exists():
        raise OutputError(f"{folder}: is there already; choose a new folder")
    folder.mkdir(parents=True)
    {"fasta": _export_fasta, "sqlite": _export_sqlite}[layout](corpus, folder)


def _export_fasta(corpus: Corpus, folder: Path) -> None:
    representatives = corpus.representatives
    count = 0 if corpus.members is None else len(corpus.members)
    written = np.zeros(count, bool)
    with (
        (folder / TRAIN).open("wb") as train,
        (folder / MEMBERS).open("wb") as members,
        (folder / MAPPING).open("w") as mapping,
    ):
        mapping.write("UR50_cluster_name\tmapped_id\n")
        for cluster in corpus.split("train").tolist():
            _write(train, representatives, cluster)
            names = []
            for row in corpus.member_rows(cluster).tolist():
                where, at = corpus.place(row)
                names.append(where.name(at).id)
                if row >= count or not written[row]:
                    _write(members, where, at)
                    written[row : row + 1] = True
            mapping.write(f"{representatives.name(cluster).id}\t{','.join(names)}\n")
    if len(corpus.split("validation")):
        with (folder / VALID).open("wb") as valid:
            for cluster in corpus.split("validation").tolist():
                _write(valid, representatives, cluster)


def _write(file: Any, sequences: Sequences, row: int) -> None:
    text = sequences[row]
    lines = [text[start : start + _WRAP] for start in range(0, len(text), _WRAP)]
    file.write(b">" + sequences.name(row).header.encode() + b"\n" + b"\n".join(lines) + b"\n")


def _export_sqlite(corpus: Corpus, folder: Path) -> None:
    def members() -> Iterator[tuple[str, str]]:
        for cluster in corpus.split("train").tolist():
            for where, at in map(corpus.place, corpus.member_rows(cluster).tolist()):
                yield where.name(at).id, where[at].decode()

    def held_out() -> Iterator[tuple[str, str]]:
        for cluster in corpus.split("validation").tolist():
            yield corpus.representatives.name(cluster).id, corpus.representatives[cluster].decode()

    for name, rows in ((TRAIN_DB, members()), (VALID_DB, held_out())):
        with closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("CREATE TABLE protein (id TEXT PRIMARY KEY, sequence TEXT)")
            connection.executemany("INSERT OR IGNORE INTO protein VALUES (?, ?)", rows)
    schema = pa.schema([("ur90_id", pa.list_(pa.string()))])
    with pq.ParquetWriter(folder / TRAIN_CLUSTERS, schema) as writer:
        lists: list[list[str]] = []
        for cluster in corpus.split("train").tolist():
            lists.append([where.name(at).id for where, at in map(corpus.place, corpus.member_rows(cluster).tolist())])
            if len(lists) == _ROWS:
                writer.write_table(pa.table({"ur90_id": lists}, schema))
                lists = []
        writer.write_table(pa.table({"ur90_id": lists}, schema))
    names = [corpus.representatives.name(cluster).id for cluster in corpus.split("validation").tolist()]
    pq.write_table(pa.table({"ur50_id": pa.array(names, pa.string())}), folder / VALID_CLUSTERS)
