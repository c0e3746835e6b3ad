"""fair-esm's ``.pt`` files, and the contact regression that lies in a second file beside each."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminoglot.checkpoints import safe_pickle
from aminoglot.checkpoints.checkpoint import Checkpoint, checked, notes_of, only_tensors, shape
from aminoglot.checkpoints.fused import Tied
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import ESM2Config

KEYS = KeyMap(
    {
        "embedding": "embed_tokens",
        "layers.{}.attention_norm": "layers.{}.self_attn_layer_norm",
        "layers.{}.attention.query": "layers.{}.self_attn.q_proj",
        "layers.{}.attention.key": "layers.{}.self_attn.k_proj",
        "layers.{}.attention.value": "layers.{}.self_attn.v_proj",
        "layers.{}.attention.output": "layers.{}.self_attn.out_proj",
        "layers.{}.feed_forward_norm": "layers.{}.final_layer_norm",
        "layers.{}.up": "layers.{}.fc1",
        "layers.{}.down": "layers.{}.fc2",
        "final_norm": "emb_layer_norm_after",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "contact_head": "contact_head.regression",
    }
)
_FREQUENCIES = "layers.{}.self_attn.rot_emb.inv_freq"
_PREFIX = re.compile(r"^encoder\.(sentence_encoder\.)?")
_TIED = "lm_head.weight"
_SETTINGS = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads", "token_dropout")
_ELDERS = {
    "roberta_large": "ESM-1b or ESM-1v",
    "protein_bert_base": "ESM-1",
    "msa_transformer": "MSA Transformer",
}


def regression_path(path: Path) -> Path:
    """Where fair-esm keeps the contact head of ``path``."""
    return path.with_name(f"{path.stem}-contact-regression.pt")


def read(path: Path, name: str) -> Checkpoint:
    """Read a fair-esm ESM-2; the contact head too, if its file lies beside.

    Raises:
        ModelError: when the file holds another model (said by name), is damaged, or asks for more than data.
    """
    data = safe_pickle.load(path)
    config = _config(data, path)
    state = only_tensors(path, data["model"])
    regression = regression_path(path)
    if regression.is_file():
        state.update(_regression(regression))
    tensors, strangers = _canonical(state, path)
    notes = notes_of(config, tensors, strangers)
    if "contact_head.weight" not in tensors:
        notes = tuple(f"{note} (put {regression.name} beside it)" if "contact" in note else note for note in notes)
    return Checkpoint(name, "fair-esm", config, checked(str(path), config, tensors), notes)


def _regression(path: Path) -> dict[str, Tensor]:
    content = safe_pickle.load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise ModelError(f"{path}: not a contact regression (no 'model' inside); remove it, or get it again")
    return only_tensors(path, content["model"])


def _config(data: Any, path: Path) -> ESM2Config:
    if not isinstance(data, dict) or "model" not in data:
        raise ModelError(f"{path}: not a fair-esm checkpoint (no 'model' inside)")
    if "cfg" not in data:
        named = getattr(data.get("args"), "arch", None)
        elder = _ELDERS.get(named if isinstance(named, str) else "", "an older model")
        raise ModelError(f"{path}: this is {elder}, not an ESM-2, and aminoglot does not run it")
    settings = data["cfg"].get("model") if isinstance(data["cfg"], dict) else None
    try:
        found = [getattr(settings, name) for name in _SETTINGS]
    except AttributeError as error:
        raise ModelError(f"{path}: its settings lack {error.name}; not a fair-esm ESM-2") from error
    return shape(path, *found)


def _canonical(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    tied = Tied(str(path))
    for key, tensor in state.items():
        key = _PREFIX.sub("", key)
        ours = KEYS.ours(key)
        if key.endswith("rot_emb.inv_freq"):
            tensors.setdefault("frequencies", tensor.float())
        elif key == _TIED:
            tied.add(key, "embedding.weight", tensor)
        elif key.startswith(("embed_positions", "emb_layer_norm_before")):
            raise ModelError(f"{path}: this is ESM-1b or ESM-1v (it holds {key}), not an ESM-2")
        elif ours is not None:
            tensors[ours] = tensor
        else:
            strangers.append(key)
    tied.compare(tensors)
    return tensors, strangers


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``path`` and its contact regression; fair-esm's ``load_model_and_alphabet_local`` reads them.

    Raises:
        ModelError: when it is no ESM-2, or its language-model head is missing.
    """
    config = checkpoint.config
    if not isinstance(config, ESM2Config):
        raise ModelError(f"{checkpoint.name}: fair-esm's format holds ESM-2 only, not ProtT5nv")
    if not checkpoint.has("lm_head"):
        raise ModelError(f"{checkpoint.name}: no language-model head, without which fair-esm loads nothing")
    model: dict[str, Tensor] = {}
    regression: dict[str, Tensor] = {}
    for key, tensor in checkpoint.tensors.items():
        if key == "frequencies":
            exact = tensor.half() if torch.equal(tensor.half().float(), tensor) else tensor
            model.update({f"encoder.{_FREQUENCIES.format(i)}": exact for i in range(config.layers)})
        elif key.startswith("contact_head"):
            shape = (1, -1) if key.endswith("weight") else (1,)
            regression[str(KEYS.theirs(key))] = tensor.reshape(shape).contiguous()
        else:
            model[f"encoder.{KEYS.theirs(key)}"] = tensor
    model[f"encoder.{_TIED}"] = checkpoint.tensors["embedding.weight"]
    shaped = (config.layers, config.hidden, config.heads, config.token_dropout)
    settings = argparse.Namespace(**dict(zip(_SETTINGS, shaped, strict=True)))
    torch.save({"cfg": {"model": settings}, "model": model}, path)
    if regression:
        torch.save({"model": regression}, regression_path(path))
