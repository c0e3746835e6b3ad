"""A corpus from UniRef's files, or from anybody's own proteins: read, cluster, split, filter; stage by stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus import leaks, tables
from aminoglot.corpus.member_table import MemberTable
from aminoglot.corpus.members import Level, kind_of
from aminoglot.corpus.reader import SPLITS, Corpus, read_rows, write_rows
from aminoglot.corpus.recipes import Recipe
from aminoglot.corpus.stages import Stages, digest
from aminoglot.corpus.store import Sequences, SequenceWriter
from aminoglot.errors import LISTED, InputError, listing
from aminoglot.screen import Screen
from aminoglot.sequences import Protein, Reader, Source
from aminoglot.version import __version__

MOST_UNKNOWN = 0.01
"""More clusters than this without members in the file of members: the releases do not match."""
_SAID_EVERY = 4096


@dataclass(frozen=True)
class Inputs:
    """The files that a corpus is built from.

    Attributes:
        representatives: one protein a UniRef50 cluster; or all there is.
        members: the proteins that are drawn from clusters; None where they are to be made by clustering.
        mapping: which member belongs to which cluster.
        excluded: proteins to keep out, and all that is similar to one.
    """

    representatives: Source
    members: Source | None = None
    mapping: Source | None = None
    excluded: Source | None = None

    def named(self) -> dict[str, Source]:
        return {name: source for name in self.__dataclass_fields__ if (source := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Choices:
    """How a corpus is built, beside its recipe.

    Attributes:
        level: what the members are; None to tell from their names.
        filtered: whether what is similar to validation is taken out.
        strict: whether single members are taken out too, where their representative stays.
        bad_records: ``stop`` at records that are no proteins, or ``skip`` them.
        memory: for DuckDB.
        threads: processor cores.
    """

    level: Level | None = None
    filtered: bool = True
    strict: bool = False
    bad_records: str = "stop"
    memory: str = "1GB"
    threads: int = os.cpu_count() or 1


def build(inputs: Inputs, recipe: Recipe, folder: Path, choices: Choices, screen: Screen) -> Corpus:
    """Build a corpus, or go on with one that was begun from the same files.

    Args:
        inputs: files.
        recipe: how it is split and sampled.
        folder: a new one, or one begun before.
        choices: what else there is to choose.
        screen: is told what happens.

    Raises:
        InputError: for files that cannot be used.
        DependencyError: without DuckDB or MMseqs2, where they are needed.
        JobError: when a stage cannot be finished; those that are done stay done.
        OutputError: when the folder cannot be written.
    """
    _sensible(inputs, recipe, choices)
    asked = {
        "version": __version__,
        "recipe": recipe.as_dict(),
        "choices": {name: getattr(choices, name) for name in ("level", "filtered", "strict", "bad_records")},
        "inputs": {name: _stamp(source) for name, source in inputs.named().items()},
    }
    with Stages(folder, asked) as stages:
        if stages.whole:
            screen.say(f"{folder} is whole already")
        else:
            _Build(inputs, recipe, choices, stages, screen).run()
    return Corpus(folder)


def _stamp(source: Source) -> dict[str, Any]:
    """By what a file is known again without reading it."""
    found = source.path.stat()
    return {"name": source.path.name, "bytes": found.st_size, "changed": found.st_mtime_ns}


def _sensible(inputs: Inputs, recipe: Recipe, choices: Choices) -> None:
    """Refuse what would end in an error late, or what would say nothing."""
    if recipe.name == "prott5nv" and (inputs.members or inputs.mapping):
        raise InputError("ProtT5nv trains on UniRef50 representatives: leave out --uniref90 and --members")
    if recipe.name == "esm2" and (inputs.members is None) != (inputs.mapping is None):
        raise InputError("--uniref90 and --members go together: one has the sequences, the other says whose they are")
    clusters_own = recipe.name == "esm2" and inputs.members is None
    if clusters_own or (recipe.name == "esm2" and choices.filtered) or inputs.excluded:
        mmseqs.find()  # now, not after hours


class _Build:
    """The stages, in order. Each reads what those before it wrote."""

    def __init__(self, inputs: Inputs, recipe: Recipe, choices: Choices, stages: Stages, screen: Screen) -> None:
        self.inputs, self.recipe, self.choices, self.stages, self.screen = inputs, recipe, choices, stages, screen
        self.folder = stages.folder

    def run(self) -> None:
        run = self.stages.run
        run("inputs", self._digests)
        if self.recipe.name == "esm2":
            self._clusters()
            run("split", self._split_clusters)
            run("leaks", self._leaks)
        else:
            run("representatives", lambda: self._read(self.inputs.representatives, "representatives"))
            run("split", self._split_shuffled)
            run("leaks", self._excluded)
        run("take out", self._take_out)
        self.stages.finish({"recipe": self.recipe.as_dict(), "level": self._level()})

    # ------------------------------------------------------------------------------------------------ reading

    def _digests(self) -> dict[str, Any]:
        return {name: {"name": source.path.name, "sha256": digest(source.path)} for name, source in self._sources()}

    def _sources(self) -> Iterator[tuple[str, Source]]:
        yield from self.inputs.named().items()

    def _read(self, source: Source, into: str) -> dict[str, Any]:
        """Sequences of a file into the corpus, and how many records were no proteins."""
        bad: list[str] = []
        replaced = 0
        size = source.path.stat().st_size
        with (
            SequenceWriter(self.folder / into) as writer,
            self.screen.progress(f"reading {source.path.name}", size, "bytes") as done,
        ):
            for record, step in _with_progress(source):
                if step:
                    done(step)
                if isinstance(record, Protein):
                    writer.add(record.id, _header(record), record.sequence)
                    replaced += record.replaced
                else:
                    bad.append(str(record))
            count, residues = writer.count, writer.residues
        if bad and self.choices.bad_records == "stop":
            raise InputError(
                f"{source.name}: {len(bad):,} records are no proteins (--bad-records skip leaves them out):\n"
                f"{listing(bad)}"
            )
        if not count:
            raise InputError(f"{source.name}: no protein in this file")
        return {
            "sequences": count,
            "residues": residues,
            "replaced letters": replaced,
            "bad records": len(bad),
            "first bad records": bad[:LISTED],
        }

    # ----------------------------------------------------------------------------------------------- clusters

    def _clusters(self) -> None:
        """Representatives, members, and which belongs to which."""
        run = self.stages.run
        if self.inputs.members is None:
            from aminoglot.corpus.clustering import cluster_own

            run("proteins", lambda: self._read(self.inputs.representatives, "work/proteins"))
            run("clusters", lambda: cluster_own(self.folder, self.stages.work, self.choices.threads))
            return
        members = self.inputs.members
        run("representatives", lambda: self._read(self.inputs.representatives, "representatives"))
        run("members", lambda: self._read(members, "members"))
        run("pairs", self._pairs)
        found = run("clusters", self._join)
        self._mind_releases(found)

    def _level(self) -> Level | None:
        """What the members are: by their names, unless it was said."""
        if self.recipe.name != "esm2":
            return None
        if self.choices.level or self.inputs.members is None:
            return self.choices.level or "uniref90-representatives"
        first = Sequences(self.folder / "members").name(0).id
        return "uniref90-representatives" if first.startswith("UniRef90_") else "members"

    def _pairs(self) -> dict[str, Any]:
        assert self.inputs.mapping is not None
        level = self._level()
        assert level is not None
        self.screen.say(f"members of clusters: {level}")
        count = tables.write_pairs(self.inputs.mapping, level, self._pairs_path)
        return {"pairs": count, "kind": kind_of(self.inputs.mapping)}

    @property
    def _pairs_path(self) -> Path:
        return self.stages.work / "pairs.parquet"

    def _join(self) -> dict[str, Any]:
        in_order = self.stages.results["pairs"]["kind"] == "mapping"
        with tables.database(self.stages.work, self.choices.memory, self.choices.threads) as connection:
            repeated = {
                what: tables.refuse_duplicates(connection, self.folder / what, what)
                for what in ("representatives", "members")
            }
            found = tables.join(connection, self.folder, self.stages.work, self._pairs_path, in_order)
        return {**found._asdict(), "repeated records": repeated}

    def _mind_releases(self, found: dict[str, Any]) -> None:
        """Clusters that the file of members does not know are few, or it is another release's."""
        clusters = self.stages.results["representatives"]["sequences"]
        if found["alone"] > MOST_UNKNOWN * clusters:
            raise InputError(
                f"{found['alone']:,} of {clusters:,} clusters have no member with a sequence: the files are of "
                "different releases, or their names differ. Get all three of one release and build into a new folder"
            )
        for what, count in (
            ("clusters without members: their representative is the only one", found["alone"]),
            ("members without a sequence, listed in members-without-sequence.txt", found["without_sequence"]),
            ("sequences without a cluster, listed in sequences-without-cluster.txt", found["without_cluster"]),
        ):
            if count:
                self.screen.note(f"{count:,} {what}")

    # -------------------------------------------------------------------------------------------------- split

    def _split_clusters(self) -> dict[str, Any]:
        count = len(Sequences(self.folder / "representatives"))
        generator = np.random.default_rng(self.recipe.seed)
        held_out = self.recipe.held_out(count)
        chosen = np.sort(generator.choice(count, held_out, replace=False))
        train = np.setdiff1d(np.arange(count), chosen, assume_unique=True)
        return self._save_split({"train": train, "validation": chosen, "test": np.empty(0, np.int64)})

    def _split_shuffled(self) -> dict[str, Any]:
        """ProtT5nv's: the first of the shuffled proteins, the next, the rest; then the length filter."""
        sequences = Sequences(self.folder / "representatives")
        order = np.arange(len(sequences))
        np.random.default_rng(self.recipe.seed).shuffle(order)
        first = self.recipe.held_out(len(order))
        second = min(len(order), first + self.recipe.test)
        if second >= len(order):
            raise InputError(
                f"{len(order):,} proteins, and {second:,} of them for validation and test: none is left for training; "
                "choose fewer with --validation and --test"
            )
        parts = {"validation": order[:first], "test": order[first:second], "train": order[second:]}
        return self._save_split(parts, sequences.lengths() if self.recipe.longest else None)

    def _save_split(
        self, parts: dict[str, NDArray[np.int64]], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        for name, rows in parts.items():
            kept = rows if lengths is None else rows[lengths[rows] <= self.recipe.longest]
            write_rows(self.stages.work / f"{name}.u64", kept)
            counts[name] = len(kept)
            if lengths is not None:
                counts[f"{name}, with those above {self.recipe.longest:,} residues"] = len(rows)
        return counts

    # -------------------------------------------------------------------------------------------------- leaks

    def _leaks(self) -> dict[str, Any]:
        """What is similar to validation, and to what shall be kept out."""
        counts: dict[str, Any] = {"filtered": self.choices.filtered}
        clusters: NDArray[np.int64] = np.empty(0, np.int64)
        places: NDArray[np.int64] = np.empty(0, np.int64)
        if self.choices.filtered:
            clusters, loose = self._similar_to(self._validation(), leaks.OF_BOTH)
            counts["clusters similar to validation"] = len(clusters)
            counts["members similar to validation, their representative not"] = len(loose)
            places = loose if self.choices.strict else places
        if self.inputs.excluded is not None:
            more, members = self._similar_to(self._excluded_fasta(), leaks.OF_TARGET)
            counts["clusters similar to what is kept out"] = len(more)
            counts["members similar to what is kept out, their representative not"] = len(members)
            clusters, places = np.union1d(clusters, more), np.union1d(places, members)
        write_rows(self.stages.work / "clusters-out.u64", clusters)
        write_rows(self.stages.work / "members-out.u64", places)
        return counts

    def _excluded(self) -> dict[str, Any]:
        """For a corpus without clusters, which nothing is filtered from but what shall be kept out."""
        out: NDArray[np.int64] = np.empty(0, np.int64)
        counts: dict[str, Any] = {"filtered": False}
        if self.inputs.excluded is not None:
            query = self._fasta("train", self._train(), Sequences(self.folder / "representatives"))
            out = leaks.similar(query, self._excluded_fasta(), leaks.OF_TARGET, self.stages.work, self.choices.threads)
            counts["proteins similar to what is kept out"] = len(out)
        write_rows(self.stages.work / "clusters-out.u64", out)
        write_rows(self.stages.work / "members-out.u64", np.empty(0, np.int64))
        return counts

    def _train(self) -> NDArray[np.int64]:
        return read_rows(self.stages.work / "train.u64").astype(np.int64)

    def _similar_to(self, target: Path, coverage_mode: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training clusters whose representative is similar, and places of members of the others that are."""
        train = self._train()
        query = self._fasta("train", train, Sequences(self.folder / "representatives"))
        clusters = leaks.similar(query, target, coverage_mode, self.stages.work, self.choices.threads)
        query.unlink()
        query = self.stages.work / "members.fasta"
        stay = np.setdiff1d(train, clusters, assume_unique=True)
        MemberTable(self.stages.work).write_fasta(Sequences(self.folder / "members"), stay, query)
        places = leaks.similar(query, target, coverage_mode, self.stages.work, self.choices.threads)
        query.unlink()
        return clusters, places

    def _validation(self) -> Path:
        rows = read_rows(self.stages.work / "validation.u64").astype(np.int64)
        return self._fasta("validation", rows, Sequences(self.folder / "representatives"))

    def _fasta(self, name: str, rows: NDArray[np.int64], sequences: Sequences) -> Path:
        path = self.stages.work / f"{name}.fasta"
        leaks.write_fasta(sequences, rows.tolist(), path)
        return path

    def _excluded_fasta(self) -> Path:
        assert self.inputs.excluded is not None
        path = self.stages.work / "excluded.fasta"
        with path.open("wb") as file:
            for number, record in enumerate(Reader([self.inputs.excluded])):
                if not isinstance(record, Protein):
                    raise InputError(f"{record}: a protein to be kept out has to be readable")
                file.write(b">%d\n%s\n" % (number, record.sequence))
        return path

    def _take_out(self) -> dict[str, Any]:
        """The final table and splits, without what leaks."""
        clusters = read_rows(self.stages.work / "clusters-out.u64").astype(np.int64)
        places = read_rows(self.stages.work / "members-out.u64").astype(np.int64)
        train = self._train()
        kept = train[~np.isin(train, clusters)]
        if self.recipe.name == "esm2":
            MemberTable(self.stages.work).write_without(places, self.folder)
        for name in SPLITS:
            whole = self.stages.work / f"{name}.u64"
            write_rows(self.folder / f"{name}.u64", kept if name == "train" else read_rows(whole))
        return {"clusters taken out": len(train) - len(kept), "members taken out": len(places), "train": len(kept)}


def _header(record: Protein) -> str:
    """The header as it was written, without its sign."""
    return f"{record.original_id} {record.description}".rstrip()


def _with_progress(source: Source) -> Iterator[tuple[Any, int]]:
    """Records, and how many bytes of the file were read for each; told now and then."""
    said = 0
    reader = Reader([source])
    for number, record in enumerate(reader, 1):
        position = reader.position if number % _SAID_EVERY == 0 else said
        yield record, position - said
        said = position
