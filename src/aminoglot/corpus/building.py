"""A corpus from UniRef's files, or from anybody's own proteins: read, cluster, split, filter; stage by stage."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot import mmseqs
from aminoglot.corpus import leaks, tables
from aminoglot.corpus.clustering import cluster_own
from aminoglot.corpus.member_table import MemberTable
from aminoglot.corpus.members import Level
from aminoglot.corpus.reader import SPLITS, Corpus, finish, read_rows, write_rows
from aminoglot.corpus.reading import BAD_RECORDS, read
from aminoglot.corpus.recipes import RECIPES, Recipe
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import Sequences, SequenceWriter
from aminoglot.errors import InputError, plural
from aminoglot.screen import Screen
from aminoglot.sequences import Protein, Reader, Source

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
        "recipe": recipe.as_dict(),
        "choices": {name: getattr(choices, name) for name in ("level", "filtered", "strict", "bad_records")},
    }
    with Stages(folder, inputs.named(), asked) as stages:
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
        if choices.level or choices.strict:
            raise InputError("ProtT5nv's set has no clusters: leave out --level and --strict")
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
        run = self.stages.run
        if self.recipe.name == "prott5nv":
            run("representatives", lambda: self._read(self.inputs.representatives, "representatives"))
            run("split", self._split_shuffled)
        else:
            self._clusters()
            run("split", self._split_clusters)
        if self.recipe.name == "esm2" and self.choices.filtered:
            run("similar clusters", lambda: self._search("validation", leaks.OF_BOTH))
            run("similar members", lambda: self._search_members("validation", leaks.OF_BOTH))
        if self.inputs.excluded is not None:
            run("clusters to keep out", lambda: self._search("excluded", leaks.OF_TARGET))
            if self.recipe.name == "esm2":
                run("members to keep out", lambda: self._search_members("excluded", leaks.OF_TARGET))
        run("result", self._result)
        finish(self.stages, self.recipe, self._level())

    # ------------------------------------------------------------------------------------------------ reading

    def _read(self, source: Source, name: str, into: Path | None = None) -> dict[str, Any]:
        """Sequences of a file into the corpus, every id once."""
        listed = self.folder / f"{name}-{BAD_RECORDS}"
        listed.unlink(missing_ok=True)
        names = self.work / f"{name}.parquet"
        with SequenceWriter((into or self.folder) / name, names) as writer:
            found = read(source, writer, self.choices.bad_records, self.screen, listed)
        with tables.database(self.work, self.memory, self.choices.threads) as connection:
            once = name == "representatives" and self.recipe.name == "esm2"
            found["repeated records"] = tables.number(connection, names, name, once)
        return found

    def _clusters(self) -> None:
        """Representatives, members, and which belongs to which."""
        run, first = self.stages.run, self.inputs.representatives
        if self.inputs.members is None:
            run("proteins", lambda: self._read(first, "proteins", self.work))
            run("clusters", lambda: cluster_own(self.folder, self.work, self.choices.threads))
            return
        members = self.inputs.members
        run("representatives", lambda: self._read(first, "representatives"))
        run("members", lambda: self._read(members, "members"))
        run("pairs", self._pairs)
        run("clusters", self._join)
        mind_releases(self.stages.results, self.screen)

    def _level(self) -> Level | None:
        """What the members are: by their names, unless it was said."""
        if self.recipe.name != "esm2":
            return None
        if self.choices.level or self.inputs.members is None:
            return self.choices.level or "uniref90-representatives"
        first = Sequences(self.folder / "members").name(0)
        return "uniref90-representatives" if first.startswith("UniRef90_") else "members"

    def _pairs(self) -> dict[str, Any]:
        assert self.inputs.mapping is not None
        level = self._level()
        assert level is not None
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

    # -------------------------------------------------------------------------------------------------- split

    def _split_clusters(self) -> dict[str, Any]:
        count = len(Sequences(self.folder / "representatives"))
        held_out = np.zeros(count, bool)
        held_out[np.random.default_rng(self.recipe.seed).choice(count, self.recipe.held_out(count), False)] = True
        parts = {"train": ~held_out, "validation": held_out}
        for name, chosen in parts.items():
            write_rows(self.work / f"{name}.u64", np.flatnonzero(chosen))
        write_rows(self.work / "test.u64", np.empty(0, np.int64))
        if held_out.all():
            raise InputError(f"{plural(count, 'cluster')}: none is left for training; choose fewer with --validation")
        return {name: int(chosen.sum()) for name, chosen in parts.items()}

    def _split_shuffled(self) -> dict[str, Any]:
        """ProtT5nv's: the first of the shuffled proteins, the next, the rest; then the length filter."""
        sequences = Sequences(self.folder / "representatives")
        order = np.arange(len(sequences))
        np.random.default_rng(self.recipe.seed).shuffle(order)
        first = self.recipe.held_out(len(order))
        second = first + self.recipe.test
        if second >= len(order):
            raise InputError(
                f"{plural(len(order), 'protein')}, and {second:,} of them for validation and test: none is left for "
                "training; choose fewer with --validation and --test"
            )
        short = sequences.lengths(0, len(order)) <= (self.recipe.longest or np.inf)
        counts = {}
        for name, rows in (("validation", order[:first]), ("test", order[first:second]), ("train", order[second:])):
            kept = rows[short[rows]]
            write_rows(self.work / f"{name}.u64", kept)
            counts[name] = len(kept)
            counts[f"{name}, longer ones included"] = len(rows)
        return counts

    # -------------------------------------------------------------------------------------------------- leaks

    def _search(self, target: str, coverage_mode: int) -> dict[str, Any]:
        """Training clusters whose representative is similar."""
        sequences = Sequences(self.folder / "representatives")
        out = self._similar(sequences, self._mask("train", len(sequences)), target, coverage_mode)
        write_rows(self.work / f"clusters-{target}.u64", out)
        what = "clusters" if self.recipe.name == "esm2" else "proteins"
        return {what: len(out), "by": leaks.described(coverage_mode)}

    def _search_members(self, target: str, coverage_mode: int) -> dict[str, Any]:
        """Members that are similar, of clusters whose representative is not."""
        representatives, members = (Sequences(self.folder / name) for name in ("representatives", "members"))
        table = MemberTable(self.work)
        stay = self._mask("train", len(representatives)) & ~self._mask(f"clusters-{target}", len(representatives))
        wanted = table.others(stay, len(members))
        places = table.places_of(self._similar(members, wanted, target, coverage_mode))
        write_rows(self.work / f"members-{target}.u64", places)
        return {"members": len(places), "searched": int(wanted.sum()), "by": leaks.described(coverage_mode)}

    def _similar(
        self, sequences: Sequences, wanted: NDArray[np.bool_], target: str, coverage_mode: int
    ) -> NDArray[np.int64]:
        query, held_out = self.work / "query.fasta", self.work / "target.fasta"
        count = leaks.write_fasta(sequences, wanted, query)
        self._write_target(target, held_out)
        self.screen.say(
            f"MMseqs2 {mmseqs.version()}: searching {count:,} sequences among those {_SAID[target]}, at "
            f"{leaks.IDENTITY:.0%} identity; this may take hours"
        )
        found = leaks.similar(query, held_out, coverage_mode, self.work, self.choices.threads)
        query.unlink()
        held_out.unlink()
        return found

    def _write_target(self, target: str, path: Path) -> None:
        if target == "validation":
            sequences = Sequences(self.folder / "representatives")
            leaks.write_fasta(sequences, self._mask("validation", len(sequences)), path)
            return
        assert self.inputs.excluded is not None
        with path.open("wb") as file:
            for count, record in enumerate(Reader([self.inputs.excluded])):
                if not isinstance(record, Protein):
                    raise InputError(f"{record}: a protein to be kept out has to be readable")
                file.write(b">%d\n%s\n" % (count, record.sequence))

    def _mask(self, name: str, count: int) -> NDArray[np.bool_]:
        chosen = np.zeros(count, bool)
        chosen[read_rows(self.work / f"{name}.u64").astype(np.int64)] = True
        return chosen

    def _rows(self, name: str) -> NDArray[np.int64]:
        path = self.work / f"{name}.u64"
        return read_rows(path).astype(np.int64) if path.exists() else np.empty(0, np.int64)

    def _result(self) -> dict[str, Any]:
        """The final table and splits, without what leaks."""
        out = np.union1d(self._rows("clusters-validation"), self._rows("clusters-excluded"))
        members = self._rows("members-excluded")  # what shall be kept out is kept out, strict or not
        if self.choices.strict:
            members = np.union1d(members, self._rows("members-validation"))
        train = self._rows("train")
        kept = train[~np.isin(train, out)]
        if not len(kept):
            raise InputError("nothing is left for training: every cluster is similar to what is held out")
        if self.recipe.name == "esm2":
            MemberTable(self.work).write_without(members, self.folder)
        for name in SPLITS:
            write_rows(self.folder / f"{name}.u64", kept if name == "train" else self._rows(name))
        result = {name: len(read_rows(self.folder / f"{name}.u64")) for name in SPLITS}
        filtered = self.recipe.name == "esm2" and self.choices.filtered
        return {**result, "taken out": len(train) - len(kept), "members taken out": len(members), "filtered": filtered}


_SAID = {"validation": "held out for validation", "excluded": "to be kept out"}


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
