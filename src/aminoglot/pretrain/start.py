"""The weights that a run begins with: drawn, or those of a model that exists."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from aminoglot.checkpoints import Checkpoint, language_t5, resolve
from aminoglot.corpus.draws import mixed
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import ESM2Config, rotary_frequencies
from aminoglot.models.family import Config, Network, family_of
from aminoglot.pretrain.config import ModelPart

_STANDARD = {"ESM-2": 0.02, "ProtT5nv": 0.015}
"""Standard deviation of drawn weights, as BioNeMo's configs have it."""
_INTO_STREAM = (".output.weight", ".down.weight")
"""What is added to the residual stream starts smaller, by the square root of how often (Megatron)."""


def start(part: ModelPart, seed: int) -> tuple[Network, list[str]]:
    """A network with float32 weights of its own, ready to train, and what the user should know of it.

    The contact head, which is fitted to structures and not trained here, is left out.

    Raises:
        InputError: for a shape that cannot be.
        ModelError: when ``start`` cannot be read.
    """
    shape = part.shape()
    if shape is not None:
        return _loaded(shape, drawn(shape, seed)), []
    checkpoint = checkpoint_of(part)
    tensors = {key: tensor.float().clone() for key, tensor in checkpoint.tensors.items()}
    notes = _completed(checkpoint, tensors, seed)
    return _loaded(checkpoint.config, tensors), notes


def checkpoint_of(part: ModelPart) -> Checkpoint:
    """The model that a run begins with.

    Raises:
        ModelError: when it cannot be read.
    """
    assert part.start is not None
    try:
        return language_t5(part.start) if part.language else resolve(part.start)
    except ModelError as error:
        raise ModelError(f"[model] start: {error}") from error


def drawn(config: Config, seed: int) -> dict[str, Tensor]:
    """Random weights: normal, biases zero, norms one; the same for a seed whatever else there is."""
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in family_of(config).build(config).state_dict().items()}
    return {key: _draw(key, shape, config, seed) for key, shape in shapes.items()}


def _draw(key: str, shape: torch.Size, config: Config, seed: int) -> Tensor:
    if key == "frequencies":
        return rotary_frequencies(2 * shape[0])
    if len(shape) < 2:
        return torch.ones(shape) if key.endswith("norm.weight") else torch.zeros(shape)
    standard = _STANDARD[family_of(config).name]
    if key.endswith(_INTO_STREAM):
        standard *= (2 * config.layers) ** -0.5
    generator = torch.Generator().manual_seed(mixed(seed, zlib.crc32(key.encode())) >> 1)
    return torch.empty(shape).normal_(0, standard, generator=generator)


def _completed(checkpoint: Checkpoint, tensors: dict[str, Tensor], seed: int) -> list[str]:
    """Draw what a checkpoint lacks, and say so."""
    needed = "lm_head" if isinstance(checkpoint.config, ESM2Config) else "decoder"
    notes: list[str] = []
    if not checkpoint.has(needed):
        new = {key: tensor for key, tensor in drawn(checkpoint.config, seed).items() if key.startswith(f"{needed}.")}
        tensors.update(new)
        name = {"lm_head": "language-model head", "decoder": "decoder"}[needed]
        notes.append(f"{checkpoint.name} has no {name}: a new one is trained")
    if checkpoint.has("contact_head"):
        notes.append(f"the contact head of {checkpoint.name} is left out: it would not fit the weights to come")
    return notes


def _loaded(config: Config, tensors: dict[str, Tensor]) -> Network:
    with torch.device("meta"):
        network = family_of(config).build(config)
    if isinstance(config, ESM2Config):
        network.contact_head = None
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("contact_head.")}
    network.load_state_dict(kept, strict=True, assign=True)
    return network.requires_grad_(True).train()


def set_dropout(network: Network, share: float) -> None:
    """Set how much is dropped in training."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
