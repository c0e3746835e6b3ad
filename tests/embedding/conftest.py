"""Fixtures for the job's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aminoglot.embedding import task
from tests.embedding.helpers import SMALL, Driver


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
    monkeypatch.setitem(task._COST, "cpu", SMALL)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of its own for outputs, so that a test can say that nothing else was left in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
