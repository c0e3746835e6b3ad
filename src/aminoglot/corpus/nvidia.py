"""NVIDIA's two layouts of UniRef training sets, read and written.

``fasta``: representatives, members and ``mapping.tsv`` (BioNeMo 1). ``sqlite``: clusters as Parquet, sequences in
SQLite (BioNeMo 2). Splits are taken as they are: nothing is held out anew and nothing filtered.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aminoglot.corpus import tables
from aminoglot.corpus.building import mind_releases
from aminoglot.corpus.members import Level
from aminoglot.corpus.reader import Corpus, finish, write_rows
from aminoglot.corpus.reading import read
from aminoglot.corpus.recipes import ESM2
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import NUMBER, Sequences, SequenceWriter
from aminoglot.corpus.tables import TableWriter
from aminoglot.errors import InputError, OutputError, reason
from aminoglot.screen import Screen
from aminoglot.sequences import BadRecord, Protein, Source, record

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
_FILES: dict[Layout, tuple[str, ...]] = {
    "fasta": (TRAIN, VALID, MEMBERS, MAPPING),
    "sqlite": (TRAIN_CLUSTERS, VALID_CLUSTERS, TRAIN_DB, VALID_DB),
}
_OPTIONAL = (VALID, VALID_CLUSTERS, VALID_DB)
_OTHER_NAMES = {MEMBERS: "uniref90membersandreps_ur50trainfiltreps.fasta"}
_WRAP = 80
_ROWS = 1 << 14


def import_layout(source: Path, folder: Path, screen: Screen, memory: str = "1GB", threads: int = 1) -> Corpus:
    """Make a corpus of a folder of NVIDIA's.

    Args:
        source: the folder, files under NVIDIA's names, FASTA plain or compressed.
        folder: a new one.
        screen: is told what happens.
        memory: for DuckDB.
        threads: processor cores.

    Raises:
        InputError: when the folder is neither layout, or its files do not fit each other.
        OutputError: when ``folder`` is taken.
    """
    layout = layout_of(source)
    files = {name: path for name in _FILES[layout] if (path := _file(source, name)).exists()}
    inputs = {name: Source(path.name, path) for name, path in files.items()}
    recipe = replace(ESM2, validation=0)
    with Stages(folder, inputs, {"recipe": recipe.as_dict(), "imported": layout}) as stages:
        if stages.whole:
            screen.say(f"{folder} is whole already")
        else:
            maker = {"fasta": _FromFasta, "sqlite": _FromSqlite}[layout](stages, inputs, screen, memory, threads)
            maker.run()
            finish(stages, recipe, maker.level)
    return Corpus(folder)


def layout_of(source: Path) -> Layout:
    """Which of the two a folder is.

    Raises:
        InputError: when it is neither, naming what is missing.
    """
    for layout, names in _FILES.items():
        there = [name for name in names if _file(source, name).exists()]
        needed = [name for name in names if name not in _OPTIONAL]
        if not there:
            continue
        if lacking := [name for name in needed if name not in there]:
            raise InputError(f"{source}: {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing")
        return layout
    raise InputError(f"{source}: none of NVIDIA's files is here ({MAPPING}, {TRAIN_CLUSTERS} and others)")


def _file(source: Path, name: str) -> Path:
    """A file under its name, an older one, or compressed."""
    for candidate in (name, _OTHER_NAMES.get(name, name)):
        for path in (source / candidate, source / f"{candidate}.gz"):
            if path.exists():
                return path
    return source / name


class _Maker:
    """What both layouts have in common.

    Attributes:
        level: what the members are.
    """

    level: Level

    def __init__(self, stages: Stages, inputs: dict[str, Source], screen: Screen, memory: str, threads: int) -> None:
        self.stages, self.inputs, self.screen = stages, inputs, screen
        self.folder, self.work = stages.folder, stages.work
        self.memory, self.threads = memory, threads

    def run(self) -> None:
        """Make all files of the corpus but the card."""
        raise NotImplementedError

    def database(self) -> Any:
        return tables.database(self.work, self.memory, self.threads)

    def save_splits(self, train: int, clusters: int) -> None:
        for name, rows in (("train", range(train)), ("validation", range(train, clusters)), ("test", range(0))):
            write_rows(self.folder / f"{name}.u64", np.array(rows, NUMBER))


class _FromFasta(_Maker):
    level: Level = "members"

    def run(self) -> None:
        self.stages.run("representatives", self._representatives)
        self.stages.run("members", self._members)
        self.stages.run("pairs", self._pairs)
        self.stages.run("clusters", self._join)
        results = dict(self.stages.results)
        held_out = results["representatives"]["held out"]  # the mapping is of what trains
        results["clusters"] = {**results["clusters"], "alone": results["clusters"]["alone"] - held_out}
        mind_releases(results, self.screen)
        for name in tables.MEMBER_STARTS, tables.MEMBER_ROWS:
            shutil.copyfile(self.work / name, self.folder / name)

    def _read(self, name: str, writer: SequenceWriter) -> dict[str, Any]:
        return read(self.inputs[name], writer, "stop", self.screen, self.work / "bad")

    def _representatives(self) -> dict[str, Any]:
        with SequenceWriter(self.folder / "representatives", self.work / "representatives.parquet") as writer:
            found = self._read(TRAIN, writer)
            train = writer.count
            if VALID in self.inputs:
                self._read(VALID, writer)
            clusters = writer.count
        with self.database() as connection:
            tables.number(connection, self.work / "representatives.parquet", "representatives", once=True)
        self.save_splits(train, clusters)
        return {**found, "sequences": clusters, "held out": clusters - train}

    def _members(self) -> dict[str, Any]:
        with SequenceWriter(self.folder / "members", self.work / "members.parquet") as writer:
            return self._read(MEMBERS, writer)

    def _pairs(self) -> dict[str, Any]:
        tally = tables.write_pairs(self.inputs[MAPPING], "members", self.work / "pairs.parquet")
        if tally.kind != "mapping":
            raise InputError(f"{self.inputs[MAPPING].name}: no table of clusters and members")
        return vars(tally)

    def _join(self) -> dict[str, Any]:
        done = self.stages.results
        with self.database() as connection:
            repeated = {
                name: tables.number(connection, self.work / f"{name}.parquet", name)
                for name in ("representatives", "members")
            }
            counts = (done["representatives"]["sequences"], done["members"]["sequences"])
            joined = tables.join(connection, self.folder, self.work, counts, in_order=True)
        return {**joined._asdict(), "repeated records": repeated["members"]}


_LISTS = """
    SELECT clusters.at_row AS cluster, members.at_row AS at_row, clusters.member AS member, clusters.place = 1 AS leads
    FROM (
        SELECT file_row_number AS at_row, unnest(ur90_id) AS member, generate_subscripts(ur90_id, 1) AS place
        FROM read_parquet({clusters}, file_row_number = true)
    ) AS clusters LEFT JOIN members ON clusters.member = members.id
    ORDER BY clusters.at_row, clusters.place"""


class _FromSqlite(_Maker):
    level: Level = "uniref90-representatives"

    def run(self) -> None:
        self.stages.run("members", self._members)
        self.stages.run("clusters", self._join)
        self.stages.run("representatives", self._representatives)

    def _members(self) -> dict[str, Any]:
        replaced = 0
        with SequenceWriter(self.folder / "members", self.work / "members.parquet") as writer:
            for protein in _proteins(self.inputs[TRAIN_DB].path):
                writer.add(protein.id, protein.original_id, protein.sequence)
                replaced += protein.replaced
            return {"sequences": writer.count, "residues": writer.residues, "replaced letters": replaced}

    def _join(self) -> dict[str, Any]:
        clusters = self.inputs[TRAIN_CLUSTERS].path
        listed = pq.ParquetFile(clusters).metadata.num_rows
        with (
            self.database() as connection,
            TableWriter(self.work, self.stages.results["members"]["sequences"]) as table,
        ):
            tables.number(connection, self.work / "members.parquet", "members")
            for batch in tables.arrow(connection, _LISTS.format(clusters=tables.quoted(clusters))):
                if batch["at_row"].null_count:
                    lacking = batch.filter(pc.is_null(batch["at_row"]))["member"][0].as_py()
                    raise InputError(f"{TRAIN_DB}: no sequence of {lacking}, which {TRAIN_CLUSTERS} names")
                table.add(batch)
        if table.clusters != listed:
            raise InputError(f"{TRAIN_CLUSTERS}: {listed - table.clusters:,} of its clusters have no member")
        return {"clusters": table.clusters, "members": table.members, "largest": table.largest}

    def _representatives(self) -> dict[str, Any]:
        """The first member of each cluster, and those held out, each of which is its cluster's only member."""
        starts = np.fromfile(self.work / tables.MEMBER_STARTS, NUMBER)
        rows = np.fromfile(self.work / tables.MEMBER_ROWS, NUMBER)
        members = Sequences(self.folder / "members")
        with SequenceWriter(self.folder / "representatives", self.work / "representatives.parquet") as writer:
            for row in rows[starts[:-1].astype(np.int64)].tolist():
                writer.add(members.name(row), members.header(row), members[row])
            train = writer.count
            if VALID_CLUSTERS in self.inputs:
                names = pq.read_table(self.inputs[VALID_CLUSTERS].path, columns=["ur50_id"])["ur50_id"].to_pylist()
                if VALID_DB not in self.inputs:
                    raise InputError(f"{VALID_DB} is missing; {VALID_CLUSTERS} names its proteins")
                for protein in _chosen(self.inputs[VALID_DB].path, names):
                    writer.add(protein.id, protein.original_id, protein.sequence)
            clusters = writer.count
        alone = np.arange(train, clusters)
        starts = np.append(starts, len(rows) + 1 + np.arange(len(alone)).astype(NUMBER))
        write_rows(self.folder / tables.MEMBER_STARTS, starts)
        write_rows(self.folder / tables.MEMBER_ROWS, np.append(rows, (len(members) + alone).astype(NUMBER)))
        self.save_splits(train, clusters)
        return {"sequences": clusters, "held out": clusters - train}


def _proteins(path: Path) -> Iterator[Protein]:
    """All of a database, in its order."""
    with _opened(path) as connection:
        for count, (name, text) in enumerate(connection.execute("SELECT id, sequence FROM protein"), 1):
            yield _protein(path, count, name, text)


def _chosen(path: Path, wanted: Iterable[str]) -> Iterator[Protein]:
    with _opened(path) as connection:
        for count, name in enumerate(wanted, 1):
            found = connection.execute("SELECT sequence FROM protein WHERE id = ?", (name,)).fetchone()
            if found is None:
                raise InputError(f"{path.name}: no sequence of {name}, which {VALID_CLUSTERS} names")
            yield _protein(path, count, name, found[0])


def _protein(path: Path, count: int, name: object, text: object) -> Protein:
    if not isinstance(text, str):
        raise InputError(f"{path.name}, row {count:,}, id {name!r}: the sequence is no text")
    found = record(str(name), text.encode(), path.name, count)
    if isinstance(found, BadRecord):
        raise InputError(str(found))
    return found


class _opened:  # noqa: N801  a context manager, read like open
    """A database that is only read, whose faults are the file's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("SELECT id, sequence FROM protein LIMIT 1")
        except sqlite3.Error as error:
            self._connection.close()
            raise InputError(
                f"{self._path}: no SQLite database with a table `protein` of id and sequence ({error})"
            ) from error
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise InputError(f"{self._path}: damaged ({error})") from error


# ------------------------------------------------------------------------------------------------------------ export


def export_layout(corpus: Corpus, folder: Path, layout: Layout) -> None:
    """Write a corpus the way NVIDIA's tools read it: its clusters for training and those held out.

    Raises:
        InputError: for a corpus without clusters, or a name that has no place in ``mapping.tsv``.
        OutputError: when the folder exists, or the disk is full.
    """
    if corpus.members is None:
        raise InputError(f"{corpus.folder}: a corpus of {corpus.recipe.name} has no clusters to export")
    if folder.exists():
        raise OutputError(f"{folder}: is there already; choose a new folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        {"fasta": _export_fasta, "sqlite": _export_sqlite}[layout](corpus, corpus.members, partial)
        partial.replace(folder)
    except (OSError, sqlite3.Error) as error:
        said = reason(error) if isinstance(error, OSError) else str(error)
        raise OutputError(f"{folder}: cannot be written: {said}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _blocks(rows: NDArray[Any]) -> Iterator[int]:
    """Numbers one by one, without a list of them all."""
    for first in range(0, len(rows), _ROWS):
        yield from rows[first : first + _ROWS].tolist()


def _names(corpus: Corpus, cluster: int) -> list[str]:
    return [where.name(at) for where, at in map(corpus.place, corpus.member_rows(cluster).tolist())]


def _export_fasta(corpus: Corpus, members: Sequences, folder: Path) -> None:
    representatives = corpus.representatives
    written = np.zeros(len(members), bool)
    with (
        (folder / TRAIN).open("wb") as train,
        (folder / MEMBERS).open("wb") as drawn,
        (folder / MAPPING).open("w") as mapping,
    ):
        mapping.write("UR50_cluster_name\tmapped_id\n")
        for cluster in _blocks(corpus.split("train")):
            _write(train, representatives, cluster)
            for row in corpus.member_rows(cluster).tolist():
                where, at = corpus.place(row)
                if where is not members or not written[at]:
                    _write(drawn, where, at)
                if where is members:
                    written[at] = True
            names = _names(corpus, cluster)
            if strange := next((name for name in names if "," in name or "\t" in name), None):
                raise InputError(
                    f"{strange!r}: a name with a comma or a tab has no place in {MAPPING}; use --to sqlite"
                )
            mapping.write(f"{representatives.name(cluster)}\t{','.join(names)}\n")
    if len(corpus.split("validation")):
        with (folder / VALID).open("wb") as valid:
            for cluster in _blocks(corpus.split("validation")):
                _write(valid, representatives, cluster)


def _write(file: Any, sequences: Sequences, row: int) -> None:
    """One record; its first word is the id, as in the mapping."""
    text = sequences[row]
    lines = [text[start : start + _WRAP] for start in range(0, len(text), _WRAP)]
    header = " ".join([sequences.name(row), *sequences.header(row).split(" ", 1)[1:]])
    file.write(b">" + header.encode() + b"\n" + b"\n".join(lines) + b"\n")


def _export_sqlite(corpus: Corpus, members: Sequences, folder: Path) -> None:
    def drawn() -> Iterator[tuple[str, str]]:
        written = np.zeros(len(members), bool)
        for cluster in _blocks(corpus.split("train")):
            for where, at in map(corpus.place, corpus.member_rows(cluster).tolist()):
                if where is not members or not written[at]:
                    yield where.name(at), where[at].decode()
                if where is members:
                    written[at] = True

    def held_out() -> Iterator[tuple[str, str]]:
        for cluster in _blocks(corpus.split("validation")):
            yield corpus.representatives.name(cluster), corpus.representatives[cluster].decode()

    for name, rows in ((TRAIN_DB, drawn()), (VALID_DB, held_out())):
        with closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("CREATE TABLE protein (id TEXT PRIMARY KEY, sequence TEXT)")
            connection.executemany("INSERT INTO protein VALUES (?, ?)", rows)
    schema = pa.schema([("ur90_id", pa.list_(pa.string()))])
    with pq.ParquetWriter(folder / TRAIN_CLUSTERS, schema) as writer:
        train = corpus.split("train")
        for first in range(0, len(train), _ROWS):
            lists = [_names(corpus, cluster) for cluster in train[first : first + _ROWS].tolist()]
            writer.write_table(pa.table({"ur90_id": lists}, schema))
    names = [corpus.representatives.name(cluster) for cluster in _blocks(corpus.split("validation"))]
    pq.write_table(pa.table({"ur50_id": pa.array(names, pa.string())}), folder / VALID_CLUSTERS)
