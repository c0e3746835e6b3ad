"""NVIDIA's files, written by hand from what is known of their layouts, and by torch's own writer of distributed
checkpoints. Nothing here uses aminoglot's readers or writers of those formats."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
import yaml
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo

from aminoglot.checkpoints import Checkpoint

Tensors = dict[str, Tensor]


def by_head(parts: list[Tensor], size: int) -> Tensor:
    """Rows of head 0 of every part, then of head 1, and so on."""
    heads = parts[0].shape[0] // size
    return torch.cat([part[head * size : (head + 1) * size] for head in range(heads) for part in parts])


def padded(tensor: Tensor, rows: int, value: float = 0.0) -> Tensor:
    filling = torch.full((rows - len(tensor), *tensor.shape[1:]), value, dtype=tensor.dtype)
    return torch.cat([tensor, filling])


def qkv(tensors: Mapping[str, Tensor], block: str, parameter: str, size: int, *, legacy: bool = False) -> Tensor:
    parts = [tensors[f"{block}.attention.{name}.{parameter}"] for name in ("query", "key", "value")]
    return torch.cat(parts) if legacy else by_head(parts, size)


def esm2_nemo1(checkpoint: Checkpoint, rows: int = 128, *, legacy: bool = False) -> Tensors:
    """The state of BioNeMo 1's ESM-2."""
    t, size = checkpoint.tensors, checkpoint.config.head_size
    state = {
        "model.language_model.embedding.word_embeddings.weight": padded(t["embedding.weight"], rows),
        "model.language_model.rotary_pos_emb.inv_freq": t["frequencies"],
    }
    for parameter in ("weight", "bias"):
        for layer in range(checkpoint.config.layers):
            ours, theirs = f"layers.{layer}", f"model.language_model.encoder.layers.{layer}"
            state |= {
                f"{theirs}.input_layernorm.{parameter}": t[f"{ours}.attention_norm.{parameter}"],
                f"{theirs}.self_attention.query_key_value.{parameter}": qkv(t, ours, parameter, size, legacy=legacy),
                f"{theirs}.self_attention.dense.{parameter}": t[f"{ours}.attention.output.{parameter}"],
                f"{theirs}.post_attention_layernorm.{parameter}": t[f"{ours}.feed_forward_norm.{parameter}"],
                f"{theirs}.mlp.dense_h_to_4h.{parameter}": t[f"{ours}.up.{parameter}"],
                f"{theirs}.mlp.dense_4h_to_h.{parameter}": t[f"{ours}.down.{parameter}"],
            }
        state |= {
            f"model.language_model.encoder.final_layernorm.{parameter}": t[f"final_norm.{parameter}"],
            f"model.lm_head.dense.{parameter}": t[f"lm_head.dense.{parameter}"],
            f"model.lm_head.layernorm.{parameter}": t[f"lm_head.norm.{parameter}"],
        }
    state["model.lm_head.bias"] = padded(t["lm_head.bias"], rows)
    return state


def prott5nv_nemo1(checkpoint: Checkpoint, *, legacy: bool = False) -> Tensors:
    """The state of BioNeMo 1's ProtT5nv: one table of tokens and one of positions, under two names each."""
    t, size = checkpoint.tensors, checkpoint.config.head_size
    state: Tensors = {"enc_dec_model.tokens_head.bias": t["decoder.bias"]}
    for stack in ("encoder", "decoder"):
        state[f"enc_dec_model.{stack}_embedding.word_embeddings.weight"] = t["embedding.weight"]
        state[f"enc_dec_model.{stack}_embedding.position_embeddings.weight"] = t["positions.weight"]
    for parameter in ("weight", "bias"):
        for ours, stack in (("", "encoder"), ("decoder.", "decoder")):
            state[f"enc_dec_model.enc_dec_model.{stack}.model.final_layernorm.{parameter}"] = t[
                f"{ours}final_norm.{parameter}"
            ]
            for layer in range(checkpoint.config.layers):
                block, theirs = f"{ours}layers.{layer}", f"enc_dec_model.enc_dec_model.{stack}.model.layers.{layer}"
                after = "post_attention_layernorm" if stack == "encoder" else "post_inter_attention_layernorm"
                state |= {
                    f"{theirs}.input_layernorm.{parameter}": t[f"{block}.attention_norm.{parameter}"],
                    f"{theirs}.self_attention.query_key_value.{parameter}": qkv(
                        t, block, parameter, size, legacy=legacy
                    ),
                    f"{theirs}.self_attention.dense.{parameter}": t[f"{block}.attention.output.{parameter}"],
                    f"{theirs}.{after}.{parameter}": t[f"{block}.feed_forward_norm.{parameter}"],
                    f"{theirs}.mlp.dense_h_to_4h.{parameter}": t[f"{block}.up.{parameter}"],
                    f"{theirs}.mlp.dense_4h_to_h.{parameter}": t[f"{block}.down.{parameter}"],
                }
                if stack == "decoder":
                    kv = [t[f"{block}.source_attention.{name}.{parameter}"] for name in ("key", "value")]
                    cross = f"{block}.source_attention"
                    state |= {
                        f"{theirs}.post_attention_layernorm.{parameter}": t[f"{block}.source_norm.{parameter}"],
                        f"{theirs}.inter_attention.query.{parameter}": t[f"{cross}.query.{parameter}"],
                        f"{theirs}.inter_attention.key_value.{parameter}": torch.cat(kv)
                        if legacy
                        else by_head(kv, size),
                        f"{theirs}.inter_attention.dense.{parameter}": t[f"{cross}.output.{parameter}"],
                    }
    return state


def settings(checkpoint: Checkpoint, *, nested: bool = False, **changes: Any) -> dict[str, Any]:
    """What model_config.yaml says; later NeMo keeps the shape in blocks of the encoder and the decoder."""
    config = checkpoint.config
    shape = {
        "num_layers": config.layers,
        "hidden_size": config.hidden,
        "ffn_hidden_size": 4 * config.hidden,
        "num_attention_heads": config.heads,
        "max_position_embeddings": getattr(config, "positions", 1024),
        "position_embedding_type": "learned_absolute" if hasattr(config, "positions") else "rope",
        "normalization": "layernorm",
        "layernorm_epsilon": 1e-5,
        "transformer_block_type": "pre_ln",
        "activation": "gelu",
        "bias": True,
    }
    outer = {"precision": 32, "megatron_amp_O2": False, "tokenizer": {"library": "sentencepiece"}}
    shape |= changes
    return {**outer, "encoder": shape, "decoder": shape} if nested else {**outer, **shape}


def nemo(path: Path, said: Mapping[str, Any], *states: Mapping[str, Any], folders: tuple[str, ...] = ("",)) -> Path:
    """A .nemo, gzipped where its name says so; several states lie in folders of theirs."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        members = {"./model_config.yaml": yaml.safe_dump(dict(said)).encode()}
        for folder, state in zip(folders, states, strict=True):
            stream = io.BytesIO()
            torch.save(dict(state), stream)
            members[f"./{folder}model_weights.ckpt"] = stream.getvalue()
        members["./0123_protein_sequence_sentencepiece.model"] = b"not looked at"
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def esm2_nemo2(checkpoint: Checkpoint, *, stacked: bool) -> dict[str, Any]:
    """The state of BioNeMo 2's ESM-2, as Megatron names it in its distributed checkpoints."""
    t, size = checkpoint.tensors, checkpoint.config.head_size
    layers: list[Tensors] = [{} for _ in range(checkpoint.config.layers)]
    state: dict[str, Any] = {
        "module.embedding.word_embeddings.weight": padded(t["embedding.weight"], 128),
        "module.output_layer.bias": padded(t["lm_head.bias"], 128),
        "module.encoder.layers.self_attention.core_attention._extra_state": io.BytesIO(b"TransformerEngine's"),
    }
    for parameter in ("weight", "bias"):
        for number, layer in enumerate(layers):
            ours = f"layers.{number}"
            layer |= {
                f"self_attention.linear_qkv.layer_norm_{parameter}": t[f"{ours}.attention_norm.{parameter}"],
                f"self_attention.linear_qkv.{parameter}": qkv(t, ours, parameter, size),
                f"self_attention.linear_proj.{parameter}": t[f"{ours}.attention.output.{parameter}"],
                f"mlp.linear_fc1.layer_norm_{parameter}": t[f"{ours}.feed_forward_norm.{parameter}"],
                f"mlp.linear_fc1.{parameter}": t[f"{ours}.up.{parameter}"],
                f"mlp.linear_fc2.{parameter}": t[f"{ours}.down.{parameter}"],
            }
        state |= {
            f"module.encoder.final_layernorm.{parameter}": t[f"final_norm.{parameter}"],
            f"module.lm_head.dense.{parameter}": t[f"lm_head.dense.{parameter}"],
            f"module.lm_head.layer_norm.{parameter}": t[f"lm_head.norm.{parameter}"],
        }
    for key in layers[0]:
        if stacked:
            state[f"module.encoder.layers.{key}"] = torch.stack([layer[key] for layer in layers])
        else:
            state |= {f"module.encoder.layers.{n}.{key}": layer[key].clone() for n, layer in enumerate(layers)}
    return state


def nemo2(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    stacked: bool = True,
    heads: int | None = 2,
    more: Mapping[str, Tensor] | None = None,
) -> Path:
    """A NeMo 2 folder, its weights written by torch itself."""
    (folder / "context").mkdir(parents=True)
    if heads:
        said = f"_target_: bionemo.esm2.api.ESM2Config\nconfig:\n  num_attention_heads: {heads}\n"
        (folder / "context/model.yaml").write_text(said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is alone
        state = esm2_nemo2(checkpoint, stacked=stacked) | dict(more or {})
        torch.distributed.checkpoint.save(state, checkpoint_id=folder / "weights", no_dist=True)
    return folder


def nemo2_in_pieces(folder: Path, checkpoint: Checkpoint, *, twice: bool = False, old: bool = False) -> Path:
    """The same in many pieces, a layer each, as several GPUs write it, and matrices cut in rows; index by hand.

    Args:
        twice: every piece is written for the first place: the rest of each tensor is nowhere.
        old: the index says where tensors' properties were before torch 2.4.
    """
    properties: Any = metadata.TensorProperties
    if old:
        from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as properties  # noqa: N813
    (folder / "weights").mkdir(parents=True)
    described, places = {}, {}
    with (folder / "weights/__0_0.distcp").open("wb") as file:
        for key, whole in esm2_nemo2(checkpoint, stacked=True).items():
            if not isinstance(whole, Tensor):
                continue
            chunks = []
            for offsets, piece in _cut(whole):
                chunks.append(metadata.ChunkStorageMetadata(torch.Size(offsets), piece.shape))
                stream, start = io.BytesIO(), file.tell()
                torch.save(piece.clone(), stream)
                file.write(stream.getvalue())
                place = metadata.MetadataIndex(key, torch.Size(offsets))
                places[place] = _StorageInfo("__0_0.distcp", start, file.tell() - start)
            if twice and len(chunks) > 1:
                chunks = [metadata.ChunkStorageMetadata(chunks[0].offsets, chunk.sizes) for chunk in chunks]
            described[key] = metadata.TensorStorageMetadata(properties(whole.dtype), whole.shape, chunks)
    index = metadata.Metadata(described, storage_data=places)
    (folder / "weights/.metadata").write_bytes(pickle.dumps(index))
    return folder


def _cut(tensor: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Pieces and where they begin: half of the first axis, and of the second where there are two."""
    if tensor.ndim == 1:
        yield from (((first,), part) for first, part in zip((0, len(tensor) // 2), tensor.chunk(2), strict=True))
        return
    rest = (0,) * (tensor.ndim - 2)
    for first, layer in enumerate(tensor.split(len(tensor) // 2)):
        for second, part in enumerate(layer.chunk(2, 1)):
            yield (first * (len(tensor) // 2), second * (tensor.shape[1] // 2), *rest), part


def transformer_engine(folder: Path, checkpoint: Checkpoint, rows: int = 64, **changes: Any) -> Path:
    """A folder as NVIDIA's recipes export it, its Python file included, which nobody may run."""
    t, config, size = checkpoint.tensors, checkpoint.config, checkpoint.config.head_size
    state: Tensors = {
        "model.embeddings.word_embeddings.weight": padded(t["embedding.weight"], rows),
        "lm_head.decoder.bias": padded(t["lm_head.bias"], rows, torch.finfo(t["lm_head.bias"].dtype).min),
    }
    for parameter in ("weight", "bias"):
        for layer in range(config.layers):
            ours, theirs = f"layers.{layer}", f"model.encoder.layers.{layer}"
            state |= {
                f"{theirs}.self_attention.layernorm_qkv.layer_norm_{parameter}": t[
                    f"{ours}.attention_norm.{parameter}"
                ],
                f"{theirs}.self_attention.layernorm_qkv.{parameter}": qkv(t, ours, parameter, size),
                f"{theirs}.self_attention.proj.{parameter}": t[f"{ours}.attention.output.{parameter}"],
                f"{theirs}.layernorm_mlp.layer_norm_{parameter}": t[f"{ours}.feed_forward_norm.{parameter}"],
                f"{theirs}.layernorm_mlp.fc1_{parameter}": t[f"{ours}.up.{parameter}"],
                f"{theirs}.layernorm_mlp.fc2_{parameter}": t[f"{ours}.down.{parameter}"],
            }
        state |= {
            f"model.encoder.emb_layer_norm_after.{parameter}": t[f"final_norm.{parameter}"],
            f"lm_head.dense.{parameter}": t[f"lm_head.dense.{parameter}"],
            f"lm_head.decoder.layer_norm_{parameter}": t[f"lm_head.norm.{parameter}"],
        }
    state["lm_head.decoder.weight"] = state["model.embeddings.word_embeddings.weight"].clone()
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    said = {
        "model_type": "nv_esm",
        "auto_map": {"AutoModel": "esm_nv.NVEsmModel"},
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.hidden,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "esm_nv.py").write_text("raise SystemExit('a model folder ran code')\n")
    return folder
