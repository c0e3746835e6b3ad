"""A finished run, loaded: from sequences to predictions.

Shapes: N proteins, L_i residues of protein i, C outputs (classes, or one number), R residues of all proteins.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aminoglot.checkpoints import Checkpoint, peft, resolve, worth_saying
from aminoglot.engine import Embedded, Model, choose
from aminoglot.engine.hardware import Backend, Hardware
from aminoglot.errors import AminoglotWarning, InputError, JobError, ModelError
from aminoglot.finetune import lora
from aminoglot.finetune.heads import Head, HeadName
from aminoglot.finetune.metrics import Kind
from aminoglot.finetune.options import Method, Of
from aminoglot.finetune.outcome import told
from aminoglot.jobs.storage import file_digest
from aminoglot.models.linear import Precision
from aminoglot.settings import BackendChoice, Long, Pool, PrecisionChoice

FILE, HEAD, ADAPTER, MODEL = "predictor.json", "head.safetensors", "adapter", "model"
LAYOUT = 1
_ROWS_AT_ONCE = 16_384

Array = NDArray[np.float32]
Predicted = Array | list[Array] | list[str]


@dataclass(frozen=True)
class Recipe:
    """What ``predictor.json`` says: all that is needed beside weights.

    Attributes:
        target: what is predicted, as the data called it.
        per: a label a protein or a residue.
        kind: numbers or classes.
        classes: names, in the order of outputs; empty for numbers.
        method: how it was tuned.
        head: name, width, outputs and hidden units.
        layer: whose embeddings, from 0 to L.
        pool: how residues become a protein.
        long: what became of long proteins.
        limit: the model's, in residues.
        model: the base model, as a user names it.
        model_digest: of the network's weights under the head, without LoRA.
        precision: of its products, as the head knows them.
        backend: who computed them.
        device: kind of device.
        files: SHA-256 of the files beside this one.
        aminoglot: the version that wrote it.
        layout: of this file.
    """

    target: str
    per: Of
    kind: Kind
    classes: tuple[str, ...]
    method: Method
    head: Mapping[str, Any]
    layer: int
    pool: Pool
    long: Long
    limit: int
    model: str
    model_digest: str
    precision: Precision
    backend: Backend
    device: str
    files: Mapping[str, str]
    aminoglot: str
    layout: int = LAYOUT

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read_recipe(folder: Path) -> Recipe:
    """What a run folder predicts.

    Raises:
        InputError: when it is none, or not finished.
        ModelError: when a file beside it was changed or is gone.
    """
    path = folder / FILE
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that `aminoglot finetune` wrote")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Recipe(**{**raw, "classes": tuple(raw["classes"])})
    except FileNotFoundError:
        hint = "its run did not end; run the same command again" if (folder / "run.json").exists() else "no run is here"
        raise InputError(f"{folder}: no {FILE} in it: {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged, or written by another version of aminoglot ({error})") from error
    if found.layout != LAYOUT:
        raise ModelError(f"{path}: layout {found.layout}, this version reads {LAYOUT}")
    for name, digest in found.files.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{file}: gone; the run is not whole")
        if file_digest(file) != digest:
            raise ModelError(f"{file}: not the file that the run wrote; it was changed or is damaged")
    return found


class Predictor:
    """Predicts what a run of ``aminoglot finetune`` learnt.

    Args:
        folder: of the run.
        model: the base model, where it lies elsewhere now; its weights must be the same.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: ``auto`` is the run's own; else as in :func:`aminoglot.load`.
        backend: likewise.
        lazily: whether weights are left alone: who only plans needs none, and cannot predict.

    Attributes:
        recipe: what is predicted, and how.
        model: the language model under the head.

    Raises:
        InputError: when the folder holds no finished run.
        ModelError: when its files or the base model are not those of the run.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        model: str | PathLike[str] | None = None,
        device: str = "auto",
        precision: PrecisionChoice = "auto",
        backend: BackendChoice = "auto",
        lazily: bool = False,
    ) -> None:
        self.folder, self._lazily = Path(folder).expanduser(), lazily
        self.recipe = read_recipe(self.folder)
        checkpoint = self._checkpoint(None if model is None else fspath(model))
        hardware = self._hardware(device, precision, backend)
        for note in (*worth_saying(checkpoint.notes), *self._unlike(hardware)):
            warnings.warn(note, AminoglotWarning, stacklevel=2)
        self.model = self._model(checkpoint, hardware, lazily)
        self.head = _head(self.folder / HEAD, self.recipe)

    def _checkpoint(self, named: str | None) -> Checkpoint:
        """The network's weights, as the run used or left them."""
        recipe = self.recipe
        where = fspath(self.folder / MODEL) if recipe.method == "full" else named or recipe.model
        found = resolve(where)
        if found.digest != recipe.model_digest:
            raise ModelError(f"{where}: not the model that the run used: its weights differ")
        return found

    def _hardware(self, device: str, precision: PrecisionChoice, backend: BackendChoice) -> Hardware:
        """Where to compute: as in the run, unless told otherwise, or it cannot be."""
        recipe = self.recipe
        try:
            return choose(
                device,
                recipe.precision if precision == "auto" else precision,
                recipe.backend if backend == "auto" else backend,
            )
        except InputError:  # not on this machine; what the user asks is tried as it is, and refused by name
            return choose(device, precision, backend)

    def _unlike(self, hardware: Hardware) -> list[str]:
        recipe = self.recipe
        here = f"{hardware.precision} by {hardware.backend} on {hardware.kind}"
        there = f"{recipe.precision} by {recipe.backend} on {recipe.device}"
        if here == there:
            return []
        return [
            f"the run computed in {there}, this does in {here}: predictions differ a little, and more where proteins "
            "differ by few residues"
        ]

    def _model(self, checkpoint: Checkpoint, hardware: Hardware, lazily: bool) -> Model:
        """The network with LoRA beside its matrices, as in training; merged, where that cannot be."""
        if self.recipe.method != "lora" or lazily:
            return Model(checkpoint, hardware, lazily)
        made = peft.read(self.folder / ADAPTER, checkpoint.config)
        if hardware.backend != "torch" or hardware.precision == "fp8":
            return Model(peft.merged(checkpoint, made), hardware)
        model = Model(checkpoint, hardware)
        lora.attach(model.network, made)
        return model

    def __repr__(self) -> str:
        recipe = self.recipe
        what = f"{len(recipe.classes)} classes" if recipe.classes else "a number"
        return f"<aminoglot.Predictor of {recipe.target!r}, {what} a {recipe.per}, on {recipe.model}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes, in the order of probabilities; empty for numbers."""
        return self.recipe.classes

    def predict(self, sequences: Iterable[str], *, long: Long | None = None) -> Predicted:
        """Predict for some proteins, in their order.

        Args:
            sequences: residues as letters.
            long: what becomes of proteins over the model's limit; None does as in training.

        Returns:
            Numbers: float32 [N], or of residues a list of float32 [L_i]. Classes: a list of N names, or of residues a
            list of N texts, a letter a residue.

        Raises:
            InputError: for a sequence with anything but residues.
        """
        outputs = self.outputs(sequences, long=long)
        if self.recipe.per == "protein":
            found = told(np.concatenate(outputs), self.recipe.kind)
            if self.recipe.kind == "number":
                return found.astype(np.float32)
            return [self.classes[int(one)] for one in found]
        if self.recipe.kind == "number":
            return [told(one, "number").astype(np.float32) for one in outputs]
        return ["".join(self.classes[int(place)] for place in told(one, "classes")) for one in outputs]

    def probabilities(self, sequences: Iterable[str], *, long: Long | None = None) -> Array | list[Array]:
        """How likely each class is: float32 [N, C], or of residues a list of [L_i, C]; columns are ``classes``.

        Raises:
            InputError: where numbers are predicted.
        """
        if self.recipe.kind == "number":
            raise InputError(f"{self.recipe.target} is a number: it has no classes, and no probabilities")
        found = [probabilities(one) for one in self.outputs(sequences, long=long)]
        return np.concatenate(found) if self.recipe.per == "protein" else found

    def outputs(self, sequences: Iterable[str], *, long: Long | None = None) -> list[Array]:
        """What the head gives for each protein: [1, C], or of residues [L_i, C]; logits of classes, or numbers."""
        self._whole()
        recipe = self.recipe
        asked = recipe.long if long is None else long
        asked = "error" if asked == "skip" else asked
        found = self.model.embed(sequences, per=recipe.per, layer=recipe.layer, pool=recipe.pool, long=asked)
        if recipe.per == "protein":
            return list(self.apply(np.asarray(found), None)[:, None])
        return self.of_residues(list(found))

    def of_embedded(self, found: Embedded) -> Array:
        """Outputs [N, C] or [R, C] of embeddings from the main job, with one layer."""
        self._whole()
        if found.protein is not None:
            return self.apply(found.protein[:, 0], None)
        assert found.residue is not None
        ends = np.cumsum(found.rows)[:-1]
        outputs = self.of_residues(np.split(found.residue[:, 0], ends))
        return np.concatenate([*outputs, np.zeros((0, self.head.outputs), np.float32)])

    def _whole(self) -> None:
        if self._lazily:
            raise ModelError(f"{self.folder}: loaded to plan with, without its weights; load it again to predict")

    def of_residues(self, proteins: Sequence[Array]) -> list[Array]:
        """Outputs of each protein's residues, so many proteins at once as memory should hold."""
        found: list[Array] = []
        waiting: list[Array] = []
        for number, one in enumerate(proteins, 1):
            waiting.append(one)
            if number == len(proteins) or sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                lengths = [len(rows) for rows in waiting]
                y = self.apply(np.concatenate(waiting), lengths)
                found += np.split(y, np.cumsum(lengths)[:-1])
                waiting = []
        return found

    @torch.inference_mode()
    def apply(self, x: Array, lengths: Sequence[int] | None) -> Array:
        """The head's outputs [n, C] of features [n, D]."""
        y: Tensor = self.head(torch.tensor(x), lengths)[0]
        return y.numpy()


def probabilities(outputs: Array) -> Array:
    """From logits [n, C] to probabilities."""
    found: Array = torch.tensor(outputs).softmax(-1).numpy()
    return found


def _head(path: Path, recipe: Recipe) -> Head:
    shape = recipe.head
    name: HeadName = shape["name"]
    head = Head(name, int(shape["width"]), int(shape["outputs"]), (0,), int(shape["hidden"]))
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: not the head that {FILE} describes ({error})") from error
    return head.eval().requires_grad_(False)


def same_run(folder: Path) -> str:
    """What stands for a run in the provenance of predictions: the digest of ``predictor.json``, which names those of
    all its files.

    Raises:
        JobError: when it cannot be read.
    """
    try:
        return file_digest(folder / FILE)
    except OSError as error:
        raise JobError(f"{folder / FILE}: cannot be read ({error.strerror})") from error
