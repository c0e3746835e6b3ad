"""A corpus from UniRef's files, or from anybody's own proteins: read, cluster, split, filter; stage by stage."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from aminoglot import mmseqs
from aminoglot.corpus import tables
from aminoglot.corpus.clustering import cluster_own
from aminoglot.corpus.filtering import Filter
from aminoglot.corpus.members import OWN_LEVEL, Level, level_of
from aminoglot.corpus.reader import Corpus, finish, read_rows, write_rows
from aminoglot.corpus.reading import BAD_RECORDS, read
from aminoglot.corpus.recipes import RECIPES, Recipe
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import Sequences, SequenceWriter
from aminoglot.errors import InputError
from aminoglot.screen import Screen
from aminoglot.sequences import Source

MOST_UNKNOWN = 0.01
"""More clusters than this without members in the file of members: the releases do not match."""


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
        return {one.name: source for one in fields(self) if (source := getattr(self, one.name)) is not None}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Choices:
    """How a corpus is built, beside its recipe.

    Attributes:
        level: what the members are; None to tell from their names.
        filtered: whether what is similar to validation is taken out.
        strict: whether single members are taken out too, where their representative stays.
        bad_records: ``stop`` at records that are no proteins, or ``skip`` them.
        memory: for DuckDB; None for half a gigabyte a core, one at least.
        threads: processor cores.
    """

    level: Level | None = None
    filtered: bool = True
    strict: bool = False
    bad_records: str = "stop"
    memory: str | None = None
    threads: int = field(default_factory=cores)


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
        "recipe": recipe.as_dict(),
        "choices": {name: getattr(choices, name) for name in ("level", "filtered", "strict", "bad_records")},
    }
    with Stages(folder, inputs.named(), asked, screen) as stages:
        if stages.whole:
            screen.say(f"{folder} is whole already")
        else:
            _Build(inputs, recipe, choices, stages, screen).run()
    return Corpus(folder)


def _sensible(inputs: Inputs, recipe: Recipe, choices: Choices) -> None:
    """Refuse what would end in an error late, or what would have no effect."""
    if recipe.name == "prott5nv":
        if inputs.members or inputs.mapping:
            raise InputError("ProtT5nv trains on UniRef50 representatives: leave out --uniref90 and --members")
        if choices.level or choices.strict or not choices.filtered:
            raise InputError(
                "ProtT5nv's set has no clusters and no leak filter: leave out --level, --strict and --no-leak-filter"
            )
        if recipe.letters != RECIPES["prott5nv"].letters:
            raise InputError("ProtT5nv's masks replace nothing by other letters: leave out --letters")
        needs_mmseqs = inputs.excluded is not None
    else:
        if recipe.test or recipe.longest:
            raise InputError(
                "--test and --longest are ProtT5nv's: ESM-2 crops long proteins, and has one part held out"
            )
        if (inputs.members is None) != (inputs.mapping is None):
            raise InputError(
                "--uniref90 and --members go together: one has the sequences, the other says whose they are"
            )
        if choices.strict and not choices.filtered:
            raise InputError("--strict is about what the leak filter finds: leave out it, or --no-leak-filter")
        if choices.level and inputs.members is None:
            raise InputError("--level is about UniRef's members: leave it out with --fasta")
        if choices.filtered and not recipe.validation:
            raise InputError("--validation 0 holds nothing out to filter by: say --no-leak-filter too")
        needs_mmseqs = choices.filtered or inputs.excluded is not None or inputs.members is None
    if needs_mmseqs:
        mmseqs.find()  # now, not after hours


class _Build:
    """The stages, in order. Each reads what those before it wrote."""

    def __init__(self, inputs: Inputs, recipe: Recipe, choices: Choices, stages: Stages, screen: Screen) -> None:
        self.inputs, self.recipe, self.choices, self.stages, self.screen = inputs, recipe, choices, stages, screen
        self.folder, self.work = stages.folder, stages.work
        self.memory = choices.memory or f"{max(1.0, choices.threads / 2):.1f}GB"

    def run(self) -> None:
        run, excluded = self.stages.run, self.inputs.excluded
        made = Filter(self.stages, self.recipe, self.choices.threads, self.screen)
        if excluded is not None:  # first, for a bad record in it should not show after hours
            run("proteins to keep out", lambda: self._read_excluded(excluded))
        if self.recipe.name == "prott5nv":
            run("representatives", lambda: self._read(self.inputs.representatives, "representatives"))
            run("split", made.split_shuffled)
        else:
            self._clusters()
            run("split", made.split_clusters)
        filtered = self.recipe.name == "esm2" and self.choices.filtered
        if filtered:
            made.search("validation")
        if excluded is not None:
            made.search("excluded")
        run("result", lambda: made.result(filtered, self.choices.strict))
        finish(self.stages, self.recipe, self._level())

    # ------------------------------------------------------------------------------------------------ reading

    def _read_excluded(self, source: Source) -> dict[str, Any]:
        """Proteins to keep out; each has to be readable, and ids do not matter."""
        with SequenceWriter(self.work / "excluded", self.work / "excluded.parquet") as writer:
            return read(source, writer, "stop", self.screen, self.work / BAD_RECORDS)

    def _read(self, source: Source, name: str, into: Path | None = None) -> dict[str, Any]:
        """Sequences of a file into the corpus; ``distinct.u64`` has the rows that repeat no earlier one."""
        listed = self.folder / f"{name}-{BAD_RECORDS}"
        listed.unlink(missing_ok=True)
        names = self.work / f"{name}.parquet"
        with SequenceWriter((into or self.folder) / name, names) as writer:
            found = read(source, writer, self.choices.bad_records, self.screen, listed)
        with tables.database(self.work, self.memory, self.choices.threads) as connection:
            once = name == "representatives" and self.recipe.name == "esm2"
            found["repeated records"] = tables.number(connection, names, name, once)
            if not once and name != "members":
                rows = connection.execute(f"SELECT at_row FROM {name} ORDER BY at_row").fetchnumpy()["at_row"]
                write_rows(self.work / "distinct.u64", rows)
        return found

    def _clusters(self) -> None:
        """Representatives, members, and which belongs to which."""
        run, first = self.stages.run, self.inputs.representatives
        if self.inputs.members is None:
            run("proteins", lambda: self._read(first, "proteins", self.work))
            run("clusters", self._cluster_own)
            return
        members = self.inputs.members
        run("representatives", lambda: self._read(first, "representatives"))
        run("members", lambda: self._read(members, "members"))
        run("pairs", self._pairs)
        run("clusters", self._join)
        mind_releases(self.stages.results, self.screen)

    def _cluster_own(self) -> dict[str, Any]:
        wanted = np.zeros(len(Sequences(self.work / "proteins")), bool)
        wanted[read_rows(self.work / "distinct.u64").astype(np.int64)] = True
        return cluster_own(self.folder, self.work, wanted, self.choices.threads, self.screen)

    def _level(self) -> str | None:
        """What the members are, for the card."""
        if self.recipe.name != "esm2":
            return None
        return OWN_LEVEL if self.inputs.members is None else self._members_level()

    def _members_level(self) -> Level:
        """By their names, unless it was said."""
        first = Sequences(self.folder / "members").name(0)
        if first.startswith("UniRef50_"):
            raise InputError(
                f"--uniref90: its first protein is {first}; are --uniref50 and --uniref90 in their places?"
            )
        return self.choices.level or level_of(first)

    def _pairs(self) -> dict[str, Any]:
        assert self.inputs.mapping is not None
        level = self._members_level()
        self.screen.say(f"members of clusters: {level}; reading {self.inputs.mapping.path.name}")
        return vars(tables.write_pairs(self.inputs.mapping, level, self.work / "pairs.parquet"))

    def _join(self) -> dict[str, Any]:
        done = self.stages.results
        with tables.database(self.work, self.memory, self.choices.threads) as connection:
            for name in ("representatives", "members"):
                tables.number(connection, self.work / f"{name}.parquet", name)
            counts = (done["representatives"]["sequences"], done["members"]["sequences"])
            in_order = done["pairs"]["kind"] == "mapping"
            return tables.join(connection, self.folder, self.work, counts, in_order)._asdict()


def mind_releases(results: dict[str, Any], screen: Screen) -> None:
    """Say what found no partner; clusters without members are few, or the files are of different releases.

    Args:
        results: of the stages so far.
        screen: is told.

    Raises:
        InputError: when they are many.
    """
    found, clusters = results["clusters"], results["representatives"]["sequences"]
    known = found["alone"]
    if results["pairs"]["kind"] == "idmapping":  # which lists UniProtKB only
        clusters, known = clusters - found["alone_of_uniparc"], known - found["alone_of_uniparc"]
    if known > MOST_UNKNOWN * clusters:
        raise InputError(
            f"{known:,} of {clusters:,} clusters have no member with a sequence: the files are of different releases, "
            "or their names differ. Get all of one release and build into a new folder"
        )
    for what, count in (
        ("clusters without members: their representative is the only one", found["alone"]),
        (f"members without a sequence, listed in {tables.WITHOUT_SEQUENCE}", found["without_sequence"]),
        (f"sequences without a cluster, listed in {tables.WITHOUT_CLUSTER}", found["without_cluster"]),
        ("sequences in more than one cluster", found["in_several_clusters"]),
        ("lines of the file of members about clusters that are not here", found["pairs_of_other_clusters"]),
        ("lines of the file of members without a cluster", results["pairs"]["without_cluster"]),
    ):
        if count:
            screen.note(f"{count:,} {what}")
