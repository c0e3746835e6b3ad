"""A corpus, read: any protein, any member, at once, whatever its size."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot.corpus.recipes import Recipe
from aminoglot.corpus.stages import CARD, STATE, Stages
from aminoglot.corpus.store import NUMBER, Rows, Sequences
from aminoglot.corpus.tables import MEMBER_ROWS, MEMBER_STARTS
from aminoglot.errors import InputError, OutputError
from aminoglot.version import __version__

SPLITS = ("train", "validation", "test")


class Corpus:
    """A training set on disk. Opening one reads its card; all else is mapped when it is first looked at.

    Args:
        folder: where it is.
        recipe: to sample by other choices than the card's.

    Attributes:
        folder: where it is.
        card: what it was made from, and all counts.
        recipe: its choices.

    Raises:
        OutputError: when the folder holds no whole corpus.
    """

    def __init__(self, folder: str | Path, recipe: Recipe | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / CARD
        if not path.exists():
            begun = (self.folder / STATE).exists()
            raise OutputError(
                f"{folder}: "
                + (
                    "begun and not finished; build it again, it goes on"
                    if begun
                    else "no corpus here; aminoglot corpus build makes one"
                )
            )
        try:
            self.card: dict[str, Any] = json.loads(path.read_text())
            self.recipe = recipe or Recipe(**self.card["recipe"])
            sizes: dict[str, int] = self.card["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: damaged ({error})") from error
        for name, size in sizes.items():
            found = (self.folder / name).stat().st_size if (self.folder / name).exists() else None
            if found != size:
                raise OutputError(
                    f"{self.folder / name}: {size:,} bytes are wanted, found {found}; remove it and build it again"
                )

    def __repr__(self) -> str:
        return f"<aminoglot.Corpus {self.folder}: {self.recipe.name}, {len(self.split('train')):,} for training>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.folder, self.recipe)

    @cached_property
    def representatives(self) -> Sequences:
        """One protein of each cluster; row is the cluster's number."""
        return Sequences(self.folder / "representatives")

    @cached_property
    def members(self) -> Sequences | None:
        """All members, or None in a corpus without clusters."""
        return Sequences(self.folder / "members") if (self.folder / MEMBER_STARTS).exists() else None

    @cached_property
    def _splits(self) -> dict[str, Rows]:
        return {name: read_rows(self.folder / f"{name}.u64") for name in SPLITS}

    def split(self, name: str) -> Rows:
        """Numbers of the clusters of ``train``, ``validation`` or ``test``.

        Raises:
            InputError: for another name.
        """
        if name not in SPLITS:
            raise InputError(f"split {name!r}: choose {', '.join(SPLITS)}")
        return self._splits[name]

    @cached_property
    def _starts(self) -> Rows:
        return read_rows(self.folder / MEMBER_STARTS)

    @cached_property
    def _rows(self) -> Rows:
        return read_rows(self.folder / MEMBER_ROWS)

    def member_rows(self, cluster: int) -> NDArray[np.int64]:
        """Rows of a cluster's members, representative first, to be given to :meth:`place`."""
        start, stop = self.member_range(cluster)
        return self._rows[start:stop].astype(np.int64)

    def member_range(self, cluster: int) -> tuple[int, int]:
        """Where in the member table a cluster's members are."""
        if self.members is None:
            return cluster, cluster + 1
        return int(self._starts[cluster]), int(self._starts[cluster + 1])

    def member_at(self, at: int) -> tuple[Sequences, int]:
        """The member at a place of the member table: where its sequence is, and in which row."""
        return (self.representatives, at) if self.members is None else self.place(int(self._rows[at]))

    def place(self, row: int) -> tuple[Sequences, int]:
        """Where a member's sequence is: rows past the last of the members are representatives."""
        if self.members is None:
            return self.representatives, row
        count = len(self.members)
        return (self.members, row) if row < count else (self.representatives, row - count)


def read_rows(path: Path) -> Rows:
    """Numbers of a file, mapped.

    Raises:
        OutputError: when it is not there or cut short.
    """
    try:
        if not path.stat().st_size:
            return np.empty(0, NUMBER)
        return np.asarray(np.memmap(path, NUMBER, "r"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: not readable ({error}); remove the corpus and build it again") from error


def write_rows(path: Path, rows: NDArray[Any]) -> None:
    path.write_bytes(rows.astype(NUMBER).tobytes())


def finish(stages: Stages, recipe: Recipe, level: str | None) -> None:
    """Write the card of a corpus whose files are all there, with their sizes."""
    folders = ("", "representatives", "members")
    paths = sorted(
        path for name in folders for path in (stages.folder / name).glob("*") if path.suffix in (".u64", ".bin")
    )
    sizes = {str(path.relative_to(stages.folder)): path.stat().st_size for path in paths}
    stages.finish({"version": __version__, "recipe": recipe.as_dict(), "level": level, "files": sizes})
