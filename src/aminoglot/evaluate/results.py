"""``results.json``: everything a run found, as the report shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aminoglot.errors import OutputError
from aminoglot.evaluate.published import Published
from aminoglot.evaluate.scoring import Score
from aminoglot.jobs.storage import write_whole

SCHEMA = 1
RESULTS = "results.json"


@dataclass(frozen=True)
class Validation:
    """The main score on validation: its mean over seeds, and of each."""

    mean: float
    values: list[float]


@dataclass
class Row:
    """One head on one kind of features.

    Attributes:
        features: ``model``, ``untrained``, ``one-hot``, ``composition`` or ``none``.
        layer: of the network; None where there is none.
        head: what was fitted.
        published_head: whether it is the one of the published harness.
        best_layer: whether validation prefers this layer to the others with the same head.
        chosen: whether validation prefers this head and layer to all others of the same features.
        marks: what sets it apart from rows over all proteins and residues; never left out where it is shown.
        settings: what was chosen, and how it was fitted.
        seeds: copies.
        validation: the main score.
        scores: of the test set, by name.
        history: losses of each epoch and copy.
        seconds: that fitting took.
    """

    features: str
    layer: int | None
    head: str
    published_head: bool
    marks: list[str]
    settings: dict[str, Any]
    seeds: int
    validation: Validation
    scores: dict[str, Score]
    history: dict[str, list[list[float]]]
    seconds: float
    best_layer: bool = False
    chosen: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        layer = "" if self.layer is None else f", layer {self.layer}"
        return f"{'constant' if self.features == 'none' else self.features}{layer}"


@dataclass
class Difference:
    """By how much the model's main score is above another's, and between what limits 95 % of the draws lie."""

    over: str
    value: float
    low: float
    high: float


@dataclass
class SplitResult:
    """One split.

    Attributes:
        task: its name.
        title: the task in words.
        split: its name.
        rebuilt: whether it is no file of FLIP's.
        kind: ``classes`` or ``number``.
        score: what the main score is called.
        main: which of the scores that is.
        unit: of numbers.
        classes: names, in the order of ``confusion``.
        files: that were read.
        counts: of train, validation and test, as read.
        published_counts: as published; None where nobody says.
        mismatch: what sets the two apart, in words.
        checksums: whether tables have the published MD5, by set; empty where none is published.
        coverage: of each set, in words and numbers.
        notes: what one should know.
        rows: of one harness.
        differences: of the model's chosen row from others' chosen rows.
        confusion: of the model's chosen row, all seeds together: a row is what is, a column what was told.
    """

    task: str
    title: str
    split: str
    rebuilt: bool
    kind: str
    score: str
    main: str
    unit: str
    classes: list[str]
    files: list[str]
    counts: dict[str, int]
    published_counts: dict[str, int] | None
    mismatch: str | None
    checksums: dict[str, bool]
    coverage: dict[str, dict[str, Any]]
    notes: list[str]
    rows: list[Row] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)

    @property
    def best_rows(self) -> list[Row]:
        """Each head at its best layer, by features and then by head."""
        kinds, heads = ([getattr(row, name) for row in self.rows] for name in ("features", "head"))
        best = [row for row in self.rows if row.best_layer]
        return sorted(best, key=lambda row: (kinds.index(row.features), heads.index(row.head)))

    @property
    def marks(self) -> list[str]:
        """Of all rows, each once."""
        return list(dict.fromkeys(mark for row in self.rows for mark in row.marks))

    def chosen(self, features: str) -> Row | None:
        """The row that validation chose of one kind of features."""
        return next((row for row in self.rows if row.features == features and row.chosen), None)


@dataclass
class Results:
    """A run.

    Attributes:
        schema: of this file.
        aminoglot: version.
        model: name, digest, family, layers, hidden, parameters.
        protocol: ``all proteins``, or what was dropped.
        long: as asked.
        layers: that were tried.
        seeds: copies of each network.
        seconds: of embedding and of fitting.
        splits: one after the other.
        left_out: what was asked for by default and could not be run, and why.
        published: other people's numbers.
    """

    aminoglot: str
    model: dict[str, Any]
    protocol: str
    long: str
    layers: list[int]
    seeds: int
    seconds: dict[str, float]
    splits: list[SplitResult]
    left_out: list[str]
    published: list[Published]
    schema: int = SCHEMA


def write(results: Results, folder: Path) -> Path:
    """Write ``results.json``."""
    path = folder / RESULTS
    text = json.dumps(asdict(results), indent=1, ensure_ascii=False) + "\n"

    def save(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_whole(path, save)
    return path


def read(path: Path) -> Results:
    """Read it back.

    Raises:
        OutputError: when it is none of ours.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise OutputError(f"{path}: of another version of aminoglot (schema {raw['schema']})")
        splits = [_split(one) for one in raw.pop("splits")]
        published = [Published(**one) for one in raw.pop("published")]
        return Results(splits=splits, published=published, **raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: no results of aminoglot flip, or damaged ({error})") from error


def _split(raw: dict[str, Any]) -> SplitResult:
    rows = [_row(one) for one in raw.pop("rows")]
    differences = [Difference(**one) for one in raw.pop("differences")]
    return SplitResult(rows=rows, differences=differences, **raw)


def _row(raw: dict[str, Any]) -> Row:
    scores = {name: Score(**one) for name, one in raw.pop("scores").items()}
    return Row(validation=Validation(**raw.pop("validation")), scores=scores, **raw)


def choose(rows: Sequence[Row], heads: Sequence[str]) -> None:
    """Mark what validation prefers: for each head a layer, for all heads together one row. Test scores have no say.

    Args:
        rows: all of one kind of features.
        heads: in the order in which equals are preferred.
    """
    best: list[Row] = []
    for head in heads:
        of_head = [row for row in rows if row.head == head]
        if of_head:
            first = max(of_head, key=lambda row: row.validation.mean)
            first.best_layer = True
            best.append(first)
    if best:
        max(best, key=lambda row: row.validation.mean).chosen = True
