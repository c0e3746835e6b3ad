"""The state of a fit between epochs, in one safetensors file that is written whole: a killed run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aminoglot.errors import JobError
from aminoglot.jobs.storage import write_whole

_META = "state"


class StateFile:
    """A :class:`~aminoglot.finetune.fitting.Keeper` on disk.

    Args:
        path: of the file.
        of: which run it is, splits and all; the state of another is none.
        overwrite: a damaged one counts as none.
        after: told the losses of training and validation of all epochs so far, once they are on disk, and whether they
            were there before.
    """

    def __init__(
        self,
        path: Path,
        of: str,
        overwrite: bool,
        after: Callable[[list[list[float]], list[list[float]], bool], None],
    ) -> None:
        self.path, self.of, self.overwrite, self._after = path, of, overwrite, after

    def load(self) -> dict[str, Any] | None:
        """The last state of this run, or None.

        Raises:
            JobError: when the file is damaged, and not to be overwritten.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                meta = json.loads(file.metadata()[_META])
                if meta.get("of") != self.of:  # its training proteins may be what this run tests on
                    return None
                # copied: a mapped file may be replaced while its numbers are still wanted
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            if self.overwrite:
                return None
            raise JobError(
                f"{self.path}: damaged ({error}); delete it to begin training again, or run with --overwrite"
            ) from error
        optimizer: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                optimizer.setdefault(int(number), {})[name] = tensor
        self._after(meta["train"], meta["validation"], True)
        return {
            "parameters": _below(tensors, "parameters."),
            "best": _below(tensors, "best."),
            "optimizer": {"state": optimizer, "param_groups": meta["groups"]},
            "train": meta["train"],
            "validation": meta["validation"],
        }

    def save(self, state: dict[str, Any]) -> None:
        """Write it.

        Raises:
            OutputError: when the disk is full; the state before stays.
        """
        tensors = {f"{part}.{name}": one for part in ("parameters", "best") for name, one in state[part].items()}
        for number, moments in state["optimizer"]["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(one) for name, one in moments.items()}
        meta = {
            "of": self.of,
            "train": state["train"],
            "validation": state["validation"],
            "groups": state["optimizer"]["param_groups"],
        }
        data = save({name: one.cpu().contiguous() for name, one in tensors.items()}, {_META: json.dumps(meta)})
        write_whole(self.path, lambda path: _write(path, data))
        self._after(state["train"], state["validation"], False)


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
