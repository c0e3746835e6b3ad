"""Fixtures for the job's tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from aminoglot.embedding import task
from aminoglot.engine import Embedded, Model
from aminoglot.jobs import JobFolder, ShardLimits
from tests.embedding.helpers import SMALL, Driver, embed


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """One process that forks a child for every command."""
    made = Driver()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny model gains nothing from more, and tests that run side by side would fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few proteins each, so that a small input has a dozen."""
    monkeypatch.setattr(task, "ShardLimits", partial(ShardLimits, proteins=SMALL))


class Computed:
    """What the task was asked to compute: the sequences of each shard, in turn.

    Attributes:
        stop_after: number of shards after which Ctrl-C is pressed.
    """

    def __init__(self) -> None:
        self.shards: list[list[bytes]] = []
        self.stop_after: int | None = None

    @property
    def sequences(self) -> int:
        """How many proteins went through the network."""
        return sum(map(len, self.shards))

    def clear(self) -> None:
        self.shards.clear()
        self.stop_after = None


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """A record of what goes through the network, and a way to stop there."""
    made = Computed()
    original = Model.embed_cleaned

    def embed_cleaned(self: Model, texts: list[bytes], *rest: Any) -> Embedded:
        if made.stop_after == len(made.shards):
            raise KeyboardInterrupt
        if texts:
            made.shards.append(list(texts))
        return original(self, texts, *rest)

    monkeypatch.setattr(Model, "embed_cleaned", embed_cleaned)
    return made


def interrupted(source: Path, output: Path, computed: Computed, shards: int | None = None) -> JobFolder:
    """A job stopped after so many shards, or at its last."""
    computed.clear()
    if shards is None:
        embed(source, output)
        shards = len(computed.shards) - 1
        output.unlink()
        output.with_name(f"{output.name}.proteins.tsv").unlink()
        computed.clear()
    computed.stop_after = shards
    with pytest.raises(KeyboardInterrupt):
        embed(source, output)
    computed.clear()
    folder = JobFolder(output)
    assert folder.planned
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of its own for outputs, so that a test can say that nothing else was left in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
