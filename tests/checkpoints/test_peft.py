"""Adapters, beside the package peft itself: what we write it loads, what it writes we load, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft as theirs
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from aminoglot.checkpoints import Checkpoint, convert, peft, resolve
from aminoglot.checkpoints.peft import Adapter
from aminoglot.checkpoints.untrained import untrained
from aminoglot.engine.hardware import choose
from aminoglot.engine.model import Model
from aminoglot.errors import ModelError
from aminoglot.settings import Request
from tests.embedding.helpers import protein

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it

SEQUENCE = protein(25, 3)
ESM2, PROTT5NV = "esm2-tiny", "prott5nv-tiny"
ATTENTION = tuple(f"attention.{one}" for one in ("query", "key", "value"))
ALL = (*ATTENTION, "attention.output", "up", "down")


def adapter(
    of: Checkpoint, kinds: tuple[str, ...] = ATTENTION, layers: tuple[int, ...] = (0, 1), **more: Any
) -> Adapter:
    """Matrices that change something."""
    generator = torch.Generator().manual_seed(7)
    matrices = {}
    for layer in layers:
        for kind in kinds:
            outputs, inputs = of.tensors[f"layers.{layer}.{kind}.weight"].shape
            a = torch.randn(4, inputs, generator=generator) * 0.1
            matrices[f"layers.{layer}.{kind}"] = (a, torch.randn(outputs, 4, generator=generator) * 0.1)
    return Adapter(**{"base": of.name, "alpha": 8.0, "matrices": matrices, "digest": of.digest, **more})


def written(folder: Path, made: Adapter, base: Checkpoint) -> Path:
    folder.mkdir()
    peft.write(folder, made, base.config)
    return folder


def embedded(checkpoint: Checkpoint) -> np.ndarray:
    """Residues of the last layer in fp32."""
    model = Model(checkpoint, choose("cpu", "fp32", "torch"))
    request = Request("residue", (checkpoint.config.layers,), False, "mean", "truncate", 100)
    found = model.embed_cleaned([SEQUENCE.encode()], request).residue
    assert found is not None
    return found[:, 0]


def their_base(tmp_path: Path, name: str, kind: Any) -> Any:
    """transformers' network with our weights."""
    folder = tmp_path / "base"
    if not folder.exists():
        convert(f"random:{name}", folder, "huggingface")
    plain = {"add_pooling_layer": False} if kind is transformers.EsmModel else {}
    return kind.from_pretrained(folder, attn_implementation="eager", **plain).eval()


def their_residues(network: Any, name: str) -> np.ndarray:
    """What transformers, perhaps wrapped by peft, makes of the sequence; special tokens taken off."""
    base = untrained(name)
    model = Model(base, choose("cpu", "fp32", "torch"))
    ids = torch.from_numpy(model.alphabet.encode([model.alphabet.framed(SEQUENCE.encode())]).astype(np.int64))[None]
    if name == PROTT5NV:
        encoder = (
            network.get_base_model().model.encoder if hasattr(network, "get_base_model") else network.model.encoder
        )
        with torch.no_grad():
            return encoder(input_ids=ids).last_hidden_state[0].numpy()
    with torch.no_grad():
        out = network(input_ids=ids, output_hidden_states=True)
    last = out.last_hidden_state if "last_hidden_state" in out else out.hidden_states[-1]
    return last[0, 1:-1].numpy()


@pytest.mark.parametrize(
    ("name", "kind", "kinds", "layers"),
    [
        (ESM2, transformers.EsmForMaskedLM, ATTENTION, (0, 1)),
        (ESM2, transformers.EsmForMaskedLM, ALL, (0, 1)),
        (ESM2, transformers.EsmForMaskedLM, ("attention.value",), (1,)),
        (ESM2, transformers.EsmModel, ALL, (0, 1)),
        (PROTT5NV, transformers.PegasusForConditionalGeneration, ATTENTION, (0, 1)),
        (PROTT5NV, transformers.PegasusForConditionalGeneration, ALL, (0,)),
    ],
)
def test_peft_loads_what_we_write(tmp_path: Path, name: str, kind: Any, kinds: tuple[str, ...], layers: Any) -> None:
    """On transformers' network with the same weights, and it gives what ours gives with the adapter merged."""
    base = untrained(name)
    made = adapter(base, kinds, layers)
    folder = written(tmp_path / "adapter", made, base)
    network = their_base(tmp_path, name, kind)
    before = their_residues(network, name)
    if kind is transformers.EsmModel:  # the same adapter without its first word
        tensors = load_file(folder / peft.WEIGHTS)
        save_file(
            {key.replace(".esm.", "."): one for key, one in tensors.items()}, folder / peft.WEIGHTS, {"format": "pt"}
        )
    wrapped = theirs.PeftModel.from_pretrained(network, folder).eval()
    found = {n for n, module in wrapped.named_modules() if isinstance(module, theirs.tuners.lora.LoraLayer)}
    assert len(found) == len(made.matrices)
    assert not any("decoder" in n for n in found)
    ours = embedded(peft.merged(base, made))
    np.testing.assert_allclose(their_residues(wrapped, name), ours, atol=1e-5)
    assert np.abs(ours - before).max() > 0.05


@pytest.mark.parametrize(
    ("name", "kind", "targets"),
    [
        (ESM2, transformers.EsmForMaskedLM, ["query", "key", "value"]),
        (ESM2, transformers.EsmModel, ["query", "value", "dense"]),
        (PROTT5NV, transformers.PegasusForConditionalGeneration, r".*encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"),
    ],
)
@pytest.mark.parametrize("by_root", [False, True])
def test_we_load_what_peft_writes(tmp_path: Path, name: str, kind: Any, targets: Any, by_root: bool) -> None:
    """As a model, by the adapter's folder: base and adapter merged."""
    network = their_base(tmp_path, name, kind)
    settings = theirs.LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=by_root, lora_dropout=0.1)
    wrapped = theirs.get_peft_model(network, settings).eval()
    generator = torch.Generator().manual_seed(0)
    for key, one in wrapped.named_parameters():
        if "lora_" in key:
            one.data.normal_(0, 0.1, generator=generator)
    wrapped.save_pretrained(tmp_path / "theirs")
    found = resolve(tmp_path / "theirs")
    np.testing.assert_allclose(embedded(found), their_residues(wrapped, name), atol=1e-5)
    assert found.config == untrained(name).config


def test_there_and_back(tmp_path: Path) -> None:
    base = untrained(ESM2)
    made = adapter(base, ALL, by_root=True)
    found = peft.read(written(tmp_path / "a", made, base), base.config)
    assert (found.base, found.alpha, found.digest, found.by_root, found.rank) == (base.name, 8.0, base.digest, True, 4)
    assert found.scale == 4.0
    assert found.matrices.keys() == made.matrices.keys()
    for name, pair in made.matrices.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, found.matrices[name], strict=True))


def test_an_adapter_s_folder_is_a_model(tmp_path: Path) -> None:
    base = untrained(ESM2)
    made = adapter(base)
    found = resolve(written(tmp_path / "a", made, base))
    assert found.name == str(tmp_path / "a")
    assert found.digest == peft.merged(base, made).digest != base.digest
    assert found.has("lm_head")


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path) -> None:
    base = untrained(ESM2)
    other = untrained(ESM2, seed=1)
    folder = written(tmp_path / "a", adapter(other), other)
    with pytest.raises(ModelError, match="random:esm2-tiny: not the model that the adapter was trained on"):
        resolve(folder)
    with pytest.raises(ModelError, match=r"matrices that do not fit it:\n  layers\.7\.up: 5 x 6"):
        peft.merged(base, Adapter("x", 1.0, {"layers.7.up": (torch.zeros(2, 6), torch.zeros(5, 2))}))


def changed(folder: Path, **settings: Any) -> Path:
    path = folder / peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"rank_pattern": {"query": 2}}, "rank_pattern is a dict"),
        ({"alpha_pattern": {"query": 2}}, "alpha_pattern is a dict"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base model"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is a list"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', not a number"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None: write the model's name there"),
        ({"base_model_name_or_path": "."}, "is an adapter too"),
        ({"base_model_name_or_path": "random:nothing"}, "no such size"),
    ],
)
def test_what_we_cannot_apply_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    base = untrained(ESM2)
    folder = changed(written(tmp_path / "a", adapter(base), base), **settings)
    with pytest.raises(ModelError, match=said):
        resolve(folder)


def test_a_classifier_beside_it_is_not_used(tmp_path: Path) -> None:
    """What peft saves for a network with a head: the language model is whole without it."""
    base = untrained(ESM2)
    folder = changed(written(tmp_path / "a", adapter(base), base), modules_to_save=["classifier", "score"])
    expected = resolve(folder).digest
    tensors = load_file(folder / peft.WEIGHTS)
    tensors["base_model.model.classifier.out_proj.weight"] = torch.zeros(2, 32)
    save_file(tensors, folder / peft.WEIGHTS, {"format": "pt"})
    found = resolve(folder)
    assert found.digest == expected
    assert any("classifier is no part of the model" in note for note in found.notes)


def test_no_pickle(tmp_path: Path) -> None:
    base = untrained(ESM2)
    folder = written(tmp_path / "a", adapter(base), base)
    (folder / peft.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin: a pickle, which may run code"):
        resolve(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing beside adapter_config\.json"):
        resolve(folder)


@pytest.mark.parametrize("damage", ["cut", "half", "stranger", "ranks", "settings", "embedding"])
def test_damage(tmp_path: Path, damage: str) -> None:
    base = untrained(ESM2)
    folder = written(tmp_path / "a", adapter(base), base)
    weights = folder / peft.WEIGHTS
    tensors = load_file(weights)
    first = next(key for key in tensors if "lora_A" in key)
    said = {
        "cut": "cut short or damaged",
        "half": "matrices are missing",
        "stranger": "not an adapter of this model's encoder",
        "ranks": "matrices of several ranks",
        "settings": "cannot be read as JSON",
        "embedding": "lora_embedding_A",
    }[damage]
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "settings":
        (folder / peft.CONFIG).write_text("{")
    else:
        if damage == "half":
            del tensors[first]
        elif damage == "stranger":
            tensors[first.replace(".attention.", ".nothing.")] = torch.zeros(4, 32)
        elif damage == "embedding":
            tensors["base_model.model.esm.embeddings.word_embeddings.lora_embedding_A"] = torch.zeros(4, 33)
        else:
            tensors[first] = torch.zeros(3, 32)
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=said):
        resolve(folder)


def test_a_base_beside_the_adapter(tmp_path: Path) -> None:
    """A relative path may start at the adapter's folder, so that both can be moved together."""
    convert(f"random:{ESM2}", tmp_path / "base", "huggingface")
    base = resolve(tmp_path / "base")
    folder = written(tmp_path / "a", adapter(base, base="../base"), base)
    assert resolve(folder).digest == peft.merged(base, adapter(base)).digest
