"""Fixtures for the tests of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from aminoglot.finetune import metrics, pictures, tuning
from tests.embedding.helpers import Driver


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """One process that forks a child for every command."""
    made = Driver()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and sums are in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def thorough() -> None:
    """For tests that want pictures drawn and bootstraps in full."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second of every run, and most tests do not look at: less of it."""
    if "thorough" not in request.fixturenames:
        monkeypatch.setattr(metrics, "DRAWS", 20)
        monkeypatch.setattr(metrics, "FEWER_DRAWS", 10)
        monkeypatch.setattr(pictures, "png", lambda _: b"a picture")
        head = replace(tuning._SCHEDULES["head"], epochs=3)
        monkeypatch.setitem(tuning._SCHEDULES, "head", head)
