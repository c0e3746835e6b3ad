"""A run's folder: what was asked, what was learnt, what became of every protein, and the card."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from aminoglot.checkpoints import Checkpoint, peft, write
from aminoglot.checkpoints.registry import find
from aminoglot.errors import JobError, OutputError, listing
from aminoglot.finetune import lora
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.heads import Head
from aminoglot.finetune.network import Live
from aminoglot.finetune.outcome import told
from aminoglot.finetune.predictor import ADAPTER, FILE, HEAD, MODEL, Recipe
from aminoglot.jobs.storage import explained, file_digest, sync, write_whole

RUN, LOG, TABLE, CARD = "run.json", "log.jsonl", "proteins.tsv", "README.md"
LEARNING, PREDICTIONS, LABELS = "learning.png", "predictions.png", "labels.png"
_NEEDED = (FILE, HEAD, f"{ADAPTER}/", f"{MODEL}/")
"""How names of what prediction needs begin."""
COLUMNS = ("id", "split", "status", "length", "label", "prediction", "note")


def write_text(path: Path, text: str) -> None:
    """Write a file whole.

    Raises:
        OutputError: when it cannot be written; what was there stays.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As :func:`write_text`."""
    write_whole(path, lambda partial: _write(partial, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def standing(folder: Path, asked: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Look whether a run may be written, or go on, in a folder; nothing is changed.

    Returns:
        What ``run.json`` says of this very run, if it is finished.

    Raises:
        JobError: when another run is there, or one of another version, naming what differs.
        OutputError: when the folder holds something else.
    """
    path = folder / RUN
    if not path.exists():
        strangers = [one.name for one in folder.iterdir() if not one.name.startswith(".")]
        if strangers and not overwrite:
            raise OutputError(f"{folder}: a folder of something else ({sorted(strangers)[0]}); choose a new one")
        return None
    found = _read(path)
    different = _different(found, asked)
    if different and not overwrite:
        raise _refused(folder, different)
    return found if not different and "finished" in found and _whole(folder, found) else None


def begin(folder: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
    """Note what a run is, and how its proteins are dealt out; what another one left goes away.

    Raises:
        JobError: when proteins were dealt out otherwise before, and are not to be overwritten.
    """
    path = folder / RUN
    if not path.exists():
        _forget(folder)
    elif different := _different(_read(path), asked):
        if not overwrite:
            raise _refused(folder, different)
        _clear(folder)
    write_text(path, json.dumps(asked, indent=1) + "\n")


def digest(asked: Mapping[str, Any]) -> str:
    """SHA-256 of what a run is, by which its state is known."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["options"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); choose another folder, or delete this one") from error
    return dict(found)


def _refused(folder: Path, different: Sequence[str]) -> JobError:
    hint = ""
    if any(line.startswith(("aminoglot:", "torch:", "how:", "splits_sha256:")) for line in different):
        hint = ". A run is finished by the versions, and on the splits, that it was begun with"
    return JobError(
        f"{folder} is another run:\n{listing(different)}\nGive this one another -o, ask for the same, or replace it "
        f"with --overwrite{hint}"
    )


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words; how proteins are dealt out is compared once that is known."""
    lines, now = [], json.loads(json.dumps(now))
    for part in ("options", "facts", "dealt"):
        if part not in now:
            continue
        old, new = before.get(part) or {}, now[part]
        lines += [f"{k}: {old.get(k)} before, {new.get(k)} now" for k in {**old, **new} if old.get(k) != new.get(k)]
    return lines


def _whole(folder: Path, found: Mapping[str, Any]) -> bool:
    """Whether a finished run's files that prediction needs are as they were written. A card may be edited."""
    needed = {name: one for name, one in found["finished"].items() if name.startswith(_NEEDED)}
    return all((folder / name).is_file() and file_digest(folder / name) == one for name, one in needed.items())


def _clear(folder: Path) -> None:
    """Take away what another run left, but for embeddings, which the main job judges itself."""
    with explained(folder):
        for name in (FILE, RUN, HEAD, LOG, TABLE, CARD, LEARNING, PREDICTIONS, LABELS):
            (folder / name).unlink(missing_ok=True)
        _forget(folder)
        for name in (ADAPTER, MODEL):
            shutil.rmtree(folder / name, ignore_errors=True)


def _forget(folder: Path) -> None:
    """Take away the state of a fit: where nothing says whose it is, its proteins may be anyone's."""
    with explained(folder):
        for path in folder.glob(".state*"):
            path.unlink()


def finish(folder: Path, asked: Mapping[str, Any], scores: Mapping[str, Any], files: Sequence[str]) -> None:
    """Note a run as finished, with its scores and the digests of its files."""
    digests = {name: file_digest(folder / name) for name in sorted(files)}
    write_text(folder / RUN, json.dumps({**asked, "scores": scores, "finished": digests}, indent=1) + "\n")


def write_log(folder: Path, train: Sequence[Sequence[float]], validation: Sequence[Sequence[float]]) -> None:
    """A line an epoch."""
    lines = [
        json.dumps({"epoch": epoch, "train": round(a[0], 6), "validation": round(b[0], 6)})
        for epoch, (a, b) in enumerate(zip(train, validation, strict=True), 1)
    ]
    write_text(folder / LOG, "".join(f"{line}\n" for line in lines))


def write_head(folder: Path, head: Head) -> None:
    """The head's weights, and the moments that it standardises by."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in head.state_dict().items()}
    write_bytes(folder / HEAD, save(tensors))


def base_name(model: str) -> str:
    """A base model's name as others find it: its Hugging Face id where it has one; a path from the root on."""
    known = find(model)
    if known is not None and known.repository is not None:
        return known.repository
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model


def write_adapter(folder: Path, live: Live, base: str, digest: str, alpha: float) -> list[str]:
    """LoRA's matrices in peft's layout; the names of the files."""
    made = lora.adapter(live.network, base, digest, alpha)

    def fill(partial: Path) -> None:
        peft.write(partial, made, live.network.config)

    _write_folder(folder / ADAPTER, fill)
    return [f"{ADAPTER}/{name}" for name in (peft.CONFIG, peft.WEIGHTS)]


def write_model(folder: Path, live: Live, checkpoint: Checkpoint) -> tuple[list[str], str]:
    """All weights as a Hugging Face folder; heads and decoder of the language model stay as they were.

    Returns:
        The names of the files, and the digest of the weights.
    """
    trained = {name: one.detach().cpu() for name, one in live.network.state_dict().items()}
    tensors = {name: trained.get(name, one) for name, one in checkpoint.tensors.items()}
    made = replace(checkpoint, tensors={name: one.float() for name, one in tensors.items()})
    partial = folder / f".{MODEL}.new"
    shutil.rmtree(partial, ignore_errors=True)
    write(made, partial, "huggingface")
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    partial.rename(folder / MODEL)
    names = sorted(path.name for path in (folder / MODEL).iterdir())
    return [f"{MODEL}/{name}" for name in names], made.digest


def _write_folder(path: Path, fill: Any) -> None:
    partial = path.with_name(f".{path.name}.new")
    with explained(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        fill(partial)
        for file in partial.iterdir():
            sync(file)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        sync(path.parent)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """``predictor.json``, with the digests of the files it needs."""
    files = {name: file_digest(folder / name) for name in recipe.files}
    write_text(folder / FILE, replace(recipe, files=files).text())


def write_table(
    folder: Path, dataset: Dataset, split_of: Sequence[str], outputs: Sequence[NDArray[np.float32]], limit: int
) -> None:
    """Every record of the input, in order: its split, what became of it, its label, and what the run predicts."""
    lines = ["\t".join(COLUMNS)]
    for entry in dataset.entries:
        split = prediction = ""
        notes = [entry.note] if entry.note else []
        if entry.example >= 0:
            found = outputs[entry.example]
            split, prediction = split_of[entry.example], shown(dataset, found)
            if dataset.per_residue and len(found) < entry.length:
                notes.append(f"truncated to {len(found)} residues")
            elif entry.length > limit:
                notes.append(f"longer than {limit} residues")
        cells = (entry.id, split, entry.status, str(entry.length), entry.label, prediction, "; ".join(notes))
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    write_text(folder / TABLE, "\n".join(lines) + "\n")


def shown(dataset: Dataset, outputs: NDArray[np.float32]) -> str:
    """A protein's prediction as text."""
    return as_text(outputs, dataset.classes, dataset.per_residue)


def as_text(outputs: NDArray[np.float32], classes: Sequence[str], per_residue: bool) -> str:
    """A prediction as text: a number or a class; of residues numbers parted by commas, or a letter each."""
    if not classes:
        return ",".join(f"{value:.6g}" for value in told(outputs, "number").tolist())
    names = [classes[int(place)] for place in told(outputs, "classes")]
    return "".join(names) if per_residue else names[0]
