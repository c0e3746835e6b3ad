"""ESM-2 as NVIDIA's recipes save it: a Hugging Face folder of ``model_type: nv_esm``, modules of TransformerEngine."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from aminoglot.checkpoints import folder as folders
from aminoglot.checkpoints.checkpoint import LOST, Checkpoint, checked, notes_of, shape
from aminoglot.checkpoints.fused import QKV, Tied, unfused, unpadded
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import NORM_EPSILON, ESM2Config
from aminoglot.tokens import ESM2_ALPHABET

MODEL_TYPE = "nv_esm"
_LAYER = "encoder.layers.{}"
_KEYS = KeyMap(
    {
        "embedding": "embeddings.word_embeddings",
        "layers.{}.attention_norm": f"{_LAYER}.self_attention.layernorm_qkv.layer_norm",
        "layers.{}.attention.query": f"{_LAYER}.self_attention.layernorm_qkv",  # and key and value
        "layers.{}.attention.output": f"{_LAYER}.self_attention.proj",
        "layers.{}.feed_forward_norm": f"{_LAYER}.layernorm_mlp.layer_norm",
        "layers.{}.up": f"{_LAYER}.layernorm_mlp.fc1",
        "layers.{}.down": f"{_LAYER}.layernorm_mlp.fc2",
        "final_norm": "encoder.emb_layer_norm_after",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.decoder.layer_norm",
        "lm_head": "lm_head.decoder",
    }
)
_JOINED = re.compile(r"\b(layer_norm|fc1|fc2)_(weight|bias)$")
_VOCABULARY = len(ESM2_ALPHABET.tokens)
_IGNORED = ("_extra_state", "inv_freq", "position_ids")


def read(folder: Path, name: str) -> Checkpoint:
    """Read an ESM-2 of NVIDIA's recipes. The folder's own Python files are not looked at.

    Raises:
        ModelError: when files are missing or cut short, or it holds another model.
    """
    config = _config(folder)
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    tied = Tied(str(folder))
    for key, tensor in folders.tensors(folder).items():
        if any(word in key for word in _IGNORED):
            continue
        plain = _JOINED.sub(r"\1.\2", key.removeprefix("model.").removeprefix("esm."))
        ours = _KEYS.ours(plain)
        if ours is None:
            strangers.append(key)
        elif ".attention.query." in ours:
            parts = unfused(f"{folder}: {key}", tensor, 3, config.head_size)
            tensors.update({ours.replace("query", one): part for one, part in zip(QKV, parts, strict=True)})
        elif ours == "lm_head.weight":
            tied.add(key, "embedding.weight", tensor)
        else:
            short = ours in ("embedding.weight", "lm_head.bias")
            tensors[ours] = unpadded(f"{folder}: {key}", tensor, _VOCABULARY) if short else tensor
    tied.compare(tensors)
    notes = notes_of(config, tensors, strangers, LOST)
    return Checkpoint(name, "transformer-engine", config, checked(str(folder), config, tensors), notes)


def _config(folder: Path) -> ESM2Config:
    path, raw = folder / "config.json", folders.settings(folder)
    config = shape(
        path,
        raw.get("num_hidden_layers"),
        raw.get("hidden_size"),
        raw.get("num_attention_heads"),
        raw.get("token_dropout", True),
    )
    for key, expected in (
        ("intermediate_size", 4 * config.hidden),
        ("hidden_act", "gelu"),
        ("layer_norm_eps", NORM_EPSILON),
        ("position_embedding_type", "rotary"),
        ("emb_layer_norm_before", False),
        ("qkv_weight_interleaved", True),
        ("vocab_size", _VOCABULARY),
    ):
        if raw.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {raw[key]}, an ESM-2 of this width has {expected}")
    return config
