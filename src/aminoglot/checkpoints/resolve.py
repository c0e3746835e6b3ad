"""What a user calls a model, made a checkpoint; and checkpoints written in other formats."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from aminoglot.checkpoints import (
    archive,
    fair_esm,
    hub,
    huggingface,
    nemo1,
    nemo2,
    peft,
    pegasus,
    registry,
    transformer_engine,
)
from aminoglot.checkpoints import folder as folders
from aminoglot.checkpoints.checkpoint import Checkpoint
from aminoglot.checkpoints.untrained import untrained
from aminoglot.errors import AminoglotError, ModelError, OutputError, first_line, is_allocation_failure, reason
from aminoglot.models.family import SIZES
from aminoglot.models.prott5nv import ProtT5nvConfig

Format = Literal["huggingface", "fair-esm", "nemo1"]
_RANDOM = "random:"
_ENDINGS = (".pt", ".pth", ".nemo", ".tar", ".gz", ".tgz", ".safetensors", ".bin", ".ckpt")
"""What ends so is a file's name, not a repository's."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def choices() -> str:
    """The names a user may type, for messages."""
    return (
        f"{', '.join(registry.KNOWN)}; a Hugging Face id such as facebook/esm2_t33_650M_UR50D; a path to files of "
        "Hugging Face, fair-esm (.pt), NeMo (a .nemo file, a NeMo 2 folder) or TransformerEngine; or random:NAME for "
        "untrained weights (random:esm2-tiny is the smallest)"
    )


def resolve(model: str | PathLike[str]) -> Checkpoint:
    """Find and read a model.

    Args:
        model: a known name, a Hugging Face id (``owner/name`` or ``owner/name@revision``), a folder or file in any
            format that docs/checkpoints.md lists, or ``random:NAME``.

    Raises:
        ModelError: when there is no such model, or it is not on this machine and cannot be fetched.
    """
    model = fspath(model)
    if model.startswith(_RANDOM):
        name = model.removeprefix(_RANDOM)
        if name not in SIZES:
            raise ModelError(f"{model}: no such size; there are {', '.join(_RANDOM + size for size in SIZES)}")
        return untrained(name)
    with _readable(model):
        return _found(model)


def _found(model: str) -> Checkpoint:
    """A model with trained weights: by its known name, its path, or its name on the hub."""
    known = registry.find(model)
    if known is not None:
        return _known(known)
    path = _existing(model)
    if path is not None:
        return _path(path, model)
    if _REPOSITORY.fullmatch(model) and not model.endswith(_ENDINGS):
        repository, _, revision = model.partition("@")
        folder = hub.cached(repository, revision or None) or hub.download(repository, revision or None)
        return _folder(folder, model)
    near = difflib.get_close_matches(model, registry.KNOWN, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ModelError(f"{model}: no such model or path.{hint}\nChoose from {choices()}")


@contextmanager
def _readable(model: str) -> Iterator[None]:
    """What is wrong with a file may surface as nearly anything."""
    try:
        yield
    except AminoglotError:
        raise
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        if is_allocation_failure(error):
            raise ModelError(f"{model}: there is not enough memory to read it") from error
        raise ModelError(f"{model}: damaged, or not what it seems ({type(error).__name__})") from error


def _existing(model: str) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, or a home that nobody has
        return None


def _known(known: registry.Known) -> Checkpoint:
    if known.name == registry.BUNDLED:
        return huggingface.read(registry.bundled(), known.name)
    if known.repository is None:
        raise ModelError(
            f"{known.name}: only NVIDIA may pass this model on. Get {known.elsewhere}, and name the file's path "
            f"(random:{known.name} is the same network untrained)"
        )
    folder = hub.cached(known.repository)
    if folder is not None:
        return huggingface.read(folder, known.name)
    file = hub.torch_hub(known)
    if file is not None:
        return fair_esm.read(file, known.name)
    return huggingface.read(hub.download(known.repository), known.name)


def _path(path: Path, name: str) -> Checkpoint:
    if path.is_dir():
        if peft.is_adapter(path):
            return peft.resolved(path, name, resolve)
        if folders.is_folder(path):
            return _folder(path, name)
        return _opened(path, name)
    if path.suffix == ".safetensors":
        if folders.is_folder(path.parent):
            return _folder(path.parent, name)
        raise ModelError(f"{path}: config.json must lie beside it; then name the folder")
    if path.suffix in (".pt", ".pth") and path.is_file():
        return fair_esm.read(path, name)
    if archive.is_archive(path):
        return _opened(path, name)
    raise ModelError(f"{path}: not a format aminoglot reads (a Hugging Face folder, a fair-esm .pt, a .nemo file)")


def language_t5(model: str | PathLike[str]) -> Checkpoint:
    """Read a T5 of ProtT5nv's shape that was trained on language, a ``.nemo``; its first 128 tokens become ours.

    So ProtT5nv itself began (its model card; BioNeMo 1 cuts the table of tokens and the last bias).

    Raises:
        ModelError: when it is anything else.
    """
    model = fspath(model)
    path = _existing(model)
    if path is None:
        raise ModelError(f"{model}: no such file; a .nemo of a T5 is wanted")
    with _readable(model), archive.opened(path) as files:
        if not nemo1.is_nemo1(files.names):
            raise ModelError(f"{model}: no .nemo of a T5")
        checkpoint = nemo1.read(path, model, files, cut=True)
    if not isinstance(checkpoint.config, ProtT5nvConfig):
        raise ModelError(f"{model}: no T5 (its shape is ESM-2's)")
    return checkpoint


def _opened(path: Path, name: str) -> Checkpoint:
    """NeMo's folders and archives, by the files in them."""
    with archive.opened(path) as files:
        if nemo2.is_nemo2(files.names):
            return nemo2.read(path, name, files)
        if nemo1.is_nemo1(files.names):
            return nemo1.read(path, name, files)
    what = "folder" if path.is_dir() else "archive"
    raise ModelError(
        f"{path}: no model in this {what}: expected Hugging Face's config.json, or what NeMo saves (not NeMo 2's "
        "zarr; links are not followed)"
    )


def _folder(path: Path, name: str) -> Checkpoint:
    """A folder in Hugging Face's layout, by what it says it holds."""
    kind = folders.settings(path).get("model_type")
    if kind == pegasus.MODEL_TYPE:
        return pegasus.read(path, name)
    if kind == transformer_engine.MODEL_TYPE:
        return transformer_engine.read(path, name)
    return huggingface.read(path, name)


def lost(checkpoint: Checkpoint, to: Format) -> tuple[str, ...]:
    """What a format has no place for, a sentence each."""
    notes: list[str] = []
    if to == "nemo1" and checkpoint.has("contact_head"):
        notes.append("NeMo 1 has no place for a contact head; it was left out")
    if to == "nemo1":
        notes.append("NeMo's tokenizer files are not written; BioNeMo brings its own")
    if to == "fair-esm" and not checkpoint.has("contact_head"):
        notes.append("there was no contact head to write, and fair-esm opens no file without one beside it")
    if to == "huggingface" and isinstance(checkpoint.config, ProtT5nvConfig):
        notes.append("transformers has no tokenizer for ProtT5nv, so none is written: ids are in docs/prott5nv.md")
    return tuple(notes)


def _move(folder: Path, paths: list[Path]) -> None:
    """Give finished files their places, the model's own last: all of them or none."""
    moved: list[Path] = []
    try:
        for path in reversed(paths):
            if (folder / path.name).exists():
                (folder / path.name).rename(path)
                moved.append(path)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def convert(source: str | PathLike[str], destination: Path, to: Format) -> Checkpoint:
    """Write a model in another format; ``source`` is anything :func:`resolve` takes. See :func:`write`."""
    _free(destination, to)
    checkpoint = resolve(source)
    write(checkpoint, destination, to)
    return checkpoint


def _free(destination: Path, to: Format) -> list[Path]:
    """The files that will be written, none of which is there.

    Raises:
        ModelError: for a name that the format does not allow.
        OutputError: when something is there.
    """
    written = [destination, fair_esm.regression_path(destination)] if to == "fair-esm" else [destination]
    for path in written:
        if path.exists():
            raise OutputError(f"{path}: exists already; name a new place")
    if to == "nemo1" and destination.suffix != ".nemo":
        raise ModelError(f"{destination}: such a file is known by its ending; call it something.nemo")
    if to == "fair-esm" and (destination.suffix != ".pt" or not destination.name.startswith("esm2")):
        raise ModelError(f"{destination}: fair-esm tells models apart by file name; call it esm2_something.pt")
    return written


def write(checkpoint: Checkpoint, destination: Path, to: Format) -> None:
    """Write a model, whole or not at all.

    Args:
        checkpoint: the model.
        destination: a folder that does not exist yet (``huggingface``), a ``.pt`` file (``fair-esm``), or a ``.nemo``.
        to: the format.

    Raises:
        ModelError: for a name that the format does not allow.
        OutputError: when the destination exists or cannot be written.
    """
    written = _free(destination, to)
    temporary = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if to == "huggingface":
            (pegasus if isinstance(checkpoint.config, ProtT5nvConfig) else huggingface).write(checkpoint, temporary)
            temporary.rename(destination)
        elif to == "nemo1":
            nemo1.write(checkpoint, temporary / destination.name)
            _move(temporary, written)
        else:
            fair_esm.write(checkpoint, temporary / destination.name)
            _move(temporary, written)
    except OSError as error:
        raise OutputError(f"{destination}: cannot be written: {reason(error)}") from error
    except (RuntimeError, SafetensorError) as error:  # as torch and safetensors say that the disk is full
        raise OutputError(f"{destination}: cannot be written: {first_line(error)}; is the disk full?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
