"""FLIP's own files: which they are, and what they say.

Residues' labels lie in three FASTA files: ``sequences.fasta``, ``SPLIT.fasta`` (labels, ``SET=`` and ``VALIDATION=`` in
the headers) and, for secondary structure, ``mask.fasta`` (once called ``resolved.fasta``). Proteins' labels lie in one,
``SPLIT.fasta`` with ``TARGET=`` in the headers, or in ``SPLIT.csv``: sequence, target, set, validation. All plain or
compressed. Files are found by name and known by content; a rebuilt set has a name of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from aminoglot.errors import InputError, listing, plural
from aminoglot.evaluate.rebuilt import read_table
from aminoglot.evaluate.split import TENTH, Example, Split, cleaned, is_number, table, tenth
from aminoglot.evaluate.tasks import REBUILT, Task
from aminoglot.finetune.annotations import Annotation, records
from aminoglot.sequences import Source

MASKS = ("mask", "resolved")
"""Names of the file that says which residues count, the newer first."""
SUFFIXES = (".fasta", ".csv")
_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_SETS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}
_UNUSED = ("", "nan", "none", "pred")
_YES, _NO = ("true", "1", "1.0"), ("false", "0", "0.0", *_UNUSED)


def splits_in(folder: Path, task: Task) -> list[str]:
    """Names of a task's splits that lie in a folder."""
    known = [*task.splits, *(f"{name}_{REBUILT}" for name in task.splits), f"{task.name}_{REBUILT}"]
    return [name for name in known if _find(folder, task, name) is not None]


def read(folder: Path, task: Task, name: str) -> Split:
    """Read one split.

    Args:
        folder: with a folder for each task, or one task's own.
        task: which.
        name: of the split.

    Raises:
        InputError: for files that are missing, damaged, or not what they should be, with file, line and id.
    """
    if name in task.refused:
        raise InputError(f"{task.name} {name}: cannot be evaluated: {task.refused[name]}")
    path = _find(folder, task, name)
    if path is None:
        raise InputError(_not_here(folder, task, name))
    if name == f"{task.name}_{REBUILT}":
        split = read_table(task, name, path)
    elif task.per == "residue":
        split = _residues(task, name, path)
    else:
        split = _proteins(task, name, path)
    _complete(split, path)
    return split


def _places(folder: Path, task: Task) -> list[Path]:
    return [folder / task.name, folder / task.name / "splits", folder / f"{task.name}_{REBUILT}", folder]


def _find(folder: Path, task: Task, name: str) -> Path | None:
    """The file of a split; a rebuilt table has the name that its maker gave it."""
    if name == f"{task.name}_{REBUILT}":
        return _packed(folder / name / f"{task.name}_with_sequence.csv")
    for place in _places(folder, task):
        for suffix in SUFFIXES if task.per == "protein" else SUFFIXES[:1]:
            path = _packed(place / f"{name}{suffix}")
            if path is not None and (place != folder or _belongs(folder, task)):
                return path
    return None


def _belongs(folder: Path, task: Task) -> bool:
    """Whether a folder that has no folder for the task is the task's own: several have a split called ``sampled``."""
    return task.name in folder.resolve().name


def _packed(path: Path) -> Path | None:
    found = (path.with_name(path.name + suffix) for suffix in _PACKED)
    return next((one for one in found if one.is_file()), None)


def _not_here(folder: Path, task: Task, name: str) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; --data names one that holds FLIP's files, a folder for each task"
    wanted = f"{name}.fasta" if task.per == "residue" else f"{name}.fasta or {name}.csv"
    here = splits_in(folder, task)
    hint = f"; here are {', '.join(here)}" if here else ""
    return f"{folder}: no split {name} of {task.name}: {wanted} (plain or .gz) in {folder / task.name}{hint}"


def _by_id(path: Path) -> tuple[dict[str, Annotation], int]:
    """Records by id, and how many came twice, the same."""
    found: dict[str, Annotation] = {}
    twice = 0
    for record in records(Source(str(path), path)):
        before = found.setdefault(record.header[0], record)
        if before is record:
            continue
        if (before.letters, before.header) != (record.letters, record.header):
            raise InputError(
                f"{path}, lines {before.line:,} and {record.line:,}: id {record.header[0]!r} twice, and not the same"
            )
        twice += 1
    return found, twice


def _residues(task: Task, name: str, path: Path) -> Split:
    """A task whose residues have labels."""
    version = name.removeprefix("sampled")
    sequences_path = _beside(path, f"sequences{version}")
    sequences, twice = _by_id(sequences_path)
    labels, labels_twice = _by_id(path)
    split = Split(task, name, files=(sequences_path.name, path.name))
    masks: dict[str, Annotation] = {}
    if task.masked:
        masks_path = _beside(path, *(f"{stem}{version}" for stem in MASKS))
        masks, more = _by_id(masks_path)
        twice += more
        split.files += (masks_path.name,)
        _all_there(masks_path, masks, labels, "mask")
    _all_there(sequences_path, sequences, labels, "sequence")
    if twice + labels_twice:
        split.notes.append(f"{plural(twice + labels_twice, 'record')} came twice, the same, and counted once")
    if unlabelled := [one for one in sequences if one not in labels]:
        split.notes.append(
            f"{plural(len(unlabelled), 'sequence')} of {sequences_path.name} without labels, left out: "
            f"{', '.join(unlabelled[:5])}{' ...' if len(unlabelled) > 5 else ''}"
        )
    for one, record in labels.items():
        where = f"{path}, line {record.line:,}, id {one!r}"
        sequence = cleaned(f"{sequences_path}, line {sequences[one].line:,}, id {one!r}", sequences[one].letters)
        mask = masks[one].letters if masks else None
        _check_residues(where, task, sequence, record.letters, mask)
        example = Example(one, sequence, record.letters, mask)
        _put(split, where, example, record.words.get("SET"), record.words.get("VALIDATION", ""))
    return split


def _beside(path: Path, *stems: str) -> Path:
    for stem in stems:
        found = _packed(path.with_name(f"{stem}.fasta"))
        if found is not None:
            return found
    raise InputError(f"{path.parent}: {' or '.join(f'{stem}.fasta' for stem in stems)} is missing beside {path.name}")


def _all_there(path: Path, found: dict[str, Annotation], labels: dict[str, Annotation], what: str) -> None:
    if missing := [one for one in labels if one not in found]:
        raise InputError(f"{path}: no {what} for {plural(len(missing), 'labelled protein')}:\n{listing(missing)}")


def _check_residues(where: str, task: Task, sequence: bytes, label: str, mask: str | None) -> None:
    if len(label) != len(sequence):
        raise InputError(f"{where}: {len(label):,} labels for {len(sequence):,} residues")
    if strange := set(label) - set(task.classes):
        at = next(i for i, letter in enumerate(label) if letter in strange)
        raise InputError(
            f"{where}: label {label[at]!r} of residue {at + 1:,} is none of {task.name}'s ({', '.join(task.classes)})"
        )
    if mask is not None and len(mask) != len(sequence):
        raise InputError(f"{where}: a mask of {len(mask):,} for {len(sequence):,} residues")
    if mask is not None and set(mask) - {"0", "1"}:
        raise InputError(f"{where}: a mask is made of 0 and 1, this one has {sorted(set(mask) - {'0', '1'})}")


def _proteins(task: Task, name: str, path: Path) -> Split:
    """A task whose proteins have labels."""
    split = Split(task, name, files=(path.name,))
    if ".csv" in path.suffixes:
        for number, (line, row) in enumerate(table(path, ("sequence", "target", "set")), 1):
            where = f"{path}, line {line:,}"
            _add(split, where, f"row_{number}", row["sequence"], row["target"], row["set"], row.get("validation") or "")
        return split
    found, twice = _by_id(path)
    if twice:
        split.notes.append(f"{plural(twice, 'record')} came twice, the same, and counted once")
    for one, record in found.items():
        values, where = record.words, f"{path}, line {record.line:,}, id {one!r}"
        if "TARGET" not in values:
            raise InputError(f"{where}: its header has no TARGET=")
        _add(split, where, one, record.letters, values["TARGET"], values.get("SET"), values.get("VALIDATION", ""))
    return split


def _add(split: Split, where: str, one: str, sequence: str, target: str, part: str | None, held_out: str) -> None:
    """A protein with its own label."""
    task, target = split.task, target.strip()
    if task.kind == "classes":
        target = target.replace(" ", "_").replace(".", "_")
        if ";" in target:
            raise InputError(f"{where}: several classes ({target}); here a protein has one")
        if target not in task.classes:
            hint = "; was it cut at the /?" if any(name.startswith(f"{target}/") for name in task.classes) else ""
            raise InputError(f"{where}: class {target!r} is none of {task.name}'s ({', '.join(task.classes)}){hint}")
    elif not is_number(target):
        raise InputError(f"{where}: target {target!r} is no number; mend it, or take the row out")
    _put(split, where, Example(one, cleaned(where, sequence), target), part, held_out)


def _put(split: Split, where: str, example: Example, part: str | None, held_out: str) -> None:
    """Into its set; what is in none is counted."""
    said, held_out = (part or "").strip().lower(), held_out.strip().lower()
    if held_out not in _YES + _NO:
        raise InputError(f"{where}: VALIDATION={held_out!r} is neither True nor False")
    if said in _UNUSED:
        split.unused += 1
        return
    if said not in _SETS:
        several = said.startswith("test") and said[4:].isdigit()
        why = "a split with several test sets cannot be evaluated yet" if several else "choose train, val or test"
        raise InputError(f"{where}: SET={part}: {why}")
    name = _SETS[said]
    split.sets["validation" if name == "train" and held_out in _YES else name].append(example)


def _complete(split: Split, path: Path) -> None:
    """What is left to say and to do when all is read."""
    if split.unused:
        split.notes.append(f"{plural(split.unused, 'protein')} in no set, left out")
    if not split.validation and len(split.train) >= TENTH:
        split.train, split.validation = tenth(split.train)
        split.notes.append(
            f"no protein is marked for validation: {plural(len(split.validation), 'training protein')}, a tenth, drawn "
            "by the digests of their sequences, stand in"
        )
    if empty := [name for name, found in split.sets.items() if not found]:
        raise InputError(f"{path}: no protein in {' and '.join(empty)}")
    if said := unlearnable(split.train, split.task):
        raise InputError(f"{path}: {said}")
    split.notes += _repeats(split)


def unlearnable(train: Sequence[Example], task: Task) -> str | None:
    """Why nothing can be learnt from a training set, if so."""
    if task.kind == "classes" and task.per == "protein" and len({example.label for example in train}) == 1:
        return f"all training proteins have the class {train[0].label}; nothing can be learnt"
    return None


def _repeats(split: Split) -> Iterator[str]:
    """Sequences that occur more than once."""
    trained = Counter(example.sequence for example in split.train)
    if repeated := sum(trained.values()) - len(trained):
        yield f"{plural(repeated, 'training protein')} with the sequence of another"
    for name in ("validation", "test"):
        if known := sum(example.sequence in trained for example in split.sets[name]):
            yield f"{plural(known, f'{name} protein')} with the very sequence of a training protein"


def digests(split: Split) -> dict[str, str]:
    """MD5 of the tables ``id,sequence,3state,resolved`` that BioNeMo 1's tests pin, by set."""
    found = {}
    for name, examples in split.sets.items():
        rows = "".join(f"{e.id},{e.sequence.decode()},{e.label},{e.mask}\n" for e in examples)
        found[name] = hashlib.md5(f"id,sequence,3state,resolved\n{rows}".encode(), usedforsecurity=False).hexdigest()
    return found


PUBLISHED_DIGESTS = {
    "train": ("af653e0e56e63442b4f3bafe68de7d70",),
    "validation": ("fa5d9cbdd729180b8401d18b31ecc0a9",),
    "test": ("a92c394b0017cd573d25fbd86cc6abf7", "0d680b0ef7765cf6b587ab5ec1882469"),
}
"""Of the secondary-structure tables (BioNeMo 1, test_flip_preprocessing.py), the test sets of 364 and of 648."""
