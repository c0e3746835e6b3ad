"""Checkpoints written once for the whole room, and a machine that holds no model at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import transformers

from aminoglot.checkpoints import Checkpoint, fair_esm, huggingface
from tests.reference import randomised


@pytest.fixture(autouse=True, scope="package")
def _no_progress_bars() -> Iterator[None]:
    """Progress bars of transformers would drown a failure's message."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """Random weights in which nothing is zero or one; read only."""
    return randomised("esm2-tiny")


@pytest.fixture(scope="session")
def tiny_folder(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny`` in Hugging Face's layout; tests copy it before they harm it."""
    folder = tmp_path_factory.mktemp("tiny") / "hf"
    folder.mkdir()
    huggingface.write(tiny, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pt(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny`` in fair-esm's format, its contact regression beside it."""
    path = tmp_path_factory.mktemp("tiny") / "esm2_tiny.pt"
    fair_esm.write(tiny, path)
    return path


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of an empty cache, without a network: ``hub`` is Hugging Face's part, ``torch`` is torch's."""
    home = tmp_path / "home"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    return home
