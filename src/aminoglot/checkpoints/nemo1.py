"""NeMo 1's ``.nemo``: a tar file with settings as YAML and weights as a torch file; BioNeMo's ESM-2 and ProtT5nv.

The queries, keys and values of a layer lie in one matrix, head by head; ``megatron_legacy`` in the settings says that
they lie one after the other. Vocabularies are padded. A model that was trained on several GPUs is in as many pieces,
which are put together here: pieces of matrices (tensor parallel) and runs of layers (pipeline parallel).
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aminoglot.checkpoints import archive, safe_pickle
from aminoglot.checkpoints.checkpoint import (
    LOST,
    Checkpoint,
    checked,
    notes_of,
    only_tensors,
    prott5nv_shape,
    same,
    shape,
    shown,
)
from aminoglot.checkpoints.fused import QKV, Tied, fused, padded, unfused, unpadded
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError, first_line
from aminoglot.models.esm2 import NORM_EPSILON, ESM2Config
from aminoglot.models.family import Config, family_of
from aminoglot.tokens import ESM2_ALPHABET

_SETTINGS, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_RANK = re.compile(r"^(?:tp_rank_|mp_rank_)(\d{1,4})(?:_pp_rank_(\d{1,4}))?$")
_PADDED = 128
_PREFIXES = ("module", "_orig_mod", "model", "enc_dec_model")
_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.output": "self_attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
_ESM2 = KeyMap(
    {
        "embedding": "language_model.embedding.word_embeddings",
        **{f"layers.{{}}.{ours}": f"language_model.encoder.layers.{{}}.{theirs}" for ours, theirs in _BLOCK.items()},
        "layers.{}.feed_forward_norm": "language_model.encoder.layers.{}.post_attention_layernorm",
        "final_norm": "language_model.encoder.final_layernorm",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layernorm",
    }
)
_PROTT5NV = KeyMap(
    {
        "embedding": "encoder_embedding.word_embeddings",
        "positions": "encoder_embedding.position_embeddings",
        **{f"layers.{{}}.{ours}": f"encoder.model.layers.{{}}.{theirs}" for ours, theirs in _BLOCK.items()},
        "layers.{}.feed_forward_norm": "encoder.model.layers.{}.post_attention_layernorm",
        "final_norm": "encoder.model.final_layernorm",
        **{f"decoder.layers.{{}}.{ours}": f"decoder.model.layers.{{}}.{theirs}" for ours, theirs in _BLOCK.items()},
        "decoder.layers.{}.source_norm": "decoder.model.layers.{}.post_attention_layernorm",
        "decoder.layers.{}.source_attention.query": "decoder.model.layers.{}.inter_attention.query",
        "decoder.layers.{}.source_attention.output": "decoder.model.layers.{}.inter_attention.dense",
        "decoder.layers.{}.feed_forward_norm": "decoder.model.layers.{}.post_inter_attention_layernorm",
        "decoder.final_norm": "decoder.model.final_layernorm",
        "decoder": "tokens_head",
    }
)
_FREQUENCIES = "language_model.rotary_pos_emb.inv_freq"
_POSITIONS = "language_model.embedding.position_embeddings.weight"
_FUSED = {
    "self_attention.query_key_value": ("attention", QKV),
    "inter_attention.key_value": ("source_attention", ("key", "value")),
}
_ROWS = ("word_embeddings.weight", "query_key_value.", "dense_h_to_4h.", "inter_attention.query.", "key_value.")
_ROWS_EXACT = ("tokens_head.bias", "lm_head.bias")
_COLUMNS = ("self_attention.dense.weight", "inter_attention.dense.weight", "dense_4h_to_h.weight")
_OVER_VOCABULARY = ("embedding.weight", "lm_head.bias", "decoder.bias")
_IGNORED = ("_extra_state", "pooler")
_TIED = {
    "word_embeddings.weight": "embedding.weight",
    "decoder_embedding.word_embeddings.weight": "embedding.weight",
    "decoder_embedding.position_embeddings.weight": "positions.weight",
}
"""What is there twice: the embedding in the last stage of a pipeline, and the encoder's tables for the decoder."""


def is_nemo1(names: list[str]) -> bool:
    """Whether a folder's or an archive's file names are a NeMo 1 checkpoint's."""
    return any(name.rpartition("/")[2] == _WEIGHTS for name in names)


def read(path: Path, name: str, opened: archive.Files, cut: bool = False) -> Checkpoint:
    """Read the files of a ``.nemo``. Weights are mapped.

    Args:
        path: what messages call it.
        name: of the model.
        opened: its files.
        cut: take the first rows of a larger vocabulary, of a model of another language.

    Raises:
        ModelError: when it holds another model (said by name), asks for code, or is damaged; naming member or key.
    """
    settings, folder = _settings(path, opened)
    pieces: dict[tuple[int, int], dict[str, Tensor]] = {}
    for member in opened.names:
        if member.startswith(folder) and member.rpartition("/")[2] == _WEIGHTS:
            rank = _rank(path, member.removeprefix(folder))
            if rank in pieces:
                raise ModelError(f"{path}: {member} is in it twice, in two folders")
            content = safe_pickle.load_part(f"{path}: {member}", *opened.part(member))
            pieces[rank] = _stripped(path, only_tensors(path, content))
    if not pieces:
        raise ModelError(f"{path}: there is no {_WEIGHTS} in it")
    config = _config(path, settings, pieces)
    legacy = bool(_value(settings, "megatron_legacy", False))
    tensors, strangers = _canonical(path, config, pieces, legacy, cut)
    notes = notes_of(config, tensors, strangers, LOST)
    return Checkpoint(name, "nemo1", config, checked(str(path), config, tensors), notes)


def _settings(path: Path, opened: archive.Files) -> tuple[dict[str, Any], str]:
    """The settings, and the folder in the archive, if any, in which they lie."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Merges of mappings are refused: nobody writes them here, and ten of ten of ten fill memory."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.YAMLError("it merges mappings")

    found = [name for name in opened.names if name.rpartition("/")[2] == _SETTINGS]
    if len(found) != 1:
        raise ModelError(f"{path}: {len(found)} files named {_SETTINGS} in it; one model has one")
    try:
        settings = yaml.load(opened.text(found[0]), Loader)
    except ModelError:
        raise
    except Exception as error:  # dates that are none, and the like, are no YAMLErrors
        raise ModelError(f"{path}: {_SETTINGS} cannot be read as YAML ({first_line(error)})") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: {_SETTINGS} holds no settings")
    return settings, found[0].removesuffix(_SETTINGS)


def _value(settings: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """A setting, from the top or from the encoder's own block, where later versions moved it."""
    if key in settings:
        return settings[key]
    encoder = settings.get("encoder")
    return encoder.get(key, default) if isinstance(encoder, dict) else default


def _rank(path: Path, member: str) -> tuple[int, int]:
    """Which stage of the pipeline and which slice of it a member is."""
    folder = member.rpartition("/")[0]
    if not folder:
        return (0, 0)
    found = _RANK.match(folder)
    if not found:
        raise ModelError(f"{path}: cannot tell what part of the model {member} is")
    return (int(found[2] or 0), int(found[1]))


def _stripped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the wrappers that training put around the model, and without what belongs to no model."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if any(word in key for word in _IGNORED):
            continue
        parts = key.split(".")
        while len(parts) > 1 and parts[0] in _PREFIXES:
            parts.pop(0)
        plain = ".".join(part for part in parts if part != "_orig_mod")
        if plain in found:
            raise ModelError(f"{path}: {plain} is in it twice, the second time as {key}")
        found[plain] = tensor
    return found


def _config(path: Path, settings: Mapping[str, Any], pieces: Mapping[Any, Mapping[str, Tensor]]) -> Config:
    """The shape, and proof that it is one of ours."""
    keys = {key.split(".")[0] for piece in pieces.values() for key in piece}
    esm2 = "language_model" in keys
    if not esm2 and "encoder_embedding" not in keys:
        raise ModelError(f"{path}: neither ESM-2 nor ProtT5nv; its weights begin with {', '.join(sorted(keys)[:5])}")
    hidden = _value(settings, "hidden_size")
    expected = {
        "position_embedding_type": "rope" if esm2 else "learned_absolute",
        "ffn_hidden_size": 4 * hidden if isinstance(hidden, int) else None,
        "normalization": "layernorm",
        "layernorm_epsilon": NORM_EPSILON,
        "transformer_block_type": "pre_ln",
        "activation": "gelu",
        "bias": True,
        **({} if esm2 else _PROTT5NV_SETTINGS),  # the fused GELU is the approximate one
    }
    for key, value in expected.items():
        found = _value(settings, key, value)
        if isinstance(found, str) and found.startswith("${"):  # computed from others when NeMo reads it
            continue
        if found != value and not (key == "layernorm_epsilon" and found == "1e-5"):  # text, to YAML
            raise ModelError(f"{path}: {_impostor(key, shown(found), esm2)}")
    if any(_POSITIONS in piece for piece in pieces.values()):
        raise ModelError(f"{path}: {_impostor('position_embedding_type', 'learned', True)}")
    layers, heads = _value(settings, "num_layers"), _value(settings, "num_attention_heads")
    if esm2:
        return shape(path, layers, hidden, heads, _value(settings, "embedding_token_dropout", True))
    return prott5nv_shape(path, layers, hidden, heads, _value(settings, "max_position_embeddings", 512))


def _impostor(key: str, found: str, esm2: bool) -> str:
    if key == "position_embedding_type":
        return (
            f"not ESM-2 but a BERT with {found} positions (ESM-1nv?)"
            if esm2
            else f"not ProtT5nv but a T5 with {found} positions"
        )
    return f"{key} is {found}, which neither ESM-2 nor ProtT5nv has"


def _canonical(
    path: Path, config: Config, pieces: Mapping[tuple[int, int], Mapping[str, Tensor]], legacy: bool, cut: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for their tensors, put together; and the keys that no part of the model has."""
    stages = sorted({stage for stage, _ in pieces})
    slices = sorted({number for _, number in pieces})
    missing = [(stage, number) for stage in stages for number in slices if (stage, number) not in pieces]
    if missing or slices != list(range(len(slices))) or stages != list(range(len(stages))):
        raise ModelError(f"{path}: parts of the model are missing; there are {sorted(pieces)}")
    table = _ESM2 if isinstance(config, ESM2Config) else _PROTT5NV
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    before: dict[str, int] = {}
    tied = Tied(str(path))
    for stage in stages:
        parts = [pieces[stage, number] for number in slices]
        for key in parts[0]:
            if any(key not in part for part in parts):
                raise ModelError(f"{path}: {key} is missing in a part of the model")
            numbered = _numbered(key, before)
            rows = [part[key] for part in parts]
            if key in _TIED:
                again = _joined(path, key, rows)
                over = _TIED[key] in _OVER_VOCABULARY
                tied.add(key, _TIED[key], again[: len(family_of(config).alphabet.tokens)] if cut and over else again)
                continue
            found = dict(_ours(path, numbered, rows, table, config, legacy, cut))
            if twice := next((name for name in found if name in tensors), None):
                raise ModelError(f"{path}: {twice} is in two stages of the pipeline")
            tensors |= found
            strangers += [] if found else [key]
        for stack in {stack for key in parts[0] if (stack := _stack(key))}:
            before[stack] = before.get(stack, 0) + _depth(parts[0], stack)
    tied.compare(tensors)
    return tensors, strangers


def _stack(key: str) -> str | None:
    found = re.match(r"(.*\.layers)\.\d{1,6}\.", key)
    return found[1] if found else None


def _depth(tensors: Mapping[str, Tensor], stack: str) -> int:
    return 1 + max(int(key[len(stack) + 1 :].split(".")[0]) for key in tensors if _stack(key) == stack)


def _numbered(key: str, before: Mapping[str, int]) -> str:
    """A key with the layer's number in the whole model; each stage of a pipeline counts from zero."""
    stack = _stack(key)
    if stack is None or not before.get(stack):
        return key
    number, _, rest = key[len(stack) + 1 :].partition(".")
    return f"{stack}.{int(number) + before[stack]}.{rest}"


def _names(key: str, table: KeyMap) -> Iterator[str]:
    """Our names for what a key of theirs holds: one, several for fused matrices, none for a stranger."""
    if key == _FREQUENCIES:
        yield "frequencies"
        return
    module, _, parameter = key.rpartition(".")
    for joint, (attention, names) in _FUSED.items():
        if module.endswith(joint):
            beside = table.ours(f"{module.removesuffix(joint)}self_attention.dense.{parameter}")
            if beside is not None:
                block = beside.removesuffix(f".attention.output.{parameter}")
                yield from (f"{block}.{attention}.{name}.{parameter}" for name in names)
            return
    ours = table.ours(key)
    if ours is not None:
        yield ours


def _ours(
    path: Path, key: str, parts: Sequence[Tensor], table: KeyMap, config: Config, legacy: bool, cut: bool
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors from one of theirs, which lies in as many parts as there were GPUs beside each other."""
    names = list(_names(key, table))
    if not names:
        return
    if len(names) > 1:
        split = [unfused(f"{path}: {key}", part, len(names), config.head_size, legacy) for part in parts]
        for part in parts:
            archive.forget(part.untyped_storage())
        for name, tensors in zip(names, zip(*split, strict=True), strict=True):
            yield name, tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return
    whole = _joined(path, key, parts)
    vocabulary = len(family_of(config).alphabet.tokens)
    if names[0] in _OVER_VOCABULARY:
        whole = whole[:vocabulary] if cut else unpadded(f"{path}: {key}", whole, vocabulary)
    yield names[0], whole.float() if names[0] == "frequencies" else whole


def _joined(path: Path, key: str, parts: Sequence[Tensor]) -> Tensor:
    """One tensor of the parts that lay on GPUs beside each other; what is no matrix's was the same on all of them."""
    if len(parts) == 1:
        return parts[0]
    if key in _ROWS_EXACT or any(word in key for word in _ROWS):
        return torch.cat(list(parts), 0)
    if any(key.endswith(word) for word in _COLUMNS):
        return torch.cat(list(parts), 1)
    if not all(same(part, parts[0]) for part in parts[1:]):
        raise ModelError(f"{path}: {key} differs in the parts of the model: they are not of one model")
    return parts[0]


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a plain ``.nemo`` with the settings and weights of BioNeMo's.

    A contact head has no place in it, and the tokenizer's files are not written.
    """
    import yaml

    settings = yaml.safe_dump(_written_settings(checkpoint.config), sort_keys=False).encode()
    with tempfile.TemporaryFile(dir=path.parent) as weights:
        torch.save(OrderedDict(_foreign(checkpoint)), weights)
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, _SETTINGS, io.BytesIO(settings))
            _add(tar, _WEIGHTS, weights)


def _add(tar: tarfile.TarFile, name: str, stream: Any) -> None:
    member = tarfile.TarInfo(f"./{name}")
    member.size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    tar.addfile(member, stream)


def _foreign(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Their keys and tensors."""
    tensors, esm2 = checkpoint.tensors, isinstance(checkpoint.config, ESM2Config)
    table = _ESM2 if esm2 else _PROTT5NV
    for key, tensor in tensors.items():
        if key.startswith("contact_head."):
            continue
        if key == "frequencies":
            yield f"model.{_FREQUENCIES}", tensor
            continue
        together = _fusion(key, tensors)
        if together is None:
            theirs = table.theirs(key)
            assert theirs is not None, key
            yield _prefixed(theirs, esm2), padded(tensor, _PADDED) if key in _OVER_VOCABULARY else tensor
        elif together.parts[0] is tensor:
            beside = table.theirs(f"{together.block}.attention.output.{together.parameter}")
            assert beside is not None, key
            rows = fused(together.parts, checkpoint.config.head_size)
            yield _prefixed(beside.replace("self_attention.dense", together.module), esm2), rows
    if not esm2:  # NeMo's decoder has the encoder's tables under a name of its own
        yield "enc_dec_model.decoder_embedding.word_embeddings.weight", padded(tensors["embedding.weight"], _PADDED)
        yield "enc_dec_model.decoder_embedding.position_embeddings.weight", tensors["positions.weight"]


class _Fusion(NamedTuple):
    """A matrix of theirs: its module, and those of ours that lie in it."""

    module: str
    block: str
    parameter: str
    parts: list[Tensor]


def _fusion(key: str, tensors: Mapping[str, Tensor]) -> _Fusion | None:
    for module, (attention, names) in _FUSED.items():
        block, found, rest = key.partition(f".{attention}.")
        name, _, parameter = rest.partition(".")
        if found and name in names:
            parts = [tensors[f"{block}.{attention}.{one}.{parameter}"] for one in names]
            return _Fusion(module, block, parameter, parts)
    return None


def _prefixed(key: str, esm2: bool) -> str:
    if esm2:
        return f"model.{key}"
    return f"enc_dec_model.{'enc_dec_model.' if key.startswith(('encoder.', 'decoder.')) else ''}{key}"


def _written_settings(config: Config) -> dict[str, Any]:
    esm2 = isinstance(config, ESM2Config)
    longest = 1024 if isinstance(config, ESM2Config) else config.positions
    return {
        "target": f"bionemo.model.protein.{'esm1nv.ESM2nvModel' if esm2 else 'prott5nv.ProtT5nvModel'}",
        "num_layers": config.layers,
        "hidden_size": config.hidden,
        "ffn_hidden_size": 4 * config.hidden,
        "num_attention_heads": config.heads,
        "kv_channels": None,
        "seq_length": longest,
        "max_position_embeddings": longest,
        "position_embedding_type": "rope" if esm2 else "learned_absolute",
        "normalization": "layernorm",
        "layernorm_epsilon": NORM_EPSILON,
        "transformer_block_type": "pre_ln",
        "activation": "gelu",
        "bias": True,
        "make_vocab_size_divisible_by": _PADDED,
        "megatron_legacy": False,
        **(_esm2_settings(config) if isinstance(config, ESM2Config) else _PROTT5NV_SETTINGS),
    }


_PROTT5NV_SETTINGS = {
    "bias_activation_fusion": True,
    "headscale": False,
    "share_token_embeddings": True,
    "share_decoder_tokens_head_embeddings": True,
}


def _esm2_settings(config: ESM2Config) -> dict[str, Any]:
    """What BioNeMo's ESM-2 says beside the shape; without it its code would compute something else."""
    return {
        "embedding_token_dropout": config.token_dropout,
        "embedding_use_attention_mask": True,
        "mask_token_id": ESM2_ALPHABET.mask,
        "use_esm_attention": True,
        "normalize_attention_scores": False,
        "esm_gelu": True,
        "bias_gelu_fusion": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
