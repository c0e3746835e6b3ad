"""Embedding by a Ray cluster: the same bytes, and a driver that dies is followed by another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminoglot import InputError
from aminoglot.embedding.cluster import _dealt, survey
from aminoglot.embedding.options import Options
from aminoglot.jobs.ray_crew import Resources
from tests.embedding.helpers import SMALL, embed, files, finished_shards, proteins, write_fasta
from tests.embedding.s3 import Bucket, free_port, serving

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("small_shards")
PROGRAM = f"""
import sys
from functools import partial
from aminoglot import embed
from aminoglot.embedding import task
from aminoglot.jobs import ShardLimits
task.ShardLimits = partial(ShardLimits, proteins={SMALL})
asked = {{"model": "random:esm2-tiny", "precision": "fp32", "backend": "torch", "workers": 2}}
if len(sys.argv) > 4:
    asked["scratch"] = sys.argv[4]
embed(sys.argv[1], sys.argv[2], ray=sys.argv[3], **asked)
"""


def program(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A driver in a process of its own, for Ray takes a whole process."""
    threads = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, **threads, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    return said


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(60))


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "alone").mkdir()
    embed(source, tmp_path / "alone" / "x.h5")
    return files(tmp_path / "alone")


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster that outlives its drivers."""
    port, code = free_port(), "import ray._private.worker, ray.scripts.scripts as s; s.main()"
    start = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    made = subprocess.Popen(
        [sys.executable, "-c", code, *start, f"--port={port}", "--object-store-memory=100000000"],
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(1)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        made.terminate()
        try:
            made.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(made.pid, signal.SIGKILL)
            made.wait()


@pytest.mark.slow
def test_a_driver_is_killed_and_another_goes_on(
    address: str, source: Path, out: Path, expected: dict[str, bytes]
) -> None:
    output = out / "x.h5"
    process = program(source, output, address)
    until = time.monotonic() + 120
    while len(finished_shards(output)) < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = len(finished_shards(output))
    said = ended(program(source, output, address))
    assert f"going on: {kept} of 20 shards already done" in said or kept == 20
    assert "2 workers on Ray, each with 2 cores; there is room for 1 now, others wait for it" in said
    assert address not in said
    assert files(out) == expected


@pytest.mark.slow
def test_a_cluster_of_our_own_and_an_object_store(source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Workers with copies of their own, which share nothing but the store."""
    port = free_port()
    with serving(port):
        bucket = Bucket(port)
        ended(program(source, bucket.url("out/x.h5"), "local", tmp_path / "scratch", **bucket.environment))
        names = [name for name in bucket.names() if not name.endswith("/")]
        assert {name.removeprefix("out/"): bucket.read(name) for name in names} == expected
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


LISTENING = """
import os
from pathlib import Path
from aminoglot.jobs.ray_crew import connect

ray = connect("local")
asked = ray.remote(lambda: 1)
ray.get(asked.remote())
session = os.getsid(0)
sockets = set()
for process in Path("/proc").iterdir():
    try:
        if process.name.isdecimal() and int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
            sockets |= {os.readlink(file) for file in (process / "fd").iterdir()}
    except OSError:
        pass
for name in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
        local, state, inode = [line.split()[column] for column in (1, 3, 9)]
        if state == "0A" and f"socket:[{inode}]" in sockets:
            print(local.rpartition(":")[0])
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux which ports are open")
def test_no_port_of_our_own_cluster_is_open_to_others() -> None:
    made = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=120, start_new_session=True
    )
    found = set(made.stdout.split())
    assert found, made.stderr
    assert found <= LOOPBACK


TWICE = """
from aminoglot import JobError
from aminoglot.jobs.ray_crew import connect, leave

for _ in range(2):
    ray = connect("local")
    print(ray.get(ray.remote(lambda: "computed").remote()))
    leave()
try:
    connect("127.0.0.1:1")
except JobError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_process_may_have_clusters_of_its_own_one_after_the_other() -> None:
    """They have a token, which no other cluster should be told."""
    made = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=240)
    said = made.stdout.splitlines()
    assert said[:2] == ["computed", "computed"], made.stderr
    assert "has had a Ray cluster of its own" in said[2]


def machines(*cores_and_gpus: tuple[float, float]) -> list[dict[str, float]]:
    return [{"CPU": cores, **({"GPU": gpus} if gpus else {})} for cores, gpus in cores_and_gpus]


@pytest.mark.parametrize(
    ("cluster", "asked", "each", "room"),
    [
        (machines((16, 0), (8, 0)), {}, Resources("cpu", 8), 3),
        (machines((16, 0), (2, 0)), {}, Resources("cpu", 2), 9),
        (machines((2, 0)), {"workers": 2}, Resources("cpu", 1), 2),
        (machines((16, 0)), {"workers": 3}, Resources("cpu", 5), 3),
        (machines((16, 0)), {"workers": 3, "ray": "auto"}, Resources("cpu", 8), 2),
        (machines((64, 8), (16, 0)), {}, Resources("cuda", 4, 1), 8),
        (machines((64, 8), (4, 4)), {}, Resources("cuda", 1, 1), 12),
        (machines((64, 8)), {"device": "cpu"}, Resources("cpu", 8), 8),
        (machines((8, 0)), {"device": "cuda"}, Resources("cuda", 4, 1), 0),
        (machines(), {}, Resources("cpu", 1), 0),
    ],
)
def test_what_a_worker_takes(
    cluster: list[dict[str, float]], asked: dict[str, Any], each: Resources, room: int
) -> None:
    assert _dealt(cluster, Options(**{"ray": "local", **asked})) == (each, room)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="with --ray the cluster places the workers"):
        survey(Options(ray="local", device="cuda:1"), print)
    with pytest.raises(InputError, match="Ray's client"):
        survey(Options(ray="ray://10.0.0.1:10001"), print)
    with pytest.raises(InputError, match="name the address of a cluster, or local"):
        Options(ray="")
