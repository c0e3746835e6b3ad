"""Folders as Hugging Face lays them out: config.json beside safetensors or pytorch_model.bin, one file or many."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aminoglot.checkpoints import safe_pickle
from aminoglot.checkpoints.checkpoint import only_tensors
from aminoglot.errors import ModelError, first_line, is_allocation_failure, listing

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MOST_JSON = 16 << 20
"""Bytes of settings, or of the list of a model's tensors."""
_LFS = b"version https://git-lfs"


def is_folder(path: Path) -> bool:
    return (path / "config.json").is_file()


def settings(folder: Path) -> dict[str, Any]:
    """What config.json says.

    Raises:
        ModelError: when it is no such file.
    """
    path = folder / "config.json"
    raw = _json(path)
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a model's settings")
    return raw


def _json(path: Path) -> Any:
    """A small JSON file.

    Raises:
        ModelError: when it is none.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ModelError(f"{path}: {path.stat().st_size:,} bytes, far too long for what it is")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: cannot be read as JSON ({first_line(error)}); is it a git-lfs placeholder?"
        ) from error


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by their own names; safetensors are preferred, and mapped rather than copied.

    Raises:
        ModelError: when files are missing or cut short.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        found.update(_tensors(file))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, all present and none a placeholder.

    Raises:
        ModelError: naming the files that are missing.
    """
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = _parts(index)
            missing = [file for file in names if not (folder / file).is_file()]
            if missing:
                raise ModelError(
                    f"{folder}: half downloaded, {len(missing)} of {len(names)} weight files are missing:\n"
                    f"{listing(missing)}\nFetch them into that folder."
                )
            return [folder / file for file in names]
        if (folder / name).is_file():
            return [folder / name]
    raise ModelError(
        f"{folder}: no weights here; expected {' or '.join(_WEIGHTS)}, or their .index.json with its parts"
    )


def _parts(index: Path) -> list[str]:
    """The file names in an index; only names, so that no index leads out of its folder."""
    try:
        return sorted({Path(file).name for file in _json(index)["weight_map"].values()})
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{index}: damaged, or a git-lfs placeholder; get it again") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                raise ModelError(f"{file}: a git-lfs placeholder, not the weights; run `git lfs pull` in that folder")
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from error
    if file.suffix != ".safetensors":
        return only_tensors(file, safe_pickle.load(file))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, RuntimeError, MemoryError, OSError) as error:
        if is_allocation_failure(error):
            raise ModelError(f"{file}: there is not enough memory to read it") from error
        raise ModelError(f"{file}: cut short or damaged ({error}); get the file again") from error


def write(folder: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str | Mapping[str, Any]]) -> None:
    """Write tensors as safetensors, in shards where they are many, and text or JSON files beside them.

    Args:
        folder: an empty one.
        tensors: by the names that they shall have.
        texts: file names to texts, or to what becomes JSON.
    """
    from huggingface_hub import save_torch_state_dict

    whole = {key: _own(tensor) for key, tensor in tensors.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
    for name, text in texts.items():
        written = text if isinstance(text, str) else json.dumps(text, indent=2) + "\n"
        (folder / name).write_text(written, encoding="utf-8")


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: safetensors refuses parts of something larger, such as a mapped archive."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
