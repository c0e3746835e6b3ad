"""ESM-2 as Hugging Face's transformers names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from aminoglot.checkpoints import folder as folders
from aminoglot.checkpoints.checkpoint import Checkpoint, checked, notes_of, shape
from aminoglot.checkpoints.fused import Tied
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import NORM_EPSILON, ESM2Config
from aminoglot.tokens import ESM2_ALPHABET

KEYS = KeyMap(
    {
        "embedding": "esm.embeddings.word_embeddings",
        "layers.{}.attention_norm": "esm.encoder.layer.{}.attention.LayerNorm",
        "layers.{}.attention.query": "esm.encoder.layer.{}.attention.self.query",
        "layers.{}.attention.key": "esm.encoder.layer.{}.attention.self.key",
        "layers.{}.attention.value": "esm.encoder.layer.{}.attention.self.value",
        "layers.{}.attention.output": "esm.encoder.layer.{}.attention.output.dense",
        "layers.{}.feed_forward_norm": "esm.encoder.layer.{}.LayerNorm",
        "layers.{}.up": "esm.encoder.layer.{}.intermediate.dense",
        "layers.{}.down": "esm.encoder.layer.{}.output.dense",
        "final_norm": "esm.encoder.emb_layer_norm_after",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "contact_head": "esm.contact_head.regression",
    }
)
_FREQUENCIES = "rotary_embeddings.inv_freq"
_LAYER_FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
_TIED = "lm_head.decoder.weight"
_PROTT5_XL = (1024, 24, 128)
"""Width, layers and tokens by which ProtT5-XL is told from other T5s."""
_IGNORED = ("position_embeddings.weight", "position_ids", "lm_head.decoder.bias", "pooler.")


def read(folder: Path, name: str) -> Checkpoint:
    """Read an ESM-2 in Hugging Face's layout.

    Raises:
        ModelError: when the folder holds another model (said by name), or files are missing or cut short.
    """
    config = read_config(folder)
    tensors, strangers = _canonical(folders.tensors(folder), folder)
    notes = notes_of(config, tensors, strangers)
    return Checkpoint(name, "huggingface", config, checked(str(folder), config, tensors), notes)


def read_config(folder: Path) -> ESM2Config:
    """The shape written in config.json, after making sure that it is an ESM-2's.

    ``model_type: esm`` also names ESM-1b, ESM-1v, ESMFold's trunk and nucleotide models.
    """
    path, raw = folder / "config.json", folders.settings(folder)
    impostor = _impostor(raw)
    if impostor:
        raise ModelError(f"{folder}: this is {impostor}, neither ESM-2 nor ProtT5nv, and aminoglot does not run it")
    config = shape(
        path,
        raw.get("num_hidden_layers"),
        raw.get("hidden_size"),
        raw.get("num_attention_heads"),
        raw.get("token_dropout", False),
    )
    for key, expected in (
        ("intermediate_size", 4 * config.hidden),
        ("hidden_act", "gelu"),
        ("layer_norm_eps", NORM_EPSILON),
        ("rope_theta", 10000.0),
    ):
        if raw.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {raw[key]}, an ESM-2 of this width has {expected}")
    return config


def _impostor(raw: Mapping[str, Any]) -> str | None:
    """What the folder holds if it is no ESM-2, else None."""
    kind = raw.get("model_type")
    if kind in ("t5", "mt5", "umt5", "longt5"):
        found = (raw.get("d_model"), raw.get("num_layers"), raw.get("vocab_size"))
        return "ProtT5-XL" if found == _PROTT5_XL else f"a {str(kind).upper()}"
    if kind != "esm":
        return f"a {kind} model" if kind else "a folder whose config.json names no model_type"
    if raw.get("is_folding_model"):
        return "ESMFold"
    vocabulary = len(ESM2_ALPHABET.tokens)
    if raw.get("vocab_size", vocabulary) != vocabulary:
        return f"a model with {raw['vocab_size']} tokens (a nucleotide transformer?)"
    if raw.get("vocab_list") and raw["vocab_list"] != list(ESM2_ALPHABET.tokens):
        return "a model with another vocabulary"
    if raw.get("position_embedding_type", "absolute") != "rotary":
        return "ESM-1b" if raw.get("emb_layer_norm_before") else "ESM-1v (or ESM-1)"
    if raw.get("emb_layer_norm_before"):
        return "a relative of ESM-1b (it has a norm before the first layer)"
    return None


def _canonical(theirs: dict[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for their tensors, and the keys that no part of ESM-2 has."""
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    tied = Tied(str(folder))
    for key, tensor in theirs.items():
        if not key.startswith(("esm.", "lm_head.")):
            key = f"esm.{key}"  # saved from EsmModel, without the head's prefix
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        ours = KEYS.ours(key)
        if ours is not None:
            tensors[ours] = tensor
        elif key.endswith(_FREQUENCIES):
            tensors.setdefault("frequencies", tensor.float())
        elif key == _TIED:
            tied.add(key, "embedding.weight", tensor)
        elif not any(part in key for part in _IGNORED):
            strangers.append(key)
    tied.compare(tensors)
    return tensors, strangers


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that transformers' ``EsmForMaskedLM`` and ``AutoTokenizer`` load."""
    special = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    special["unk_token"] = "<unk>"
    texts: dict[str, str | Mapping[str, Any]] = {
        "config.json": _config(checkpoint),
        "vocab.txt": "\n".join(ESM2_ALPHABET.tokens),
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"tokenizer_class": "EsmTokenizer", **special},
    }
    folders.write(folder, dict(_foreign(checkpoint)), texts)


def _foreign(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in checkpoint.tensors.items():
        if key == "frequencies":
            for layer in range(checkpoint.config.layers):
                yield _LAYER_FREQUENCIES.format(layer), tensor.clone()
            continue
        theirs = KEYS.theirs(key)
        assert theirs is not None, key
        if key.startswith("contact_head"):
            tensor = tensor.reshape(1, -1) if key.endswith("weight") else tensor.reshape(1)
        yield theirs, tensor.contiguous()


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = cast(ESM2Config, checkpoint.config)
    return {
        "architectures": ["EsmForMaskedLM" if checkpoint.has("lm_head") else "EsmModel"],
        "model_type": "esm",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPSILON,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": config.token_dropout,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "is_folding_model": False,
        "mask_token_id": ESM2_ALPHABET.mask,
        "pad_token_id": ESM2_ALPHABET.tokens.index("<pad>"),
        "max_position_embeddings": 1026,
        "vocab_size": len(ESM2_ALPHABET.tokens),
        "dtype": str(checkpoint.tensors["embedding.weight"].dtype).removeprefix("torch."),
    }
