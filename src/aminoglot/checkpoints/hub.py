"""Getting a model's files to this machine: what is here already, and the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from aminoglot.checkpoints import folder as folders
from aminoglot.checkpoints.registry import Known
from aminoglot.errors import ModelError

_PATIENCE = 10.0
"""Seconds to wait for the hub's first answer."""


def cached(repository: str, revision: str | None = None) -> Path | None:
    """The complete local copy of a hub repository, or None. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None
    try:
        folders.weight_files(folder)
    except ModelError:
        return None
    return folder if folders.is_folder(folder) else None


def torch_hub(known: Known) -> Path | None:
    """The file that fair-esm downloaded earlier, or None."""
    if known.fair_esm is None:
        return None
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{known.fair_esm}.pt"
    return path if path.is_file() else None


def download(repository: str, revision: str | None = None) -> Path:
    """Fetch a repository's config and weights, or find them in the cache.

    Raises:
        ModelError: when the hub cannot be reached or has no such model: what to fetch, and where to put it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        siblings = HfApi().model_info(repository, revision=revision, timeout=_PATIENCE).siblings or []
        kind = "safetensors" if any(file.rfilename.endswith(".safetensors") for file in siblings) else "bin"
        wanted = ["config.json", f"*.{kind}", f"*.{kind}.index.json"]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise ModelError(
            f"{repository}: the hub asks you to accept its terms first; log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{repository}: no such model on the Hugging Face hub") from error
    except Exception as error:  # whatever the network libraries of the day raise
        if getattr(error, "response", None) is not None:
            raise ModelError(
                f"{repository}: the hub refused ({(str(error).strip().splitlines() or [type(error).__name__])[-1]})"
            ) from error
        raise ModelError(_offline(repository, error)) from error


def _offline(repository: str, error: Exception) -> str:
    folder = repository.split("/")[-1]
    return (
        f"{repository} is not on this machine, or only half of it, and the Hugging Face hub cannot be reached "
        f"({type(error).__name__}).\n"
        f"Where there is a network, run:   hf download {repository} --local-dir {folder}\n"
        f"It needs config.json and the weights (model.safetensors, or all its parts). Copy the folder here, then use "
        f"--model ./{folder} (in Python, load('./{folder}'))"
    )
