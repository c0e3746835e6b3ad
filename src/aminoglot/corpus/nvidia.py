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
from aminoglot.corpus.members import level_of
from aminoglot.corpus.reader import Corpus, finish, read_rows, write_rows
from aminoglot.corpus.reading import read
from aminoglot.corpus.recipes import ESM2
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import NUMBER, Sequences, SequenceWriter, header_of
from aminoglot.corpus.tables import TableWriter
from aminoglot.errors import InputError, OutputError, first_line, reason
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
    if any(letter in str(source) for letter in "*?[]"):
        raise InputError(f"{source}: a path without * ? [ ] is wanted")
    files = {name: path for name in _FILES[layout] if (path := _file(source, name)).exists()}
    inputs = {name: Source(path.name, path) for name, path in files.items()}
    recipe = replace(ESM2, validation=0)
    with Stages(folder, inputs, {"recipe": recipe.as_dict(), "imported": layout}, screen) as stages:
        if stages.whole:
            screen.say(f"{folder} is whole already")
        else:
            maker = {"fasta": _FromFasta, "sqlite": _FromSqlite}[layout](stages, inputs, screen, memory, threads)
            maker.run()
            finish(stages, recipe, level_of(Sequences(stages.folder / "members").name(0)))
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
        if (VALID_CLUSTERS in there) != (VALID_DB in there):
            raise InputError(f"{source}: {VALID_CLUSTERS} and {VALID_DB} go together, and one of them is missing")
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
    """What both layouts have in common."""

    def __init__(self, stages: Stages, inputs: dict[str, Source], screen: Screen, memory: str, threads: int) -> None:
        self.stages, self.inputs, self.screen = stages, inputs, screen
        self.folder, self.work = stages.folder, stages.work
        self.memory, self.threads = memory, threads

    def run(self) -> None:
        """Make all files of the corpus but the card."""
        raise NotImplementedError

    def database(self) -> Any:
        return tables.database(self.work, self.memory, self.threads)

    def save_splits(self, train: int, clusters: int) -> dict[str, Any]:
        """The splits as they are, and what the card says of them."""
        for name, rows in (("train", range(train)), ("validation", range(train, clusters)), ("test", range(0))):
            write_rows(self.folder / f"{name}.u64", np.array(rows, NUMBER))
        return {"train": train, "validation": clusters - train, "filtered": False}


class _FromFasta(_Maker):
    def run(self) -> None:
        self.stages.run("representatives", self._representatives)
        self.stages.run("members", self._members)
        self.stages.run("pairs", self._pairs)
        self.stages.run("clusters", self._join)
        mind_releases(self.stages.results, self.screen)
        self.stages.run("result", self._result)

    def _result(self) -> dict[str, Any]:
        for name in tables.MEMBER_STARTS, tables.MEMBER_ROWS:
            shutil.copyfile(self.work / name, self.folder / name)
        found = self.stages.results["representatives"]
        return self.save_splits(found["sequences"] - found["held out"], found["sequences"])

    def _read(self, name: str, writer: SequenceWriter) -> dict[str, Any]:
        return read(self.inputs[name], writer, "stop", self.screen, self.work / "bad")

    def _representatives(self) -> dict[str, Any]:
        with SequenceWriter(self.folder / "representatives", self.work / "representatives.parquet") as writer:
            found = self._read(TRAIN, writer)
            train = writer.count
            if VALID in self.inputs:
                found = {name: count + found[name] for name, count in self._read(VALID, writer).items()}
            clusters = writer.count
        with self.database() as connection:
            tables.number(connection, self.work / "representatives.parquet", "representatives", once=True)
        return {**found, "held out": clusters - train}

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
        alone = joined.alone - self._alone_of_held_out(done["representatives"]["held out"], counts)
        return {**joined._asdict(), "alone": alone, "repeated records": repeated["members"]}

    def _alone_of_held_out(self, held_out: int, counts: tuple[int, int]) -> int:
        """Clusters held out that have no member: the mapping is of what trains."""
        starts = read_rows(self.work / tables.MEMBER_STARTS).astype(np.int64)[counts[0] - held_out :]
        rows = read_rows(self.work / tables.MEMBER_ROWS)
        return int((rows[starts[:-1]] >= counts[1]).sum())


_LISTS = """
    SELECT clusters.at_row AS cluster, members.at_row AS at_row, clusters.member AS member, clusters.place = 1 AS leads
    FROM (
        SELECT file_row_number AS at_row, unnest(ur90_id) AS member, generate_subscripts(ur90_id, 1) AS place
        FROM read_parquet({clusters}, file_row_number = true)
    ) AS clusters LEFT JOIN members ON clusters.member = members.id {distinct}
    ORDER BY clusters.at_row, clusters.place"""


_DISTINCT = "QUALIFY row_number() OVER (PARTITION BY clusters.at_row, member ORDER BY clusters.place) = 1"
_TWICE = "members listed twice in a cluster"
_COUNTS = {
    "sequences without a cluster": """
        SELECT count(*) FROM members ANTI JOIN
        (SELECT unnest(ur90_id) AS id FROM read_parquet({clusters})) AS listed ON members.id = listed.id""",
    _TWICE: """
        SELECT coalesce(sum(len(ur90_id) - len(list_distinct(ur90_id))), 0) FROM read_parquet({clusters})""",
}


class _FromSqlite(_Maker):
    def run(self) -> None:
        for name, column in ((TRAIN_CLUSTERS, "ur90_id"), (VALID_CLUSTERS, "ur50_id")):
            if name in self.inputs:
                _mind_columns(self.inputs[name].path, column)
        self.stages.run("members", self._members)
        self.stages.run("clusters", self._join)
        self.stages.run("representatives", self._representatives)
        found = self.stages.results["representatives"]
        self.stages.run("result", lambda: self.save_splits(found["sequences"] - found["held out"], found["sequences"]))

    def _members(self) -> dict[str, Any]:
        replaced = 0
        with SequenceWriter(self.folder / "members", self.work / "members.parquet") as writer:
            for protein in _proteins(self.inputs[TRAIN_DB].path):
                writer.add(protein.id, header_of(protein.original_id), protein.sequence)
                replaced += protein.replaced
            return {"sequences": writer.count, "residues": writer.residues, "replaced letters": replaced}

    def _join(self) -> dict[str, Any]:
        clusters = self.inputs[TRAIN_CLUSTERS].path
        listed, quoted = pq.ParquetFile(clusters).metadata.num_rows, tables.quoted(clusters)
        with (
            self.database() as connection,
            TableWriter(self.work, self.stages.results["members"]["sequences"]) as table,
        ):
            tables.number(connection, self.work / "members.parquet", "members")
            counts = {
                name: int(connection.execute(query.format(clusters=quoted)).fetchall()[0][0])
                for name, query in _COUNTS.items()
            }
            distinct = _DISTINCT if counts[_TWICE] else ""
            for batch in tables.arrow(connection, _LISTS.format(clusters=quoted, distinct=distinct)):
                if batch["at_row"].null_count:
                    lacking = batch.filter(pc.is_null(batch["at_row"]))["member"][0].as_py()
                    raise InputError(f"{TRAIN_DB}: no sequence of {lacking}, which {TRAIN_CLUSTERS} names")
                table.add(batch)
        if table.clusters != listed:
            raise InputError(f"{TRAIN_CLUSTERS}: {listed - table.clusters:,} of its clusters have no member")
        for name, count in counts.items():
            if count:
                self.screen.note(f"{count:,} {name}")
        return {"clusters": table.clusters, "members": table.members, "largest": table.largest, **counts}

    def _representatives(self) -> dict[str, Any]:
        """The first member of each cluster, and those held out, each of which is its cluster's only member."""
        starts, rows = (read_rows(self.work / name) for name in (tables.MEMBER_STARTS, tables.MEMBER_ROWS))
        members = Sequences(self.folder / "members")
        with SequenceWriter(self.folder / "representatives", self.work / "representatives.parquet") as writer:
            for start in _blocks(starts[:-1]):
                row = int(rows[start])
                writer.add(members.name(row), members.header(row), members[row])
            train = writer.count
            if VALID_CLUSTERS in self.inputs:
                names = pq.read_table(self.inputs[VALID_CLUSTERS].path, columns=["ur50_id"])["ur50_id"].to_pylist()
                for protein in _chosen(self.inputs[VALID_DB].path, names):
                    writer.add(protein.id, header_of(protein.original_id), protein.sequence)
            clusters = writer.count
        alone = np.arange(train, clusters)
        self._copy(tables.MEMBER_STARTS, len(rows) + 1 + alone - train)
        self._copy(tables.MEMBER_ROWS, len(members) + alone)
        return {"sequences": clusters, "held out": clusters - train}

    def _copy(self, name: str, more: NDArray[np.int64]) -> None:
        """A file of numbers to its place, with some behind."""
        shutil.copyfile(self.work / name, self.folder / name)
        with (self.folder / name).open("ab") as file:
            file.write(more.astype(NUMBER).tobytes())


def _mind_columns(path: Path, column: str) -> None:
    """Look whether a file is Parquet and has a column.

    Raises:
        InputError: when it is not.
    """
    try:
        there = pq.ParquetFile(path).schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: no Parquet file ({first_line(error)})") from error
    if column not in there:
        raise InputError(f"{path}: it has no column {column}, but {', '.join(there)}")


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
            kinds = self._connection.execute("SELECT type FROM sqlite_master WHERE name = 'protein'").fetchall()
            if kinds != [("table",)]:  # a view may have rows without end
                raise sqlite3.DatabaseError("no such table")
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
            if strange := next((name for name in names if any(letter in name for letter in ", \t")), None):
                raise InputError(
                    f"{strange!r}: a name with a comma, a tab or a blank has no place in {MAPPING}; use --to sqlite"
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
    header = f"{sequences.name(row)} {sequences.description(row)}".rstrip()
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
