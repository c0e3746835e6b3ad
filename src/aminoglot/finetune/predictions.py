"""The file of predictions: a row for every record of the input, in order, and what became of it.

Shapes: C outputs, L residues embedded.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aminoglot.embedding.results import Results
from aminoglot.finetune.outcome import told
from aminoglot.finetune.predictor import Recipe, probabilities
from aminoglot.finetune.results import as_text
from aminoglot.jobs import Audit, Plan, Status
from aminoglot.jobs.scan import BATCH, RecordFile
from aminoglot.jobs.storage import write_whole
from aminoglot.settings import Request

SUFFIXES = (".tsv", ".parquet")
_ROWS = 1024
"""Records a group of rows, of which memory holds one."""

_TOLD = (Status.WRITTEN, Status.MERGED)
"""Records that have a result."""

Row = dict[str, Any]


def beside(output: Path) -> Path:
    """Where it is noted how an output was made."""
    return output.with_name(f"{output.name}.json")


def columns(recipe: Recipe, with_probabilities: bool) -> list[str]:
    """Names of the columns."""
    more = [f"p_{name}" for name in recipe.classes] if with_probabilities else []
    return ["id", "status", "length", "residues_embedded", "prediction", *more, "duplicate_of", "note"]


def write_predictions(
    plan: Plan,
    account: Audit,
    output: Path,
    recipe: Recipe,
    request: Request,
    with_probabilities: bool,
    done: Callable[[int], None],
) -> None:
    """Write a finished job's predictions, whole or not at all.

    A TSV has numbers of residues parted by commas, and classes of residues as a letter each; Parquet has lists of
    numbers.

    Args:
        plan, account: the job.
        output: ``.tsv`` or ``.parquet``.
        recipe: what is predicted.
        request: what was computed.
        with_probabilities: whether to write those of all classes.
        done: told how many records were written.
    """
    table = _Table(plan, account, recipe, request, with_probabilities)
    names = columns(recipe, with_probabilities)
    parquet = output.suffix.lower() == ".parquet"

    def write(path: Path) -> None:
        with Results(plan) as results:
            groups = _grouped(table.rows(results))
            (_parquet if parquet else _tsv)(path, names, groups, _schema(recipe, names), done)

    write_whole(output, write)


def _grouped(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group


def _tsv(path: Path, names: list[str], groups: Iterator[list[Row]], _: pa.Schema, done: Callable[[int], None]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(names)
        for group in groups:
            writer.writerows([_text(row[name]) for name in names] for row in group)
            done(len(group))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())


def _parquet(
    path: Path, names: list[str], groups: Iterator[list[Row]], schema: pa.Schema, done: Callable[[int], None]
) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            writer.write_table(pa.table({name: [row[name] for row in group] for name in names}, schema))
            done(len(group))


def _schema(recipe: Recipe, names: list[str]) -> pa.Schema:
    number = pa.list_(pa.float32()) if recipe.per == "residue" else pa.float32()
    types = {"length": pa.int64(), "residues_embedded": pa.int64()}
    if not recipe.classes:
        types["prediction"] = number
    types |= {f"p_{name}": number for name in recipe.classes}
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


class _Table:
    def __init__(self, plan: Plan, account: Audit, recipe: Recipe, request: Request, with_probabilities: bool) -> None:
        self.plan, self.account, self.recipe, self.request = plan, account, recipe, request
        self.with_probabilities = with_probabilities

    def rows(self, results: Results) -> Iterator[Row]:
        """Every record."""
        plan = self.plan
        with RecordFile(plan.folder.records) as records:
            for number in range(records.batches):
                part = records.batch(number)
                span = np.arange(number * BATCH, number * BATCH + len(part))
                outputs = self._outputs(results, span)
                cells = zip(span.tolist(), part["id"].to_pylist(), part["why"].to_pylist(), strict=True)
                for index, name, why in cells:
                    told_of = self.account.status[index] in _TOLD
                    yield self._row(results, records, index, name, why, next(outputs) if told_of else None)

    def _outputs(self, results: Results, span: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Of those of some records that have a result, in order, [1, C] or [L, C]."""
        positions = self.plan.position[span[np.isin(self.account.status[span], _TOLD)]]
        if self.request.wants_residue:
            yield from (results.residue(position)[0] for position in positions.tolist())
        elif len(positions):
            yield from results.proteins(positions)

    def _row(
        self,
        results: Results,
        records: RecordFile,
        index: int,
        name: str,
        why: str | None,
        outputs: NDArray[np.float32] | None,
    ) -> Row:
        plan, status, twin = self.plan, Status(int(self.account.status[index])), int(self.plan.twin[index])
        rows = 0 if outputs is None else int(results.rows[plan.position[index]])
        row: Row = {
            "id": plan.renamed.get(index) or name,
            "status": status.name.lower(),
            "length": int(plan.lengths[index]),
            "residues_embedded": rows,
            "prediction": None,
            **{f"p_{one}": None for one in self.recipe.classes if self.with_probabilities},
            "duplicate_of": None if twin < 0 else plan.renamed.get(twin) or records.id(twin),
            "note": self._note(index, status, rows, why),
        }
        return row if outputs is None else row | self._said(outputs)

    def _said(self, outputs: NDArray[np.float32]) -> Row:
        recipe, residues = self.recipe, self.recipe.per == "residue"
        if not recipe.classes:
            values = [float(value) for value in told(outputs, "number")]
            return {"prediction": values if residues else values[0]}
        row: Row = {"prediction": as_text(outputs, recipe.classes, residues)}
        if self.with_probabilities:
            for name, found in zip(recipe.classes, probabilities(outputs).T, strict=True):
                row[f"p_{name}"] = _listed(found) if residues else float(found[0])
        return row

    def _note(self, index: int, status: Status, rows: int, why: str | None) -> str | None:
        length, limit = int(self.plan.lengths[index]), self.request.limit
        if status == Status.FAILED:
            return self.account.reasons[int(self.plan.position[index])]
        if status == Status.SKIPPED:
            return why or f"longer than {limit} residues"
        notes = ["renamed: its id was used before"] if index in self.plan.renamed else []
        if rows < length:
            notes.append(f"truncated to {rows} residues")
        elif length > limit:
            notes.append(
                f"in windows of {limit} residues" if self.request.long == "window" else f"beyond {limit} residues"
            )
        return "; ".join(notes) or None


def _listed(values: Sequence[float] | NDArray[np.float32]) -> list[float]:
    return [float(value) for value in values]
