"""What a run begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aminoglot.checkpoints import Checkpoint, resolve, write
from aminoglot.errors import ModelError
from aminoglot.models.esm2 import ESM2Config
from aminoglot.models.prott5nv import ProtT5nv, ProtT5nvConfig
from aminoglot.pretrain.config import ModelPart, OptimizerPart
from aminoglot.pretrain.optimizer import build
from aminoglot.pretrain.start import drawn, start

SMALL = ModelPart(family="esm2", layers=3, hidden=64, heads=4)


def test_drawn_weights_are_of_the_seed() -> None:
    """The same for a seed, whatever else was drawn before."""
    one, other = (start(SMALL, 5)[0].state_dict() for _ in range(2))
    torch.rand(7)
    assert all(torch.equal(one[key], other[key]) for key in one)
    third = start(SMALL, 6)[0].state_dict()
    assert not torch.equal(one["layers.0.up.weight"], third["layers.0.up.weight"])
    assert not torch.equal(one["layers.0.up.weight"], one["layers.1.up.weight"])


@pytest.mark.parametrize(
    ("config", "standard"), [(ESM2Config(3, 128, 4), 0.02), (ProtT5nvConfig(3, 128, 4), 0.015)], ids=["esm2", "t5"]
)
def test_drawn_weights_are_as_wide_as_bionemos(config: ESM2Config | ProtT5nvConfig, standard: float) -> None:
    """What is added to the residual stream starts smaller, by the square root of how often."""
    tensors = drawn(config, 0)
    for key, share in (("up.weight", 1.0), ("attention.query.weight", 1.0), ("down.weight", 6**-0.5)):
        assert float(tensors[f"layers.1.{key}"].std()) == pytest.approx(standard * share, rel=0.03)
    assert float(tensors["layers.1.attention.output.weight"].std()) == pytest.approx(standard * 6**-0.5, rel=0.03)
    assert float(tensors["embedding.weight"].std()) == pytest.approx(standard, rel=0.05)
    assert bool((tensors["layers.0.attention_norm.weight"] == 1).all())
    assert not tensors["layers.0.up.bias"].any()


def test_matrices_decay_and_the_rest_does_not() -> None:
    network, _ = start(SMALL, 0)
    names = {parameter: name for name, parameter in network.named_parameters()}
    (optimizer,) = build(network, OptimizerPart(rate=1e-3, decay=0.1))
    decayed = {group["weight_decay"]: {names[one] for one in group["params"]} for group in optimizer.param_groups}
    assert set(decayed) == {0.1, 0.0}
    assert all(name.endswith(".bias") or "norm." in name for name in decayed[0.0])
    assert not any(name.endswith(".bias") or "norm." in name for name in decayed[0.1])
    assert "embedding.weight" in decayed[0.1]
    assert set(names.values()) == decayed[0.1] | decayed[0.0]


def test_muon_takes_the_blocks_matrices() -> None:
    network, _ = start(SMALL, 0)
    names = {parameter: name for name, parameter in network.named_parameters()}
    adamw, muon = build(network, OptimizerPart(rate=1e-3, name="muon"))
    taken = {names[one] for group in muon.param_groups for one in group["params"]}
    assert taken == {name for name in names.values() if name.startswith("layers.") and name.endswith("weight")} - {
        name for name in names.values() if "norm" in name
    }
    rest = {names[one] for group in adamw.param_groups for one in group["params"]}
    assert taken | rest == set(names.values())
    assert not taken & rest


def test_weights_of_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    """Training changes neither the file nor another's tensors."""
    write(resolve("random:esm2-tiny"), tmp_path / "model", "huggingface")
    network, notes = start(ModelPart(start=str(tmp_path / "model")), 0)
    with torch.no_grad():
        network.embedding.weight.zero_()
    assert resolve(tmp_path / "model").tensors["embedding.weight"].any()
    assert notes == [f"the contact head of {tmp_path / 'model'} is left out: it would not fit the weights to come"]


def test_a_missing_head_is_drawn(tmp_path: Path) -> None:
    checkpoint = resolve("random:esm2-tiny")
    tensors = {key: one for key, one in checkpoint.tensors.items() if not key.startswith(("lm_head", "contact_head"))}
    write(replace(checkpoint, tensors=tensors), tmp_path / "model", "huggingface")
    network, notes = start(ModelPart(start=str(tmp_path / "model")), 0)
    assert notes == [f"{tmp_path / 'model'} has no language-model head: a new one is trained"]
    assert network.state_dict()["lm_head.dense.weight"].any()
    assert torch.equal(network.state_dict()["layers.0.up.weight"], tensors["layers.0.up.weight"])


def language_model(path: Path, rows: int) -> dict[str, torch.Tensor]:
    """A T5 of ProtT5nv's kind with more tokens, as NeMo saves it."""
    config = ProtT5nvConfig(2, 32, 2)
    tensors = drawn(config, 0)
    tensors["embedding.weight"] = torch.randn(rows, 32)
    tensors["decoder.bias"] = torch.randn(rows)
    write(Checkpoint("language", "nemo1", config, tensors), path, "nemo1")
    return tensors


@pytest.mark.parametrize("rows", [128, 29_184])
def test_a_t5_of_another_language(rows: int, tmp_path: Path) -> None:
    """Its first 128 tokens become ours; all else stays."""
    tensors = language_model(tmp_path / "t5.nemo", rows)
    network, _ = start(ModelPart(start=str(tmp_path / "t5.nemo"), language=True), 0)
    assert isinstance(network, ProtT5nv)
    found = network.state_dict()
    for key, tensor in tensors.items():
        expected = tensor[:128] if key in ("embedding.weight", "decoder.bias") else tensor
        assert torch.equal(found[key], expected), key
    if rows > 128:
        with pytest.raises(ModelError, match="29,184 tokens are the vocabulary of another model"):
            start(ModelPart(start=str(tmp_path / "t5.nemo")), 0)


def test_a_language_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file; a \.nemo of a T5 is wanted"):
        start(ModelPart(start=str(tmp_path / "none.nemo"), language=True), 0)
    write(resolve("random:esm2-tiny"), tmp_path / "esm2.nemo", "nemo1")
    with pytest.raises(ModelError, match="no T5"):
        start(ModelPart(start=str(tmp_path / "esm2.nemo"), language=True), 0)
