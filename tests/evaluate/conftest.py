"""Fixtures for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aminoglot.evaluate import report, scoring
from aminoglot.evaluate.tasks import TASKS
from tests.evaluate.helpers import write_gb1, write_localization, write_residues


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that are fitted for three epochs, few draws, no pictures: enough where it does not matter how well."""
    monkeypatch.setattr(scoring, "DRAWS", 50)
    monkeypatch.setattr(scoring, "FEWER_DRAWS", 50)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(report, "draw", lambda *_: None)
    for name, task in list(TASKS.items()):
        recipe = replace(task.recipe, epochs=3, updates=0, batch=16)
        monkeypatch.setitem(TASKS, name, replace(task, recipe=recipe))


@pytest.fixture
def pictures() -> None:
    """For tests that want them although they are quick."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with three of the tasks."""
    folder = tmp_path / "FLIP"
    write_residues(folder)
    write_localization(folder)
    write_gb1(folder)
    return folder
