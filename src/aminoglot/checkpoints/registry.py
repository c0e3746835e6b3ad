"""The names we know: a table, no download."""

from __future__ import annotations

from dataclasses import dataclass

from aminoglot.models.esm2 import SIZES, ESM2Config


@dataclass(frozen=True)
class Known:
    """A published model.

    Attributes:
        name: what users type.
        config: its shape.
        repository: its Hugging Face id.
        fair_esm: its name in fair-esm, and of its ``.pt`` file.
        licence: of the weights.
    """

    name: str
    config: ESM2Config
    repository: str
    fair_esm: str
    licence: str


def _esm2(name: str, label: str) -> Known:
    config = SIZES[name]
    stem = f"esm2_t{config.layers}_{label}_UR50D"
    return Known(name, config, f"facebook/{stem}", stem, "MIT")


KNOWN = {
    known.name: known
    for known in (
        _esm2("esm2-8m", "8M"),
        _esm2("esm2-35m", "35M"),
        _esm2("esm2-150m", "150M"),
        _esm2("esm2-650m", "650M"),
        _esm2("esm2-3b", "3B"),
        _esm2("esm2-15b", "15B"),
    )
}


def find(name: str) -> Known | None:
    """Look a model up by our name, its Hugging Face id, or fair-esm's name."""
    return next((k for k in KNOWN.values() if name in (k.name, k.repository, k.fair_esm)), None)
