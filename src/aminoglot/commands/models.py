"""``aminoglot models``. Importing this imports no torch."""

from __future__ import annotations


def models() -> None:
    """List the models known by name: size, source, licence, and whether they are on this machine."""
    from rich.console import Console
    from rich.table import Column, Table

    from aminoglot.checkpoints import BUNDLED, KNOWN, hub

    widest = max(len(known.repository or "") for known in KNOWN.values())  # to be copied, so never cut
    table = Table("name", "parameters", Column("source", min_width=widest), "licence", "here", box=None)
    for known in KNOWN.values():
        here = known.name == BUNDLED or (known.repository and hub.cached(known.repository)) or hub.torch_hub(known)
        table.add_row(
            known.name,
            f"{known.config.parameters / 1e6:,.0f} M",
            known.repository or known.elsewhere,
            known.licence,
            "yes" if here else "no",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "\nA model that is not here is fetched on first use. Others: a Hugging Face id, or a path to Hugging Face's, "
        "fair-esm's, NeMo's or TransformerEngine's files. A model of NVIDIA's has to be brought."
        "\n\nFor tests and benchmarks only: random:NAME, such as random:esm2-8m, has that shape, but nobody trained it "
        "and its embeddings mean nothing. The smallest, random:esm2-tiny, exists in no other way."
    )
