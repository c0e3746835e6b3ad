"""The same job by several processes, at once or one after the other: the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aminoglot import InputError, JobError
from aminoglot.checkpoints import resolve
from aminoglot.embedding import places
from aminoglot.embedding.options import Options
from aminoglot.engine import Model, choose
from aminoglot.jobs.processes import Place
from tests.embedding.helpers import embed, files, proteins, write_fasta

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(40))


def alone(source: Path, tmp_path: Path, **options: Any) -> dict[str, bytes]:
    """What one process writes."""
    (tmp_path / "alone").mkdir()
    embed(source, tmp_path / "alone" / "x.h5", **options)
    return files(tmp_path / "alone")


def test_two_workers(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two").mkdir()
    outcome = embed(source, tmp_path / "two" / "x.h5", per="both", workers=2)
    assert outcome.complete
    assert files(tmp_path / "two") == alone(source, tmp_path, per="both")
    assert "2 workers: cpu on" in capsys.readouterr().err


def test_workers_take_what_an_older_output_holds(source: Path, tmp_path: Path) -> None:
    some = write_fasta(tmp_path / "some.fasta", dict(list(proteins(40).items())[:20]))
    embed(some, tmp_path / "old.h5")
    (tmp_path / "two").mkdir()
    embed(source, tmp_path / "two" / "x.h5", workers=2, reuse=tmp_path / "old.h5")
    assert files(tmp_path / "two") == alone(source, tmp_path)


def test_slices(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "slices" / "x.h5"
    out.parent.mkdir()
    expected: dict[str, bytes] = {}
    assert embed(source, out, plan_only=True).files == ()
    for text in ("2/3", "1/3"):
        embed([], out, shard=text)
    with pytest.raises(JobError, match=r"missing, of slices 3/3 \(\d shards\)"):
        embed([], out, finish=True)
    embed([], out, shard="3/3", workers=1)
    for step in ({"finish": True}, {"shard": "1/3"}, {"finish": True, "device": "cpu"}):
        assert embed([], out, **step).complete, "a step that is repeated finds the output"
        assert files(out.parent) == (expected := expected or alone(source, tmp_path))
    with pytest.raises(JobError, match="exists and is the result of something else:\n  layers"):
        embed([], out, finish=True, layer=0)


def test_a_plain_run_finishes_what_slices_began(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "slices" / "x.h5"
    out.parent.mkdir()
    embed(source, out, plan_only=True)
    embed([], out, shard="1/2")
    embed(source, out)
    assert files(out.parent) == alone(source, tmp_path)


def test_slices_of_another_job_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    with pytest.raises(JobError, match="there is no plan; make one first"):
        embed([], out, shard="1/2")
    with pytest.raises(JobError, match="there is no plan"):
        embed([], out, finish=True)
    embed(source, out, plan_only=True)
    for step in ({"shard": "1/1"}, {"finish": True}):
        with pytest.raises(JobError, match="the plan of another job:\n  layers"):
            embed([], out, layer=0, **step)
    with pytest.raises(InputError, match="write 1/16"):
        embed([], out, shard="3")


def test_one_step_at_a_time() -> None:
    with pytest.raises(InputError, match="--plan-only and --finish: one step at a time"):
        Options(plan_only=True, finish=True)
    with pytest.raises(InputError, match="there must be one at least"):
        Options(workers=0)


def tiny() -> Model:
    return Model(resolve("random:esm2-tiny"), choose("cpu", "fp32", "torch"), lazily=True)


def test_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.os, "sched_getaffinity", lambda _: set(range(3, 23)), raising=False)
    assert places.places(3, "auto", tiny()) == [
        Place("cpu", tuple(range(3, 9))),
        Place("cpu", tuple(range(9, 16))),
        Place("cpu", tuple(range(16, 23))),
    ]
    assert [len(place.cores) for place in places.places("auto", "auto", tiny())] == [10, 10]
    with pytest.raises(InputError, match="--workers 21: there are 20 cores"):
        places.places(21, "auto", tiny())


def test_memory_is_counted_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.os, "sched_getaffinity", lambda _: set(range(20)), raising=False)
    monkeypatch.setattr(places, "available_memory", lambda: 4.5e9)
    assert len(places.places(4, "auto", tiny())) == 4
    with pytest.raises(InputError, match=r"about 1.0 GB a worker, and 4.5 GB are free; --workers 4 would do"):
        places.places(5, "auto", tiny())
    monkeypatch.setattr(places, "available_memory", lambda: 0.5e9)
    with pytest.raises(InputError, match="take a smaller model"):
        places.places(1, "auto", tiny())
    monkeypatch.setattr(places, "available_memory", lambda: None)
    assert len(places.places(20, "auto", tiny())) == 20


def test_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.torch.cuda, "device_count", lambda: 4)
    assert places._gpus("auto", "auto") == [Place(f"cuda:{number}") for number in range(4)]
    assert places._gpus(2, "cuda") == [Place("cuda:0"), Place("cuda:1")]
    assert places._gpus("auto", "cuda:3") == [Place("cuda:3")]
    with pytest.raises(InputError, match="a worker takes a GPU, and there are 4"):
        places._gpus(5, "cuda")
