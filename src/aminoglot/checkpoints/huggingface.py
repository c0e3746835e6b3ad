"""Hugging Face folders: config.json beside safetensors or pytorch_model.bin, one file or many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminoglot.checkpoints import safe_pickle
from aminoglot.checkpoints.checkpoint import Checkpoint, checked, head_notes, only_tensors, shape
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError, listing
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
_IGNORED = ("position_embeddings.weight", "position_ids", "lm_head.decoder.bias", "pooler.")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LFS = b"version https://git-lfs"


def is_folder(path: Path) -> bool:
    return (path / "config.json").is_file()


def read(folder: Path, name: str) -> Checkpoint:
    """Read an ESM-2 in Hugging Face's layout; safetensors are preferred, and mapped rather than copied.

    Raises:
        ModelError: when the folder holds another model (said by name), or files are missing or cut short.
    """
    config = read_config(folder)
    files = weight_files(folder)
    theirs: dict[str, Tensor] = {}
    for file in files:
        theirs.update(_tensors(file))
    tensors, strangers = _canonical(theirs, folder)
    notes = head_notes(tensors)
    if strangers:
        notes += (f"tensors of no part of ESM-2 were not used: {', '.join(strangers[:5])}",)
    return Checkpoint(name, "huggingface", config, checked(str(folder), config, tensors), notes)


def read_config(folder: Path) -> ESM2Config:
    """The shape written in config.json, after making sure that it is an ESM-2's.

    ``model_type: esm`` also names ESM-1b, ESM-1v, ESMFold's trunk and nucleotide models.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a model's settings")
    impostor = _impostor(raw)
    if impostor:
        raise ModelError(f"{folder}: this is {impostor}, not an ESM-2, and aminoglot does not run it")
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
    if kind == "nv_esm":
        return "NVIDIA's TransformerEngine export"
    if kind != "esm":
        return f"a {kind} model" if kind else "a folder whose config.json names no model_type"
    if raw.get("is_folding_model"):
        return "ESMFold"
    vocabulary = len(ESM2_ALPHABET.tokens)
    if raw.get("vocab_size", vocabulary) != vocabulary:
        return f"a model with {raw['vocab_size']} tokens (a nucleotide transformer?)"
    if raw.get("vocab_list") and tuple(raw["vocab_list"]) != ESM2_ALPHABET.tokens:
        return "a model with another vocabulary"
    if raw.get("position_embedding_type", "absolute") != "rotary":
        return "ESM-1b" if raw.get("emb_layer_norm_before") else "ESM-1v (or ESM-1)"
    if raw.get("emb_layer_norm_before"):
        return "a relative of ESM-1b (it has a norm before the first layer)"
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, all present and none a placeholder.

    Raises:
        ModelError: naming the files that are missing.
    """
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = _parts(index)
            missing = [file for file in names if not (folder / file).is_file()]
            if missing:
                raise ModelError(
                    f"{folder}: half downloaded, {len(missing)} of {len(names)} weight files are missing:\n"
                    f"{listing(missing)}\nFetch them into that folder."
                )
            return [folder / file for file in names]
        if (folder / name).is_file():
            return [folder / name]
    raise ModelError(
        f"{folder}: no weights here; expected {' or '.join(_WEIGHTS)}, or their .index.json with its parts"
    )


def _parts(index: Path) -> list[str]:
    """The file names in an index; only names, so that no index leads out of its folder."""
    try:
        return sorted(
            {Path(file).name for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{index}: damaged, or a git-lfs placeholder; get it again") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise ModelError(f"{file}: a git-lfs placeholder, not the weights; run `git lfs pull` in that folder")
    if file.suffix != ".safetensors":
        return only_tensors(file, safe_pickle.load(file))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ModelError(f"{file}: cut short or damaged ({error}); get the file again") from error


def _canonical(theirs: dict[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for their tensors, and the keys that no part of ESM-2 has."""
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    tied: Tensor | None = None
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
            tied = tensor
        elif not any(part in key for part in _IGNORED):
            strangers.append(key)
    if tied is not None and "embedding.weight" in tensors and not torch.equal(tied, tensors["embedding.weight"]):
        raise ModelError(f"{folder}: {_TIED} differs from the embedding: in ESM-2 they are one matrix")
    return tensors, strangers


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that transformers' ``EsmForMaskedLM`` and ``AutoTokenizer`` load."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(_foreign(checkpoint)), folder, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
    (folder / "config.json").write_text(_json(_config(checkpoint)), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(ESM2_ALPHABET.tokens), encoding="utf-8")
    special = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    special["unk_token"] = "<unk>"
    (folder / "special_tokens_map.json").write_text(_json(special), encoding="utf-8")
    tokenizer = {"tokenizer_class": "EsmTokenizer", **special}
    (folder / "tokenizer_config.json").write_text(_json(tokenizer), encoding="utf-8")


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
    config = checkpoint.config
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


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
