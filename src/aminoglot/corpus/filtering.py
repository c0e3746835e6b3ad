"""What trains, and what is held out: split, searched for leaks, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus import leaks
from aminoglot.corpus.draws import draws, mixed
from aminoglot.corpus.member_table import MemberTable
from aminoglot.corpus.reader import SPLITS, read_rows, write_rows
from aminoglot.corpus.recipes import Recipe
from aminoglot.corpus.stages import Stages
from aminoglot.corpus.store import Sequences
from aminoglot.errors import InputError, plural
from aminoglot.mmseqs import described
from aminoglot.screen import Screen

_PART = 1 << 21
"""Sequences that are searched at once: what a kill can cost."""
_SAID = {"validation": "held out for validation", "excluded": "to be kept out"}


class Filter:
    """The last stages of a corpus: each reads what those before it wrote into ``work``.

    Args:
        stages: of the corpus; representatives, and members with their table, are there.
        recipe: how it is split.
        threads: processor cores.
        screen: is told what happens.
    """

    def __init__(self, stages: Stages, recipe: Recipe, threads: int, screen: Screen) -> None:
        self.stages, self.recipe, self.threads, self.screen = stages, recipe, threads, screen
        self.folder, self.work = stages.folder, stages.work

    # -------------------------------------------------------------------------------------------------- split

    def split_clusters(self) -> dict[str, Any]:
        """ESM-2's: some clusters are held out, drawn by the recipe's seed."""
        count = len(Sequences(self.folder / "representatives"))
        drawn = draws(mixed(self.recipe.seed, 0), count)
        held_out = np.zeros(count, bool)
        held_out[np.argsort(drawn, kind="stable")[: self.recipe.held_out(count)]] = True
        if held_out.all():
            raise InputError(
                f"{plural(count, 'cluster')}: none is left to train; choose fewer with --validation, in a new folder"
            )
        self._write_splits({"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)})
        return {"train": int((~held_out).sum()), "validation": int(held_out.sum())}

    def split_shuffled(self) -> dict[str, Any]:
        """ProtT5nv's: the first of the shuffled proteins, the next, the rest; then the length filter.

        The order is numpy's, as in BioNeMo; proteins that repeat an earlier one are left out before.
        """
        sequences = Sequences(self.folder / "representatives")
        order = read_rows(self.work / "distinct.u64").astype(np.int64)
        np.random.default_rng(self.recipe.seed).shuffle(order)
        first = self.recipe.held_out(len(order))
        second = first + self.recipe.test
        if second >= len(order):
            raise InputError(
                f"{plural(len(order), 'protein')}, {first:,} of them for validation and {self.recipe.test:,} for test: "
                "none is left for training; choose fewer with --validation and --test, in a new folder"
            )
        short = sequences.lengths(0, len(sequences)) <= (self.recipe.longest or np.inf)
        whole = {"validation": order[:first], "test": order[first:second], "train": order[second:]}
        kept = {name: rows[short[rows]] for name, rows in whole.items()}
        if not len(kept["train"]):
            raise InputError(f"nothing is left for training: all have more than {self.recipe.longest:,} residues")
        self._write_splits(kept)
        counts = {name: len(rows) for name, rows in kept.items()}
        return (
            counts
            | {f"{name}, longer ones included": len(rows) for name, rows in whole.items()}
            | {"order": f"numpy {np.__version__}"}
        )

    def _write_splits(self, rows: dict[str, NDArray[np.int64]]) -> None:
        for name in SPLITS:
            write_rows(self.work / f"{name}.u64", rows.get(name, np.empty(0, np.int64)))

    # -------------------------------------------------------------------------------------------------- leaks

    def search(self, target: str) -> None:
        """Find what is similar to ``validation`` or to what is ``excluded``; two stages.

        Clusters of training whose representative is similar; of what is excluded those held out, too. Then the members
        of training clusters whose representative is not.
        """
        words = {"validation": ("similar clusters", "similar members")}.get(
            target, ("clusters to keep out", "members to keep out")
        )
        self._stage(words[0], lambda: self._clusters(target, words[0]))
        if self.recipe.name == "esm2":
            self._stage(words[1], lambda: self._members(target, words[1]))

    def _stage(self, name: str, work: Any) -> None:
        self.stages.run(name, work)
        self.stages.forget(f"{name}, part ")

    def _clusters(self, target: str, stage: str) -> dict[str, Any]:
        count = len(Sequences(self.folder / "representatives"))
        wanted = self._mask("train", count)
        if target == "excluded":
            wanted |= self._mask("validation", count) | self._mask("test", count)
        out, same = self._similar("representatives", wanted, target, stage)
        write_rows(self.work / f"clusters-{target}.u64", out)
        what = "clusters" if self.recipe.name == "esm2" else "proteins"
        return {
            what: len(out),
            "identical ones": same,
            "searched": int(wanted.sum()),
            "by": described(self._flags(target)),
        }

    def _members(self, target: str, stage: str) -> dict[str, Any]:
        clusters, members = (len(Sequences(self.folder / name)) for name in ("representatives", "members"))
        table = MemberTable(self.work)
        stay = self._mask("train", clusters) & ~self._mask(f"clusters-{target}", clusters)
        wanted = table.others(stay, members)
        out, same = self._similar("members", wanted, target, stage)
        places = table.places_of(out, stay)
        write_rows(self.work / f"members-{target}.u64", places)
        return {
            "members": len(places),
            "identical ones": same,
            "searched": int(wanted.sum()),
            "by": described(self._flags(target)),
        }

    def _similar(self, name: str, wanted: NDArray[np.bool_], target: str, stage: str) -> tuple[NDArray[np.int64], int]:
        """Rows that MMseqs2 finds, and those that are identical; and how many of those there are."""
        held_out = self.work / "target.fasta"
        store, chosen = self._targets(target)
        leaks.write_fasta(Sequences(store), chosen, held_out)
        same = leaks.identical(self.work / f"{name}.parquet", wanted, self.work / f"{store.name}.parquet", chosen)
        rows = np.flatnonzero(wanted)
        starts = range(0, len(rows), _PART) if chosen.any() else range(0)
        what = f"MMseqs2 searches {len(rows):,} {name} among {int(chosen.sum()):,} {_SAID[target]}"
        with self.screen.waiting(what):
            found = [
                self._part(name, rows[start : start + _PART], held_out, target, f"{stage}, part {number}")
                for number, start in enumerate(starts, 1)
            ]
        held_out.unlink()
        return np.unique(np.concatenate([same, *found])), len(same)

    def _part(self, name: str, rows: NDArray[np.int64], held_out: Path, target: str, stage: str) -> NDArray[np.int64]:
        """Search some of the sequences, or recall what was found."""
        path = self.work / f"{stage}.u64"

        def work() -> dict[str, Any]:
            sequences = Sequences(self.folder / name)
            wanted = np.zeros(len(sequences), bool)
            wanted[rows] = True
            query = self.work / "query.fasta"
            leaks.write_fasta(sequences, wanted, query)
            write_rows(path, leaks.similar(query, held_out, self._flags(target), self.work, self.threads))
            query.unlink()
            return {"searched": len(rows)}

        self.stages.run(stage, work)
        return read_rows(path).astype(np.int64)

    def _flags(self, target: str) -> tuple[str, ...]:
        if target == "validation":
            return leaks.of_both()
        return leaks.of_target(len(Sequences(self.work / "excluded")))

    def _targets(self, target: str) -> tuple[Path, NDArray[np.bool_]]:
        """The store of what is held out, and which of it."""
        if target == "validation":
            store = self.folder / "representatives"
            return store, self._mask("validation", len(Sequences(store)))
        store = self.work / "excluded"
        return store, np.ones(len(Sequences(store)), bool)

    def _mask(self, name: str, count: int) -> NDArray[np.bool_]:
        chosen = np.zeros(count, bool)
        chosen[self._rows(name)] = True
        return chosen

    def _rows(self, name: str) -> NDArray[np.int64]:
        path = self.work / f"{name}.u64"
        return read_rows(path).astype(np.int64) if path.exists() else np.empty(0, np.int64)

    # ------------------------------------------------------------------------------------------------- result

    def result(self, filtered: bool, strict: bool) -> dict[str, Any]:
        """The final table and splits, without what leaks."""
        excluded = self._rows("clusters-excluded")
        leaking = np.union1d(self._rows("clusters-validation"), excluded)
        members = self._rows("members-excluded")  # what shall be kept out is kept out, strict or not
        if strict:
            members = np.union1d(members, self._rows("members-validation"))
        counts: dict[str, Any] = {}
        for name in SPLITS:
            before = self._rows(name)
            kept = before[~np.isin(before, leaking if name == "train" else excluded)]
            write_rows(self.folder / f"{name}.u64", kept)
            counts |= {name: len(kept), f"taken out of {name}": len(before) - len(kept)}
        if not counts["train"]:
            raise InputError("nothing is left for training: all is similar to what is held out, or to be kept out")
        if self.recipe.name == "esm2":
            MemberTable(self.work).write_without(members, self.folder)
        return {**counts, "members taken out": len(members), "filtered": filtered}
