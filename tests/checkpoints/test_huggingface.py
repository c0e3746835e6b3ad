"""Hugging Face folders: every layout that exists, and every reason to refuse one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from aminoglot.checkpoints import Checkpoint, resolve
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import ESM2
from tests.checkpoints.foreign import GONE, PREFIX, copied, weights, with_bin, with_weights

PLACEHOLDER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 29934\n"


def refusal(folder: Path) -> str:
    """What the reader says, all of it."""
    with pytest.raises(ModelError) as raised:
        resolve(str(folder))
    return str(raised.value)


# ---------------------------------------------------------------------------------------------------------- layouts


def sharded(folder: Path, to: Path, *, safe: bool = True) -> Path:
    """A copy of a folder with its weights in several parts and an index."""
    copied(folder, to)
    (to / "model.safetensors").unlink()
    save_torch_state_dict(weights(folder), to, max_shard_size="20KB", safe_serialization=safe)
    return to


def one_bin(folder: Path, to: Path) -> Path:
    return with_bin(folder, to, weights(folder))


def legacy_bin(folder: Path, to: Path) -> Path:
    """As torch wrote files before 1.6: no zip, so nothing can be mapped."""
    return with_bin(folder, to, weights(folder), zipped=False)


def bin_with_more(folder: Path, to: Path) -> Path:
    """Training loops leave counters among the tensors."""
    return with_bin(folder, to, {**weights(folder), "steps": 500_000})


def tied_twice(folder: Path, to: Path) -> Path:
    """Older files hold the embedding a second time, as the decoder of the head."""
    tensors = weights(folder)
    embedding = tensors["esm.embeddings.word_embeddings.weight"]
    return with_weights(folder, to, {**tensors, "lm_head.decoder.weight": embedding.clone()})


def with_what_old_files_hold(folder: Path, to: Path) -> Path:
    more = {
        "esm.embeddings.position_embeddings.weight": torch.ones(1026, 32),
        "esm.embeddings.position_ids": torch.arange(1026)[None],
        "lm_head.decoder.bias": torch.zeros(33),
    }
    return with_weights(folder, to, {**weights(folder), **more})


def frequencies_moved(folder: Path, to: Path, *keys: str, dtype: torch.dtype = torch.float32) -> Path:
    tensors = weights(folder)
    old = [key for key in tensors if key.endswith("inv_freq")]
    values = tensors[old[0]]
    for key in old:
        del tensors[key]
    return with_weights(folder, to, {**tensors, **{key: values.to(dtype, copy=True) for key in keys}})


def one_key_of_frequencies(folder: Path, to: Path) -> Path:
    """New transformers: one buffer of the model."""
    return frequencies_moved(folder, to, "esm.rotary_embeddings.inv_freq")


def frequencies_in_fp16(folder: Path, to: Path) -> Path:
    keys = [f"{PREFIX}{layer}.attention.self.rotary_embeddings.inv_freq" for layer in range(2)]
    return frequencies_moved(folder, to, *keys, dtype=torch.float16)


@pytest.mark.parametrize(
    "layout",
    [
        copied,
        sharded,
        lambda folder, to: sharded(folder, to, safe=False),
        one_bin,
        legacy_bin,
        bin_with_more,
        tied_twice,
        with_what_old_files_hold,
        one_key_of_frequencies,
        frequencies_in_fp16,
    ],
)
def test_every_layout_is_the_same_model(
    layout: Callable[[Path, Path], Path], tiny: Checkpoint, tiny_folder: Path, tmp_path: Path
) -> None:
    found = resolve(str(layout(tiny_folder, tmp_path / "hf")))
    assert found.notes == ()
    assert found.tensors.keys() == tiny.tensors.keys()
    for key, tensor in tiny.tensors.items():
        assert torch.equal(found.tensors[key], tensor), key
    assert found.digest == tiny.digest


def test_the_sharded_layouts_are_sharded(tiny_folder: Path, tmp_path: Path) -> None:
    """Else the test above would say nothing about shards."""
    for safe, pattern in ((True, "model-*-of-*.safetensors"), (False, "pytorch_model-*-of-*.bin")):
        folder = sharded(tiny_folder, tmp_path / pattern[:5], safe=safe)
        assert len(list(folder.glob(pattern))) > 3
        assert len(list(folder.glob("*.index.json"))) == 1


def test_frequencies_of_the_file_are_kept(tiny_folder: Path, tmp_path: Path) -> None:
    """Released weights hold frequencies rounded to fp16; computing them anew gives other embeddings."""
    found = resolve(str(one_key_of_frequencies(tiny_folder, tmp_path / "hf")))
    exact = ESM2(found.config).frequencies
    assert torch.equal(found.tensors["frequencies"], exact.half().float())
    assert not torch.equal(found.tensors["frequencies"], exact)
    assert torch.equal(found.network().frequencies, found.tensors["frequencies"])


def test_a_file_without_frequencies_gets_exact_ones(tiny_folder: Path, tmp_path: Path) -> None:
    """transformers computes them in float32 where its file has none, and so do we."""
    found = resolve(str(frequencies_moved(tiny_folder, tmp_path / "hf")))
    assert torch.equal(found.tensors["frequencies"], ESM2(found.config).frequencies)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32_networks(
    dtype: torch.dtype, tiny: Checkpoint, tiny_folder: Path, tmp_path: Path
) -> None:
    from aminoglot.engine import Model, choose

    half = {key: tensor.to(dtype) for key, tensor in weights(tiny_folder).items() if "inv_freq" not in key}
    half["esm.rotary_embeddings.inv_freq"] = tiny.tensors["frequencies"].half()
    stored = resolve(str(with_weights(tiny_folder, tmp_path / "half", half)))
    wide = with_weights(tiny_folder, tmp_path / "wide", {key: tensor.float() for key, tensor in half.items()})
    assert stored.digest == resolve(str(wide)).digest != tiny.digest
    hardware = choose("cpu", "fp32")
    found = Model(stored, hardware).embed(["MKTAYIAK"], layer="all")
    assert found.tobytes() == Model(resolve(str(wide)), hardware).embed(["MKTAYIAK"], layer="all").tobytes()


# --------------------------------------------------------------------------------------------------------- impostors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"position_embedding_type": "absolute", "emb_layer_norm_before": True}, "this is ESM-1b", id="ESM-1b"
        ),
        pytest.param(
            {"position_embedding_type": "absolute", "emb_layer_norm_before": False}, "this is ESM-1v", id="ESM-1v"
        ),
        pytest.param({"position_embedding_type": GONE}, "this is ESM-1v", id="positions are absolute unless said"),
        pytest.param({"emb_layer_norm_before": True}, "norm before the first layer", id="rotary with a norm before"),
        pytest.param({"is_folding_model": True, "vocab_list": ["<cls>", "<pad>"]}, "this is ESMFold", id="ESMFold"),
        pytest.param(
            {"vocab_size": 4105, "position_embedding_type": "absolute"},
            r"4105 tokens \(a nucleotide transformer\?\)",
            id="nucleotide transformer",
        ),
        pytest.param({"vocab_size": 4107}, "nucleotide transformer", id="nucleotide transformer v2, which is rotary"),
        pytest.param({"vocab_list": ["<cls>", "A"]}, "another vocabulary", id="33 other tokens"),
        pytest.param({"model_type": "t5"}, "this is a T5, neither", id="T5"),
        pytest.param(
            {"model_type": "t5", "d_model": 1024, "num_layers": 24, "vocab_size": 128}, "ProtT5-XL", id="ProtT5-XL"
        ),
        pytest.param({"model_type": "bert"}, "this is a bert model", id="BERT"),
        pytest.param({"model_type": GONE}, "names no model_type", id="nameless"),
        pytest.param({"intermediate_size": 100}, "intermediate_size is 100", id="another width inside"),
        pytest.param({"hidden_act": "gelu_new"}, "hidden_act is gelu_new", id="another activation"),
        pytest.param({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12", id="another epsilon"),
    ],
)
def test_impostors_are_refused_by_name(changes: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Each has weights that would load: only what config.json says tells it apart."""
    folder = copied(tiny_folder, tmp_path / "hf", **changes)
    with pytest.raises(ModelError, match=said) as raised:
        resolve(str(folder))
    assert str(folder) in str(raised.value)


def test_token_dropout_is_off_unless_said(tiny_folder: Path, tmp_path: Path) -> None:
    """As in transformers; it decides a factor of 0.88."""
    assert resolve(str(tiny_folder)).config.token_dropout
    assert resolve(str(copied(tiny_folder, tmp_path / "hf", token_dropout=GONE))).config.token_dropout is False


# ----------------------------------------------------------------------------------------------- damaged and incomplete


@pytest.mark.parametrize(
    "text", ["", "{", '{"model_type": "esm"', "[]", "null", "3", '"esm"', PLACEHOLDER, "\udcff\udcfe"]
)
def test_a_config_that_is_none(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": GONE},
        {"hidden_size": GONE},
        {"num_attention_heads": GONE},
        {"num_hidden_layers": "two"},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_a_sentence(changes: dict[str, Any], tiny_folder: Path, tmp_path: Path) -> None:
    assert "config.json" in refusal(copied(tiny_folder, tmp_path / "hf", **changes))


def test_a_folder_without_config(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert f"{tmp_path}: no model in this folder: expected Hugging Face's config.json" in refusal(tmp_path)


def test_a_folder_without_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    assert "expected model.safetensors or pytorch_model.bin" in refusal(folder)


@pytest.mark.parametrize("safe", [True, False])
def test_a_half_downloaded_folder_names_what_is_missing(safe: bool, tiny_folder: Path, tmp_path: Path) -> None:
    folder = sharded(tiny_folder, tmp_path / "hf", safe=safe)
    parts = sorted(folder.glob("*-of-*"))
    for part in parts[1:3]:
        part.unlink()
    said = refusal(folder)
    assert f"half downloaded, 2 of {len(parts)}" in said
    assert all((part.name in said) == (part in parts[1:3]) for part in parts)


def test_an_index_reads_nothing_outside_its_folder(tiny_folder: Path, tmp_path: Path) -> None:
    """The index comes from the network; a path in it is no permission to open that path."""
    folder = copied(tiny_folder, tmp_path / "inside" / "hf")
    shutil.move(folder / "model.safetensors", tmp_path / "outside.safetensors")
    names = dict.fromkeys(weights(tiny_folder), "../../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "outside.safetensors" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"weight_map": []}', PLACEHOLDER])
def test_a_damaged_index_is_a_sentence(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 5_000, -1])
def test_truncated_safetensors(kept: int, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: cut short or damaged" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_placeholder(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(PLACEHOLDER)
    said = refusal(folder)
    assert "git-lfs placeholder" in said
    assert "git lfs pull" in said


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), "text", None, {"model": {}}], ids=repr)
def test_a_pytorch_model_that_holds_no_weights(content: object, tiny_folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "hf") in refusal(with_bin(tiny_folder, tmp_path / "hf", content))


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("esm.embeddings.word_embeddings.weight", "embedding.weight"),
        ("esm.encoder.layer.1.attention.self.value.bias", "layers.1.attention.value.bias"),
        ("esm.encoder.emb_layer_norm_after.weight", "final_norm.weight"),
        ("lm_head.layer_norm.bias", "lm_head.norm.bias"),
        ("esm.contact_head.regression.bias", "contact_head.bias"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_a_missing_or_misshapen_tensor_is_named(
    key: str, ours: str, fault: str, tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = weights(tiny_folder)
    shape = list(tensors.pop(key).shape)
    if fault == "shape":
        tensors[key] = torch.zeros(*shape, 2)
    said = refusal(with_weights(tiny_folder, tmp_path / "hf", tensors))
    assert f"{ours}: {fault}" in said
    assert said.count("\n") == 1, "only that tensor is named"


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(dtype: torch.dtype, scaled: bool, tiny_folder: Path, tmp_path: Path) -> None:
    """Their values mean something only together with scales, in this file or another, that we do not read."""
    tensors = weights(tiny_folder)
    name = f"{PREFIX}0.intermediate.dense.weight"
    tensors[name] = (16 * tensors[name]).to(dtype)
    if scaled:
        tensors[f"{name}_scale"] = torch.full((128, 1), 1 / 16)
    said = refusal(with_weights(tiny_folder, tmp_path / "hf", tensors))
    assert "layers.0.up.weight: " in said
    assert str(dtype).removeprefix("torch.") in said


def test_weights_of_more_layers_than_the_config_says(tiny_folder: Path, tmp_path: Path) -> None:
    """The lower half of a network has every tensor of a smaller one: leaving the rest out would be silent."""
    deeper: dict[str, Tensor] = weights(tiny_folder)
    deeper |= {key.replace(f"{PREFIX}1.", f"{PREFIX}2."): tensor.clone() for key, tensor in deeper.items()}
    assert "layers.2." in refusal(with_weights(tiny_folder, tmp_path / "hf", deeper))


def test_an_untied_head_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    tensors = weights(tiny_folder)
    untied = {**tensors, "lm_head.decoder.weight": tensors["esm.embeddings.word_embeddings.weight"] + 1}
    said = refusal(with_weights(tiny_folder, tmp_path / "hf", untied))
    assert "one matrix" in said
    assert str(tmp_path / "hf") in said, "every message says where"
