"""NeMo 1, NeMo 2 and TransformerEngine: every tensor to the bit, whatever way the files were laid out."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aminoglot.checkpoints import Checkpoint, convert, nemo1, resolve, safe_pickle
from aminoglot.errors import ModelError
from tests.checkpoints import nvidia
from tests.reference import randomised

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def typed(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """The same in another type; frequencies are float32 in every file."""
    tensors = {key: t if key == "frequencies" else t.to(dtype) for key, t in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


def assert_holds(found: Checkpoint, expected: Checkpoint, *absent: str, frequencies: bool = True) -> None:
    """Every tensor that the format can hold, to the bit and in its type."""
    assert found.config == expected.config
    wanted = {key for key in expected.tensors if key.split(".")[0] not in absent}
    assert found.tensors.keys() == wanted
    for key in wanted - (set() if frequencies else {"frequencies"}):
        assert found.tensors[key].dtype == expected.tensors[key].dtype, key
        assert torch.equal(found.tensors[key], expected.tensors[key]), key


def state(checkpoint: Checkpoint, **options: Any) -> dict[str, torch.Tensor]:
    write = nvidia.esm2_nemo1 if "lm_head.bias" in checkpoint.tensors else nvidia.prott5nv_nemo1
    return write(checkpoint, **options)


@TYPES
@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
@pytest.mark.parametrize("suffix", [".nemo", ".nemo.gz"])
def test_nemo1_is_read_to_the_bit(name: str, dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    start = typed(randomised(name), dtype)
    path = nvidia.nemo(tmp_path / f"model{suffix}", nvidia.settings(start), state(start))
    found = resolve(str(path))
    assert_holds(found, start, "contact_head")
    assert found.format == "nemo1"
    assert found.digest == start.digest
    assert [note for note in found.notes if "contact head" in note] or name == "prott5nv-tiny"


@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_nemo1_in_every_layout(name: str, legacy: bool, nested: bool, prefix: str, tmp_path: Path) -> None:
    start = randomised(name)
    said = nvidia.settings(start, nested=nested, **({"megatron_legacy": True} if legacy else {}))
    renamed = {prefix + key: tensor for key, tensor in state(start, legacy=legacy).items()}
    renamed["model.language_model.encoder.layers.0.self_attention._extra_state"] = torch.zeros(3)
    if name == "prott5nv-tiny":
        renamed.pop("model.language_model.encoder.layers.0.self_attention._extra_state")
    assert_holds(resolve(str(nvidia.nemo(tmp_path / "m.nemo", said, renamed))), start, "contact_head")


@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
@pytest.mark.parametrize("legacy", [False, True])
def test_slices_of_matrices_are_put_together(name: str, legacy: bool, tmp_path: Path) -> None:
    """Tensor parallel on two GPUs: each has half of the heads, of the wide layer and of the vocabulary."""
    start = randomised(name)
    whole, size = state(start, legacy=legacy), start.config.head_size

    def half(key: str, tensor: torch.Tensor, rank: int) -> torch.Tensor:
        count = 3 if "query_key_value" in key else 2 if "key_value" in key else 0
        if count and legacy:
            return torch.cat([part.chunk(2)[rank] for part in tensor.chunk(count)])
        if count or any(word in key for word in ("word_embeddings", "dense_h_to_4h", "inter_attention.query")):
            return tensor.chunk(2)[rank]
        if key.endswith(("tokens_head.bias", "lm_head.bias")):
            return tensor.chunk(2)[rank]
        if key.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            return tensor.chunk(2, 1)[rank]
        return tensor

    assert size * 2 == start.config.hidden  # two heads, so that each rank has one
    parts = [{key: half(key, tensor, rank).clone() for key, tensor in whole.items()} for rank in (0, 1)]
    said = nvidia.settings(start, **({"megatron_legacy": True} if legacy else {}))
    path = nvidia.nemo(tmp_path / "m.nemo", said, *parts, folders=("mp_rank_00/", "mp_rank_01/"))
    assert_holds(resolve(str(path)), start, "contact_head")


def test_stages_of_layers_are_put_together(tmp_path: Path) -> None:
    """Pipeline parallel: every stage counts its layers from zero, the last has the head."""
    start = randomised("esm2-tiny")
    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    for key, tensor in state(start).items():
        last = ".layers.1." in key or "final_layernorm" in key or "lm_head" in key
        (second if last else first)[key.replace(".layers.1.", ".layers.0.")] = tensor
    second["model.word_embeddings.weight"] = first["model.language_model.embedding.word_embeddings.weight"]
    folders = ("tp_rank_00_pp_rank_000/", "tp_rank_00_pp_rank_001/")
    found = resolve(str(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), first, second, folders=folders)))
    assert_holds(found, start, "contact_head")
    path = nvidia.nemo(tmp_path / "n.nemo", nvidia.settings(start), second, folders=folders[1:])
    with pytest.raises(ModelError, match="parts of the model are missing"):
        resolve(str(path))


@TYPES
@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
def test_what_we_write_is_what_nvidia_would(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Key by key and bit by bit the state that was written by hand."""
    start = typed(randomised(name), dtype)
    nemo1.write(start, tmp_path / "m.nemo")
    with tarfile.open(tmp_path / "m.nemo") as tar:
        weights, said = tar.extractfile("./model_weights.ckpt"), tar.extractfile("./model_config.yaml")
        assert weights is not None
        assert said is not None
        written, settings = torch.load(weights), yaml.safe_load(said)
    expected = state(start)
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(written[key], tensor), key
        assert written[key].dtype == tensor.dtype
    assert settings.items() >= {k: v for k, v in nvidia.settings(start).items() if k in settings}.items()
    assert_holds(resolve(str(tmp_path / "m.nemo")), start, "contact_head")


@TYPES
@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("packed", [None, "m.tar", "m.tar.gz"])
def test_nemo2_is_read_to_the_bit(dtype: torch.dtype, stacked: bool, packed: str | None, tmp_path: Path) -> None:
    start = typed(randomised("esm2-tiny"), dtype)
    path = nvidia.nemo2(tmp_path / "m", start, stacked=stacked)
    if packed:
        with tarfile.open(tmp_path / packed, "w:gz" if packed.endswith("gz") else "w") as tar:
            tar.add(path, arcname="esm2_tiny")
        path = tmp_path / packed
    found = resolve(str(path))
    assert_holds(found, start, "contact_head", frequencies=False)
    assert found.format == "nemo2"


def test_heads_of_a_nemo2_are_known_or_said(tmp_path: Path) -> None:
    """No tensor's shape tells how many heads there are."""
    start = randomised("esm2-tiny")
    assert resolve(str(nvidia.nemo2(tmp_path / "known", start, heads=None))).config == start.config
    other = replace(start, config=replace(start.config, heads=4))
    assert resolve(str(nvidia.nemo2(tmp_path / "said", other, heads=4))).config.heads == 4


@TYPES
@pytest.mark.parametrize("rows", [33, 64, 128])
def test_transformer_engine_is_read_to_the_bit(dtype: torch.dtype, rows: int, tmp_path: Path) -> None:
    start = typed(randomised("esm2-tiny"), dtype)
    found = resolve(str(nvidia.transformer_engine(tmp_path / "m", start, rows)))
    assert_holds(found, start, "contact_head", frequencies=False)
    assert found.format == "transformer-engine"


@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
def test_through_every_format_and_back(name: str, tmp_path: Path) -> None:
    start = resolve(f"random:{name}")
    convert(f"random:{name}", tmp_path / "a.nemo", "nemo1")
    convert(str(tmp_path / "a.nemo"), tmp_path / "hf", "huggingface")
    convert(str(tmp_path / "hf"), tmp_path / "b.nemo", "nemo1")
    source = tmp_path / "b.nemo"
    if name == "esm2-tiny":
        convert(str(source), tmp_path / "esm2_c.pt", "fair-esm")
        source = tmp_path / "esm2_c.pt"
    assert_holds(resolve(str(source)), start, "contact_head")


def test_pegasus_is_read_to_the_bit(tmp_path: Path) -> None:
    start = randomised("prott5nv-tiny")
    convert_from = tmp_path / "start.nemo"
    nemo1.write(start, convert_from)
    convert(str(convert_from), tmp_path / "hf", "huggingface")
    assert_holds(resolve(str(tmp_path / "hf")), start)


def test_mapped_and_read_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch's way to see a file's outline, everything is read; the weights are the same."""
    start = randomised("esm2-tiny")
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), state(start))
    mapped = resolve(str(path))
    monkeypatch.setattr(safe_pickle, "_outline", lambda _: None)
    read = resolve(str(path))
    assert_holds(read, mapped)
    storages = {tensor.untyped_storage().data_ptr() for tensor in mapped.tensors.values()}
    assert len(storages) < len({tensor.untyped_storage().data_ptr() for tensor in read.tensors.values()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position_embedding_type": "learned_absolute"}, "ESM-1nv"),
        ({"normalization": "rmsnorm"}, "normalization is 'rmsnorm'"),
        ({"num_layers": 3}, "layers.2"),
        ({"num_attention_heads": 0}, "heads"),
        ({"hidden_size": "wide", "ffn_hidden_size": None}, "hidden size"),
        ({"ffn_hidden_size": 31}, "ffn_hidden_size is 31"),
    ],
)
def test_another_model_is_refused_by_name(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    start = randomised("esm2-tiny")
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start, **changes), state(start))
    with pytest.raises(ModelError, match=said):
        resolve(str(path))


def test_other_t5s_are_refused_by_name(tmp_path: Path) -> None:
    start = randomised("prott5nv-tiny")
    said = nvidia.settings(start, position_embedding_type="relative")
    with pytest.raises(ModelError, match="a T5 with relative positions"):
        resolve(str(nvidia.nemo(tmp_path / "m.nemo", said, state(start))))
