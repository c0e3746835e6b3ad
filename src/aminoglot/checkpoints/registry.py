"""The names we know: a table, no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aminoglot.models.family import SIZES, Config

BUNDLED = "aminoglot-5m"
"""The model that comes with aminoglot: what is taken where none is named."""


@dataclass(frozen=True)
class Known:
    """A published model.

    Attributes:
        name: what users type.
        config: its shape.
        repository: its Hugging Face id; None where it is not there.
        fair_esm: its name in fair-esm, and of its ``.pt`` file.
        licence: of the weights.
        elsewhere: where else a user gets it, for what nobody but its owner may pass on.
    """

    name: str
    config: Config
    repository: str | None
    fair_esm: str | None
    licence: str
    elsewhere: str = ""


def _esm2(name: str, label: str) -> Known:
    config = SIZES[name]
    stem = f"esm2_t{config.layers}_{label}_UR50D"
    return Known(name, config, f"facebook/{stem}", stem, "MIT")


KNOWN = {
    known.name: known
    for known in (
        Known(BUNDLED, SIZES[BUNDLED], None, None, "Apache-2.0", "comes with aminoglot"),
        _esm2("esm2-8m", "8M"),
        _esm2("esm2-35m", "35M"),
        _esm2("esm2-150m", "150M"),
        _esm2("esm2-650m", "650M"),
        _esm2("esm2-3b", "3B"),
        _esm2("esm2-15b", "15B"),
        Known("prott5nv", SIZES["prott5nv"], None, None, "NVIDIA's", "prott5nv.nemo, NGC nvidia/clara/prott5nv:1.0"),
    )
}


def find(name: str) -> Known | None:
    """Look a model up by our name, its Hugging Face id, or fair-esm's name."""
    return next((k for k in KNOWN.values() if name in (k.name, k.repository, k.fair_esm)), None)


def named(model: str | None, note: Callable[[str], object]) -> str:
    """The model that a user named; where none was named the one that comes with aminoglot, and a note that says so."""
    if model is not None:
        return model
    note(
        f"no model was named: {BUNDLED} is taken, which comes with aminoglot; it is small and serves for a first look; "
        "for work that counts take a larger one, such as --model esm2-650m"
    )
    return BUNDLED


def bundled() -> Path:
    """The folder of the model that comes with aminoglot, in Hugging Face's layout."""
    return Path(__file__).parent.parent / "assets" / BUNDLED
