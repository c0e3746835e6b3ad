"""ProtT5nv as Hugging Face's transformers can hold it: the same network is called Pegasus there, position by position.

Pegasus's positions are meant to be sines, but lie in a table like any other; ours are learned and fill it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from aminoglot.checkpoints import folder as folders
from aminoglot.checkpoints.checkpoint import Checkpoint, checked, notes_of, prott5nv_shape, same
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError
from aminoglot.models.prott5nv import END, NORM_EPSILON, START, ProtT5nvConfig
from aminoglot.tokens import PROTT5NV_ALPHABET

MODEL_TYPE = "pegasus"
_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
KEYS = KeyMap(
    {
        "embedding": "model.shared",
        "positions": "model.encoder.embed_positions",
        "final_norm": "model.encoder.layer_norm",
        "decoder.final_norm": "model.decoder.layer_norm",
        **{
            f"{ours}layers.{{}}.{part}": f"model.{theirs}.layers.{{}}.{name}"
            for ours, theirs in (("", "encoder"), ("decoder.", "decoder"))
            for part, name in {
                "attention_norm": "self_attn_layer_norm",
                "feed_forward_norm": "final_layer_norm",
                "up": "fc1",
                "down": "fc2",
                **{f"attention.{one}": f"self_attn.{projection}" for one, projection in _ATTENTION.items()},
            }.items()
        },
        "decoder.layers.{}.source_norm": "model.decoder.layers.{}.encoder_attn_layer_norm",
        **{
            f"decoder.layers.{{}}.source_attention.{one}": f"model.decoder.layers.{{}}.encoder_attn.{projection}"
            for one, projection in _ATTENTION.items()
        },
    }
)
_BIAS = "final_logits_bias"
_COPIES = {
    "model.encoder.embed_tokens.weight": "embedding.weight",
    "model.decoder.embed_tokens.weight": "embedding.weight",
    "lm_head.weight": "embedding.weight",
    "model.decoder.embed_positions.weight": "positions.weight",
}
"""What Pegasus has twice and ProtT5nv once."""


def read(folder: Path, name: str) -> Checkpoint:
    """Read a ProtT5nv that was saved as a Pegasus.

    Raises:
        ModelError: when the folder holds another Pegasus, or files are missing or cut short.
    """
    config = _read_config(folder)
    tensors: dict[str, Tensor] = {}
    strangers: list[str] = []
    theirs = folders.tensors(folder)
    for key, tensor in theirs.items():
        ours = KEYS.ours(key)
        if ours is not None:
            tensors[ours] = tensor
        elif key == _BIAS:
            tensors["decoder.bias"] = tensor.flatten()
        elif key not in _COPIES:
            strangers.append(key)
    for key, ours in _COPIES.items():
        if key in theirs and not same(theirs[key], tensors.setdefault(ours, theirs[key])):
            raise ModelError(f"{folder}: {key} differs from its counterpart: in ProtT5nv they are one table")
    notes = notes_of(config, tensors, strangers)
    return Checkpoint(name, "huggingface", config, checked(str(folder), config, tensors), notes)


def _read_config(folder: Path) -> ProtT5nvConfig:
    path, raw = folder / "config.json", folders.settings(folder)
    layers, hidden, heads = raw.get("encoder_layers"), raw.get("d_model"), raw.get("encoder_attention_heads")
    expected = {
        "vocab_size": len(PROTT5NV_ALPHABET.tokens),
        "decoder_layers": layers,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * hidden if isinstance(hidden, int) else None,
        "decoder_ffn_dim": 4 * hidden if isinstance(hidden, int) else None,
        "activation_function": "gelu_new",
        "scale_embedding": False,
    }
    for key, value in expected.items():
        if raw.get(key) != value:
            raise ModelError(f"{path}: a Pegasus, but not ProtT5nv: {key} is {raw.get(key)}, ProtT5nv's is {value}")
    return prott5nv_shape(path, layers, hidden, heads, raw.get("max_position_embeddings"))


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that transformers' ``PegasusForConditionalGeneration`` loads.

    Raises:
        ModelError: for a checkpoint without its decoder, which Pegasus cannot be without.
    """
    if not checkpoint.has("decoder"):
        raise ModelError(f"{checkpoint.name}: it came without a decoder, and Pegasus cannot be without one")
    folders.write(folder, dict(_foreign(checkpoint.tensors)), {"config.json": _config(checkpoint)})


def _foreign(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in tensors.items():
        if key == "decoder.bias":
            yield _BIAS, tensor.reshape(1, -1)
            continue
        theirs = KEYS.theirs(key)
        assert theirs is not None, key
        yield theirs, tensor.contiguous()
    yield "model.decoder.embed_positions.weight", tensors["positions.weight"].clone()


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = cast(ProtT5nvConfig, checkpoint.config)
    return {
        "architectures": ["PegasusForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "vocab_size": len(PROTT5NV_ALPHABET.tokens),
        "d_model": config.hidden,
        "encoder_layers": config.layers,
        "decoder_layers": config.layers,
        "num_hidden_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": 4 * config.hidden,
        "decoder_ffn_dim": 4 * config.hidden,
        "activation_function": "gelu_new",
        "layer_norm_eps": NORM_EPSILON,
        "max_position_embeddings": config.positions,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "attention_dropout": 0.1,
        "pad_token_id": PROTT5NV_ALPHABET.tokens.index("<pad>"),
        "bos_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "forced_eos_token_id": None,
        "dtype": str(checkpoint.tensors["embedding.weight"].dtype).removeprefix("torch."),
    }
