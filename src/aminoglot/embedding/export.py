"""From shards to the output, in input order, and the table of proteins beside it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aminoglot.embedding.formats import Batch, ContentDigest, Kind, Layout, Writer, writer
from aminoglot.embedding.results import Results
from aminoglot.errors import JobError
from aminoglot.jobs import Audit, Plan, Status
from aminoglot.jobs.scan import BATCH, RecordFile
from aminoglot.jobs.storage import explained, sync, write_whole
from aminoglot.settings import Per, Request

_BATCH_BYTES = 64 << 20
_STATUS = {int(status): status.name.lower() for status in Status}
COLUMNS = (
    "id",
    "original_id",
    "status",
    "length",
    "residues_embedded",
    "replaced_letters",
    "duplicate_of",
    "sequence_sha256",
    "note",
)
"""Columns of the table of proteins, one row a record of the input, in order."""


def table_path(output: Path) -> Path:
    """The table of proteins of an output; ``--per both`` has one table for its two files."""
    return output.with_name(f"{output.name}.proteins.tsv")


def outputs(output: Path, per: Per) -> dict[Path, tuple[Kind, ...]]:
    """The files an output consists of, and what each holds."""
    if per != "both":
        return {output: (per,)}
    if not output.suffix:
        return {output: ("residue", "protein")}  # a folder of .pt files has room for both
    return {output.with_name(f"{output.stem}.per-{k}{output.suffix}"): (k,) for k in ("protein", "residue")}


def export(
    plan: Plan,
    audit: Audit,
    output: Path,
    request: Request,
    dtype: np.dtype[Any],
    hidden: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Write a finished job's output and table under temporary names, then give all of them their own.

    Args:
        plan, audit: the job.
        output: what the user named.
        request: what was computed.
        dtype: float32 or float16, as in the shards.
        hidden: D.
        done: told how many records were written.

    Returns:
        The files written, the table last.

    Raises:
        OutputError: when the disk is full or the folder cannot be written.
    """
    files = outputs(output, request.per)
    temporary = {path: plan.folder.path / f"export-{path.name}" for path in files}
    table = table_path(output)
    for path in temporary.values():
        _remove(path)
    with explained(output), Results(plan) as results:
        exporter = _Exporter(plan, audit, results, request, dtype, hidden, done)
        write_whole(table, lambda path: exporter.write(path, files, temporary, output))
        for path, made in temporary.items():
            sync(made)
            if made.is_dir():
                for file in made.iterdir():
                    sync(file)
                if path.exists():  # aside in one step; it goes away with the job's folder
                    path.replace(plan.folder.path / f"replaced-{path.name}")
            made.replace(path)
        sync(table.parent)
    return [*files, table]


class _Exporter:
    def __init__(
        self,
        plan: Plan,
        audit: Audit,
        results: Results,
        request: Request,
        dtype: np.dtype[Any],
        hidden: int,
        done: Callable[[int], None],
    ) -> None:
        self.plan, self.audit, self.results, self.request, self.done = plan, audit, results, request, done
        self._dtype, self._hidden = dtype, hidden
        self._table, self._lines = hashlib.sha256(), 0
        self._vector_bytes = len(request.layers) * hidden * dtype.itemsize

    def write(
        self,
        table: Path,
        files: Mapping[Path, tuple[Kind, ...]],
        temporary: Mapping[Path, Path],
        output: Path,
    ) -> None:
        with ExitStack() as stack, table.open("w", encoding="utf-8", newline="") as text:
            writers: list[tuple[Writer, tuple[Kind, ...], ContentDigest]] = []
            for path, kinds in files.items():
                made = writer(output, temporary[path], self._layout(kinds))
                stack.callback(made.abort)
                writers.append((made, kinds, ContentDigest()))
            self._line(text, "\t".join(COLUMNS))
            given = 0
            for batch in self._batches(text):
                given += len(batch.ids)
                for made, kinds, digest in writers:
                    made.write(batch)
                    for kind in kinds:
                        for name, array in zip(batch.ids, batch.arrays(kind), strict=True):
                            digest.add(name, array)
            if given != self.audit.written or self._lines != self.audit.records + 1:
                raise JobError(
                    f"{given:,} proteins were written and {self._lines - 1:,} accounted for, not {self.audit}"
                )
            for made, _, digest in writers:
                held = {
                    "proteins": self.audit.written,
                    "failed": self.audit.failed,
                    "bad": self.plan.counts["bad"],
                    "content": str(digest),
                    "table_sha256": self._table.hexdigest(),
                }
                made.finish({**self.plan.provenance, **held})
            stack.pop_all()

    def _note(self, length: int, embedded: int, renamed: bool) -> str:
        """What was done to a protein that was written."""
        limit = self.request.limit
        notes = ["renamed: its id was used before"] if renamed else []
        if embedded < length:
            notes.append(f"truncated to {embedded} residues")
        elif length > limit:
            way = f"in windows of {limit}" if self.request.long == "window" else f"whole, beyond {limit}"
            notes.append(f"embedded {way} residues")
        return "; ".join(notes)

    def _line(self, table: TextIO, line: str) -> None:
        table.write(f"{line}\n")
        self._lines += 1
        self._table.update(f"{line}\n".encode())

    def _layout(self, kinds: tuple[Kind, ...]) -> Layout:
        written = self.audit.status == Status.WRITTEN
        return Layout(
            kinds,
            self.request.pool,
            self.request.layers,
            self.request.several,
            self._hidden,
            self._dtype,
            int(written.sum()),
            int(self.results.rows[self.plan.position[written]].sum()),
        )

    def _batches(self, table: TextIO) -> Iterator[Batch]:
        """Every record into the table, every written one into batches of bounded size."""
        with RecordFile(self.plan.folder.records) as records:
            for number in range(records.batches):
                part = records.batch(number)
                span = np.arange(number * BATCH, number * BATCH + len(part))
                rows = np.zeros(len(span), dtype=np.int64)
                written = np.flatnonzero(self.audit.status[span] == Status.WRITTEN)
                rows[written] = self.results.rows[self.plan.position[span[written]]]
                ids = [self.plan.renamed.get(r) or name for r, name in enumerate(part["id"].to_pylist(), int(span[0]))]
                self._rows(table, records, part, span, ids, rows)
                originals, replaced = part["original_id"].to_pylist(), part["replaced"].to_numpy()
                for chosen in self._chunks(written, rows):
                    yield Batch(
                        [ids[i] for i in chosen],
                        [originals[i] for i in chosen],
                        self.plan.lengths[span[chosen]],
                        rows[chosen],
                        replaced[chosen].astype(np.int64),
                        self.plan.digests[span[chosen]],
                        *self._arrays(self.plan.position[span[chosen]]),
                    )
                self.done(len(span))

    def _chunks(self, written: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut the written records of a batch so that each part's arrays fit in some tens of megabytes."""
        made = np.cumsum(self.request.vectors(rows[written])) * self._vector_bytes
        start = 0
        while start < len(written):
            before = int(made[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(made, before + _BATCH_BYTES, side="right")))
            yield written[start:stop]
            start = stop

    def _arrays(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any] | None, list[NDArray[Any]] | None]:
        """Results of some proteins, the layer axis left out where one layer was asked for."""
        protein = self.results.proteins(positions) if self.request.wants_protein else None
        residue = [self.results.residue(p) for p in positions.tolist()] if self.request.wants_residue else None
        if not self.request.several:
            protein = None if protein is None else protein[:, 0]
            residue = None if residue is None else [array[0] for array in residue]
        return protein, residue

    def _rows(
        self,
        table: TextIO,
        records: RecordFile,
        part: pa.RecordBatch,
        span: NDArray[np.int64],
        ids: list[str],
        rows: NDArray[np.int64],
    ) -> None:
        """The table's rows for one batch of records."""
        plan = self.plan
        columns = zip(
            ids,
            part["original_id"].to_pylist(),
            self.audit.status[span].tolist(),
            plan.lengths[span].tolist(),
            rows.tolist(),
            part["replaced"].to_pylist(),
            plan.twin[span].tolist(),
            part["why"].to_pylist(),
            span.tolist(),
            strict=True,
        )
        for name, original, status, length, embedded, replaced, twin, why, record in columns:
            if status == Status.FAILED:
                why = self.audit.reasons[int(plan.position[record])]
            elif status == Status.SKIPPED and not why:
                why = f"longer than {self.request.limit} residues"
            elif status == Status.WRITTEN:
                why = self._note(length, embedded, renamed=record in plan.renamed)
            twin_id = "" if twin < 0 else plan.renamed.get(twin) or records.id(twin)
            digest = plan.digests[record].tobytes().hex() if length else ""
            self._line(
                table,
                f"{name}\t{original}\t{_STATUS[status]}\t{length}\t{embedded}\t{replaced}\t{twin_id}\t{digest}\t"
                f"{why or ''}",
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
