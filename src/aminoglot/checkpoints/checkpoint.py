"""A model's config and tensors under canonical names, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aminoglot.errors import ModelError, listing
from aminoglot.models.esm2 import ESM2Config, rotary_frequencies
from aminoglot.models.family import Config, Network, family_of
from aminoglot.models.prott5nv import ProtT5nvConfig

_READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """What a reader returns and a writer takes.

    Attributes:
        name: what messages call the model.
        format: where it came from: ``huggingface``, ``fair-esm``, ``nemo1``, ``nemo2``, ``transformer-engine`` or
            ``untrained``.
        config: the network's shape.
        tensors: weights by the network's own parameter names, often mapped from the file rather than read.
        notes: what the user should know (a head that is absent, weights that were never trained).
    """

    name: str
    format: str
    config: Config
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())

    def has(self, part: str) -> bool:
        """Whether the weights of one of the family's parts are there."""
        return any(key.startswith(f"{part}.") for key in self.tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what makes an embedding: names, shapes and float32 values of the encoder's tensors.

        The same weights have the same digest in every format; heads and decoders do not count. bf16 and fp16 values are
        widened first, which is exact.
        """
        parts = family_of(self.config).parts
        keys = sorted(key for key in self.tensors if key.split(".")[0] not in parts)
        whole = hashlib.sha256()
        with ThreadPoolExecutor(2) as pool:
            for key, digest in zip(keys, pool.map(lambda key: _digest(self.tensors[key]), keys), strict=True):
                whole.update(f"{key} {list(self.tensors[key].shape)} ".encode() + digest)
        return whole.hexdigest()

    def network(self) -> Network:
        """The network with these very tensors as parameters: nothing is copied, nothing is initialised.

        Parts that are absent, and those that are loaded on demand, are None.
        """
        family = family_of(self.config)
        with torch.device("meta"):
            network = family.build(self.config)
        left_out = [part for part in family.parts if part in family.on_demand or not self.has(part)]
        for part in left_out:
            setattr(network, part, None)
        tensors = {key: tensor for key, tensor in self.tensors.items() if key.split(".")[0] not in left_out}
        network.load_state_dict(tensors, strict=True, assign=True)
        return network.requires_grad_(False).eval()

    def part(self, name: str) -> nn.Module:
        """One part of the network alone, with these very tensors; see :meth:`network`."""
        with torch.device("meta"):
            part = getattr(family_of(self.config).build(self.config), name)
        start = f"{name}."
        tensors = {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}
        part.load_state_dict(tensors, strict=True, assign=True)
        found: nn.Module = part.requires_grad_(False).eval()
        return found

    def only(self, parts: Iterable[str]) -> Checkpoint:
        """This without the tensors of anything else."""
        kept = {key: tensor for key, tensor in self.tensors.items() if key.split(".")[0] in parts}
        return replace(self, tensors=kept)


def _digest(tensor: Tensor) -> bytes:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = tensor.detach().float().contiguous().numpy()
    return hashlib.sha256(values.data if values.flags.c_contiguous else values.tobytes()).digest()


def checked(where: str, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hold tensors against the network's own list.

    Returns:
        The tensors, with rotary frequencies computed in float32 where the file has none.

    Raises:
        ModelError: naming every tensor that is missing or has another shape.
    """
    family = family_of(config)
    found = _contact_shaped(tensors, config)
    with torch.device("meta"):
        network = family.build(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    if "frequencies" in expected:
        found.setdefault("frequencies", rotary_frequencies(config.head_size))
    absent = [part for part in family.parts if not any(key.startswith(f"{part}.") for key in found)]
    problems = [f"{key}: not in a model of {config.layers} layers" for key in found if key not in expected]
    problems += [f"{key}: missing" for key in expected if key not in found and key.split(".")[0] not in absent] + [
        f"{key}: shape {list(found[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    problems += [
        f"{key}: stored as {tensor.dtype} on {tensor.device}, {tensor.layout}, which aminoglot does not read"
        for key, tensor in found.items()
        if tensor.dtype not in _READ or tensor.device.type != "cpu" or tensor.layout != torch.strided
    ]
    if problems:
        raise ModelError(f"{where}: not a complete {family.name} of {config.layers} layers:\n{listing(problems)}")
    return {key: found[key] for key in expected if key in found}


def _contact_shaped(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Other formats keep the contact head as a matrix of one row; we have a row a layer."""
    found = dict(tensors)
    weight, bias = found.get("contact_head.weight"), found.get("contact_head.bias")
    if weight is not None and weight.shape == (1, config.layers * config.heads):
        found["contact_head.weight"] = weight.reshape(config.layers, config.heads)
    if bias is not None and bias.shape == (1,):
        found["contact_head.bias"] = bias.reshape(())
    return found


def shape(where: Path, layers: Any, hidden: Any, heads: Any, token_dropout: Any) -> ESM2Config:
    """A config from what a file says of itself.

    Raises:
        ModelError: when that cannot be.
    """
    mind(where, layers=layers, width=hidden, heads=heads)
    try:
        return ESM2Config(layers, hidden, heads, bool(token_dropout))
    except ValueError as error:
        raise ModelError(f"{where}: {error}") from error


def prott5nv_shape(where: Path, layers: Any, hidden: Any, heads: Any, positions: Any) -> ProtT5nvConfig:
    """As :func:`shape`, of a ProtT5nv."""
    mind(where, layers=layers, width=hidden, heads=heads, positions=positions)
    try:
        return ProtT5nvConfig(layers, hidden, heads, positions)
    except ValueError as error:
        raise ModelError(f"{where}: {error}") from error


_MOST = {"layers": 1000, "width": 1 << 16, "heads": 1 << 12, "positions": 1 << 16}
"""Far above all that exists; far below what would fill memory before a tensor is looked at."""


def mind(where: Path, **numbers: Any) -> None:
    """Refuse what cannot be a number of layers and so on.

    Raises:
        ModelError: naming the first.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST[name]:
            raise ModelError(f"{where}: it gives {shown(value)} as its {name} (1 to {_MOST[name]:,} can be)")


def shown(value: Any) -> str:
    """A value of a file in a message: text and numbers as they are, of anything else only what it is."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    return f"a {type(value).__name__}"


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values, perhaps in different types."""
    return one.shape == other.shape and torch.equal(one.float(), other.float())


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


HEAD_NOTES = ("no language-model head", "no contact head", "no decoder")
"""How notes begin that do not matter to embedding."""
_MISSING = {
    "lm_head": "no language-model head in this checkpoint: logits are not available",
    "contact_head": "no contact head in this checkpoint: contacts are not available",
    "decoder": "no decoder in this checkpoint: it embeds, but does not write",
}


def worth_saying(notes: Sequence[str]) -> list[str]:
    """Notes without those of parts that a model simply has not: what needs one says so when it is asked."""
    return [note for note in notes if note not in _MISSING.values()]


_FREQUENCIES = (
    "no rotary frequencies in this checkpoint: they are computed in float32; Meta's own files have them rounded to "
    "float16, so that embeddings of long proteins differ a little from theirs"
)
LOST = " (it was lost in a conversion to NVIDIA's formats, which have no place for one)"


def missing(part: str, notes: Sequence[str]) -> str:
    """What the notes of a checkpoint say of a part that it has not."""
    return next((note for note in notes if note.startswith(_MISSING[part])), _MISSING[part])


def notes_of(config: Config, tensors: Iterable[str], strangers: Sequence[str] = (), why: str = "") -> tuple[str, ...]:
    """A sentence for each part of the family's that is absent, and one for tensors that were not used.

    Args:
        config: the network's shape.
        tensors: what there is.
        strangers: what was not used.
        why: said of a contact head that is absent.
    """
    family = family_of(config)
    present = {key.split(".")[0] for key in tensors}
    notes = [_MISSING[part] + why * (part == "contact_head") for part in family.parts if part not in present]
    if isinstance(config, ESM2Config) and "frequencies" not in present:
        notes.append(_FREQUENCIES)
    if strangers:
        more = f" and {len(strangers) - 5:,} more" if len(strangers) > 5 else ""
        notes.append(f"tensors of no part of {family.name} were not used: {', '.join(strangers[:5])}{more}")
    return tuple(notes)
