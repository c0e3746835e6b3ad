"""Runs small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from aminoglot.corpus import Corpus
from aminoglot.pretrain.config import RunConfig, of_dict
from aminoglot.pretrain.record import lines

TINY = {"family": "esm2", "layers": 2, "hidden": 32, "heads": 2}
TINY_T5 = {"family": "prott5nv", "layers": 2, "hidden": 32, "heads": 2}


def config(corpus: Corpus, **parts: Any) -> RunConfig:
    """Twelve updates of 2,000 tokens in fp32; parts may be replaced, key by key."""
    raw: dict[str, Any] = {
        "corpus": str(corpus.folder),
        "log_every": 1,
        "model": TINY if corpus.recipe.name == "esm2" else TINY_T5,
        "batch": {"tokens": 2_000, "at_once": 1_000},
        "optimizer": {"rate": 3e-3},
        "schedule": {"updates": 12, "warmup": 3},
        "compute": {"device": "cpu", "precision": "fp32"},
        "validation": {"every": 5},
        "save": {"every": 4},
    }
    for part, values in parts.items():
        raw[part] = {**raw[part], **values} if isinstance(values, dict) and part != "model" else values
    return of_dict(raw)


def losses(folder: Path) -> dict[int, float]:
    """The loss of each update."""
    return {line["update"]: line["loss"] for line in lines(folder) if "loss" in line}


def held_out(folder: Path) -> dict[int, float]:
    """The loss of each validation."""
    return {line["update"]: line["validation"]["loss"] for line in lines(folder) if "validation" in line}


def state(folder: Path, update: int) -> dict[str, torch.Tensor]:
    """All tensors of a state that one process wrote."""
    (path,) = (folder / "states" / f"{update:09}").glob("*.safetensors")
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
