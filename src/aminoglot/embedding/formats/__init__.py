"""The files embeddings are written to. Each format has one module that writes and reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aminoglot.embedding.formats.base import Batch, ContentDigest, Kind, Layout, Store, Writer
from aminoglot.errors import InputError

SUFFIXES = (".h5", ".hdf5", ".parquet", ".npz", ".safetensors")
"""Suffixes by which a format is chosen; a name without suffix is a folder of fair-esm ``.pt`` files."""


def check_suffix(output: Path) -> None:
    """Refuse a name whose suffix is no format of ours."""
    if output.suffix.lower() not in (*SUFFIXES, ""):
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
    suffix = output.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        from aminoglot.embedding.formats.h5 import H5Writer

        return H5Writer(path, layout)
    if suffix == ".parquet":
        from aminoglot.embedding.formats.parquet import ParquetWriter

        return ParquetWriter(path, layout)
    if suffix == ".npz":
        from aminoglot.embedding.formats.npz import NpzWriter

        return NpzWriter(path, layout)
    if suffix == ".safetensors":
        from aminoglot.embedding.formats.safetensors import SafetensorsWriter

        return SafetensorsWriter(path, layout)
    from aminoglot.embedding.formats.pt import PtWriter

    return PtWriter(path, layout)


def reader(path: Path) -> Store:
    """Open a file that a writer wrote, or an h5 of UniProt's kind."""
    if path.is_dir():
        from aminoglot.embedding.formats.pt import PtStore

        return PtStore(path)
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        from aminoglot.embedding.formats.h5 import H5Store

        return H5Store(path)
    if suffix == ".parquet":
        from aminoglot.embedding.formats.parquet import ParquetStore

        return ParquetStore(path)
    if suffix == ".npz":
        from aminoglot.embedding.formats.npz import NpzStore

        return NpzStore(path)
    if suffix == ".safetensors":
        from aminoglot.embedding.formats.safetensors import SafetensorsStore

        return SafetensorsStore(path)
    raise InputError(f"{path}: neither a folder of .pt files nor a file aminoglot reads")


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
