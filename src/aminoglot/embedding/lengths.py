"""How many proteins have which length: all that a plan needs to know of its input, however many they are."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aminoglot.embedding.plan_options import MOST_PROTEINS, PlanOptions
from aminoglot.errors import InputError, OutputError, plural, reason
from aminoglot.jobs.storage import write_whole
from aminoglot.screen import Screen
from aminoglot.sequences import BadRecord, Columns, Reader, sources

_HEADER = "length\tcount"
_LONGEST = 10_000_000
"""Residues: far above the longest protein known, and below what arithmetic in 64 bits could not hold."""
_SAID_EVERY = 16_384


@dataclass(frozen=True)
class Lengths:
    """A histogram; memory grows with the number of different lengths, not with that of proteins.

    Attributes:
        residues: the lengths, ascending and each once, int64 [K].
        counts: how many proteins have each, one at least, int64 [K].
    """

    residues: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Lengths:
        """From how many proteins have each length.

        Raises:
            InputError: when there is no protein.
        """
        lengths = sorted(length for length, count in counts.items() if count)
        if not lengths:
            raise InputError("no protein in the input, so there is nothing to plan")
        return cls(np.array(lengths, dtype=np.int64), np.array([counts[length] for length in lengths], dtype=np.int64))

    @property
    def proteins(self) -> int:
        return int(self.counts.sum())

    def scaled(self, proteins: int) -> Lengths:
        """As many proteins as asked for, to the one, of the same distribution: each count is off by less than one."""
        if not 1 <= proteins <= MOST_PROTEINS:
            raise InputError(f"proteins {proteins}: a number from 1 to {MOST_PROTEINS:,} can be planned")
        ends = np.rint(np.cumsum(self.counts) / self.proteins * proteins).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        return Lengths(self.residues[counts > 0], counts[counts > 0])


def counted(inputs: Sequence[str | Path], options: PlanOptions, screen: Screen) -> Lengths:
    """Count the lengths in files, folders or standard input, as `embed` takes them; nothing else of them is kept.

    Records that are no protein are counted and said, never refused; equal sequences and equal ids are not looked for.

    Raises:
        InputError: for files that cannot be read, and where there is no protein at all.
    """
    counts: Counter[int] = Counter()
    bad, first = 0, ""
    with tempfile.TemporaryDirectory() as temporary:
        found, notes = sources(inputs, Path(temporary) / "input")
        reader = Reader(found, Columns(options.id_column, options.sequence_column), notes)
        with screen.progress("reading", sum(source.path.stat().st_size for source in found), "bytes") as done:
            said = 0
            for number, record in enumerate(reader, 1):
                if isinstance(record, BadRecord):
                    bad, first = bad + 1, first or str(record)
                else:
                    counts[len(record.sequence)] += 1
                if number % _SAID_EVERY == 0:
                    at = reader.position
                    done(at - said if at >= said else at)  # smaller: the next file has begun
                    said = at
    for note in notes:
        screen.note(note)
    if bad:
        screen.note(
            f"{plural(bad, 'record')} cannot be used and {'is' if bad == 1 else 'are'} not planned for; `embed` will "
            f"stop at them unless they are mended or left out with --bad-records skip. The first is\n  {first}"
        )
    return Lengths.of(counts)


def read(path: Path) -> Lengths:
    """Read a table of lengths and counts, parted by tabs; a first line that names the columns is passed over.

    Raises:
        InputError: naming the line that is none of two such numbers.
    """
    counts: Counter[int] = Counter()
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not (number == 1 and line.strip() == _HEADER):
                    length, count = _numbers(line, f"{path}, line {number:,}")
                    counts[length] += count
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text; a table of lengths and counts is wanted") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error
    if counts.total() > MOST_PROTEINS:
        raise InputError(f"{path}: {counts.total():,} proteins; at most {MOST_PROTEINS:,} can be planned")
    return Lengths.of(counts)


def _numbers(line: str, where: str) -> tuple[int, int]:
    cells = line.split()
    shown = line.strip()[:60]
    if len(cells) != 2 or not all(cell.isascii() and cell.isdigit() and len(cell) < 20 for cell in cells):
        raise InputError(f"{where}: {shown!r} is not a length and a count, two whole numbers with a tab between")
    length, count = map(int, cells)
    if not 1 <= length <= _LONGEST:
        raise InputError(f"{where}: a protein of {length:,} residues; lengths are from 1 to {_LONGEST:,}")
    return length, count


def check_free(path: Path) -> None:
    """Refuse a file to write that is there already, before the input is read.

    Raises:
        OutputError: when it is, or its folder is not.
    """
    if path.exists():
        raise OutputError(f"{path}: exists already; name a new file for --write-lengths")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")


def write(lengths: Lengths, path: Path) -> None:
    """Write the table that :func:`read` reads, whole or not at all.

    Raises:
        OutputError: when it cannot be written.
    """

    def fill(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.write(f"{_HEADER}\n")
            pairs = zip(lengths.residues.tolist(), lengths.counts.tolist(), strict=True)
            file.writelines(f"{length}\t{count}\n" for length, count in pairs)

    write_whole(path, fill)
