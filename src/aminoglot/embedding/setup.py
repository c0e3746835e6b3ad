"""From options to the embedding task, in this process or in a worker's; and what says how its results are made."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.checkpoints import resolve
from aminoglot.checkpoints.checkpoint import HEAD_NOTES
from aminoglot.embedding.options import Options
from aminoglot.embedding.reuse import Reuse
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Model, choose
from aminoglot.engine.hardware import Hardware
from aminoglot.errors import JobError, listing
from aminoglot.jobs import Task, changes
from aminoglot.version import __version__

OF_THE_PROCESSOR = ("device", "precision", "backend", "openvino", "torch", "token_budget")
"""What a machine's own processor and its libraries decide of how results are made."""


def task_of(
    options: Options, note: Callable[[str], None], lazily: bool = False, hardware: Hardware | None = None
) -> EmbeddingTask:
    """The task that options name.

    Args:
        options: the model is named in them.
        note: told what a user should know of the checkpoint.
        lazily: whether the weights are left alone until something is computed.
        hardware: of those that will compute, where it is not for this machine to choose.
    """
    hardware = hardware or choose(options.device, options.precision, options.backend)
    assert options.model is not None
    checkpoint = resolve(options.model)
    for line in checkpoint.notes:
        if not line.startswith(HEAD_NOTES):  # embedding needs no head
            note(line)
    model = Model(checkpoint, hardware, lazily)
    request = model.request(options.per, options.layer, options.pool, options.long)
    return EmbeddingTask(model, request, np.dtype(options.dtype))


def provenance_of(task: EmbeddingTask, options: Options, model_digest: str, digest: str) -> dict[str, Any]:
    """What the output says of its making: all that decides the results, and no times, hosts or paths."""
    model, request = task.model, task.request
    name = options.model or ""
    return {
        "aminoglot": __version__,
        "torch": torch.__version__,
        "openvino": version("openvino") if model.hardware.backend == "openvino" else None,
        "model": Path(name).name if Path(name).expanduser().exists() else name,
        "model_digest": model_digest,
        "token_dropout": getattr(model.config, "token_dropout", None),
        "per": request.per,
        "layers": list(request.layers),
        "several_layers": request.several,
        "pool": request.pool,
        "long": request.long,
        "limit": request.limit,
        "precision": model.hardware.precision,
        "device": model.hardware.kind,
        "backend": model.hardware.backend,
        "hidden": model.config.hidden,
        "dtype": task.dtype.name,
        "token_budget": model.budget,
        "input_sha256": digest,
        "bad_records": options.bad_records,
        "duplicates": options.duplicates,
        "id_column": options.id_column,
        "sequence_column": options.sequence_column,
    }


def different_from(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What sets two jobs apart; not the name of the model, which its digest stands for, but where it tells more."""
    keys = now.keys() - {"model"}
    if before.get("model_digest") != now["model_digest"] and before.get("model") != now["model"]:
        keys = (keys | {"model"}) - {"hidden", "token_budget", "token_dropout"}
    return changes(before, now, keys)


def make(options: Options, provenance: Mapping[str, Any], device: str) -> tuple[Task, str]:
    """The task in a worker, and the kind of its processor, in words.

    Raises:
        JobError: when it would compute otherwise than was planned: another version, another model under that name.
    """
    # a processor of its own might choose another precision, and then its numbers would be others
    asked = replace(options, device=device, precision=provenance["precision"], backend=provenance["backend"])
    use_own_cores()
    task = task_of(asked, lambda _: None)
    mine = provenance_of(task, asked, task.model.digest, provenance["input_sha256"])
    if different := different_from(provenance, mine):
        raise JobError(f"it would compute otherwise than was planned:\n{listing(different)}")
    if options.reuse is not None:
        task.reuse = Reuse(Path(options.reuse).expanduser(), provenance)
    return task, processor(task.model.hardware.device)


def use_own_cores() -> None:
    """Let torch have the cores of this worker: those it is pinned to, or what Ray has dealt it and said so.

    It was imported before there were any.
    """
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else torch.get_num_threads()
    dealt = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(min(pinned, int(dealt)) if dealt.isdecimal() and int(dealt) else pinned)


def processor(device: torch.device) -> str:
    """The kind of processor behind a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines: Sequence[str] = ()
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine() or device.type
