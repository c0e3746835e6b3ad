"""Which proteins are learnt from, which choose the epoch, which are kept for the test."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.errors import InputError, plural
from aminoglot.finetune.examples import Dataset, Example
from aminoglot.finetune.options import Options

COVERAGE = 0.8
NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Rows of each split, in the order of examples, and how they came about, in words."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    how: str
    notes: tuple[str, ...] = ()

    def rows(self, name: str) -> NDArray[np.int64]:
        found: NDArray[np.int64] = getattr(self, name)
        return found

    def digest(self, examples: Sequence[Example]) -> str:
        """SHA-256 of which sequence is in which split."""
        found = hashlib.sha256()
        for example, name in zip(examples, self.of(len(examples)), strict=True):
            found.update(name.encode() + b" " + example.sequence + b"\n")
        return found.hexdigest()

    def of(self, count: int) -> list[str]:
        """The split of each example."""
        found = [""] * count
        for name in NAMES:
            for row in self.rows(name).tolist():
                found[row] = name
        return found


def split(dataset: Dataset, options: Options, scratch: Path, threads: int) -> Splits:
    """Deal proteins out, each by its sequence and the seed, whatever the order of the input.

    Args:
        dataset: what there is.
        options: how.
        scratch: a folder for MMseqs2's files.
        threads: processor cores for it.

    Raises:
        InputError: when nothing would be left to train or to validate with.
        DependencyError: for clusters without MMseqs2.
    """
    examples = dataset.examples
    if any(example.split is not None for example in examples):
        if options.split != "random":
            raise InputError("the data says which protein is in which split; leave --split out")
        made = _given(dataset, options)
    elif options.split == "clusters":
        made = _by_clusters(examples, options, scratch, threads)
    else:
        made = _at_random(dataset, options)
    if options.test_share and not len(made.test) and not any(example.split for example in examples):
        made = replace(made, notes=(*made.notes, _untested(dataset, options)))
    for name in ("train", "validation"):
        if not len(made.rows(name)):
            raise InputError(f"no protein is left for {name}: there are {plural(len(examples), 'labelled protein')}")
    return made


def _untested(dataset: Dataset, options: Options) -> str:
    why = (
        "clusters are too large"
        if options.split == "clusters"
        else "classes are small"
        if dataset.classes
        else "they are few"
    )
    return (
        f"no protein is left for the test, though {options.test_share:.0%} were wanted ({why}): scores will be of "
        "validation, which also chooses the epoch"
    )


def _given(dataset: Dataset, options: Options) -> Splits:
    said = np.array([example.split for example in dataset.examples])
    train, validation, test = (np.flatnonzero(said == name) for name in NAMES)
    notes = []
    if not len(train):
        raise InputError("no protein is marked for training: one of train, training is expected")
    if not len(validation):
        share = options.validation_share / (1 - options.test_share)
        strata = _strata(dataset, train)
        parts = [_cut(_shuffled(dataset.examples, rows, options.seed), (share,)) for rows in strata]
        validation = np.sort(np.concatenate([part[0] for part in parts]))
        train = np.sort(np.concatenate([part[-1] for part in parts]))
        notes.append(f"no protein is marked for validation: {len(validation):,} of those for training were taken")
    if not len(test):
        notes.append("no protein is marked for the test: there will be no test scores")
    return Splits(train, validation, test, "as the data says", tuple(notes))


def _at_random(dataset: Dataset, options: Options) -> Splits:
    shares = (options.test_share, options.validation_share)
    strata = _strata(dataset, np.arange(len(dataset.examples)))
    parts = [_cut(_shuffled(dataset.examples, rows, options.seed), shares) for rows in strata]
    test, validation, train = (np.sort(np.concatenate(found)) for found in zip(*parts, strict=True))
    if not len(validation):  # of small strata each rounds to none
        train, validation = train[1:], train[:1]
    by = ", each class by itself" if len(strata) > 1 else ""
    return Splits(train, validation, test, f"at random{by}")


def _strata(dataset: Dataset, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each class by themselves; of numbers, and of residues, all together."""
    if dataset.kind == "number" or dataset.per_residue:
        return [rows]
    labels = np.array([int(dataset.examples[row].label[0]) for row in rows.tolist()])
    return [rows[labels == one] for one in np.unique(labels)]


def _shuffled(examples: Sequence[Example], rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows in an order that is a function of sequences and seed alone."""
    keys = [hashlib.sha256(f"{seed} ".encode() + examples[row].sequence).digest() for row in rows.tolist()]
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def _cut(rows: NDArray[np.int64], shares: Sequence[float]) -> list[NDArray[np.int64]]:
    """The first rows by their shares, rounded, and the rest; of one row alone the rest takes it."""
    ends = np.rint(np.cumsum(shares) * len(rows)).astype(int)
    return np.split(rows, np.minimum(ends, max(0, len(rows) - 1)))


def _by_clusters(examples: Sequence[Example], options: Options, scratch: Path, threads: int) -> Splits:
    clusters = _clusters(examples, options.identity, scratch, threads)
    if len(clusters) < 3:
        raise InputError(
            f"at {options.identity:.0%} identity MMseqs2 makes {plural(len(clusters), 'cluster')} of these "
            f"{plural(len(examples), 'protein')}, and three are needed: raise --identity, or take --split random"
        )
    keys = [
        min(hashlib.sha256(f"{options.seed} ".encode() + examples[i].sequence).digest() for i in c) for c in clusters
    ]
    order = sorted(range(len(clusters)), key=keys.__getitem__)
    wanted = {"test": options.test_share * len(examples), "validation": options.validation_share * len(examples)}
    found: dict[str, list[int]] = {name: [] for name in NAMES}
    for number in order:
        members = clusters[number]
        fits = (name for name, room in wanted.items() if room and len(found[name]) + len(members) <= max(1, 1.1 * room))
        found[next(fits, "train")] += members
    notes = []
    for name, room in wanted.items():
        if not room or found[name]:
            continue
        # every cluster is large: the smallest that trains, the test's before validation's
        trains = set(found["train"])
        training = [clusters[n] for n in order if clusters[n][0] in trains]
        if len(training) < 2:  # the last one trains
            continue
        smallest = min(training, key=len)
        found[name], found["train"] = smallest, sorted(trains - set(smallest))
        notes.append(
            f"no cluster is as small as the {name} set was to be ({room:,.0f} of {plural(len(examples), 'protein')}): "
            f"the smallest was taken for it, {len(smallest):,}"
        )
    train, validation, test = (np.array(sorted(found[name]), np.int64) for name in NAMES)
    how = f"by clusters at {options.identity:.0%} identity, {len(clusters):,} of them ({mmseqs.described(())})"
    largest = max(map(len, clusters))
    if largest > len(examples) / 3:
        notes.append(f"the largest cluster has {largest:,} of {len(examples):,} proteins")
    return Splits(train, validation, test, how, tuple(notes))


def _clusters(examples: Sequence[Example], identity: float, scratch: Path, threads: int) -> list[list[int]]:
    """Members of each cluster; what MMseqs2 does not give back is a cluster of its own."""
    flags = ("--min-seq-id", str(identity), "-c", str(COVERAGE), "--cov-mode", "0")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        fasta = Path(folder) / "proteins.fasta"
        with fasta.open("wb") as file:
            for number, example in enumerate(examples):
                file.write(b">%d\n%s\n" % (number, example.sequence))
        pairs = mmseqs.cluster(fasta, flags, Path(folder), threads)
    found: dict[int, list[int]] = {}
    for representative, member in pairs.tolist():
        found.setdefault(representative, []).append(member)
    alone = set(range(len(examples))) - set(pairs[:, 1].tolist())
    return [sorted(members) for _, members in sorted(found.items())] + [[one] for one in sorted(alone)]
