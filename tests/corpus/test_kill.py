"""Builds that are killed, or whose disk is full: they go on, and end as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.corpus.conftest import SOME
from tests.corpus.helpers import all_members, contents, mapping, uniref50

KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from aminoglot import corpus
from aminoglot.corpus import ESM2, Choices, Inputs, build
from aminoglot.jobs import storage
from aminoglot.sequences import Source
from tests.corpus.helpers import QUIET

folder, lines = Path(sys.argv[1]), int(sys.argv[2])
count = 0
FILES = [*Path(corpus.__file__).parent.glob("*.py"), Path(storage.__file__)]
COUNTED = {str(path) for path in FILES if path.name not in ("store.py", "reading.py")}  # loops over records

def line(frame, event, _):
    global count
    count += event == "line"
    if count == lines:
        os.kill(os.getpid(), signal.SIGKILL)
    return line

def call(frame, event, _):
    return line if frame.f_code.co_filename in COUNTED else None

files = [Source(name, folder / name) for name in ("50.fasta.gz", "90.fasta", "members")]
sys.settrace(call)
build(Inputs(*files), replace(ESM2, validation=0.1), folder / "corpus", Choices(filtered=False), QUIET)
sys.settrace(None)
print(count)
"""


def files(folder: Path) -> None:
    folder.mkdir()
    uniref50(folder / "50.fasta.gz", SOME)
    all_members(folder / "90.fasta", SOME)
    mapping(folder / "members", SOME)


def linked(folder: Path, to: Path) -> Path:
    """The same files in another folder."""
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            os.link(path, to / path.name)
    return to


def ran(program: str, folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(folder), str(number)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
def test_killed_at_any_line_it_goes_on(tmp_path: Path) -> None:
    files(tmp_path / "whole")
    done = ran(KILLED, tmp_path / "whole", -1)
    assert done.returncode == 0, done.stderr
    total = int(done.stdout.split()[-1])
    expected = contents(tmp_path / "whole" / "corpus")
    assert total > 500
    for number, line in enumerate(np.linspace(1, total, 25).astype(int).tolist()):
        folder = linked(tmp_path / "whole", tmp_path / f"killed-{number}")
        assert ran(KILLED, folder, line).returncode == -signal.SIGKILL
        again = ran(KILLED, folder, -1)
        assert again.returncode == 0, again.stderr
        assert contents(folder / "corpus") == expected


FULL = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from aminoglot.corpus import ESM2, Choices, Inputs, build
from aminoglot.errors import AminoglotError
from aminoglot.sequences import Source
from tests.corpus.helpers import QUIET

folder, most = Path(sys.argv[1]), int(sys.argv[2])
files = [Source(name, folder / name) for name in ("50.fasta.gz", "90.fasta", "members")]
if most >= 0:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
try:
    build(Inputs(*files), replace(ESM2, validation=0.1), folder / "corpus", Choices(filtered=False), QUIET)
except AminoglotError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("most", [0, 100, 3_000, 20_000, 60_000])
def test_a_full_disk_is_said_and_then_it_goes_on(most: int, tmp_path: Path) -> None:
    """No file may grow beyond some bytes, which strikes stores, Parquet, DuckDB and the card in their turn."""
    files(tmp_path / "whole")
    linked(tmp_path / "whole", tmp_path / "some")
    full = ran(FULL, tmp_path / "some", most)
    assert full.returncode == 3, full.stderr
    assert "disk is full" in full.stdout or "ree some space" in full.stdout, full.stdout
    assert ran(FULL, tmp_path / "some", -1).returncode == 0
    assert ran(FULL, tmp_path / "whole", -1).returncode == 0
    again, whole = (contents(tmp_path / name / "corpus") for name in ("some", "whole"))
    assert again == whole
