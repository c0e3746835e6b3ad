"""NeMo 2's folders, plain or in a tar: settings under ``context``, under ``weights`` a torch distributed checkpoint.

Such a checkpoint is an index, ``.metadata``, a pickle, and ``.distcp`` files in which small torch files lie one after
the other. Megatron stacks equal layers: a tensor has all layers along its first axis and no number in its name; where
it does not stack, names have numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminoglot.checkpoints import archive, safe_pickle
from aminoglot.checkpoints.checkpoint import LOST, Checkpoint, checked, mind, notes_of, shape
from aminoglot.checkpoints.fused import QKV, Tied, unfused, unpadded
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import SIZES, ESM2Config
from aminoglot.tokens import ESM2_ALPHABET

_INDEX = ".metadata"
_SETTINGS = "context/model.yaml"
_LAYERS = "encoder.layers."
_KEYS = KeyMap(
    {
        "embedding": "embedding.word_embeddings",
        "layers.{}.attention_norm": "encoder.layers.{}.self_attention.linear_qkv.layer_norm",
        "layers.{}.attention.query": "encoder.layers.{}.self_attention.linear_qkv",  # and key and value
        "layers.{}.attention.output": "encoder.layers.{}.self_attention.linear_proj",
        "layers.{}.feed_forward_norm": "encoder.layers.{}.mlp.linear_fc1.layer_norm",
        "layers.{}.up": "encoder.layers.{}.mlp.linear_fc1",
        "layers.{}.down": "encoder.layers.{}.mlp.linear_fc2",
        "final_norm": "encoder.final_layernorm",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "lm_head": "output_layer",
    }
)
_JOINED = re.compile(r"\.layer_norm_(weight|bias)$")
_IGNORED = ("_extra_state", "optimizer", "inv_freq")
_TIED = "output_layer.weight"
_LEARNED = "embedding.position_embeddings.weight"
_SPECIAL = (_TIED, _LEARNED)
_MOST_PIECES, _MOST_AXES = 4096, 8
_VOCABULARY = len(ESM2_ALPHABET.tokens)


def is_nemo2(names: list[str]) -> bool:
    """Whether a folder's or an archive's file names are a NeMo 2 checkpoint's."""
    return any(name.rpartition("/")[2] == _INDEX for name in names)


def read(path: Path, name: str, opened: archive.Files) -> Checkpoint:
    """Read an ESM-2 that NeMo 2 saved. Tensors that lie in one piece are mapped.

    Args:
        path: what messages call it.
        name: of the model.
        opened: its files.

    Raises:
        ModelError: when it holds another model, asks for code, is damaged, or parts are missing.
    """
    index = _index_name(path, opened.names)
    strangers: list[str] = []
    theirs = dict(_tensors(path, opened, index, strangers))
    tied = Tied(str(path))
    if _TIED in theirs:
        tied.add(_TIED, "embedding.weight", theirs.pop(_TIED))
    config = _config(path, theirs, _settings(path, opened, index))
    tensors = _canonical(path, config, theirs)
    tied.compare(tensors)
    notes = notes_of(config, tensors, strangers, LOST)
    return Checkpoint(name, "nemo2", config, checked(str(path), config, tensors), notes)


def _index_name(path: Path, names: list[str]) -> str:
    found = [name for name in names if name.rpartition("/")[2] == _INDEX]
    if len(found) != 1:
        raise ModelError(f"{path}: {len(found)} files named {_INDEX}; one model has one")
    return found[0]


def _tensors(path: Path, opened: archive.Files, index: str, strangers: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an ESM-2 by their own names, without a wrapper's; others are only named, in ``strangers``."""
    where = f"{path}: {index}"
    metadata = safe_pickle.load_index(where, opened.bytes(index))
    folder = index[: -len(_INDEX)]
    try:
        places = {
            (key.fqn, _numbers(getattr(key, "offset", None) or ())): place
            for key, place in metadata.storage_data.items()
        }
        described = [(_text(key), one) for key, one in metadata.state_dict_metadata.items() if hasattr(one, "chunks")]
        left = dict[str, int]()
        for key, one in described:
            plain = key.removeprefix("module.")
            if any(word in key for word in _IGNORED):
                continue
            if plain not in _SPECIAL and _ours(plain) is None:
                strangers.append(key)
                continue
            if len(one.chunks) > _MOST_PIECES:
                raise ModelError(f"{where}: {key}: {len(one.chunks):,} pieces, far too many")
            chunks = [(_numbers(chunk.offsets), _numbers(chunk.sizes)) for chunk in one.chunks]
            for offsets, _ in chunks:
                name = folder + _text(places[key, offsets].relative_path)
                left[name] = left.get(name, opened.size(name)) - int(places[key, offsets].length)
                if left[name] < 0:  # before any is read
                    raise ModelError(f"{where}: {key}: its pieces do not fit into {name}; is it cut short?")
            pieces = [
                (offsets, _piece(path, opened, folder, key, places[key, offsets], sizes)) for offsets, sizes in chunks
            ]
            yield plain, _whole(where, key, _numbers(one.size), pieces)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: not the index of a checkpoint, or damaged ({type(error).__name__})") from error


def _numbers(values: Any) -> tuple[int, ...]:
    """A shape or a place of a pickle, which may be anything."""
    if not isinstance(values, tuple | list) or len(values) > _MOST_AXES or any(type(v) is not int for v in values):
        raise TypeError("no shape")
    return tuple(values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _piece(path: Path, opened: archive.Files, folder: str, key: str, place: Any, size: tuple[int, ...]) -> Tensor:
    name = folder + _text(place.relative_path)
    stream, memory = opened.part(name, int(place.offset), int(place.length))
    found = safe_pickle.load_part(f"{path}: {name}: {key}", stream, memory)
    if not isinstance(found, Tensor) or tuple(found.shape) != size or not found.is_contiguous():
        raise ModelError(f"{path}: {name}: {key} is not the tensor of shape {list(size)} that the index says")
    return found


def _whole(where: str, key: str, size: tuple[int, ...], pieces: Sequence[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    if len(pieces) == 1 and tuple(pieces[0][1].shape) == size:
        return pieces[0][1]
    boxes = [
        [(first, first + length) for first, length in zip(offsets, piece.shape, strict=True)]
        for offsets, piece in pieces
    ]
    outside = any(first < 0 or stop > end for box in boxes for (first, stop), end in zip(box, size, strict=True))
    numbers = sum(piece.numel() for _, piece in pieces)
    if outside or numbers != torch.Size(size).numel() or _overlap(boxes):
        raise ModelError(f"{where}: {key}: its {len(pieces):,} pieces do not make {list(size)}")
    whole = pieces[0][1].new_empty(size)
    for box, (_, piece) in zip(boxes, pieces, strict=True):
        whole[tuple(slice(*side) for side in box)] = piece
    return whole


def _overlap(boxes: Sequence[Sequence[tuple[int, int]]]) -> bool:
    """Whether two of them share a place: on every axis the one begins before the other ends."""
    return any(
        all(a_first < b_stop and b_first < a_stop for (a_first, a_stop), (b_first, b_stop) in zip(a, b, strict=True))
        for a, b in combinations(boxes, 2)
    )


_PLAIN = {
    "position_embedding_type": "rope",
    "normalization": "LayerNorm",
    "add_bias_linear": "true",
    "gated_linear_unit": "false",
    "rotary_interleaved": "false",
    "layernorm_zero_centered_gamma": "false",
}
"""Settings that decide numbers, and what ESM-2 has them as."""


def _settings(path: Path, opened: archive.Files, index: str) -> dict[str, str]:
    """The settings' plain lines by name, empty without the file; the rest of it names Python's classes.

    Raises:
        ModelError: when they are another model's.
    """
    name = index.removesuffix(_INDEX).removesuffix("weights/") + _SETTINGS
    if name not in opened.names:
        return {}
    lines = re.findall(r"^[ \t]*(\w+):[ \t]+([\w.+-]+)[ \t\r]*$", opened.text(name), re.MULTILINE)
    found = dict(reversed(lines))  # the first of several counts
    for key, value in _PLAIN.items():
        if found.get(key, value).lower() != value.lower():
            raise ModelError(f"{path}: {key} is {found[key]}, ESM-2's is {value}")
    return found


def _config(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> ESM2Config:
    """The shape, from the tensors, the settings, and what is known of ESM-2's sizes."""
    embedding = tensors.get("embedding.word_embeddings.weight")
    if embedding is None or embedding.ndim != 2 or len(embedding) < _VOCABULARY:
        raise ModelError(f"{path}: not an ESM-2; it has no embedding of {_VOCABULARY} tokens or more")
    if _LEARNED in tensors:
        raise ModelError(f"{path}: not an ESM-2: its positions are learned")
    numbers = [int(n[1]) for key in tensors if (n := re.match(r"encoder\.layers\.(\d{1,6})\.", key))]
    stacked = [value for key, value in tensors.items() if re.match(r"encoder\.layers\.[a-z]", key) and value.ndim]
    layers, hidden = max(numbers) + 1 if numbers else len(stacked[0]) if stacked else 0, embedding.shape[1]
    mind(path, layers=layers)
    known = next((c.heads for c in SIZES.values() if (c.layers, c.hidden) == (layers, hidden)), None)
    heads = int(said["num_attention_heads"]) if said.get("num_attention_heads", "").isdigit() else known
    if heads is None:
        raise ModelError(f"{path}: nothing says how many heads its {layers} layers have ({_SETTINGS} is missing)")
    return shape(path, layers, hidden, heads, said.get("token_dropout", "true").lower() != "false")


def _ours(key: str) -> str | None:
    """Our name for one of theirs; where all layers are stacked, for the first's."""
    numbered = re.sub(r"^encoder\.layers\.(?=[a-z])", f"{_LAYERS}0.", key)
    return _KEYS.ours(_JOINED.sub(r".layer_norm.\1", numbered))


def _canonical(path: Path, config: ESM2Config, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names for their tensors, which are taken out: what was copied is not held twice."""
    tensors: dict[str, Tensor] = {}
    for stored in list(theirs):
        for key, tensor in _layers(stored, theirs.pop(stored), config.layers):
            ours = _ours(key)
            if ours is None:
                continue  # a table of positions, which was refused
            if ".attention.query." in ours:
                parts = unfused(f"{path}: {key}", tensor, 3, config.head_size)
                tensors.update({ours.replace("query", one): part for one, part in zip(QKV, parts, strict=True)})
                archive.forget(tensor.untyped_storage())
            else:
                short = ours in ("embedding.weight", "lm_head.bias")
                tensors[ours] = unpadded(f"{path}: {key}", tensor, _VOCABULARY) if short else tensor
    return tensors


def _layers(key: str, tensor: Tensor, layers: int) -> Iterator[tuple[str, Tensor]]:
    """One tensor a layer, where all are stacked."""
    rest = key.removeprefix(_LAYERS)
    if rest == key or rest[:1].isdigit() or tensor.shape[:1] != (layers,):
        yield key, tensor
        return
    for number, one in enumerate(tensor.unbind(0)):
        yield f"{_LAYERS}{number}.{rest}", one
