"""The member table: for every cluster the rows of its members, representative first. Joined by DuckDB, on disk.

Members lie in the order in which the file of members names them (those of idmapping and XML, which has none of its own,
in that of their FASTA). Rows from ``len(members)`` on are representatives: row ``len(members) + cluster``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aminoglot.corpus.members import PAIRS, Level, pairs
from aminoglot.corpus.store import NAMES, NUMBER, Sequences
from aminoglot.errors import LISTED, DependencyError, InputError, JobError, listing
from aminoglot.sequences import Source

MEMBER_STARTS, MEMBER_ROWS = "member-starts.u64", "member-rows.u64"
_BATCH = 1 << 20


class Joined(NamedTuple):
    """What came of joining.

    Attributes:
        members: rows of the table.
        representatives_added: clusters whose representative was not among their members.
        alone: clusters of which the file of members knows nothing: their representative is their only member.
        without_sequence: members named by the file, of which the FASTA has no sequence.
        without_cluster: sequences of the FASTA that belong to no cluster here.
        largest: members of the largest cluster.
    """

    members: int
    representatives_added: int
    alone: int
    without_sequence: int
    without_cluster: int
    largest: int


@contextmanager
def database(folder: Path, memory: str, threads: int) -> Iterator[Any]:
    """A DuckDB that keeps what does not fit into so much memory in ``folder``.

    Raises:
        DependencyError: where DuckDB is missing.
        JobError: when the disk is full.
    """
    try:
        import duckdb
    except ImportError as error:
        raise DependencyError("building a corpus needs DuckDB: pip install 'aminoglot[corpus]'") from error
    settings = {"memory_limit": memory, "threads": threads, "temp_directory": str(folder / "spilled")}
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise JobError(f"{folder}: the members could not be joined: {error}") from error


def refuse_duplicates(connection: Any, folder: Path, what: str) -> int:
    """Names that come more than once are one sequence, counted, or an error.

    Returns:
        How many records repeat an earlier one, id and sequence.

    Raises:
        InputError: naming ids that stand for different sequences.
    """
    names = folder / NAMES
    differing = connection.execute(
        "SELECT id FROM read_parquet($path) GROUP BY id HAVING count(DISTINCT digest) > 1 ORDER BY id LIMIT 21",
        {"path": str(names)},
    ).fetchall()
    if differing:
        named = listing([row[0] for row in differing[:LISTED]], len(differing))
        raise InputError(f"{what}: the same id for different sequences:\n{named}")
    (records, distinct) = connection.execute(
        "SELECT count(*), count(DISTINCT id) FROM read_parquet($path)", {"path": str(names)}
    ).fetchone()
    return int(records - distinct)


def write_pairs(source: Source, level: Level, path: Path) -> int:
    """The pairs of a file of members as Parquet; how many."""
    count = 0
    with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
        for batch in pairs(source, level):
            writer.write_batch(batch)
            count += len(batch)
    return count


_NUMBERED = """
CREATE TABLE cluster AS
    SELECT id, min(file_row_number) AS row, any_value(digest) AS digest
    FROM read_parquet($representatives, file_row_number = true) GROUP BY id;
CREATE TABLE sequence AS
    SELECT id, min(file_row_number) AS row, any_value(digest) AS digest
    FROM read_parquet($members, file_row_number = true) GROUP BY id;
CREATE TABLE pair AS
    SELECT cluster, member, any_value(alias) AS alias, min(file_row_number) AS place
    FROM read_parquet($pairs, file_row_number = true) GROUP BY cluster, member;
"""
_FOUND = """
CREATE TABLE found AS
    SELECT c.row AS cluster, coalesce(s.row, a.row) AS row, coalesce(s.digest, a.digest) = c.digest AS first,
           pair.place AS place, pair.member AS member
    FROM pair JOIN cluster c ON pair.cluster = c.id
    LEFT JOIN sequence s ON pair.member = s.id
    LEFT JOIN sequence a ON pair.alias = a.id;
"""
_LACKING = "COPY (SELECT DISTINCT member FROM found WHERE row IS NULL ORDER BY member) TO '{path}' (HEADER false)"
_UNPLACED = (
    "COPY (SELECT id FROM sequence ANTI JOIN found ON sequence.row = found.row ORDER BY sequence.row)"
    " TO '{path}' (HEADER false)"
)
_ORDERED = """
    SELECT cluster.row AS cluster, found.row AS row, coalesce(found.first, false) AS first
    FROM cluster LEFT JOIN (
        SELECT cluster, row, bool_or(first) AS first, min(place) AS place FROM found WHERE row IS NOT NULL
        GROUP BY cluster, row
    ) AS found ON cluster.row = found.cluster
    ORDER BY cluster.row, coalesce(found.first, false) DESC, {order}
"""


def join(connection: Any, folder: Path, work: Path, pairs_path: Path, in_order: bool) -> Joined:
    """Write the member table, and beside the sequences two lists of what found no partner.

    Args:
        connection: from :func:`database`.
        folder: of the corpus, with ``representatives`` and ``members``.
        work: where the table goes; the filter has not seen it yet.
        pairs_path: from :func:`write_pairs`.
        in_order: whether the order of pairs means something; else that of the FASTA counts.
    """
    paths = {
        "representatives": str(folder / "representatives" / NAMES),
        "members": str(folder / "members" / NAMES),
        "pairs": str(pairs_path),
    }
    for statement in _NUMBERED.split(";")[:-1]:
        used = {key: value for key, value in paths.items() if f"${key}" in statement}
        connection.execute(statement, used)
    connection.execute(_FOUND)
    lacking, unplaced = folder / "members-without-sequence.txt", folder / "sequences-without-cluster.txt"
    for statement, path in ((_LACKING, lacking), (_UNPLACED, unplaced)):
        connection.execute(statement.format(path=str(path).replace("'", "''")))
    table = _Table(work, len(Sequences(folder / "members")))
    order = "found.place" if in_order else "found.row"
    reader = connection.execute(_ORDERED.format(order=order)).to_arrow_reader(_BATCH)
    with table:
        for batch in reader:
            table.add(batch)
    return Joined(table.members, table.added, table.alone, _lines(lacking), _lines(unplaced), table.largest)


class _Table:
    """Writes starts and rows from clusters in order; a cluster may go on in the next batch."""

    def __init__(self, folder: Path, base: int) -> None:
        self._folder, self._base = folder, base
        self.members = self.added = self.alone = self.largest = 0
        self._last, self._since = -1, 0

    def __enter__(self) -> _Table:
        self._starts = (self._folder / MEMBER_STARTS).open("wb")
        self._rows = (self._folder / MEMBER_ROWS).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._last >= 0:
            self._starts.write(np.array([self.members], NUMBER).tobytes())
            self.largest = max(self.largest, self.members - self._since)
        self._starts.close()
        self._rows.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows of clusters, those of the representative's sequence first; row is null where a cluster has none."""
        cluster = batch["cluster"].to_numpy(zero_copy_only=False).astype(np.int64)
        there = batch["row"].is_valid().to_numpy(zero_copy_only=False)
        row = batch["row"].fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        first = batch["first"].to_numpy(zero_copy_only=False)
        begins = np.concatenate(([cluster[0] != self._last], cluster[1:] != cluster[:-1]))
        lacks = begins & ~first  # no member has the representative's sequence: it is put first itself
        self.alone += int((begins & ~there).sum())
        self.added += int((lacks & there).sum())
        # Where the representative is added to members, the row stays and another goes before it.
        before = np.flatnonzero(lacks & there)
        row = np.where(lacks & ~there, self._base + cluster, row)
        rows = np.insert(row, before, self._base + cluster[before])
        starts = np.flatnonzero(begins) + np.searchsorted(before, np.flatnonzero(begins), side="left")
        starts = self.members + starts
        self._starts.write(starts.astype(NUMBER).tobytes())
        self._rows.write(rows.astype(NUMBER).tobytes())
        edges = np.concatenate(([self._since], starts, [self.members + len(rows)]))
        self.largest = max(self.largest, int(np.diff(edges[: len(edges) - 1]).max(initial=0)))
        if len(starts):
            self._since = int(starts[-1])
        self.members += len(rows)
        self._last = int(cluster[-1])


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
