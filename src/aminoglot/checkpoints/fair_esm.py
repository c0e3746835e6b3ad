"""fair-esm's ``.pt`` files, and the contact regression that lies in a second file beside each."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminoglot.checkpoints import safe_pickle
from aminoglot.checkpoints.checkpoint import Checkpoint, checked, head_notes
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
_ELDERS = {"roberta_large": "ESM-1b", "protein_bert_base": "ESM-1 or ESM-1v", "msa_transformer": "MSA Transformer"}


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
    state = dict(data["model"])
    regression = regression_path(path)
    if regression.is_file():
        state.update(safe_pickle.load(regression)["model"])
    tensors = _canonical(state, config, path)
    notes = head_notes(tensors)
    if "contact_head.weight" not in tensors:
        notes = tuple(f"{note} (put {regression.name} beside it)" if "contact" in note else note for note in notes)
    return Checkpoint(name, "fair-esm", config, checked(str(path), config, tensors), notes)


def _config(data: Any, path: Path) -> ESM2Config:
    if not isinstance(data, dict) or "model" not in data:
        raise ModelError(f"{path}: not a fair-esm checkpoint (no 'model' inside)")
    if "cfg" not in data:
        elder = _ELDERS.get(getattr(data.get("args"), "arch", ""), "an older model")
        raise ModelError(f"{path}: this is {elder}, not an ESM-2, and aminoglot does not run it")
    settings = data["cfg"]["model"]
    try:
        config = ESM2Config(
            layers=settings.encoder_layers,
            hidden=settings.encoder_embed_dim,
            heads=settings.encoder_attention_heads,
            token_dropout=settings.token_dropout,
        )
    except AttributeError as error:
        raise ModelError(f"{path}: its settings lack {error.name}; not a fair-esm ESM-2") from error
    return config


def _canonical(state: dict[str, Tensor], config: ESM2Config, path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    tied: Tensor | None = None
    for key, tensor in state.items():
        key = _PREFIX.sub("", key)
        ours = KEYS.ours(key)
        if key.endswith("rot_emb.inv_freq"):
            tensors.setdefault("frequencies", tensor.float())
        elif key == _TIED:
            tied = tensor
        elif key.startswith(("embed_positions", "emb_layer_norm_before")):
            raise ModelError(f"{path}: this is ESM-1b or ESM-1v (it holds {key}), not an ESM-2")
        elif ours is not None:
            tensors[ours] = tensor
    if tied is not None and not torch.equal(tied, tensors.get("embedding.weight", tied)):
        raise ModelError(f"{path}: {_TIED} differs from the embedding: in ESM-2 they are one matrix")
    if "contact_head.weight" in tensors and tensors["contact_head.weight"].numel() == config.layers * config.heads:
        tensors["contact_head.weight"] = tensors["contact_head.weight"].view(config.layers, config.heads)
        tensors["contact_head.bias"] = tensors["contact_head.bias"].view(())
    return tensors


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``path`` and its contact regression; fair-esm's ``load_model_and_alphabet_local`` reads them.

    Raises:
        ModelError: when the file's name would make fair-esm take it for another model, or a head is missing.
    """
    if not path.name.startswith("esm2") or path.suffix != ".pt":
        raise ModelError(f"{path}: fair-esm tells models apart by file name; call it esm2_something.pt")
    if not checkpoint.has("lm_head"):
        raise ModelError(f"{checkpoint.name}: no language-model head, without which fair-esm loads nothing")
    config = checkpoint.config
    model: dict[str, Tensor] = {}
    regression: dict[str, Tensor] = {}
    for key, tensor in checkpoint.tensors.items():
        if key == "frequencies":
            model.update({f"encoder.{_FREQUENCIES.format(i)}": tensor.half() for i in range(config.layers)})
        elif key.startswith("contact_head"):
            shape = (1, -1) if key.endswith("weight") else (1,)
            regression[str(KEYS.theirs(key))] = tensor.reshape(shape).contiguous()
        else:
            model[f"encoder.{KEYS.theirs(key)}"] = tensor
    model[f"encoder.{_TIED}"] = checkpoint.tensors["embedding.weight"]
    settings = argparse.Namespace(
        encoder_layers=config.layers,
        encoder_embed_dim=config.hidden,
        encoder_attention_heads=config.heads,
        token_dropout=config.token_dropout,
    )
    torch.save({"cfg": {"model": settings}, "model": model}, path)
    if regression:
        torch.save({"model": regression}, regression_path(path))
