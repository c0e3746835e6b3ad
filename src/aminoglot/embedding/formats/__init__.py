"""The files embeddings are written to. Each format has one module that writes and reads it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from aminoglot.embedding.formats.base import Batch, ContentDigest, Kind, Layout, Store, Writer
from aminoglot.errors import InputError

_FORMATS = {
    ".h5": ("h5", "H5Writer", "H5Store"),
    ".hdf5": ("h5", "H5Writer", "H5Store"),
    ".parquet": ("parquet", "ParquetWriter", "ParquetStore"),
    ".npz": ("npz", "NpzWriter", "NpzStore"),
    ".safetensors": ("safetensors", "SafetensorsWriter", "SafetensorsStore"),
    "": ("pt", "PtWriter", "PtStore"),
}
"""By suffix: the module, its writer and its reader; each is imported when first used."""
SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix)
"""Suffixes by which a format is chosen; a name without suffix is a folder of fair-esm ``.pt`` files."""


def check_suffix(output: Path) -> None:
    """Refuse a name whose suffix is no format of ours."""
    if output.suffix.lower() not in _FORMATS:
        raise InputError(
            f"{output}: the suffix {output.suffix} names no format; use {', '.join(SUFFIXES)}, or a name without "
            "suffix for a folder of fair-esm .pt files"
        )


def check_names(output: Path, names: Iterable[str]) -> None:
    """Refuse ids that cannot name a file, where the output is a folder of files; before anything is computed."""
    if not output.suffix:
        from aminoglot.embedding.formats.pt import file_name

        for name in names:
            file_name(name)


def is_ours(folder: Path) -> bool:
    """Whether aminoglot wrote this folder."""
    from aminoglot.embedding.formats.pt import MARK

    return (folder / MARK).is_file()


def writer(output: Path, path: Path, layout: Layout) -> Writer:
    """A writer for ``path``, in the format that the name ``output`` asks for."""
    check_suffix(output)
    module, name, _ = _FORMATS[output.suffix.lower()]
    made: Writer = _class(module, name)(path, layout)
    return made


def reader(path: Path) -> Store:
    """Open a file that a writer wrote, or an h5 of UniProt's kind."""
    suffix = "" if path.is_dir() else path.suffix.lower()
    if not path.is_dir():
        check_suffix(path)
        if not suffix:
            raise InputError(f"{path}: neither a folder of .pt files nor a file aminoglot reads")
    module, _, name = _FORMATS[suffix]
    store: Store = _class(module, name)(path)
    return store


def _class(module: str, name: str) -> Any:
    return getattr(import_module(f"{__name__}.{module}"), name)


__all__ = [
    "SUFFIXES",
    "Batch",
    "ContentDigest",
    "Kind",
    "Layout",
    "Store",
    "Writer",
    "check_names",
    "check_suffix",
    "is_ours",
    "reader",
    "writer",
]
