"""NeMo 1, NeMo 2 and TransformerEngine: every tensor to the bit, whatever way the files were laid out."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from aminoglot.checkpoints import Checkpoint, convert, nemo1, resolve
from aminoglot.engine import Model, choose
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
    for key in list(renamed):  # TransformerEngine's, beside every module
        renamed[f"{key.rpartition('.')[0]}._extra_state"] = torch.zeros(3)
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


def test_weights_are_mapped(tmp_path: Path) -> None:
    start = randomised("esm2-tiny")
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), state(start))
    mapped = resolve(str(path))
    places = sorted(tensor.data_ptr() for key, tensor in mapped.tensors.items() if ".down." in key or ".up." in key)
    assert places[-1] - places[0] < path.stat().st_size, "in the one mapped file; what is taken apart is copied"
    assert all(tensor.untyped_storage().nbytes() < path.stat().st_size / 2 for tensor in mapped.tensors.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position_embedding_type": "learned_absolute"}, "ESM-1nv"),
        ({"normalization": "rmsnorm"}, "normalization is 'rmsnorm'"),
        ({"num_layers": 3}, "layers.2"),
        ({"num_attention_heads": 0}, "heads"),
        ({"hidden_size": "wide", "ffn_hidden_size": None}, "'wide' as its width"),
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
    with pytest.raises(ModelError, match="not ProtT5nv but a T5 with 'relative' positions"):
        resolve(str(nvidia.nemo(tmp_path / "m.nemo", said, state(start))))


@TYPES
def test_what_was_mapped_is_written_without_its_surroundings(dtype: torch.dtype, tmp_path: Path) -> None:
    """From one mapped archive to another, and to a .pt: no file holds what lay beside a tensor."""
    start = typed(randomised("esm2-tiny"), dtype)
    first = nvidia.nemo(tmp_path / "a.nemo", nvidia.settings(start), state(start))
    for name, to in (("b.nemo", "nemo1"), ("esm2_c.pt", "fair-esm"), ("hf", "huggingface")):
        convert(str(first), tmp_path / name, to)  # type: ignore[arg-type]
        assert_holds(resolve(str(tmp_path / name)), start, "contact_head", frequencies=False)
    for name in ("b.nemo", "esm2_c.pt"):
        assert (tmp_path / name).stat().st_size < 1.3 * first.stat().st_size


@pytest.mark.parametrize("old", [False, True])
def test_a_nemo2_in_pieces_is_put_together(old: bool, tmp_path: Path) -> None:
    start = randomised("esm2-tiny")
    found = resolve(str(nvidia.nemo2_in_pieces(tmp_path / "m", start, old=old)))
    assert_holds(found, start, "contact_head", frequencies=False)


def test_pieces_that_overlap_are_refused(tmp_path: Path) -> None:
    """They have as many numbers as the whole, and leave parts of it unwritten."""
    with pytest.raises(ModelError, match="do not make"):
        resolve(str(nvidia.nemo2_in_pieces(tmp_path / "m", randomised("esm2-tiny"), twice=True)))


def test_stages_and_slices_at_once(tmp_path: Path) -> None:
    """A ProtT5nv on two times two GPUs; both of its stacks are cut into stages."""
    start = randomised("prott5nv-tiny")
    parts: dict[tuple[int, int], dict[str, torch.Tensor]] = {(t, p): {} for t in (0, 1) for p in (0, 1)}
    for key, tensor in state(start).items():
        stage = 1 if ".layers.1." in key or "final_layernorm" in key or "tokens_head" in key else 0
        rows = any(
            word in key for word in ("word_embeddings", "dense_h_to_4h", "query", "key_value", "tokens_head.bias")
        )
        columns = key.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
        for rank in (0, 1):
            part = tensor.chunk(2)[rank] if rows else tensor.chunk(2, 1)[rank] if columns else tensor
            parts[rank, stage][key.replace(".layers.1.", ".layers.0.")] = part.clone()
    folders = tuple(f"tp_rank_0{rank}_pp_rank_00{stage}/" for rank, stage in parts)
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), *parts.values(), folders=folders)
    assert_holds(resolve(str(path)), start)


@pytest.mark.parametrize("positions", [256, 1024])
@pytest.mark.filterwarnings("ignore:.*truncated")
def test_other_numbers_of_positions(positions: int, tmp_path: Path) -> None:
    """What has fewer takes shorter proteins; what has more keeps to the model card."""
    start = randomised("prott5nv-tiny")
    table = torch.randn(positions, start.config.hidden)
    start = replace(
        start,
        config=replace(start.config, positions=positions),
        tensors={**start.tensors, "positions.weight": table},
    )
    found = resolve(str(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), state(start))))
    assert_holds(found, start)
    model = Model(found, choose("cpu", "fp32", "torch"))
    assert model.limit == min(positions, 512)
    (rows,) = model.embed(["MK" * 300], per="residue")
    assert rows.shape == (min(positions, 512), 32)


@pytest.mark.parametrize("name", ["esm2-tiny", "prott5nv-tiny"])
def test_the_vocabulary_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    """NeMo's T5 of natural language has ProtT5nv's very shape, and 29,000 tokens."""
    start = randomised(name)
    wide = {
        key: nvidia.padded(tensor, 29_184) if "word_embeddings" in key or key.endswith("head.bias") else tensor
        for key, tensor in state(start).items()
    }
    with pytest.raises(ModelError, match="29,184 tokens are the vocabulary of another model"):
        resolve(str(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), wide)))


def test_a_decoder_with_tables_of_its_own_is_refused(tmp_path: Path) -> None:
    start = randomised("prott5nv-tiny")
    for table in ("word", "position"):
        key = f"enc_dec_model.decoder_embedding.{table}_embeddings.weight"
        other = {**state(start), key: state(start)[key] + 1}
        path = nvidia.nemo(tmp_path / f"{table}.nemo", nvidia.settings(start), other)
        with pytest.raises(ModelError, match=f"{table}_embeddings.weight differs"):
            resolve(str(path))


def test_slices_of_two_models_are_refused(tmp_path: Path) -> None:
    """What every GPU has whole has to be the same on all of them."""
    start = randomised("esm2-tiny")
    key = "model.language_model.encoder.final_layernorm.weight"
    other = {**state(start), key: state(start)[key] + 1}
    path = nvidia.nemo(
        tmp_path / "m.nemo", nvidia.settings(start), state(start), other, folders=("mp_rank_00/", "mp_rank_01/")
    )
    with pytest.raises(ModelError, match="not of one model"):
        resolve(str(path))


@pytest.mark.parametrize("line", ["  normalization: RMSNorm", "  gated_linear_unit: true"])
def test_a_nemo2_of_another_model_is_refused(line: str, tmp_path: Path) -> None:
    path = nvidia.nemo2(tmp_path / "m", randomised("esm2-tiny"))
    said = path / "context/model.yaml"
    said.write_text(said.read_text() + line + "\n")
    with pytest.raises(ModelError, match=line.split(":")[0].strip()):
        resolve(str(path))


def test_token_dropout_of_a_nemo2(tmp_path: Path) -> None:
    path = nvidia.nemo2(tmp_path / "m", randomised("esm2-tiny"))
    said = path / "context/model.yaml"
    said.write_text(said.read_text() + "  token_dropout: false\n")
    assert not resolve(str(path)).config.token_dropout


def test_a_bert_with_learned_positions_is_no_esm2(tmp_path: Path) -> None:
    """Its settings may say nothing of positions; its weights do."""
    start = randomised("esm2-tiny")
    said = nvidia.settings(start)
    del said["position_embedding_type"]
    learned = {"model.language_model.embedding.position_embeddings.weight": torch.zeros(1024, 32)}
    with pytest.raises(ModelError, match="ESM-1nv"):
        resolve(str(nvidia.nemo(tmp_path / "m.nemo", said, state(start) | learned)))


def test_weights_twice_are_refused(tmp_path: Path) -> None:
    start = randomised("esm2-tiny")
    twice = {**state(start), **{f"module.{key}": tensor for key, tensor in state(start).items()}}
    with pytest.raises(ModelError, match="twice"):
        resolve(str(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), twice)))
    path = nvidia.nemo(
        tmp_path / "n.nemo", nvidia.settings(start), state(start), state(start), folders=("", "mp_rank_00/")
    )
    with pytest.raises(ModelError, match="twice"):
        resolve(str(path))


def test_an_archive_of_a_folder(tmp_path: Path) -> None:
    """Somebody unpacked it, and packed the folder again."""
    start = randomised("esm2-tiny")
    with tarfile.open(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(start), state(start))) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert_holds(resolve(str(tmp_path / "unpacked")), start, "contact_head")
    with tarfile.open(tmp_path / "n.nemo", "w") as tar:
        tar.add(tmp_path / "unpacked", "esm2nv")
    assert_holds(resolve(str(tmp_path / "n.nemo")), start, "contact_head")


@pytest.mark.parametrize("kind", ["nemo1", "nemo2", "transformer-engine"])
def test_a_head_of_its_own_is_refused(kind: str, tmp_path: Path) -> None:
    """In ESM-2 the last matrix is the embedding; another one would be left out in silence."""
    start = randomised("esm2-tiny")
    other = torch.ones(128, start.config.hidden)
    if kind == "nemo1":
        path = nvidia.nemo(
            tmp_path / "m", nvidia.settings(start), {**state(start), "model.word_embeddings.weight": other}
        )
    elif kind == "nemo2":
        path = nvidia.nemo2(tmp_path / "m", start, more={"module.output_layer.weight": other})
    else:
        path = nvidia.transformer_engine(tmp_path / "m", start, 128)
        weights = load_file(path / "model.safetensors")
        save_file({**weights, "lm_head.decoder.weight": other}, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="differs from the embedding"):
        resolve(str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_weight_interleaved": False},
        {"vocab_size": 4107},
        {"hidden_act": "silu"},
        {"intermediate_size": 31},
        {"position_embedding_type": "absolute"},
    ],
)
def test_another_transformer_engine_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = nvidia.transformer_engine(tmp_path / "m", randomised("esm2-tiny"), **changes)
    with pytest.raises(ModelError, match=next(iter(changes))):
        resolve(str(path))


@pytest.mark.parametrize("change", [{"scale_embedding": True}, {"vocab_size": 96103}, {"d_model": 1 << 60}])
def test_another_pegasus_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    convert("random:prott5nv-tiny", tmp_path / "hf", "huggingface")
    said = tmp_path / "hf/config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), **change}))
    with pytest.raises(ModelError, match=next(iter(change)).replace("d_model", "encoder_ffn_dim|width")):
        resolve(str(tmp_path / "hf"))
