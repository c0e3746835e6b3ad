"""A model's config and tensors under canonical names, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aminoglot.errors import ModelError, listing
from aminoglot.models.esm2 import ESM2, ESM2Config, rotary_frequencies

_READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HEADS = ("lm_head", "contact_head")
"""Parts a checkpoint may lack; what needs them then fails with a sentence, never with invented weights."""


@dataclass(frozen=True)
class Checkpoint:
    """What a reader returns and a writer takes.

    Attributes:
        name: what messages call the model.
        format: where it came from: ``huggingface``, ``fair-esm`` or ``untrained``.
        config: the network's shape.
        tensors: weights by the network's own parameter names, often mapped from the file rather than read.
        notes: what the user should know (a head that is absent, weights that were never trained).
    """

    name: str
    format: str
    config: ESM2Config
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())

    def has(self, head: str) -> bool:
        """Whether the weights of one of :data:`HEADS` are there."""
        return any(key.startswith(f"{head}.") for key in self.tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what makes an embedding: names, shapes and float32 values of the encoder's tensors.

        The same weights have the same digest in every format; heads do not count. bf16 and fp16 values are widened
        first, which is exact.
        """
        keys = sorted(key for key in self.tensors if key.split(".")[0] not in HEADS)
        whole = hashlib.sha256()
        with ThreadPoolExecutor(2) as pool:
            for key, digest in zip(keys, pool.map(lambda key: _digest(self.tensors[key]), keys), strict=True):
                whole.update(f"{key} {list(self.tensors[key].shape)} ".encode() + digest)
        return whole.hexdigest()

    def network(self) -> ESM2:
        """The network with these very tensors as parameters: nothing is copied, nothing is initialised."""
        with torch.device("meta"):
            network = ESM2(self.config)
        for head in HEADS:
            if not self.has(head):
                setattr(network, head, None)
        network.load_state_dict(dict(self.tensors), strict=True, assign=True)
        return network.requires_grad_(False).eval()


def _digest(tensor: Tensor) -> bytes:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = tensor.detach().float().contiguous().numpy()
    return hashlib.sha256(values.data if values.flags.c_contiguous else values.tobytes()).digest()


def checked(where: str, config: ESM2Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hold tensors against the network's own list.

    Returns:
        The tensors, with rotary frequencies computed in float32 where the file has none.

    Raises:
        ModelError: naming every tensor that is missing or has another shape.
    """
    found = _contact_shaped(tensors, config)
    with torch.device("meta"):
        network = ESM2(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found.setdefault("frequencies", rotary_frequencies(config.head_size))
    absent = [head for head in HEADS if not any(key.startswith(f"{head}.") for key in found)]
    problems = [f"{key}: not in a model of {config.layers} layers" for key in found if key not in expected]
    problems += [f"{key}: missing" for key in expected if key not in found and key.split(".")[0] not in absent] + [
        f"{key}: shape {list(found[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    problems += [
        f"{key}: stored as {tensor.dtype}, which aminoglot does not read"
        for key, tensor in found.items()
        if tensor.dtype not in _READ
    ]
    if problems:
        raise ModelError(f"{where}: not a complete ESM-2 of {config.layers} layers:\n{listing(problems)}")
    return {key: found[key] for key in expected if key in found}


def _contact_shaped(tensors: Mapping[str, Tensor], config: ESM2Config) -> dict[str, Tensor]:
    """Other formats keep the contact head as a matrix of one row; we have a row a layer."""
    found = dict(tensors)
    weight, bias = found.get("contact_head.weight"), found.get("contact_head.bias")
    if weight is not None and weight.numel() == config.layers * config.heads:
        found["contact_head.weight"] = weight.view(config.layers, config.heads)
    if bias is not None and bias.numel() == 1:
        found["contact_head.bias"] = bias.view(())
    return found


def shape(where: Path, layers: Any, hidden: Any, heads: Any, token_dropout: Any) -> ESM2Config:
    """A config from what a file says of itself.

    Raises:
        ModelError: when that cannot be.
    """
    numbers = {"layers": layers, "hidden size": hidden, "heads": heads}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{where}: it gives {value!r} as its number of {name}")
    try:
        return ESM2Config(layers, hidden, heads, bool(token_dropout))
    except ValueError as error:
        raise ModelError(f"{where}: {error}") from error


def only_tensors(where: Path, content: Any) -> dict[str, Tensor]:
    """A state dictionary from a pickle, which may hold anything.

    Raises:
        ModelError: when it is no dictionary of tensors.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"{where}: holds no weights, but a {type(content).__name__}")
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{where}: holds no weights")
    return tensors


HEAD_NOTES = ("no language-model head", "no contact head")


def head_notes(tensors: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each head that is absent."""
    present = {key.split(".")[0] for key in tensors}
    missing = {
        "lm_head": "no language-model head in this checkpoint: logits are not available",
        "contact_head": "no contact head in this checkpoint: contacts are not available",
    }
    return tuple(note for head, note in missing.items() if head not in present)
