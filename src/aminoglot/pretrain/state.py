"""The states of a run on disk: written whole or not at all, beside the training, by torch.distributed.checkpoint.

A state is a folder of safetensors, a file a process, and ``state.json``. Nothing in it is a pickle, and it is read by
any number of processes, whatever number wrote it.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from aminoglot.errors import JobError, OutputError, first_line, is_full, reason
from aminoglot.jobs.storage import sync
from aminoglot.pretrain.parallel import World

_STATE = "state.json"
_NAME = re.compile(r"\d{9}")
_WRAPPER = "_checkpoint_wrapped_module."


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        update: updates made.
        position: samples seen: where the stream of samples goes on.
        tokens: tokens seen.
        loss_scale: of fp16.
        good: updates since that was changed.
        best: the least validation loss so far, or None.
        best_update: when that was.
    """

    update: int = 0
    position: int = 0
    tokens: int = 0
    loss_scale: float = 1.0
    good: int = 0
    best: float | None = None
    best_update: int | None = None


class States:
    """The states of one run.

    Args:
        folder: for them.
        keep: how many of the last stay, beside the best.
        here: the processes, which call all methods together.
    """

    def __init__(self, folder: Path, keep: int, here: World) -> None:
        self.folder, self._keep, self._here = folder, keep, here
        self._writing: tuple[Future[Any], Path, Progress] | None = None
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # for good: it writes in a thread
        here.led(self._clear)

    def _clear(self) -> None:
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*.partial"):
                shutil.rmtree(left)

    def save(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Begin to write a state; what was begun before is finished first.

        Raises:
            JobError: when the disk is full; states written before stay.
        """
        self.finish()
        path = self.path(progress.update)
        partial = path.with_name(f"{path.name}.partial")
        if path.exists():
            return
        with _explained(self.folder):
            self._here.led(lambda: _made(partial))
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
            future = async_save(tensors, storage_writer=writer, process_group=self._here.beside)
        assert isinstance(future, Future)
        self._writing = (future, partial, progress)

    @property
    def written(self) -> bool:
        """Whether nothing is being written at this moment; what was written may still wait for :meth:`finish`."""
        return self._writing is None or self._writing[0].done()

    def finish(self) -> None:
        """Wait for what is being written, give it its name, and remove states that are not kept.

        Raises:
            JobError: when the disk is full.
        """
        if self._writing is None:
            return
        (future, partial, progress), self._writing = self._writing, None
        with _explained(self.folder):
            future.result()
        self._here.led(lambda: self._name(partial, progress))

    def _name(self, partial: Path, progress: Progress) -> None:
        with _explained(self.folder):
            text = json.dumps({"progress": asdict(progress), "processes": self._here.size}, indent=1)
            (partial / _STATE).write_text(text + "\n")
            for file in (*partial.iterdir(), partial):
                sync(file)
            partial.rename(self.path(progress.update))
            sync(self.folder)
            self._prune(progress.best_update)

    def _prune(self, best: int | None) -> None:
        for path in self._whole()[: -self._keep]:
            if best is None or int(path.name) != best:
                shutil.rmtree(path.rename(path.with_name(f"{path.name}.partial")))  # never half of it under its name

    def _whole(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def path(self, update: int) -> Path:
        """Of the state after an update."""
        return self.folder / f"{update:09}"

    def last(self) -> Path | None:
        """The newest state, or None."""
        whole = self._whole()
        return whole[-1] if whole else None


def load(path: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors with those of a state, in place.

    Raises:
        OutputError: when the state is damaged, or of another network.
    """
    try:
        read_tensors(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
    except (Exception, CheckpointException) as error:  # whatever a damaged file surfaces as
        raise OutputError(
            f"{path}: this state cannot be read ({type(error).__name__}); remove it, and the run goes on from the one "
            "before"
        ) from error


def read_progress(path: Path) -> Progress:
    """Where a run stood.

    Raises:
        OutputError: when the state is damaged.
    """
    try:
        return Progress(**json.loads((path / _STATE).read_text())["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path / _STATE}: damaged ({error}); remove {path.name}, and the run goes on from the state before"
        ) from error


def tensors_of(network: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """All that a state holds, by name: weights, and what the optimizers remember of each.

    What an optimizer has not begun to remember is made, so that it can be filled.
    """
    found = {f"model.{plain(name)}": tensor.detach() for name, tensor in network.state_dict().items()}
    names = {parameter: plain(name) for name, parameter in network.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                remembered = optimizer.state[parameter]
                if not remembered:
                    remembered.update(_fresh(optimizer, parameter))
                for key, value in remembered.items():
                    found[f"optimizer.{names[parameter]}.{key}"] = value
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out among processes, put together; all of them call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def plain(name: str) -> str:
    """A parameter's name without what wrappers put in."""
    return name.replace(_WRAPPER, "")


def _fresh(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What an optimizer remembers before its first step."""
    if isinstance(optimizer, AdamW):
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return {"momentum_buffer": torch.zeros_like(parameter)}


def _made(folder: Path) -> None:
    with _explained(folder):
        folder.mkdir()


class _explained:  # noqa: N801  a context manager
    """Say that a disk is full; torch wraps what the system said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, OSError | CheckpointException | SafetensorError):
            return
        found: BaseException | None = error
        if isinstance(found, CheckpointException):  # what went wrong in each process
            found = next(iter(found.failures.values()))[0]
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        said = reason(found) if isinstance(found, OSError) else first_line(error)
        if isinstance(found, OSError) and not is_full(found):
            said = f"cannot be written ({said})"
        raise JobError(f"{self._folder}: {said}. The states written before are whole") from error
