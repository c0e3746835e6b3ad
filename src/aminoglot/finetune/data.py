"""Labelled proteins from tables and FASTA files: read, judged, merged, and every record accounted for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import InputError, listing, plural
from aminoglot.finetune import labels as reading
from aminoglot.finetune.annotations import Annotation, read_annotations
from aminoglot.finetune.examples import Dataset, Entry, Status
from aminoglot.finetune.labels import Label, LabelError
from aminoglot.finetune.metrics import Kind
from aminoglot.finetune.options import Options
from aminoglot.finetune.repeats import Group, joined
from aminoglot.sequences import BadRecord, Columns, Protein, Reader, Source

_HEADER = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "holdout"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


@dataclass(frozen=True)
class _Row:
    """A protein with what its record says, as text."""

    protein: Protein
    label: str
    split: str = ""
    validation: str = ""
    mask: str | None = None


def read(found: Sequence[Source], notes: Sequence[str], options: Options, limit: int) -> Dataset:
    """Read labelled proteins.

    Args:
        found: tables with the same columns, or FASTA files.
        notes: what the user is to be told of them.
        options: which columns, and what becomes of what does not fit.
        limit: the model's, in residues.

    Raises:
        InputError: for what cannot be used, listed with file, line and id; for fewer than three labelled proteins, or
            labels that are all the same.
    """
    return _Read(options, limit, notes).run(found)


class _Read:
    def __init__(self, options: Options, limit: int, notes: Sequence[str]) -> None:
        if (options.target is None) == (options.labels is None):
            raise InputError("name the column of labels with --target, or a FASTA file of labels with --labels")
        if (options.labels or options.masks or options.mask_column) and options.per == "protein":
            raise InputError("labels and masks a residue are for --per residue")
        self.options, self.limit = options, limit
        self.entries: list[Entry] = []
        self.notes = list(notes)
        self.wrong: list[str] = []
        # whether the data say in which split a protein is, or at least which ones validate
        self.marked = options.split_column is not None
        self.dealt = self.marked or options.validation_column is not None

    def run(self, found: Sequence[Source]) -> Dataset:
        rows = self._rows(Reader(found, Columns(self.options.id_column, self.options.sequence_column, self._asked())))
        options, per_residue = self.options, self.options.per == "residue"
        labelled = [(entry, row) for entry, row in rows if entry.status == Status.USED]
        if not labelled:
            raise InputError(f"none of {plural(len(self.entries), 'record')} has a label in {self._where()}")
        kind = self._kind([row.label for _, row in labelled])
        self.marked |= any(row.split for _, row in labelled)
        self.dealt |= self.marked or any(row.validation for _, row in labelled)
        groups: dict[tuple[bytes, str | None], Group] = {}
        for entry, row in labelled:
            label, mask, split = self._judged(entry, row, kind)
            key = (row.protein.sequence, split)
            if entry.status == Status.USED:
                groups.setdefault(key, Group(row.protein, split)).add(entry, label, mask)
        self._refuse(kind)
        unsplit = sum(entry.status == Status.UNSPLIT for entry in self.entries)
        if unsplit and options.split_column is None:
            self.notes.append(f"{plural(unsplit, 'protein')} without SET=, which others have: used nowhere")
        for number, entry in enumerate(self.entries, 1):
            entry.number = number
        examples, classes = joined(list(groups.values()), kind, options.contradictions, self.notes)
        dataset = Dataset(kind, per_residue, classes, examples, self.entries, self.notes)
        self._mind(dataset)
        return dataset

    def _kind(self, cells: Sequence[str]) -> Kind:
        """What the user says that labels are, else what they look like."""
        if self.options.kind != "auto":
            return self.options.kind
        kind = reading.kind_of(cells, self.options.per == "residue")
        if kind == "classes" and self.options.per == "protein":
            numbers = sum(map(reading.is_number, cells))
            if 0 < numbers < len(cells):
                self.notes.append(f"{reading.mixture(cells)}: all are taken for names of classes")
        return kind

    def _asked(self) -> tuple[str, ...]:
        options = self.options
        named = (options.target, options.split_column, options.validation_column, options.mask_column)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def _where(self) -> str:
        return f"the column {self.options.target!r}" if self.options.target else str(self.options.labels)

    def _rows(self, reader: Reader) -> list[tuple[Entry, _Row]]:
        """Every record, as an entry and, of proteins, what it says."""
        options = self.options
        labels = read_annotations(Path(options.labels).expanduser()) if options.labels else None
        masks = read_annotations(Path(options.masks).expanduser()) if options.masks else None
        rows: list[tuple[Entry, _Row]] = []
        keys: set[str] = set()
        ids: set[str] = set()
        bad: list[str] = []
        for record in reader:
            ids |= {record.id} if isinstance(record, BadRecord) else {record.id, record.original_id}
            if isinstance(record, BadRecord):
                bad.append(str(record))
                self.entries.append(Entry(record.id, 0, Status.BAD, record.why))
                continue
            cells = self._cells(record, keys)
            row = self._row(record, cells, labels, masks)
            entry = Entry(record.id, len(record.sequence), Status.USED, label=row.label)
            self.entries.append(entry)
            rows.append((entry, row))
        self.notes += [note for note in reader.notes if note not in self.notes]
        if bad and options.bad_records == "error":
            raise InputError(f"{plural(len(bad), 'bad record')}:\n{listing(bad)}\nMend them, or add --bad-records skip")
        if lost := [name for name in self._asked() if name not in keys]:
            raise InputError(f"no header has {lost[0]}=...; FASTA files have their labels as words such as TARGET=0.5")
        self._unique(rows)
        self._tell_unused(options.labels, labels, ids)
        self._tell_unused(options.masks, masks, ids)
        words: Counter[str] = Counter()
        for entry, row in rows:
            self._sorted_out(entry, row, words)
        if words:
            self.notes.append(
                f"labels that are no numbers count as missing, {words.total():,} of them: {reading.tally(words)}"
            )
        return rows

    def _tell_unused(self, path: str | Path | None, found: dict[str, Annotation] | None, ids: set[str]) -> None:
        """Note what is said of proteins that the data lack: another naming of ids would lose labels unseen."""
        unused = [name for name in found or () if name not in ids]
        if unused:
            shown = ", ".join(unused[:5]) + (", ..." if len(unused) > 5 else "")
            self.notes.append(f"{path}: {plural(len(unused), 'id')} that the data lack, unused: {shown}")

    def _cells(self, protein: Protein, keys: set[str]) -> dict[str, str]:
        """What a record's columns say, of a FASTA file the words of its header."""
        asked = self._asked()
        if len(protein.cells) == len(asked):
            keys.update(asked)
            return dict(zip(asked, protein.cells, strict=True))
        found = dict(_HEADER.findall(protein.description))
        keys.update(found)
        return {name: found.get(name, "") for name in asked}

    def _row(
        self,
        protein: Protein,
        cells: dict[str, str],
        labels: dict[str, Annotation] | None,
        masks: dict[str, Annotation] | None,
    ) -> _Row:
        options = self.options
        label = cells.get(options.target or "", "")
        split, validation = cells.get(options.split_column or "", ""), cells.get(options.validation_column or "", "")
        if labels is not None:
            of = labels.get(protein.id) or labels.get(protein.original_id)
            label = of.letters if of else ""
            if of and options.split_column is None:
                split, validation = of.words.get("SET", ""), of.words.get("VALIDATION", "")
        mask = cells.get(options.mask_column or "")
        if masks is not None:
            hidden = masks.get(protein.id) or masks.get(protein.original_id)
            mask = hidden.letters if hidden else None
            if mask is None and label:
                self.wrong.append(f"{protein.place}: no mask in {options.masks}")
        return _Row(protein, label, split, validation, mask)

    def _unique(self, rows: list[tuple[Entry, _Row]]) -> None:
        first: dict[str, Protein] = {}
        clashes = []
        for _, row in rows:
            known = first.setdefault(row.protein.id, row.protein)
            if known.sequence != row.protein.sequence:
                clashes.append(f"{row.protein.id!r}: {known.source}, line {known.line:,} and line {row.protein.line:,}")
        if clashes:
            raise InputError(
                f"{plural(len(clashes), 'id')} used again for another sequence:\n{listing(clashes)}\nRename them"
            )

    def _sorted_out(self, entry: Entry, row: _Row, words: Counter[str]) -> None:
        """Whether a protein is used at all; words where the user wants numbers are counted."""
        if reading.missing(row.label):
            entry.status, entry.note = Status.UNLABELLED, "no label"
        elif self.options.kind == "number" and self.options.per == "protein" and reading.is_word(row.label):
            entry.status, entry.note = Status.UNLABELLED, "no number"
            words[row.label] += 1
        elif self.options.long in ("skip", "error") and entry.length > self.limit:
            entry.status, entry.note = Status.LONG, f"longer than {self.limit:,} residues"
            if self.options.long == "error":
                self.wrong.append(f"{row.protein.place}: {entry.length:,} residues, over {self.limit:,}")

    def _judged(self, entry: Entry, row: _Row, kind: Kind) -> tuple[Label, NDArray[np.bool_], str | None]:
        """A row's label, which entries of it count, and its split; what is wrong is noted down."""
        try:
            split = self._split(entry, row)
            if self.options.per == "protein":
                label = reading.of_protein(row.label, kind)
                return label, np.ones(1, bool), split
            label = reading.of_residues(row.label, kind, len(row.protein.sequence))
            mask = reading.counted(label, row.mask)
            seen = self.limit if self.options.long == "truncate" else len(label)
            if not mask[:seen].any():
                entry.status, entry.note = Status.UNLABELLED, "no label among the residues that are embedded"
            return label, mask, split
        except LabelError as error:
            self.wrong.append(f"{row.protein.place}: {error}")
            return np.zeros(1), np.ones(1, bool), None

    def _split(self, entry: Entry, row: _Row) -> str | None:
        options = self.options
        if not self.dealt:
            return None
        word = row.split.strip().lower()
        if self.marked and reading.missing(word):
            empty = "no SET=, which others have" if options.split_column is None else f"{options.split_column} is empty"
            entry.status, entry.note = Status.UNSPLIT, empty
            return None
        split = _SPLIT_OF.get(word or "train")
        if split is None:
            raise LabelError(f"{row.split!r} is no split; there are {', '.join(_SPLIT_OF)}")
        said = row.validation.strip().lower()
        if said not in (*_TRUE, *_FALSE):
            raise LabelError(f"validation {row.validation!r} is neither true nor false")
        return "validation" if split == "train" and said in _TRUE else split

    def _refuse(self, kind: Kind) -> None:
        if not self.wrong:
            return
        hint = ""
        if kind == "number" and any("no number" in line for line in self.wrong):
            hint = "\nLabels were taken for numbers; where they are names of classes, add --kind classes"
            if self.options.kind == "auto":
                hint += ", and where words say that there is none, --kind number"
        labelled = [entry for entry in self.entries if not reading.missing(entry.label)]
        short = sum(reading.is_number(one.label) and 2 * len(one.label) < one.length for one in labelled)
        if self.options.per == "residue" and 2 * short > len(labelled):
            hint = "\nThe labels look like one a protein: leave out --per residue"
        if self.options.long == "error" and any("residues, over" in line for line in self.wrong):
            hint += "\nChoose --long truncate, window or skip"
        raise InputError(f"{plural(len(self.wrong), 'record')} cannot be used:\n{listing(self.wrong)}{hint}")

    def _mind(self, dataset: Dataset) -> None:
        """Refuse what nothing can be learnt from."""
        labelled = len(dataset.examples)
        if labelled < 3:
            raise InputError(f"{plural(labelled, 'labelled protein')}: too few to train, to validate and to test with")
        if dataset.kind == "classes":
            self._mind_classes(dataset)
        if dataset.kind == "number":
            values = np.concatenate([one.label[one.counted] for one in dataset.examples])
            if np.ptp(values) == 0:
                raise InputError(f"{self._where()} is {values[0]:g} everywhere: there is nothing to learn")

    def _mind_classes(self, dataset: Dataset) -> None:
        if len(dataset.classes) == 1:
            raise InputError(f"{self._where()} is {dataset.classes[0]!r} everywhere: there is nothing to learn")
        labels = np.concatenate([one.label[one.counted] for one in dataset.examples])
        if np.bincount(labels).max() == 1:
            raise InputError(
                f"{self._where()} has {len(dataset.classes):,} classes of one label each: there is nothing to learn. "
                "Is it what the labels are in? Numbers are --kind number"
            )
        if self.options.kind == "auto" and not dataset.per_residue and 2 * len(dataset.classes) > len(labels):
            raise InputError(
                f"{self._where()} has {len(dataset.classes):,} different values among {len(labels):,}: is it what the "
                "labels are in? --kind classes takes them for names of classes"
            )
        alike: dict[str, list[str]] = {}
        for name in dataset.classes if not dataset.per_residue else ():  # letters of residues may mean it
            alike.setdefault(name.casefold(), []).append(name)
        if pairs := [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]:
            self.notes.append(f"classes that differ by case alone: {', '.join(pairs[:5])}")


def counts(entries: Sequence[Entry]) -> Iterator[tuple[Status, int]]:
    """How many records became what, without those that none became."""
    for status in Status:
        if count := sum(entry.status == status for entry in entries):
            yield status, count
