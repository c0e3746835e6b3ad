"""The member table: for every cluster the rows of its members, representative first. Joined by DuckDB, on disk.

Members lie in the order in which a mapping names them, those of idmapping and XML in that of their FASTA. Rows from
``len(members)`` on are representatives: row ``len(members) + cluster``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aminoglot.corpus.members import PAIRS, Level, Tally, pairs
from aminoglot.corpus.store import NUMBER
from aminoglot.errors import LISTED, DependencyError, InputError, JobError, first_line, listing
from aminoglot.sequences import Source

MEMBER_STARTS, MEMBER_ROWS = "member-starts.u64", "member-rows.u64"
WITHOUT_SEQUENCE, WITHOUT_CLUSTER = "members-without-sequence.txt", "sequences-without-cluster.txt"
_BATCH = 1 << 20


class Joined(NamedTuple):
    """What came of joining.

    Attributes:
        members: rows of the table.
        largest: members of the largest cluster.
        representatives_added: clusters whose representative was not among their members.
        alone: clusters without a member that has a sequence: their representative is their only one.
        alone_of_uniparc: those of them that are named after an entry of UniParc, of which idmapping knows nothing.
        without_sequence: members that the FASTA has no sequence of.
        without_cluster: sequences of the FASTA that belong to no cluster here.
        in_several_clusters: sequences that belong to more than one.
        pairs_of_other_clusters: lines about clusters that are not here.
    """

    members: int
    largest: int
    representatives_added: int
    alone: int
    alone_of_uniparc: int
    without_sequence: int
    without_cluster: int
    in_several_clusters: int
    pairs_of_other_clusters: int


@contextmanager
def database(work: Path, memory: str, threads: int) -> Iterator[Any]:
    """A DuckDB in a file of ``work``, which is made anew.

    Raises:
        DependencyError: where DuckDB is missing.
        InputError: for an amount of memory that is none.
        JobError: when the disk is full, or memory does not suffice.
    """
    try:
        import duckdb
    except ImportError as error:
        raise DependencyError("building a training set needs DuckDB: pip install 'aminoglot[corpus]'") from error
    spilled, path = work / "spilled", work / "tables.duckdb"
    for old in (path, path.with_name(f"{path.name}.wal")):
        old.unlink(missing_ok=True)
    if spilled.exists():
        shutil.rmtree(spilled)
    settings: dict[str, Any] = {"memory_limit": memory, "threads": threads, "temp_directory": str(spilled)}
    try:
        connection = duckdb.connect(str(path), config={**settings, "preserve_insertion_order": False})
    except duckdb.IOException as error:
        raise JobError(f"{work}: cannot be written ({first_line(error)}); free some space") from error
    except duckdb.Error as error:
        raise InputError(f"--memory {memory}, --threads {threads}: DuckDB cannot work with these ({error})") from error
    try:
        with connection:
            connection.execute("SET enable_progress_bar = false")  # it would write into ours
            yield connection
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise JobError(
            f"{work}: DuckDB could not go on ({first_line(error)}). Free some space, or give it more with --memory, "
            "and run the same command again"
        ) from error
    path.unlink(missing_ok=True)


def number(connection: Any, names: Path, what: str, once: bool = False) -> int:
    """Make a table ``what`` of ids, with their rows and digests.

    Args:
        connection: from :func:`database`.
        names: of a store.
        what: ``representatives``, ``members`` or ``proteins``.
        once: whether an id may not come twice, not even with the same sequence.

    Returns:
        How many records repeat an earlier one, id and sequence.

    Raises:
        InputError: naming ids that stand for different sequences.
    """
    connection.execute(
        f"CREATE TABLE {what} AS SELECT id, min(file_row_number) AS at_row, min(digest) AS digest, "
        "max(digest) AS other, count(*) AS copies "
        f"FROM read_parquet({quoted(names)}, file_row_number = true) GROUP BY id"
    )
    wrong = "copies > 1" if once else "digest <> other"
    named = connection.execute(f"SELECT id FROM {what} WHERE {wrong} ORDER BY id LIMIT {LISTED}").fetchall()
    ((total, repeated),) = connection.execute(
        f"SELECT count(*) FILTER (WHERE {wrong}), coalesce(sum(copies - 1), 0) FROM {what}"
    ).fetchall()
    if named:
        said = "ids that come more than once" if once else "the same id for different sequences"
        raise InputError(f"{what}: {said}; give each a name of its own:\n{listing([row[0] for row in named], total)}")
    return int(repeated)


def write_pairs(source: Source, level: Level, path: Path) -> Tally:
    """The pairs of a file of members as Parquet; how many lines there were, and how many without a cluster."""
    tally = Tally()
    with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
        for batch in pairs(source, level, tally):
            writer.write_batch(batch)
    return tally


_PAIRS = """CREATE TABLE pairs AS
    SELECT cluster, member, min(alias) AS alias, min(file_row_number) AS place
    FROM read_parquet({pairs}, file_row_number = true) GROUP BY cluster, member"""
_FOUND = """CREATE TABLE found AS
    SELECT representatives.at_row AS cluster, pairs.member AS member, {order} AS place,
           {row} AS at_row, {digest} = representatives.digest AS same
    FROM pairs JOIN representatives ON pairs.cluster = representatives.id
    LEFT JOIN members ON pairs.member = members.id {alias}"""
_ORDERED = """
    WITH own AS (
        SELECT cluster, at_row, min(place) AS place, bool_or(same) AS same
        FROM found WHERE at_row IS NOT NULL GROUP BY cluster, at_row
    ), marked AS (
        SELECT cluster, at_row, place,
               same AND place = min(CASE WHEN same THEN place END) OVER (PARTITION BY cluster) AS leads
        FROM own
    )
    SELECT representatives.at_row AS cluster, marked.at_row AS at_row, coalesce(marked.leads, false) AS leads
    FROM representatives LEFT JOIN marked ON representatives.at_row = marked.cluster
    ORDER BY representatives.at_row, coalesce(marked.leads, false) DESC, marked.place"""
_COUNTS = {
    "alone_of_uniparc": "SELECT count(*) FROM representatives WHERE starts_with(id, 'UniRef50_UPI') AND at_row NOT IN "
    "(SELECT cluster FROM found WHERE at_row IS NOT NULL)",
    "in_several_clusters": "SELECT count(*) FROM (SELECT at_row FROM found WHERE at_row IS NOT NULL GROUP BY at_row "
    "HAVING count(DISTINCT cluster) > 1)",
    "pairs_of_other_clusters": "SELECT count(*) FROM pairs ANTI JOIN representatives "
    "ON pairs.cluster = representatives.id",
}
_LISTS = {
    WITHOUT_SEQUENCE: "SELECT DISTINCT member AS id FROM found WHERE at_row IS NULL ORDER BY id",
    WITHOUT_CLUSTER: "SELECT id FROM members ANTI JOIN found ON members.at_row = found.at_row ORDER BY members.at_row",
}


def join(connection: Any, folder: Path, work: Path, counts: tuple[int, int], in_order: bool) -> Joined:
    """Write the member table into ``work``, and into ``folder`` two lists of what found no partner.

    Args:
        connection: from :func:`database`, both stores numbered by :func:`number`.
        folder: of the corpus.
        work: with ``pairs.parquet`` by :func:`write_pairs`.
        counts: of representatives, and of members.
        in_order: whether the order of pairs means something; else that of the FASTA counts.
    """
    connection.execute(_PAIRS.format(pairs=quoted(work / "pairs.parquet")))
    ((aliases,),) = connection.execute("SELECT count(alias) FROM pairs").fetchall()
    row, digest, alias = "members.at_row", "members.digest", ""
    if aliases:
        row, digest = "coalesce(members.at_row, other.at_row)", "coalesce(members.digest, other.digest)"
        alias = "LEFT JOIN members AS other ON pairs.alias = other.id"
    order = "pairs.place" if in_order else row
    connection.execute(_FOUND.format(row=row, digest=digest, alias=alias, order=order))
    found = {name: int(connection.execute(query).fetchall()[0][0]) for name, query in _COUNTS.items()}
    listed = {name: _list(connection, query, folder / name) for name, query in _LISTS.items()}
    connection.execute("DROP TABLE pairs")
    with TableWriter(work, counts[1]) as table:
        for batch in arrow(connection, _ORDERED):
            table.add(batch)
    assert table.clusters == counts[0], "a cluster has no place in the table"
    return Joined(
        members=table.members,
        largest=table.largest,
        representatives_added=table.added,
        alone=table.alone,
        without_sequence=listed[WITHOUT_SEQUENCE],
        without_cluster=listed[WITHOUT_CLUSTER],
        **found,
    )


def arrow(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query, so many at a time."""
    yield from connection.sql(query).to_arrow_reader(_BATCH)


def quoted(path: Path) -> str:
    """A path as SQL writes text."""
    return "'" + str(path).replace("'", "''") + "'"


def _list(connection: Any, query: str, path: Path) -> int:
    """Names of a query, one a line; how many. No file where there are none."""
    count = 0
    with path.open("w") as file:
        for batch in arrow(connection, query):
            file.writelines(f"{name}\n" for name in batch["id"].to_pylist())
            count += len(batch)
    if not count:
        path.unlink()
    return count


class TableWriter:
    """Writes starts and rows of clusters in order; a cluster may go on in the next batch.

    Args:
        folder: for the two files.
        base: how many members there are: the row of the first representative.
    """

    def __init__(self, folder: Path, base: int) -> None:
        self._folder, self._base = folder, base
        self.clusters = self.members = self.added = self.alone = self.largest = 0
        self._last, self._since = -1, 0

    def __enter__(self) -> TableWriter:
        self._starts = (self._folder / MEMBER_STARTS).open("wb")
        self._rows = (self._folder / MEMBER_ROWS).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._starts.write(np.array([self.members], NUMBER).tobytes())
        self.largest = max(self.largest, self.members - self._since)
        self._starts.close()
        self._rows.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Args:
            batch: ``cluster``; ``at_row``, null where a cluster has no member; ``leads``, whether this one, its
                cluster's first, has the representative's sequence. Where none has, the representative is put first.
        """
        cluster = batch["cluster"].to_numpy(zero_copy_only=False).astype(np.int64)
        there = batch["at_row"].is_valid().to_numpy(zero_copy_only=False)
        row = batch["at_row"].fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        leads = batch["leads"].to_numpy(zero_copy_only=False)
        begins = np.concatenate(([cluster[0] != self._last], cluster[1:] != cluster[:-1]))
        lacks = begins & ~leads
        self.alone += int((lacks & ~there).sum())
        self.added += int((lacks & there).sum())
        before = np.flatnonzero(lacks & there)
        row = np.where(lacks & ~there, self._base + cluster, row)
        rows = np.insert(row, before, self._base + cluster[before])
        first = np.flatnonzero(begins)
        starts = self.members + first + np.searchsorted(before, first, side="left")
        self._starts.write(starts.astype(NUMBER).tobytes())
        self._rows.write(rows.astype(NUMBER).tobytes())
        self.largest = max(self.largest, int(np.diff([self._since, *starts]).max(initial=0)))
        self._since = int(starts[-1]) if len(starts) else self._since
        self.clusters += len(starts)
        self.members += len(rows)
        self._last = int(cluster[-1])
