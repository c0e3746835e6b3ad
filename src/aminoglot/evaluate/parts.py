"""What is fitted already: one file a head, under a name that stands for all that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from aminoglot.jobs.storage import explained, write_whole

VERSION = 3
"""Changes whenever the same options would give other numbers."""
_VALIDATION = "validation"


@dataclass
class Part:
    """A fitted head: what it tells of validation and of test sets.

    Attributes:
        validation: [S, n]
        tests: by what stands for the test set's counted rows (``Block.told_digest``), [S, n] each.
        settings: what was chosen.
        history: losses of each epoch and copy, of ``train`` and of ``validation``.
        seconds: that fitting and telling took.
    """

    validation: NDArray[Any]
    tests: dict[str, NDArray[Any]]
    settings: dict[str, Any]
    history: dict[str, list[list[float]]] = field(default_factory=dict)
    seconds: float = 0.0


class Parts:
    """A folder of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with explained(folder):
            folder.mkdir(exist_ok=True)

    def find(self, name: str) -> Part | None:
        """A part, or None where there is none, or a damaged one, which is made again."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as opened:
                said = json.loads((opened.metadata() or {})["part"])
                arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            validation = arrays.pop(_VALIDATION)
            return Part(validation, arrays, said["settings"], said["history"], said["seconds"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return None

    def save(self, name: str, part: Part) -> None:
        """Write one, whole."""
        said = {"settings": part.settings, "history": part.history, "seconds": part.seconds}
        arrays = {_VALIDATION: part.validation, **part.tests}
        whole = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        write_whole(self._path(name), lambda partial: save_file(whole, partial, {"part": json.dumps(said)}))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def fingerprint(**facts: Any) -> str:
    """A name for what these facts decide."""
    said: Mapping[str, Any] = {"version": VERSION, **facts}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
