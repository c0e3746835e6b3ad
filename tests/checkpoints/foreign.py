"""Other people's files, made by hand: what a test changes about a good checkpoint is all that it says."""

from __future__ import annotations

import argparse
import json
import shutil
from enum import Enum, auto
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EsmConfig


class Gone(Enum):
    """Stands for a key of config.json that is left out."""

    GONE = auto()

    def __repr__(self) -> str:
        return "gone"


GONE = Gone.GONE

PREFIX = "esm.encoder.layer."


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a Hugging Face folder with other settings in its config.json."""
    shutil.copytree(folder, to)
    raw = {**json.loads((to / "config.json").read_text()), **changes}
    (to / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not GONE}))
    return to


def weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that has one safetensors file."""
    return load_file(folder / "model.safetensors")


def with_weights(folder: Path, to: Path, tensors: dict[str, Tensor]) -> Path:
    """A copy of a Hugging Face folder with other tensors."""
    copied(folder, to)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def with_bin(folder: Path, to: Path, content: object, *, zipped: bool = True) -> Path:
    """A copy of a Hugging Face folder with a pytorch_model.bin in place of its safetensors."""
    copied(folder, to)
    (to / "model.safetensors").unlink()
    torch.save(content, to / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return to


def settings(**changes: Any) -> argparse.Namespace:
    """What a fair-esm file of esm2-tiny says of its shape."""
    shape = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_attention_heads": 2, "token_dropout": True}
    return argparse.Namespace(**{**shape, **changes})


def state(path: Path) -> dict[str, Tensor]:
    """The tensors of a good fair-esm file."""
    model: dict[str, Tensor] = torch.load(path, weights_only=False)["model"]
    return model


def transformers_config() -> EsmConfig:
    """The shape of esm2-tiny in transformers' words."""
    return EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )
