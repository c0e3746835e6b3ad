"""A job that is killed, interrupted or torn at any moment: the same command finishes it, with the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.embedding.helpers import SMALL, Answer, Driver, files, finished_shards, proteins, write_fasta

EXTRA = 40
"""About as many lines more are run where an older output is looked at first."""
PHASES = ("planning", "shards", "export", "cleaning")


@dataclass(frozen=True)
class Drill:
    """A job to interrupt, what it writes when nobody does, and how many lines of code each phase runs."""

    driver: Driver
    source: Path
    whole: dict[str, bytes]
    ends: Sequence[int]
    shards: int

    def run(self, output: Path, *flags: str, **request: object) -> Answer:
        return self.driver.embed(self.source, output, "--per", "both", *flags, shard=SMALL, **request)

    def moments(self, phase: str, count: int, seed: int) -> list[int]:
        """Random lines of a phase, one in each of ``count`` equal stretches of it."""
        number = PHASES.index(phase)
        start, stop = [0, *self.ends][number : number + 2]
        cuts = [start + (stop - start) * i // count for i in range(count + 1)]
        choose = random.Random(f"{phase}/{seed}")
        return [choose.randint(low + 1, high) for low, high in pairwise(cuts)]


@pytest.fixture(scope="module")
def drill(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    folder = tmp_path_factory.mktemp("drill")
    source = write_fasta(folder / "a.fasta", proteins(40))
    out = folder / "out"
    out.mkdir()
    request = {"log": str(folder / "log"), "marks": str(folder / "marks")}
    answer = driver.embed(source, out / "x.h5", "--per", "both", shard=SMALL, **request)
    assert answer.status == 0, answer.screen
    marks = json.loads((folder / "marks").read_text())
    shards = len((folder / "log").read_text().split())
    assert shards > 8
    return Drill(driver, source, files(out), [marks[p] for p in ("run", "audit", "exported", "end")], shards)


def check_stopped_and_finish(drill: Drill, out: Path, log: Path) -> None:
    """After a stop: nothing partial under a final name; then the same command ends the job and repeats nothing."""
    visible = {n: data for n, data in files(out).items() if not n.startswith(".") and ".aminoglot/" not in n}
    assert visible == {name: drill.whole[name] for name in visible}, "a partial output is visible"
    finished = set(range(drill.shards)) if len(visible) == len(drill.whole) else finished_shards(out / "x.h5")
    answer = drill.run(out / "x.h5", log=str(log))
    assert answer.status == 0, answer.screen
    again = [int(line) for line in log.read_text().split()] if log.exists() else []
    assert not finished.intersection(again), f"{sorted(finished)} were finished, {again} were computed"
    assert len(again) == len(set(again))
    assert files(out) == drill.whole


def kill_and_finish(drill: Drill, folder: Path, strike: int) -> None:
    out = folder / f"out-{strike}"
    out.mkdir()
    answer = drill.run(out / "x.h5", strike=strike)
    assert answer.status == -signal.SIGKILL, "the job ended before it was killed"
    check_stopped_and_finish(drill, out, folder / f"log-{strike}")


@pytest.mark.parametrize("phase", PHASES)
def test_killed_once_in_each_phase(drill: Drill, tmp_path: Path, phase: str) -> None:
    for strike in drill.moments(phase, 1, seed=1):
        kill_and_finish(drill, tmp_path, strike)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "count"), [("planning", 7), ("shards", 9), ("export", 9), ("cleaning", 3)])
def test_killed_at_many_random_moments(drill: Drill, tmp_path: Path, phase: str, count: int) -> None:
    """Between any two lines of the job's code, in whichever thread they run."""
    for strike in drill.moments(phase, count, seed=2):
        kill_and_finish(drill, tmp_path, strike)


@pytest.mark.slow
def test_killed_by_the_clock(drill: Drill, tmp_path: Path) -> None:
    """Also inside a system call or a library, where no line of ours runs. One that ended in time must be whole."""
    out = tmp_path / "timing"
    out.mkdir()
    seconds = drill.run(out / "x.h5").seconds
    for number in range(10):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        answer = drill.run(out / "x.h5", kill_after=seconds * random.Random(number).uniform(0.1, 1))
        assert answer.status in (0, -signal.SIGKILL)
        check_stopped_and_finish(drill, out, tmp_path / f"log-{number}")


def test_killed_again_and_again(drill: Drill, out: Path, tmp_path: Path) -> None:
    """A machine that dies every few hundred lines still gets to the end, and what it finished stays finished."""
    strike = drill.ends[0] + (drill.ends[1] - drill.ends[0]) // 5
    done: set[int] = set()
    for number in range(3):
        log = tmp_path / f"log-{number}"
        answer = drill.run(out / "x.h5", strike=strike, log=str(log))
        assert answer.status == -signal.SIGKILL
        again = log.read_text().split() if log.exists() else []
        assert not done.intersection(map(int, again))
        assert finished_shards(out / "x.h5") >= done
        done = finished_shards(out / "x.h5")
    assert len(done) > 2
    check_stopped_and_finish(drill, out, tmp_path / "last")


@pytest.mark.parametrize("strike", range(1, 10))
def test_killed_while_cleaning_up(driver: Driver, out: Path, tmp_path: Path, strike: int) -> None:
    """The output is there; whatever is left of the job's folder must not stand in the way of the same command."""
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    killed = driver.embed(source, out / "x.h5", die_cleaning=strike)
    assert killed.status in (0, -signal.SIGKILL)
    written = {name: data for name, data in files(out).items() if "/" not in name}
    assert set(written) == {"x.h5", "x.h5.proteins.tsv"}
    answer = driver.embed(source, out / "x.h5", log=str(tmp_path / "log"))
    assert answer.status == 0, answer.screen
    assert files(out) == written
    assert not (tmp_path / "log").exists(), "a finished job was computed again"


@pytest.mark.parametrize("strike", [1, 2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 9))])
def test_killed_while_dropping_an_older_job(driver: Driver, out: Path, tmp_path: Path, strike: int) -> None:
    """--overwrite empties the folder of an unfinished job; a half-emptied one must not be taken for a whole one."""
    source = write_fasta(tmp_path / "a.fasta", proteins(12))
    for name, flags in (("old", ()), ("new", ("--pool", "max"))):
        (tmp_path / name).mkdir()
        assert driver.embed(source, tmp_path / name / "x.h5", *flags).status == 0
    assert driver.embed(source, out / "x.h5", limit={"phase": "export", "bytes": 1000}).status == 1
    killed = driver.embed(source, out / "x.h5", "--pool", "max", "--overwrite", die_clearing=strike)
    assert killed.status in (0, -signal.SIGKILL)
    if killed.status != 0:
        older = driver.embed(source, out / "x.h5")
        assert older.status == 0, older.screen
        assert files(out) == files(tmp_path / "old")
    newer = driver.embed(source, out / "x.h5", "--pool", "max", "--overwrite")
    assert newer.status == 0, newer.screen
    assert files(out) == files(tmp_path / "new")


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_while_replacing_an_older_output(drill: Drill, tmp_path: Path, count: int) -> None:
    """Each file is the old one or the new one, never a part of either, and the same command makes all of them new."""
    old = tmp_path / "old"
    old.mkdir()
    assert drill.driver.embed(drill.source, old / "x.h5", "--per", "both", "--pool", "max").status == 0
    before = files(old)
    assert before.keys() == drill.whole.keys()
    for strike in (*drill.moments("export", count, seed=5), *drill.moments("cleaning", count, seed=5)):
        out = tmp_path / f"out-{strike}"
        shutil.copytree(old, out)
        killed = drill.run(out / "x.h5", "--overwrite", strike=strike + EXTRA)
        assert killed.status in (0, -signal.SIGKILL)
        for name in drill.whole:
            assert (out / name).read_bytes() in (before[name], drill.whole[name])
        again = drill.run(out / "x.h5", "--overwrite")
        assert again.status == 0, again.screen
        assert files(out) == drill.whole


@pytest.mark.parametrize("strike", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 9)), 9])
def test_killed_while_replacing_a_folder(driver: Driver, out: Path, tmp_path: Path, strike: int) -> None:
    """A folder of .pt files cannot be replaced in one stroke; half of the old one must not stop the same command."""
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    (tmp_path / "whole").mkdir()
    assert driver.embed(source, tmp_path / "whole" / "folder").status == 0
    assert driver.embed(source, out / "folder", "--pool", "max").status == 0
    killed = driver.embed(source, out / "folder", "--overwrite", die_exporting=strike)
    assert killed.status in (0, -signal.SIGKILL)
    again = driver.embed(source, out / "folder", "--overwrite")
    assert again.status == 0, again.screen
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("phase", PHASES[:3])
def test_ctrl_c_leaves_a_job_that_goes_on(drill: Drill, tmp_path: Path, phase: str) -> None:
    for strike in drill.moments(phase, 3, seed=4):
        out = tmp_path / f"out-{strike}"
        out.mkdir()
        answer = drill.run(out / "x.h5", strike=strike, signal=int(signal.SIGINT))
        assert answer.status == 130, answer.screen
        assert "Run the same command again" in answer.screen
        assert "Traceback" not in answer.screen
        check_stopped_and_finish(drill, out, tmp_path / f"log-{strike}")


def _heed_sigint() -> None:
    """Shells start background jobs, such as a whole test run, deaf to Ctrl-C, and children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_at_a_real_command(tmp_path: Path) -> None:
    """The command as a user runs it, with no driver in between."""
    source = write_fasta(tmp_path / "a.fasta", proteins(3000, longest=300))
    plan = tmp_path / "x.h5.aminoglot" / "plan.json"
    command = [sys.executable, "-m", "aminoglot", "embed", str(source), "-o", str(tmp_path / "x.h5")]
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": _heed_sigint}
    with subprocess.Popen([*command, "-m", "random:esm2-35m"], **options) as process:
        while not plan.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, screen = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Run the same command again" in screen
    assert "Traceback" not in screen
    assert plan.exists()
    assert not (tmp_path / "x.h5").exists()
