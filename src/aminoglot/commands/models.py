"""``aminoglot models`` and ``aminoglot convert``. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def models() -> None:
    """List the models known by name: size, source, licence, and whether they are on this machine."""
    from rich.console import Console
    from rich.table import Table

    from aminoglot.checkpoints import KNOWN, hub

    table = Table("name", "parameters", "source (Hugging Face)", "licence", "on this machine", box=None)
    for known in KNOWN.values():
        here = hub.cached(known.repository) or hub.torch_hub(known)
        table.add_row(
            known.name,
            f"{known.config.parameters / 1e6:,.0f} M",
            known.repository,
            known.licence,
            "yes" if here else "no",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "\nA model that is not here is fetched on first use. Others: a Hugging Face id, a folder, or a fair-esm .pt."
        "\n\nFor tests and benchmarks only: random:NAME, such as random:esm2-8m, has that shape, but nobody trained it "
        "and its embeddings mean nothing. The smallest, random:esm2-tiny, exists in no other way."
    )


def convert(source: str, destination: Path, /, *, to: Literal["huggingface", "fair-esm"]) -> None:
    """Write a model in another format.

    Parameters
    ----------
    source
        A name, a Hugging Face id, a folder, a fair-esm .pt, or random:NAME.
    destination
        A new folder (huggingface), or a new file named esm2_something.pt (fair-esm).
    to
        The format to write.
    """
    from aminoglot.checkpoints import convert as write

    checkpoint = write(source, destination.expanduser(), to)
    for note in checkpoint.notes:
        print(f"note: {note}")
    print(f"wrote {destination} ({to}), weights {checkpoint.digest[:16]}")
