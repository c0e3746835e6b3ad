"""The time that a job will take: asked of the machine only where it pays, and right where arithmetic can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from aminoglot.embedding.estimate import estimate
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model, load
from aminoglot.engine.model import token_budget
from aminoglot.errors import AminoglotWarning
from aminoglot.jobs import Plan
from aminoglot.models.esm2 import SIZES
from aminoglot.models.family import family_of
from tests.embedding.helpers import MODEL

RATE = 1e-12
"""Seconds an operation takes on the machine of these tests."""


def task(name: str = "esm2-650m", long: Any = "truncate", lanes: int = 1) -> EmbeddingTask:
    """The task of a model that nobody needs to load."""
    hardware: Any = SimpleNamespace(kind="cpu", lanes=lanes)
    model: Any = SimpleNamespace(config=SIZES[name], family=family_of(SIZES[name]), hardware=hardware, limit=1022)
    model.budget = token_budget(SIZES[name], hardware)
    return EmbeddingTask(model, Model.request(model, "protein", -1, "mean", long), np.dtype("float32"))


def plan(*shards: list[int]) -> Plan:
    """A plan of these lengths, longest first."""
    arrays = [np.array(sorted(shard, reverse=True), dtype=np.int64) for shard in shards]
    return cast(Plan, SimpleNamespace(shard_lengths=lambda shard: arrays[shard], shards=len(arrays)))


class Stopwatch:
    """A machine that takes the same time for every operation; it remembers what it was asked."""

    def __init__(self, task: EmbeddingTask) -> None:
        self.task = task
        self.asked: list[list[bytes]] = []

    def work(self, texts: list[bytes]) -> float:
        return float(self.task.cost(np.array([len(text) for text in texts])).sum())

    def __call__(self, texts: list[bytes]) -> float:
        self.asked.append(texts)
        return self.work(texts) * RATE

    @property
    def spent(self) -> float:
        return sum(map(self.work, self.asked))


MANY = np.random.default_rng(0).gamma(2.0, 160.0, 20_000).astype(int).clip(20, 5000).tolist()
"""Lengths as a proteome has them."""


@pytest.mark.parametrize("name", [name for name in SIZES if name != "esm2-tiny"])
@pytest.mark.parametrize("long", ["truncate", "window", "full"])
def test_what_is_timed_is_scaled_to_the_whole(name: str, long: str) -> None:
    """On a machine of constant speed the estimate is what the whole takes, and asking is a small part of that."""
    asked = task(name, long=long)
    watch = Stopwatch(asked)
    lengths = np.array(MANY)
    whole = float(asked.cost(lengths).sum())
    assert estimate(plan(MANY), asked, [0], watch) == pytest.approx(whole * RATE)
    assert watch.spent < whole / 50


def test_batches_are_like_those_of_the_job() -> None:
    """From its middle first, then its longest and shortest; no protein over the limit."""
    asked = task("esm2-8m")
    watch = Stopwatch(asked)
    estimate(plan(MANY), asked, [0], watch)
    warm, middle, long, short, *_ = watch.asked
    assert [len(text) for text in warm] == [16]
    assert min(map(len, long)) > max(map(len, middle))
    assert min(map(len, middle)) > max(map(len, short))
    for texts in watch.asked[1:]:
        assert max(map(len, texts)) <= 1022
        assert len(texts) == 1 or sum(map(len, texts)) <= asked.model.budget
        assert {len(text) for text in texts} <= set(MANY)
        assert watch.work(texts) > watch.work(middle) / 2


def test_every_lane_gets_the_same() -> None:
    """One lane alone would say that the machine is as slow as that."""
    asked = task("esm2-650m", lanes=2)
    watch = Stopwatch(asked)
    assert estimate(plan(MANY), asked, [0], watch) == pytest.approx(float(asked.cost(np.array(MANY)).sum()) * RATE)
    for texts in watch.asked[1:]:
        assert len(texts) % 2 == 0
        assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]


@pytest.mark.parametrize("long", ["truncate", "window", "full"])
def test_long_proteins_are_not_timed_whole(long: str) -> None:
    """One titin alone may take minutes; what it costs beside a short one is known."""
    asked = task("esm2-35m", long=long)
    watch = Stopwatch(asked)
    lengths = np.full(1000, 35_000)
    assert estimate(plan(lengths.tolist()), asked, [0], watch) == pytest.approx(asked.cost(lengths).sum() * RATE)
    assert {len(text) for texts in watch.asked[1:] for text in texts} == {1022}


def test_a_small_model_is_timed_in_whole_batches() -> None:
    asked = task("esm2-tiny")
    watch = Stopwatch(asked)
    assert estimate(plan([200] * 250_000), asked, [0], watch) is not None
    assert {sum(map(len, texts)) for texts in watch.asked[1:]} == {asked.model.budget // 200 * 200}


def test_a_large_model_is_timed_on_more_than_a_peptide() -> None:
    """Reading the weights takes most of the time of ten tokens, and little of that of a batch."""
    asked = task("esm2-15b")
    watch = Stopwatch(asked)
    assert estimate(plan([50] * 5000), asked, [0], watch) is not None
    assert [len(texts) for texts in watch.asked[1:]] == [5]


def test_a_short_job_is_not_asked() -> None:
    """The answer would come when the job is done."""
    asked = task("esm2-650m")
    watch = Stopwatch(asked)
    assert estimate(plan([300] * 20), asked, [0], watch) is None
    assert estimate(plan([300]), asked, [], watch) is None
    assert watch.asked == []


def test_a_large_model_and_few_proteins() -> None:
    """One batch of the largest model is a good part of a minute: not for a job of two."""
    asked = task("esm2-15b")
    watch = Stopwatch(asked)
    assert estimate(plan([1000] * 20), asked, [0], watch) is None
    assert watch.asked == []
    assert estimate(plan([1000] * 200), asked, [0], watch) is not None


def test_only_what_is_left() -> None:
    """A job that goes on takes as long as its last shards."""
    asked = task()
    made = plan(MANY[:10_000], MANY[10_000:])
    whole = estimate(made, asked, [0, 1], Stopwatch(asked))
    rest = estimate(made, asked, [1], Stopwatch(asked))
    assert whole is not None
    assert rest == pytest.approx(float(asked.cost(np.array(MANY[10_000:])).sum()) * RATE)
    assert rest < whole


def test_no_memory_no_estimate() -> None:
    """The job will say which protein was too much; an estimate must not guess."""
    assert estimate(plan(MANY), task(), [0], lambda _: None) is None
    fits = [1.0, 1.0]
    assert estimate(plan(MANY), task("esm2-8m"), [0], lambda _: fits.pop() if fits else None) is None


@pytest.mark.parametrize("per", ["protein", "residue"])
def test_a_real_model_is_timed(per: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model itself, as the job will use it."""
    with pytest.warns(AminoglotWarning, match="never trained"):
        model = load(MODEL, device="cpu", precision="fp32")
    asked = EmbeddingTask(model, model.request(per, -1, "mean", "truncate"), np.dtype("float32"))
    monkeypatch.setattr(asked, "limits", SimpleNamespace(cost=1e10))
    seen: list[int] = []
    original = model.embed_cleaned

    def embed_cleaned(texts: list[bytes], *rest: Any, full_batches: bool) -> Any:
        assert full_batches, "batches are as large as the job's"
        seen.append(len(texts))
        return original(texts, *rest, full_batches=full_batches)

    monkeypatch.setattr(model, "embed_cleaned", embed_cleaned)
    seconds = estimate(plan([500] * 300), asked, [0])
    assert seconds is not None
    assert seconds > 0
    assert len(seen) > 1
