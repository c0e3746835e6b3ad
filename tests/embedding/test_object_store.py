"""Input and output in an object store: the same bytes, and nothing lost when it, or a machine, goes away."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminoglot import InputError, JobError, OutputError, object_store
from aminoglot.engine import Model
from tests.embedding.conftest import Computed
from tests.embedding.helpers import SMALL, embed, files, proteins, write_fasta
from tests.embedding.s3 import ENVIRONMENT, Bucket, free_port, serving

pytestmark = pytest.mark.usefixtures("small_shards")
MANY = proteins(40)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    port = free_port()
    with serving(port):
        yield Bucket(port)


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket that this process may use."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    server.clear()
    return server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", MANY)


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a run on this machine writes."""
    (tmp_path / "alone").mkdir()
    embed(source, tmp_path / "alone" / "x.h5")
    return files(tmp_path / "alone")


class Gate:
    """Passes connections on to a server, until it is shut or falls silent."""

    def __init__(self, endpoint: str) -> None:
        self._to = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.silent = self.shut = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            if self.shut:
                here.close()
                continue
            there = socket.create_connection(self._to)
            self._open += [here, there]
            threading.Thread(target=self._pass, args=(here, there), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, here), daemon=True).start()

    def _pass(self, here: socket.socket, there: socket.socket) -> None:
        try:
            while data := here.recv(1 << 16):
                if self.shut:
                    break
                if not self.silent:
                    there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listening.close()
        for one in self._open:
            one.close()


@pytest.fixture
def gate(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(bucket.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    monkeypatch.setattr(object_store, "_SILENT", 1.0)
    monkeypatch.setattr(object_store, "_TRIES", 2)
    yield made
    made.close()


def there(bucket: Bucket) -> dict[str, bytes]:
    """The output, if that is all there is."""
    return {key.removeprefix("out/"): bucket.read(key) for key in bucket.names() if not key.endswith("/")}


def test_from_a_store_and_to_it(bucket: Bucket, source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    bucket.write("in/a.fasta", source.read_bytes())
    scratch = tmp_path / "scratch"
    for given in (bucket.url("in/a.fasta"), bucket.url("in/")):
        outcome = embed(given, bucket.url("out/x.h5"), scratch=scratch)
        assert outcome.complete
        assert outcome.objects == (bucket.url("out/x.h5"), bucket.url("out/x.h5.proteins.tsv"))
        found = there(bucket)
        del found["in/a.fasta"]
        assert found == expected
        assert not any(path.is_file() for path in scratch.rglob("*") if path.name != "lock")
    with pytest.raises(JobError, match=r"s3://bucket/out/x.h5 exists and is the result of something else:\n  layers"):
        embed(source, bucket.url("out/x.h5"), scratch=scratch, layer=0)


def test_another_machine_goes_on(
    bucket: Bucket, source: Path, tmp_path: Path, computed: Computed, expected: dict[str, bytes]
) -> None:
    whole, computed.stop_after = len(computed.shards), len(computed.shards) + 3
    with pytest.raises(KeyboardInterrupt):
        embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "one")
    assert "out/x.h5" not in bucket.names()
    computed.clear()
    embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "two")
    assert there(bucket) == expected
    assert len(computed.shards) <= whole - 2, "shards that were in the store were computed again"


def test_slices_on_machines_of_their_own(
    bucket: Bucket, source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = bucket.url("out/x.h5")
    embed(source, out, plan_only=True, scratch=tmp_path / "0")
    embed([], out, shard="2/3", scratch=tmp_path / "2")
    embed([], out, shard="1/3", scratch=tmp_path / "1", workers=1)
    with pytest.raises(JobError, match=r"s3://bucket/out/x.h5.aminoglot: .* missing, of slices 3/3"):
        embed([], out, finish=True, scratch=tmp_path / "4")
    embed([], out, shard="3/3", scratch=tmp_path / "3")
    assert not list((tmp_path / "3").iterdir()), "what a slice kept on its machine is cleared away"
    embed([], out, finish=True, scratch=tmp_path / "4")
    assert there(bucket) == expected


def test_workers(bucket: Bucket, source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "scratch", workers=2)
    assert there(bucket) == expected


def test_a_damaged_shard_is_found(
    bucket: Bucket, source: Path, tmp_path: Path, computed: Computed, expected: dict[str, bytes]
) -> None:
    out = bucket.url("out/x.h5")
    embed(source, out, plan_only=True, scratch=tmp_path / "0")
    embed([], out, shard="1/1", scratch=tmp_path / "1")
    key = next(key for key in bucket.names() if "shard-000002" in key)
    bucket.write(key, bucket.read(key)[:-1] + b"!")
    with pytest.raises(JobError, match=r"1 shard of .* no longer hold"):
        embed([], out, finish=True, scratch=tmp_path / "2")
    computed.clear()
    embed(source, out, scratch=tmp_path / "3")
    assert len(computed.shards) == 1
    assert there(bucket) == expected


@pytest.mark.parametrize("trouble", ["shut", "silent"])
def test_the_store_goes_away(
    trouble: str,
    bucket: Bucket,
    gate: Gate,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
) -> None:
    """It refuses or says nothing more in the middle; when it is back, the same command goes on."""
    original, count = Model.embed_cleaned, 0

    def counted(self: Model, *rest: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            setattr(gate, trouble, True)
        return original(self, *rest)

    monkeypatch.setattr(Model, "embed_cleaned", counted)
    started = time.monotonic()
    with pytest.raises(OutputError, match=r"s3://bucket/out/x.h5.aminoglot/\S+: the store cannot be reached") as caught:
        embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "scratch")
    assert time.monotonic() - started < 120
    assert gate.endpoint.removeprefix("http://") not in str(caught.value)
    setattr(gate, trouble, False)
    embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "scratch")
    assert there(bucket) == expected


PROGRAM = f"""
import sys, time
from functools import partial
from aminoglot import embed
from aminoglot.embedding import task
from aminoglot.jobs import ShardLimits
task.ShardLimits = partial(ShardLimits, proteins={SMALL})
original = task.EmbeddingTask.__call__
def slow(*given):
    time.sleep(0.3)
    return original(*given)
task.EmbeddingTask.__call__ = slow
embed(sys.argv[1], sys.argv[2], scratch=sys.argv[3], model="random:esm2-tiny", precision="fp32", backend="torch")
"""


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["the same", "another"])
def test_the_driver_is_killed(
    machine: str, bucket: Bucket, source: Path, tmp_path: Path, computed: Computed, expected: dict[str, bytes]
) -> None:
    whole = len(computed.shards)
    computed.clear()
    arguments = [sys.executable, "-c", PROGRAM, str(source), bucket.url("out/x.h5"), str(tmp_path / "scratch")]
    process = subprocess.Popen(arguments, env=bucket.environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not any("shard-000003" in key for key in bucket.names()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if machine == "another":
        shutil.rmtree(tmp_path / "scratch")
    embed(source, bucket.url("out/x.h5"), scratch=tmp_path / "scratch")
    assert there(bucket) == expected
    if machine == "the same":
        assert len(computed.shards) <= whole - 3


@pytest.mark.parametrize("step", ["finish", "shard", "whole"])
def test_one_that_stops_early_takes_nothing_away(
    step: str, bucket: Bucket, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's computing must outlast a Ctrl-C before this one has even seen the plan."""
    out = bucket.url("out/x.h5")
    embed(source, out, plan_only=True, scratch=tmp_path / "0")
    embed([], out, shard="1/1", scratch=tmp_path / "1")
    before = bucket.names()

    def stopped(*_: Any) -> bool:
        raise KeyboardInterrupt

    asked: dict[str, Any] = {"finish": {"finish": True}, "shard": {"shard": "1/1"}, "whole": {}}[step]
    monkeypatch.setattr(object_store.ObjectStore, "get", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed([] if asked else source, out, scratch=tmp_path / "2", **asked)
    assert bucket.names() == before


def test_a_step_that_is_repeated_and_one_of_a_new_plan(
    bucket: Bucket, source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out, scratch = bucket.url("out/x.h5"), tmp_path / "scratch"
    embed(source, out, scratch=scratch)
    for step in ({"shard": "1/2"}, {"finish": True}):
        assert embed([], out, scratch=scratch, **step).complete
        assert there(bucket) == expected
    assert not [path for path in scratch.rglob("*") if path.is_file()]
    others = write_fasta(tmp_path / "b.fasta", proteins(20, seed=1))
    embed(others, out, scratch=scratch, plan_only=True, overwrite=True)
    with pytest.raises(JobError, match="no slice was begun"):
        embed([], out, scratch=tmp_path / "another", finish=True)
    embed([], out, scratch=scratch, shard="1/1")
    embed([], out, scratch=tmp_path / "another", finish=True)
    embed(others, tmp_path / "b.h5")
    assert bucket.read("out/x.h5") == (tmp_path / "b.h5").read_bytes()


def test_a_dry_run(bucket: Bucket, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, scratch = bucket.url("out/x.h5"), tmp_path / "scratch"
    embed(source, out, scratch=scratch, dry_run=True)
    assert "exists" not in capsys.readouterr().err
    embed(source, out, scratch=scratch, plan_only=True)
    embed(source, out, scratch=scratch, dry_run=True)
    assert "s3://bucket/out/x.h5.aminoglot/plan.json exists" in capsys.readouterr().err


def test_what_killed_visits_left_is_cleared_away(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    out, scratch = bucket.url("out/x.h5"), tmp_path / "scratch"
    embed(source, out, plan_only=True, scratch=scratch)
    for name, age in (("visit-old", 100.0), ("visit-young", 0.0)):
        (scratch / name).mkdir()
        (scratch / name / "large").touch()
        os.utime(scratch / name, (time.time() - age,) * 2)
    embed([], out, shard="1/1", scratch=scratch)
    assert not (scratch / "visit-old").exists()
    assert (scratch / "visit-young").exists(), "it may have begun just now"


def test_what_cannot_be(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    for url, error, said in (
        ("s3://key:secret@bucket/x.h5", InputError, "s3://...@bucket/x.h5: .* leave credentials to the environment"),
        ("s3://bucket/folder", InputError, "name a file to write"),
        ("s3://", InputError, "an object of a store is named"),
        ("s3://nowhere/x.h5", OutputError, "s3://nowhere/.*: the store has no such bucket"),
    ):
        with pytest.raises(error, match=said) as caught:
            embed(source, url, scratch=tmp_path / "scratch")
        assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="reuse: an older output is read from this machine's disk"):
        embed(source, tmp_path / "x.h5", reuse="s3://bucket/old.h5")
    with pytest.raises(InputError, match="there is no such object"):
        embed(bucket.url("nothing.fasta"), tmp_path / "x.h5")
    with pytest.raises(InputError, match="no sequence file there"):
        embed(bucket.url("nothing/"), tmp_path / "x.h5")
    with pytest.raises(InputError, match="scratch: files lie beside the output"):
        embed(source, tmp_path / "x.h5", scratch=tmp_path / "scratch")


def test_half_a_file_is_no_object(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local file loses its end while it is put."""
    from pyarrow import fs

    path = tmp_path / "shard"
    path.write_bytes(b"x" * 1000)
    original = fs.copy_files

    def copy(*given: Any) -> None:
        original(*given)
        path.write_bytes(b"x" * 1001)

    monkeypatch.setattr(fs, "copy_files", copy)
    with pytest.raises(OutputError, match="1,000 of 1,001 bytes arrived"):
        object_store.ObjectStore(bucket.url("out")).put(path, "shard")
    assert there(bucket) == {}
