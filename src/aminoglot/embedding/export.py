"""From shards to the output, in input order, and the table of proteins beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from aminoglot.embedding.formats import Batch, ContentDigest, Kind, Layout, Writer, writer
from aminoglot.embedding.results import Results
from aminoglot.engine.settings import Per
from aminoglot.jobs import Audit, Plan, Status
from aminoglot.jobs.scan import BATCH, RecordFile
from aminoglot.jobs.storage import explained, sync, write_whole

_BATCH_BYTES = 64 << 20
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
    for kind in ("protein", "residue"):
        marker = f".per-{kind}"
        if output.stem.endswith(marker):
            output = output.with_name(output.stem.removesuffix(marker) + output.suffix)
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
    dtype: np.dtype[Any],
    hidden: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Write a finished job's output and table under temporary names, then give all of them their own.

    Args:
        plan, audit: the job.
        output: what the user named.
        dtype: float32 or float16, as in the shards.
        hidden: D.
        done: told how many records were written.

    Returns:
        The files written, the table last.

    Raises:
        OutputError: when the disk is full or the folder cannot be written.
    """
    files = outputs(output, plan.provenance["per"])
    temporary = {path: plan.folder.path / f"export-{path.name}" for path in files}
    table = table_path(output)
    for path in temporary.values():
        _remove(path)
    with explained(output), Results(plan) as results:
        exporter = _Exporter(plan, audit, results, done)
        write_whole(table, lambda path: exporter.write(path, files, temporary, output, dtype, hidden))
        for path, made in temporary.items():
            sync(made)
            if made.is_dir():
                _remove(path)
            made.replace(path)
        sync(table.parent)
    return [*files, table]


class _Exporter:
    def __init__(self, plan: Plan, audit: Audit, results: Results, done: Callable[[int], None]) -> None:
        self.plan, self.audit, self.results, self.done = plan, audit, results, done
        self.per: Per = plan.provenance["per"]
        self.several = bool(plan.provenance["several_layers"])

    def write(
        self,
        table: Path,
        files: Mapping[Path, tuple[Kind, ...]],
        temporary: Mapping[Path, Path],
        output: Path,
        dtype: np.dtype[Any],
        hidden: int,
    ) -> None:
        with ExitStack() as stack, table.open("w", encoding="utf-8", newline="") as text:
            writers: list[tuple[Writer, Kind, ContentDigest]] = []
            for path, kinds in files.items():
                made = writer(output, temporary[path], self._layout(kinds, dtype, hidden))
                stack.callback(made.abort)
                writers.append((made, kinds[0], ContentDigest()))
            text.write("\t".join(COLUMNS) + "\n")
            for batch in self._batches(text):
                for made, kind, digest in writers:
                    made.write(batch)
                    for name, array in zip(batch.ids, batch.arrays(kind), strict=True):
                        digest.add(name, array)
            for made, kind, digest in writers:
                held = {"proteins": self.audit.written, "kind": kind, "content": str(digest)}
                made.finish({**self.plan.provenance, **held})
            stack.pop_all()

    def _layout(self, kinds: tuple[Kind, ...], dtype: np.dtype[Any], hidden: int) -> Layout:
        written = self.audit.status == Status.WRITTEN
        provenance = self.plan.provenance
        return Layout(
            kinds,
            provenance["pool"],
            tuple(provenance["layers"]),
            self.several,
            hidden,
            dtype,
            int(written.sum()),
            int(self.results.rows[self.plan.position[written]].sum()),
        )

    def _batches(self, table: TextIO) -> Iterator[Batch]:
        """Every record into the table, every written one into batches of bounded size."""
        with RecordFile(self.plan.folder.records) as records:
            pending = _Pending()
            for number in range(records.batches):
                columns = records.batch(number).to_pydict()
                record = number * BATCH
                for original, name, replaced, why in zip(
                    columns["original_id"], columns["id"], columns["replaced"], columns["why"], strict=True
                ):
                    name = self.plan.renamed.get(record) or name
                    rows = 0
                    if self.audit.status[record] == Status.WRITTEN:
                        rows = self._fetch(pending, record, name, original, replaced)
                    self._row(table, records, record, (name, original), rows, replaced, why or "")
                    record += 1
                    if pending.full:
                        yield pending.take()
                self.done(len(columns["id"]))
            if pending.ids:
                yield pending.take()

    def _fetch(self, pending: _Pending, record: int, name: str, original: str, replaced: int) -> int:
        """Put one protein's result into the batch; returns how many residues were embedded."""
        position = int(self.plan.position[record])
        rows = int(self.results.rows[position])
        protein = self._layers(self.results.protein(position)) if self.per != "residue" else None
        residue = self._layers(self.results.residue(position)) if self.per != "protein" else None
        numbers = (int(self.plan.lengths[record]), rows, replaced)
        pending.add(name, original, numbers, self.plan.digests[record], protein, residue)
        return rows

    def _layers(self, array: NDArray[Any]) -> NDArray[Any]:
        return array if self.several else array[0]

    def _row(
        self,
        table: TextIO,
        records: RecordFile,
        record: int,
        names: tuple[str, str],
        rows: int,
        replaced: int,
        why: str,
    ) -> None:
        plan, status = self.plan, Status(int(self.audit.status[record]))
        twin = int(plan.twin[record])
        twin_id = "" if twin < 0 else plan.renamed.get(twin) or records.id(twin)
        if status == Status.FAILED:
            why = self.audit.reasons[int(plan.position[record])]
        elif status == Status.SKIPPED and not why:
            why = f"longer than {plan.provenance['limit']} residues"
        length = int(plan.lengths[record])
        digest = plan.digests[record].tobytes().hex() if length else ""
        table.write(
            f"{names[0]}\t{names[1]}\t{status.name.lower()}\t{length}\t{rows}\t{replaced}\t{twin_id}\t{digest}\t{why}\n"
        )


class _Pending:
    """A batch that fills up."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.ids: list[str] = []
        self._originals: list[str] = []
        self._numbers: list[tuple[int, int, int]] = []
        self._digests: list[NDArray[np.uint8]] = []
        self._protein: list[NDArray[Any]] = []
        self._residue: list[NDArray[Any]] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        return self._bytes > _BATCH_BYTES or len(self.ids) >= BATCH

    def add(
        self,
        name: str,
        original: str,
        numbers: tuple[int, int, int],
        digest: NDArray[np.uint8],
        protein: NDArray[Any] | None,
        residue: NDArray[Any] | None,
    ) -> None:
        self.ids.append(name)
        self._originals.append(original)
        self._numbers.append(numbers)
        self._digests.append(digest)
        for array, column in ((protein, self._protein), (residue, self._residue)):
            if array is not None:
                column.append(array)
                self._bytes += array.nbytes

    def take(self) -> Batch:
        lengths, rows, replaced = np.array(self._numbers, dtype=np.int64).T
        batch = Batch(
            self.ids,
            self._originals,
            lengths,
            rows,
            replaced,
            np.stack(self._digests),
            np.stack(self._protein) if self._protein else None,
            self._residue or None,
        )
        self._clear()
        return batch


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
