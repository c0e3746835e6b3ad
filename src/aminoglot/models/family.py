"""The families of networks, and what checkpoints and the engine ask of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aminoglot.models import esm2, prott5nv
from aminoglot.models.esm2 import ESM2, ESM2Config
from aminoglot.models.prott5nv import ProtT5nv, ProtT5nvConfig
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET, Alphabet

Config = ESM2Config | ProtT5nvConfig
Network = ESM2 | ProtT5nv


@dataclass(frozen=True)
class Family:
    """What all sizes of a kind of network have in common.

    Attributes:
        name: as people write it.
        alphabet: its vocabulary.
        build: the network of a config.
        sizes: configs by name.
        parts: what embedding does not need and a checkpoint may lack; what needs it then fails with a sentence.
        on_demand: those of ``parts`` that are large, and loaded when something asks for them.
        refused: options that embedding refuses, as ``(option, value)``, and why.
    """

    name: str
    alphabet: Alphabet
    build: Callable[[Any], Network]
    sizes: Mapping[str, Config]
    parts: tuple[str, ...]
    on_demand: tuple[str, ...] = ()
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)


_ESM2 = Family("ESM-2", ESM2_ALPHABET, ESM2, esm2.SIZES, parts=("lm_head", "contact_head"))
_PROTT5NV = Family(
    "ProtT5nv",
    PROTT5NV_ALPHABET,
    ProtT5nv,
    prott5nv.SIZES,
    parts=("decoder",),
    on_demand=("decoder",),
    refused={
        ("long", "full"): "ProtT5nv has learned positions for 512 residues and none beyond; use window or truncate",
        ("pool", "cls"): "ProtT5nv's encoder has no token before the residues; use mean or max",
    },
)
SIZES: dict[str, Config] = {**esm2.SIZES, **prott5nv.SIZES}
"""All shapes by name."""


def family_of(config: Config) -> Family:
    """The family of a shape."""
    return _ESM2 if isinstance(config, ESM2Config) else _PROTT5NV
