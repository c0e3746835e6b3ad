"""The prediction task: a shard of proteins to what a run's head says of them, in this process or in a worker's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aminoglot.embedding.setup import processor, use_own_cores
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.errors import AminoglotWarning, JobError, listing
from aminoglot.finetune.options import PredictionOptions
from aminoglot.finetune.predictions import columns
from aminoglot.finetune.predictor import Predictor, same_run
from aminoglot.jobs import ShardResult, Task, changes
from aminoglot.jobs.task import Done
from aminoglot.version import __version__


class PredictionTask:
    """A shard of proteins to a head's outputs: ``protein`` [n, 1, C] or ``residue`` [R, 1, C], and ``rows`` [n]."""

    def __init__(self, predictor: Predictor, options: PredictionOptions) -> None:
        recipe, self.model = predictor.recipe, predictor.model
        self.predictor = predictor
        self.request = self.model.request(recipe.per, recipe.layer, recipe.pool, options.long or recipe.long)
        self._embedding = EmbeddingTask(self.model, self.request, np.dtype(np.float32))
        self.limits = self._embedding.limits

    def cost(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._embedding.cost(lengths)

    def output(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of the embeddings that outputs are computed from, which memory holds; outputs are fewer."""
        return self._embedding.output(lengths)

    def __call__(self, sequences: Sequence[bytes], done: Done) -> ShardResult:
        found = self.model.embed_cleaned(sequences, self.request, done)
        with _one_thread():  # the same sums, however many cores a worker has
            outputs = self.predictor.of_embedded(found)[:, None]
        owners = (
            np.arange(len(sequences))
            if self.request.wants_protein
            else np.repeat(np.arange(len(sequences)), found.rows)
        )
        for slot in np.unique(owners[~np.isfinite(outputs).all(axis=(1, 2))]).tolist():
            found.failed.setdefault(slot, "the head's output is not finite")
        outputs[~np.isfinite(outputs)] = 0.0
        return ShardResult({self.request.per: outputs, "rows": found.rows}, found.failed)


def make(run_folder: Path, options: PredictionOptions, provenance: Mapping[str, Any], device: str) -> tuple[Task, str]:
    """The task in a worker, and the kind of its processor, in words.

    Raises:
        JobError: when it would predict otherwise than was planned.
        InputError: when the run is not seen where the worker is.
        ModelError: when its files or its model were changed.
    """
    asked = replace(options, device=device, precision=provenance["precision"], backend=provenance["backend"])
    use_own_cores()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AminoglotWarning)  # said where the job was begun
        task = PredictionTask(loaded(run_folder, asked), asked)
    mine = provenance_of(task, asked, same_run(run_folder), provenance["input_sha256"])
    if different := changes(provenance, mine, mine):
        raise JobError(f"it would predict otherwise than was planned:\n{listing(different)}")
    return task, processor(task.model.hardware.device)


def loaded(run_folder: Path, options: PredictionOptions, lazily: bool = False) -> Predictor:
    """The run, as options say; ``lazily`` where this process only plans."""
    return Predictor(
        run_folder,
        model=options.model,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        lazily=lazily,
    )


def provenance_of(task: PredictionTask, options: PredictionOptions, run_digest: str, digest: str) -> dict[str, Any]:
    """What decides the result, and no times, hosts or paths."""
    model, recipe = task.model, task.predictor.recipe
    return {
        "aminoglot": __version__,
        "torch": torch.__version__,
        "openvino": version("openvino") if model.hardware.backend == "openvino" else None,
        "run": run_digest,
        "target": recipe.target,
        "model_digest": recipe.model_digest,  # of the network under LoRA, which the run has beside it
        "per": recipe.per,
        "long": task.request.long,
        "limit": task.request.limit,
        "precision": model.hardware.precision,
        "device": model.hardware.kind,
        "backend": model.hardware.backend,
        "token_budget": model.budget,
        "columns": columns(recipe, options.probabilities),
        "input_sha256": digest,
        "bad_records": options.bad_records,
        "duplicates": options.duplicates,
        "id_column": options.id_column,
        "sequence_column": options.sequence_column,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products by torch in this thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
