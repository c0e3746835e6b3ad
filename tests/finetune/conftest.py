"""Fixtures for the tests of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

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
