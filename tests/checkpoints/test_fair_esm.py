"""fair-esm's files: what lies beside them, what they may lack, and what only looks like one."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aminoglot.checkpoints import Checkpoint, fair_esm, resolve
from aminoglot.engine import Model, choose
from aminoglot.errors import ModelError
from tests.checkpoints.foreign import settings, state


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        resolve(str(path))
    return str(raised.value)


def test_the_contact_regression_lies_beside(tiny: Checkpoint, tiny_pt: Path) -> None:
    found = resolve(str(tiny_pt))
    assert fair_esm.regression_path(tiny_pt).name == "esm2_tiny-contact-regression.pt"
    assert torch.equal(found.tensors["contact_head.weight"], tiny.tensors["contact_head.weight"])
    assert found.notes == ()


def test_without_contact_regression_contacts_say_which_file_to_get(
    tiny: Checkpoint, tiny_pt: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_pt, tmp_path / "esm2_alone.pt")
    found = resolve(str(tmp_path / "esm2_alone.pt"))
    assert found.digest == tiny.digest
    assert found.notes == (
        "no contact head in this checkpoint: contacts are not available "
        "(put esm2_alone-contact-regression.pt beside it)",
    )
    model = Model(found, choose("cpu", "fp32"))
    assert model.embed(["MKT"]).shape == (1, 32)
    assert model.logits(["MKT"])[0].shape == (3, 33)
    with pytest.raises(ModelError, match=r"no contact head in this checkpoint: contacts are not available \(put"):
        model.contacts(["MKT"])


def test_half_precision_files(tiny: Checkpoint, tiny_pt: Path, tmp_path: Path) -> None:
    """All released files but the smallest are fp16."""
    half = {key: tensor.half() for key, tensor in state(tiny_pt).items()}
    found = resolve(str(written(tmp_path / "esm2_half.pt", {"cfg": {"model": settings()}, "model": half})))
    assert found.tensors["embedding.weight"].dtype == torch.float16
    assert torch.equal(found.tensors["frequencies"], tiny.tensors["frequencies"])
    network = Model(found, choose("cpu", "fp32")).embed(["MKT"])
    assert network.dtype == "float32"
    widened = {key: tensor.float() for key, tensor in half.items()}
    wide = resolve(str(written(tmp_path / "esm2_wide.pt", {"cfg": {"model": settings()}, "model": widened})))
    assert found.digest == wide.digest
    assert network.tobytes() == Model(wide, choose("cpu", "fp32")).embed(["MKT"]).tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(
            {
                "args": argparse.Namespace(arch="roberta_large"),
                "model": {"encoder.sentence_encoder.emb_layer_norm_before.weight": torch.ones(4)},
            },
            "ESM-1b",
            id="ESM-1b",
        ),
        pytest.param(
            # the architecture of ESM-1v has ESM-1b's name; it lacks the norm before the first layer
            {
                "args": argparse.Namespace(arch="roberta_large"),
                "model": {"encoder.sentence_encoder.embed_tokens.weight": torch.ones(33, 4)},
            },
            "ESM-1v",
            id="ESM-1v",
        ),
        pytest.param({"args": argparse.Namespace(arch="protein_bert_base"), "model": {}}, "ESM-1", id="ESM-1"),
        pytest.param({"args": argparse.Namespace(arch="msa_transformer"), "model": {}}, "MSA Transformer", id="MSA"),
        pytest.param({"args": argparse.Namespace(), "model": {}}, "an older model", id="no architecture"),
        pytest.param({"model": {}}, "an older model", id="no args"),
        pytest.param(
            {"cfg": {"model": settings()}, "model": {"encoder.embed_positions.weight": torch.ones(3)}},
            "ESM-1b or ESM-1v",
            id="ESM-1b keys",
        ),
        pytest.param(
            {"cfg": {"model": settings()}, "model": {"encoder.emb_layer_norm_before.bias": torch.ones(3)}},
            "ESM-1b or ESM-1v",
            id="ESM-1b norm",
        ),
    ],
)
def test_older_models_are_refused_by_name(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "esm_old.pt", content)
    answer = refusal(path)
    assert answer.startswith(f"{path}: this is ")
    assert said in answer
    assert "not an ESM-2" in answer


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.ones(2),
        {"weights": 1},
        {"cfg": {}, "model": {}},
        {"cfg": [], "model": {}},
        {"cfg": argparse.Namespace(model=settings()), "model": {}},
        {"cfg": {"model": None}, "model": {}},
        {"cfg": {"model": {"encoder_layers": 2}}, "model": {}},
        {"cfg": {"model": settings()}, "model": [1]},
        {"cfg": {"model": settings()}, "model": {"encoder.embed_tokens.weight": "text"}},
        {"cfg": {"model": settings()}, "model": {1: torch.ones(1)}},
        {"cfg": {"model": settings(encoder_attention_heads=3)}, "model": {}},
        {"cfg": {"model": settings(encoder_layers="two")}, "model": {}},
    ],
    ids=repr,
)
def test_what_only_looks_like_one_is_a_sentence(content: object, tmp_path: Path) -> None:
    path = written(tmp_path / "esm2_odd.pt", content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"weights": 1},
        {"model": {"contact_head.regression.weight": torch.ones(1, 4)}},
        {"model": {"contact_head.regression.weight": torch.ones(1, 3), "contact_head.regression.bias": torch.ones(1)}},
    ],
    ids=repr,
)
def test_a_contact_regression_that_is_none_is_a_sentence(content: object, tiny_pt: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_pt, tmp_path / "esm2_tiny.pt")
    torch.save(content, tmp_path / "esm2_tiny-contact-regression.pt")
    assert str(tmp_path / "esm2_tiny") in refusal(tmp_path / "esm2_tiny.pt")


def test_weights_of_more_layers_than_the_settings_say(tiny_pt: Path, tmp_path: Path) -> None:
    """The lower half of a network has every tensor of a smaller one: leaving the rest out would be silent."""
    path = written(tmp_path / "esm2_low.pt", {"cfg": {"model": settings(encoder_layers=1)}, "model": state(tiny_pt)})
    assert "layers.1." in refusal(path)


def test_a_missing_tensor_is_named(tiny_pt: Path, tmp_path: Path) -> None:
    model = state(tiny_pt)
    del model["encoder.layers.1.fc1.bias"]
    path = written(tmp_path / "esm2_less.pt", {"cfg": {"model": settings()}, "model": model})
    assert "layers.1.up.bias: missing" in refusal(path)


def test_an_untied_head_is_refused(tiny_pt: Path, tmp_path: Path) -> None:
    model = state(tiny_pt)
    model["encoder.lm_head.weight"] = model["encoder.lm_head.weight"] + 1
    path = written(tmp_path / "esm2_untied.pt", {"cfg": {"model": settings()}, "model": model})
    assert "one matrix" in refusal(path)
