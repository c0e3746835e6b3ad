"""The only reader of pickles: torch's restricted one, which builds tensors and plain containers and calls nothing.

One class beyond its own list is allowed, ``argparse.Namespace``, a bag of settings that fair-esm's files hold.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from aminoglot.errors import ModelError


def load(path: Path) -> Any:
    """Read a torch file without executing anything from it; tensors are mapped, not copied, where the file allows.

    Raises:
        ModelError: when the file asks for anything but data, is cut short, or is no torch file.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice is for programmers
            mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 can only be read
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise ModelError(
                f"{path}: refused: the file asks Python for {asked[1]}; a checkpoint needs only tensors and settings"
            ) from error
        raise ModelError(f"{path}: not a torch checkpoint, or damaged ({_first_line(error)})") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damage surfaces as nearly anything
        raise ModelError(f"{path}: cut short or damaged ({_first_line(error)}); get the file again") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
