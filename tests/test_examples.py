"""The examples for schedulers do what they say: with stand-ins everywhere, by Slurm and Nextflow where they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SLURM = EXAMPLES / "slurm" / "embed.sh"
NEXTFLOW = EXAMPLES / "nextflow" / "main.nf"
MODEL = "random:esm2-tiny"

AMINOGLOT = """\
from functools import partial
from aminoglot.cli import main
from aminoglot.embedding import task
from aminoglot.jobs import ShardLimits
task.ShardLimits = partial(ShardLimits, proteins=3)  # a dozen shards, where there would be one
main()
"""

SBATCH = r"""#!/usr/bin/env bash
# As much of sbatch as the example needs: a job runs at once, an array's tasks side by side.
set -u
here=$(dirname "$0")
array= dependency= name=
while [ $# -gt 0 ]; do
    case $1 in
        --array=*) array=${1#*=} ;;
        --dependency=*) dependency=${1#*=} ;;
        --job-name=*) name=${1#*=} ;;
        --parsable | --output=* | --kill-on-invalid-dep=yes) ;;
        --*) echo "no stand-in for $1" >&2; exit 2 ;;
        *) break ;;
    esac
    shift
done
id=$(( $(cat "$here/last" 2>/dev/null || echo 100) + 1 ))
echo "$id" > "$here/last"
cp "$1" "$here/job-$id.sh" # as Slurm does: a script must not look for its neighbours
shift
status=0
if [[ $dependency == afterok:* && $(cat "$here/status-${dependency#*:}") != 0 ]]; then
    status=cancelled
elif [ -n "$array" ]; then
    range=${array%\%*} tasks=()
    for index in $(seq "${range%-*}" "${range#*-}"); do
        [ "$index" = "${LOST:-}" ] && status=1 && continue
        SLURM_JOB_ID=$id$index SLURM_ARRAY_TASK_ID=$index bash "$here/job-$id.sh" "$@" > "$name-${id}_$index.out" 2>&1 &
        tasks+=($!)
    done
    for task in "${tasks[@]}"; do wait "$task" || status=1; done
else
    SLURM_JOB_ID=$id bash "$here/job-$id.sh" "$@" > "$name-$id.out" 2>&1 || status=$?
fi
echo "$status" > "$here/status-$id"
echo "$id;here"
"""


def executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of PATH, with an aminoglot that makes small shards."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "small.py").write_text(AMINOGLOT, encoding="utf-8")
    executable(folder / "aminoglot", f"""#!/bin/sh\nexec '{sys.executable}' '{folder / "small.py"}' "$@"\n""")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a user works: a folder with a blank in its name, and forty proteins in it."""
    folder = tmp_path / "my work"
    folder.mkdir()
    records = (EXAMPLES / "ecoli.fasta").read_text(encoding="utf-8").split(">")[1:]
    (folder / "forty one.fasta").write_text("".join(f">{one}" for one in islice(records, 40)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    """What one process writes; filled by the first test that asks."""
    return {}


def written(place: Path, name: str = "x y.h5") -> dict[str, bytes]:
    """The output, and that nothing of the job is left beside it."""
    assert not (place / f"{name}.aminoglot").exists()
    return {suffix: (place / f"{name}{suffix}").read_bytes() for suffix in ("", ".proteins.tsv")}


def by_one_process(place: Path, plain: dict[str, bytes]) -> dict[str, bytes]:
    if not plain:
        command = ["aminoglot", "embed", "forty one.fasta", "-o", "plain.h5", "-m", MODEL, "--per", "residue"]
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=120)
        plain |= written(place, "plain.h5")
    return plain


def submit(place: Path, slices: str, **environment: str) -> str:
    """What the script prints; and what the last job, which audits and writes, said."""
    command = ["bash", str(SLURM), "forty one.fasta", "x y.h5", MODEL, slices, "--per", "residue"]
    done = subprocess.run(
        command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said_last(place: Path, screen: str) -> str:
    named = re.search(r"aminoglot-finish-\d+\.out", screen)
    assert named is not None, screen
    return (place / named[0]).read_text(encoding="utf-8")


def test_an_array_writes_what_one_process_writes(tools: Path, place: Path, plain: dict[str, bytes]) -> None:
    executable(tools / "sbatch", SBATCH)
    screen = submit(place, "2%2")
    assert "plan 101, slices 102_[1-2%2], finish 103" in screen
    assert "40 in = 40 written" in said_last(place, screen)
    assert written(place) == by_one_process(place, plain)


def test_a_lost_slice_is_named_and_the_same_command_mends_it(tools: Path, place: Path, plain: dict[str, bytes]) -> None:
    executable(tools / "sbatch", SBATCH)
    screen = submit(place, "2", LOST="2")
    assert (tools / "status-103").read_text().strip() == "1"
    assert re.search(r"7 shards of 14 missing, of slices? 2/2 \(7 shards\)", said_last(place, screen))
    assert not (place / "x y.h5").exists()
    screen = submit(place, "2")
    assert "going on: 7 of 7 shards already done" in (place / "aminoglot-slice-105_1.out").read_text(encoding="utf-8")
    assert "40 in = 40 written" in said_last(place, screen)
    assert written(place) == by_one_process(place, plain)


def test_a_plan_that_fails_starts_no_slice(tools: Path, place: Path) -> None:
    executable(tools / "sbatch", SBATCH)
    executable(tools / "aminoglot", '#!/bin/sh\necho "$@" >> "calls"; exit 1\n')
    submit(place, "2")
    assert (tools / "status-102").read_text().strip() == "cancelled"
    calls = (place / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.split()[-1] for call in calls] == ["--plan-only", "--finish"]


@pytest.mark.parametrize(("restarts", "status", "asked"), [("0", 130, "requeue 77\n"), ("20", 130, "")])
def test_a_slice_whose_time_runs_out_is_queued_again(
    tools: Path, place: Path, restarts: str, status: int, asked: str
) -> None:
    executable(tools / "aminoglot", "#!/bin/bash\ntrap 'exit 130' TERM\ntouch begun\nwhile :; do sleep 0.05; done\n")
    executable(tools / "scontrol", '#!/bin/sh\necho "$@" >> asked\n')
    (place / "asked").touch()
    command = ["bash", str(SLURM), "--slice", "forty one.fasta", "x y.h5", MODEL, "16%4"]
    environment = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": restarts}
    with subprocess.Popen(command, cwd=place, env={**os.environ, **environment}) as job:
        until = time.monotonic() + 30
        while not (place / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(30) == status
    assert (place / "asked").read_text(encoding="utf-8") == asked


def test_too_few_words_are_explained(place: Path) -> None:
    done = subprocess.run(["bash", str(SLURM), "x.fasta"], cwd=place, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr[:22]) == (2, "usage: bash embed.sh P")


def why_no_slurm() -> str | None:
    if shutil.which("sbatch") is None:
        return "there is no sbatch here"
    try:
        nodes = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"sbatch is here, and no cluster: {error}"
    return None if nodes.returncode == 0 and nodes.stdout else "sbatch is here, and sinfo knows no node"


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
def test_by_slurm(place: Path, plain: dict[str, bytes]) -> None:
    """On a cluster of several nodes, give pytest a --basetemp that all of them see."""
    if (why := why_no_slurm()) is not None:
        pytest.skip(why)
    small = {"SBATCH_GRES": "none", "SBATCH_MEM_PER_NODE": "2G", "SBATCH_TIMELIMIT": "10"}
    screen = submit(place, "2", **small)
    finish = screen.split("finish ")[1].split()[0]
    until = time.monotonic() + 240
    while (state := states(finish)) & {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}:
        assert time.monotonic() < until, f"{screen}{state}"
        time.sleep(1)
    assert "40 in = 40 written" in said_last(place, screen)
    assert written(place) == by_one_process(place, plain)


def states(job: str) -> set[str]:
    """A job's, as Slurm says; none once it has forgotten it."""
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split())


def nextflow_commands(**values: object) -> list[str]:
    """What the processes of the Nextflow example run, in turn, with the values that Nextflow would put in."""
    quoted = {f"quoted({name})": shlex.quote(str(value)) for name, value in values.items()}
    known = {name: str(value) for name, value in values.items()} | quoted
    lines = re.findall(r"^ +(aminoglot embed .+)$", NEXTFLOW.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"\$\{(.+?)\}", lambda found: known[found[1].replace("params.", "")], line) for line in lines]


@pytest.mark.usefixtures("tools")
def test_the_commands_of_the_nextflow_example(place: Path, plain: dict[str, bytes]) -> None:
    """Each in a folder of its own, as a task is. That Nextflow takes the file is another test's, where there is one."""
    values = {"proteins": place / "forty one.fasta", "result": place / "x y.h5", "model": MODEL, "slices": 1}
    commands = nextflow_commands(**values, number=1, options="--per residue")
    assert len(commands) == 3
    for number, command in enumerate(commands):
        (folder := place / f"task {number}").mkdir()
        done = subprocess.run(["bash", "-ue", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert not list(folder.iterdir())
    assert written(place) == by_one_process(place, plain)


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
@pytest.mark.skipif(shutil.which("nextflow") is None, reason="there is no nextflow here")
def test_by_nextflow(place: Path, plain: dict[str, bytes]) -> None:
    command = ["nextflow", "run", str(NEXTFLOW), "--input", "forty one.fasta", "--output", "x y.h5", "--slices", "2"]
    command += ["--model", MODEL, "--options=--per residue"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(place) == by_one_process(place, plain)
