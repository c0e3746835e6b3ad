"""The plan: which protein is computed in which shard, fixed before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load, save

from aminoglot.errors import InputError, JobError, listing, plural
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.scan import (
    BATCH,
    SEQUENCES,
    Duplication,
    RecordFile,
    Scan,
    Status,
    find_duplicates,
    scan,
)
from aminoglot.jobs.storage import explained, file_digest, sync, write_whole
from aminoglot.jobs.task import Task
from aminoglot.sequences import BadRecord, Protein
from aminoglot.settings import BadRecords, Duplicates

LAYOUT = 1
"""Version of the folder's files; another version is planned anew."""


@dataclass(frozen=True)
class Policy:
    """What planning refuses and what it leaves out.

    Attributes:
        bad_records: ``error`` stops at records that are no protein, ``skip`` lists them and goes on.
        duplicates: ``error`` stops at one id with two sequences, ``number`` renames the later ones.
        refuse_over: residues beyond which a protein stops planning.
        skip_over: residues beyond which a protein is left out.
    """

    bad_records: BadRecords = "error"
    duplicates: Duplicates = "error"
    refuse_over: int | None = None
    skip_over: int | None = None


@dataclass(frozen=True)
class Plan:
    """A finished plan.

    Attributes:
        folder: where it lies.
        provenance: what the output will say of its making; see :func:`changes`.
        notes: what the user should be told, in words.
        renamed: new ids, by record.
        counts: records, bad, merged, skipped, renamed, shared (equal sequences computed once), replaced letters.
        status: a :class:`Status` a record, int8 [N].
        position: where in shard order a record's result lies, int64 [N], -1 for none.
        twin: the record whose result or place a record shares, int64 [N], -1 for none.
        lengths: residues, int64 [N].
        digests: SHA-256 of the sequences, uint8 [N, 32].
        starts: first position of each shard, and the total at the end, int64 [shards + 1].
    """

    folder: JobFolder
    provenance: Mapping[str, Any]
    notes: Sequence[str]
    counts: Mapping[str, int]
    renamed: Mapping[int, str]
    status: NDArray[np.int8]
    position: NDArray[np.int64]
    twin: NDArray[np.int64]
    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    starts: NDArray[np.int64]

    @property
    def shards(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The record of each computation, in shard order."""
        owners = np.flatnonzero((self.position >= 0) & (self.twin < 0))
        order = np.empty(len(owners), dtype=np.int64)
        order[self.position[owners]] = owners
        return order

    def shard_lengths(self, shard: int) -> NDArray[np.int64]:
        """Residues of the proteins of a shard, in order."""
        lengths: NDArray[np.int64] = self.lengths[self.order[self.starts[shard] : self.starts[shard + 1]]]
        return lengths

    def sequences(self, shard: int) -> list[bytes]:
        """The proteins of a shard, longest first."""
        return shard_sequences(self.folder, shard)

    def named(self, records: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
        """Ids of some records, with their indices."""
        with RecordFile(self.folder.records) as names:
            for index in records.tolist():
                yield self.renamed.get(index) or names.id(index), index


def make_plan(
    folder: JobFolder,
    records: Iterable[Protein | BadRecord],
    task: Task,
    policy: Policy,
    provenance: Mapping[str, Any],
    notes: list[str],
) -> Plan:
    """Clean the input into the folder, in shard order.

    The plan file is written last: a folder without one was interrupted, and is planned anew.

    Raises:
        InputError: for bad records, clashing ids or long proteins, as ``policy`` says, before any computing.
    """
    folder.clear(keep_input=True)
    spool = folder.path / "sequences.arrow"
    with explained(folder.path):
        found = scan(records, folder.records, spool)
        _refuse_bad(found, policy)
        duplication = find_duplicates(found, folder.records, policy.duplicates)
        status = _status(found, duplication, policy, folder)
        computed = np.flatnonzero((status == Status.WRITTEN) & (duplication.first_sequence == np.arange(len(status))))
        order = _longest_first(computed, found)
        starts = cut_shards(found.lengths[order], task)
        _write_proteins(folder, spool, order, starts)
        spool.unlink()
        position, twin = _places(order, duplication, status, len(found.lengths))
        arrays = {
            "status": status,
            "position": position,
            "twin": twin,
            "lengths": found.lengths,
            "digests": found.digests,
            "starts": starts,
        }
        folder.decisions.write_bytes(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
        sync(folder.decisions)
        sync(folder.records)
    written = {
        "layout": LAYOUT,
        "provenance": dict(provenance),
        "notes": notes,
        "counts": _counts(found, duplication, status, order),
        "bad": found.bad_listed,
        "files": {path.name: file_digest(path) for path in _files(folder)},
        "renamed": {str(index): name for index, name in duplication.renamed.items()},
    }
    for path in _files(folder):
        folder.keep(path)
    write_whole(folder.plan, lambda path: _write_json(path, written))
    folder.keep(folder.plan)
    return read_plan(folder)


def shard_sequences(folder: JobFolder, shard: int) -> list[bytes]:
    """The proteins of a shard, longest first; nothing else of the plan is read."""
    with folder.opened(folder.proteins) as file:
        column = pa.ipc.open_file(file).get_batch(shard).column("sequence")
        return list(column.to_pylist())


def read_plan(folder: JobFolder, whole: bool = True) -> Plan:
    """Read a finished plan back.

    Args:
        folder: where it lies.
        whole: whether all its files are held against their digests; a slice, which reads few of the proteins, need not.

    Raises:
        JobError: when its files are damaged or of another version.
    """
    try:
        written = json.loads(folder.plan.read_text(encoding="utf-8"))
        if written["layout"] != LAYOUT:
            raise ValueError(f"layout {written['layout']}")
        files = _files(folder) if whole else (folder.decisions,)
        folder.fetch(*files)
        for path in files:
            if file_digest(path) != written["files"][path.name]:
                raise ValueError(f"{path.name} is damaged")
        arrays = load(folder.decisions.read_bytes())
    except Exception as error:
        raise JobError(
            f"{folder.path}: the job's plan cannot be read ({error}); remove that folder, or add --overwrite, "
            "to start anew"
        ) from error
    return Plan(
        folder,
        written["provenance"],
        [*written["notes"], *written["bad"]],
        written["counts"],
        {int(index): name for index, name in written["renamed"].items()},
        **arrays,
    )


def _files(folder: JobFolder) -> tuple[Path, ...]:
    return folder.records, folder.proteins, folder.decisions


def changes(before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """What differs between two provenances, in words; ``keys`` are those that decide."""
    return [
        f"{key}: {_said(before.get(key))} before, {_said(now.get(key))} now"
        for key in sorted(keys)
        if before.get(key) != now.get(key)
    ]


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def cut_shards(lengths: NDArray[np.int64], task: Task) -> NDArray[np.int64]:
    """Cut proteins into shards of near-equal cost, within the task's limits.

    Returns:
        The first protein of each shard, and their number at the end.
    """
    limits = task.limits
    if len(lengths) == 0:
        return np.zeros(1, dtype=np.int64)
    cost = np.cumsum(task.cost(lengths))
    output = np.cumsum(task.output(lengths))
    per_shard = cost[-1] / max(1, round(cost[-1] / limits.cost))  # near-equal, so that the last is not a crumb
    starts = [0]
    while starts[-1] < len(lengths):
        at = starts[-1]
        spent, made = (cost[at - 1], output[at - 1]) if at else (0.0, 0)
        by_cost = int(np.searchsorted(cost, spent + per_shard * 1.0001, side="right"))
        by_output = int(np.searchsorted(output, made + limits.output, side="right"))
        starts.append(max(at + 1, min(by_cost, by_output, at + limits.proteins, len(lengths))))
    return np.array(starts, dtype=np.int64)


def _refuse_bad(found: Scan, policy: Policy) -> None:
    if found.bad == len(found.lengths):
        raise InputError(f"no protein in the input:\n{listing(found.bad_listed, found.bad)}")
    if found.bad and policy.bad_records == "error":
        raise InputError(
            f"{plural(found.bad, 'record')} of {len(found.lengths):,} cannot be used:\n"
            f"{listing(found.bad_listed, found.bad)}\n"
            "Mend them, or leave them out with --bad-records skip"
        )


def _status(found: Scan, duplication: Duplication, policy: Policy, folder: JobFolder) -> NDArray[np.int8]:
    status = np.full(len(found.lengths), Status.WRITTEN, dtype=np.int8)
    status[duplication.first_id != np.arange(len(status))] = Status.MERGED
    if policy.refuse_over is not None and (over := np.flatnonzero(found.lengths > policy.refuse_over)).size:
        with RecordFile(folder.records) as names:
            named = [f"{names.place(i)}, id {names.id(i)!r}: {found.lengths[i]:,} residues" for i in over[:20]]
        raise InputError(
            f"{plural(len(over), 'protein')} over {policy.refuse_over:,} residues:\n{listing(named, len(over))}\n"
            "Choose another --long: truncate, window, full or skip"
        )
    if policy.skip_over is not None:
        status[(found.lengths > policy.skip_over) & (status == Status.WRITTEN)] = Status.SKIPPED
    merged = status == Status.MERGED
    status[merged] = np.where(status[duplication.first_id[merged]] == Status.SKIPPED, Status.SKIPPED, Status.MERGED)
    status[found.lengths == 0] = Status.SKIPPED
    return status


def _longest_first(computed: NDArray[np.int64], found: Scan) -> NDArray[np.int64]:
    """Longest first; ties by digest, so that the order of the input does not matter."""
    ties = np.ascontiguousarray(found.digests[computed, :8]).view(np.uint64)[:, 0]
    return computed[np.lexsort((ties, -found.lengths[computed]))]


def _places(
    order: NDArray[np.int64], duplication: Duplication, status: NDArray[np.int8], records: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    position = np.full(records, -1, dtype=np.int64)
    position[order] = np.arange(len(order))
    position = np.where(status <= Status.MERGED, position[duplication.first_sequence], -1)
    index = np.arange(records)
    merged = status == Status.MERGED
    twin = np.where(merged, duplication.first_id, duplication.first_sequence)
    return position, np.where((twin == index) | (status == Status.SKIPPED), -1, twin)


def _write_proteins(folder: JobFolder, spool: Any, order: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
    with (
        pa.memory_map(str(spool)) as mapped,
        pa.OSFile(str(folder.proteins), "wb") as sink,
        pa.ipc.new_file(sink, SEQUENCES) as out,
    ):
        file = pa.ipc.open_file(mapped)
        columns = [file.get_batch(i).column("sequence") for i in range(file.num_record_batches)]
        for start, stop in pairwise(starts):
            batch, row = np.divmod(order[start:stop], BATCH)
            sequences = [columns[b][r].as_py() for b, r in zip(batch.tolist(), row.tolist(), strict=True)]
            out.write_batch(pa.record_batch([pa.array(sequences, pa.large_binary())], schema=SEQUENCES))
    sync(folder.proteins)


def _counts(
    found: Scan, duplication: Duplication, status: NDArray[np.int8], order: NDArray[np.int64]
) -> dict[str, int]:
    written = int((status == Status.WRITTEN).sum())
    return {
        "records": len(status),
        "bad": found.bad,
        "merged": int((status == Status.MERGED).sum()),
        "skipped": int((status == Status.SKIPPED).sum()),
        "renamed": len(duplication.renamed),
        "shared": written - len(order),
        "replaced_letters": found.replaced[0],
        "replaced_proteins": found.replaced[1],
    }


def _write_json(path: Any, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
