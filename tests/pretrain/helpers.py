"""Runs small enough for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from aminoglot.errors import AminoglotError
from aminoglot.pretrain.config import of_dict
from aminoglot.pretrain.run import pretrain
from aminoglot.pretrain.state import Progress
from tests.corpus.helpers import QUIET
{before}
try:
    pretrain(of_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), QUIET)
except AminoglotError as error:
    print(error)
    sys.exit(3)
{after}
"""


def ran(asked: Any, folder: Path, before: str = "", after: str = "", processes: int = 0, **env: str) -> Any:
    """A run in processes of its own."""
    program = folder.with_name(f"{folder.name}.py")
    program.write_text(PROGRAM.format(before=before, after=after))
    start = [sys.executable]
    if processes:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*start, str(program), json.dumps(asked.as_dict()), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1", **env},
    )
