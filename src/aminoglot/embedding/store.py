"""Reading embeddings back: ``aminoglot.open``."""

from __future__ import annotations

from pathlib import Path

from aminoglot.embedding.formats import ContentDigest, Store, reader
from aminoglot.errors import InputError, OutputError
from aminoglot.jobs.storage import file_digest


def open(path: str | Path) -> Store:
    """Open a file of embeddings: any format aminoglot writes, or an h5 with one dataset a protein, as UniProt's.

    Returns:
        A :class:`~aminoglot.embedding.formats.base.Store`: ``store.ids``, ``store["P12345"]``, ``store.matrix()``,
        and ``for id, array in store``.

    Raises:
        InputError: when there is no such file, or its suffix is none of ours.
        OutputError: when it is cut short or damaged.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return reader(path)


def verify(path: Path, table: Path) -> int:
    """Read every embedding of an output and hold them, and its table, against the digests they were written with.

    Returns:
        How many proteins it holds.

    Raises:
        OutputError: when anything differs.
    """
    digest = ContentDigest()
    count = 0
    with open(path) as store:
        try:
            for name in store.ids:
                for array in store.contents(name):
                    digest.add(name, array)
                count += 1
        except Exception as error:  # damage surfaces as nearly anything
            raise OutputError(f"{path}: damaged ({error}); run with --overwrite to compute it again") from error
        expected = store.provenance.get("content")
        expected_table = store.provenance.get("table_sha256")
    if str(digest) != expected:
        raise OutputError(
            f"{path}: its {count:,} embeddings are not those that were written; "
            "run with --overwrite to compute them again"
        )
    if file_digest(table) != expected_table:
        raise OutputError(f"{table}: not the table that was written with {path.name}; run with --overwrite to mend it")
    return count
