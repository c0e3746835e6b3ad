"""What the tests of jobs share: proteins by a seed, a job in one line, and a driver of child processes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aminoglot
from aminoglot.embedding.job import Outcome

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
MODEL = "random:esm2-tiny"
SMALL = 3
"""Proteins a shard, so that some dozens make a dozen shards (without it all of them would be in one)."""


def protein(length: int, seed: object = 0) -> str:
    """A random protein, the same in every process."""
    return "".join(random.Random(f"{seed}/{length}").choices(LETTERS, k=length))


def proteins(count: int, seed: int = 0, shortest: int = 5, longest: int = 60) -> dict[str, str]:
    """Different proteins of mixed lengths, by id."""
    lengths = random.Random(seed)
    return {f"P{i:04d}": protein(lengths.randint(shortest, longest), f"{seed}/{i}") for i in range(count)}


def write_fasta(path: Path, records: Mapping[str, str] | Sequence[tuple[str, str]]) -> Path:
    """Records to a FASTA file; pairs may repeat an id."""
    pairs = records.items() if isinstance(records, Mapping) else records
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in pairs), "utf-8")
    return path


def embed(source: Path | Sequence[Path], output: Path, **options: Any) -> Outcome:
    """A job with the tiny model in fp32 by torch, whatever this machine would choose."""
    return aminoglot.embed(source, output, **{"model": MODEL, "precision": "fp32", "backend": "torch", **options})


def table(output: Path) -> list[dict[str, str]]:
    """The table of proteins of an output, split by hand: the file promises one row a line, tabs between."""
    header, *rows = output.with_name(f"{output.name}.proteins.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    names = header.split("\t")
    return [dict(zip(names, row.split("\t"), strict=True)) for row in rows]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def flip(path: Path, at: int) -> None:
    """Damage one byte; a negative place counts from the end."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x5A
    path.write_bytes(data)


def finished_shards(output: Path) -> set[int]:
    """Shards that an unfinished job's manifest vouches for, read as plainly as can be."""
    manifest = output.with_name(f"{output.name}.aminoglot") / "manifest.jsonl"
    if not manifest.exists():
        return set()
    return {json.loads(line)["shard"] for line in manifest.read_bytes().split(b"\n")[:-1]}


@dataclass(frozen=True)
class Answer:
    """How a child ended: its exit status (negative for a signal), what it printed, and how long it took."""

    status: int
    screen: str
    seconds: float


class Driver:
    """Runs `aminoglot` in forked children of one process that has imported torch; see driver.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def embed(self, source: Path | str, output: Path, *flags: str, **request: Any) -> Answer:
        """Run `aminoglot embed` with the tiny model in fp32.

        Args:
            source: the input file, or - for standard input.
            output: the file to write.
            flags: more of the command line.
            request: what the child is to suffer; see driver.py.
        """
        standard = ["-m", MODEL, "--precision", "fp32", "--backend", "torch"]
        return self.run(["embed", str(source), "-o", str(output), *standard, *flags], **request)

    def run(self, arguments: Sequence[str], **request: Any) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"args": list(arguments), **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the driver died with {self._process.wait()}"
        return Answer(**json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
