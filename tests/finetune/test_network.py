"""The network under the head: the engine's own numbers, gradients in parts, windows, LoRA."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from aminoglot.checkpoints import resolve
from aminoglot.engine.hardware import choose
from aminoglot.engine.model import Model
from aminoglot.errors import InputError, JobError
from aminoglot.finetune import lora, tuning
from aminoglot.finetune.examples import Example
from aminoglot.finetune.heads import Head
from aminoglot.finetune.network import Live, OnNetwork
from aminoglot.finetune.options import Options
from aminoglot.models.linear import Linear
from aminoglot.settings import Request
from tests.embedding.helpers import protein

MODELS = ("random:esm2-tiny", "random:prott5nv-tiny")
LENGTHS = (12, 5, 30, 12, 1, 41)
TEXTS = [protein(length, seed).encode() for seed, length in enumerate(LENGTHS)]


def request(**more: object) -> Request:
    return Request(
        **{"per": "protein", "layers": (2,), "several": False, "pool": "mean", "long": "window", "limit": 20, **more}
    )  # type: ignore[arg-type]


def live(model: str, asked: Request, method: str = "lora", budget: int = 1000, **more: object) -> Live:
    options = Options(**{"model": model, "target": "x", "method": method, "precision": "fp32", **more})  # type: ignore[arg-type]
    per_residue = asked.wants_residue
    head = Head("convolution" if per_residue else "perceptron", 32, 1)
    made = tuning.live(resolve(model), head, asked, options, tuning.hardware(options))
    made.budget = budget
    return made


def examples(per_residue: bool = False, texts: Sequence[bytes] = TEXTS) -> list[Example]:
    generator = np.random.default_rng(0)
    found = []
    for number, text in enumerate(texts):
        label = generator.normal(size=len(text) if per_residue else 1)
        counted = generator.random(len(label)) < 0.7 if per_residue else np.ones(1, bool)
        counted[0] = True
        found.append(Example(str(number), text, label, counted))
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("long", ["window", "truncate"])
@pytest.mark.parametrize("layers", [(2,), (1,)])
def test_features_are_the_engine_s(model: str, per: str, long: str, layers: tuple[int]) -> None:
    """Packing, special tokens, windows and pooling are those of embedding: a head may move from one to the other."""
    asked = request(per=per, long=long, layers=layers)
    engine = Model(resolve(model), choose("cpu", "fp32", "torch"))
    expected = engine.embed_cleaned(TEXTS, asked)
    with torch.no_grad():
        found = live(model, asked).features(TEXTS)
    whole = expected.protein if per == "protein" else expected.residue
    assert whole is not None
    np.testing.assert_allclose(found.x.numpy(), whole[:, 0], atol=2e-6)
    assert found.rows == ([1] * len(TEXTS) if per == "protein" else expected.rows.tolist())


@pytest.mark.parametrize("pool", ["max", "cls"])
def test_other_pools(pool: str) -> None:
    asked = request(pool=pool)
    engine = Model(resolve(MODELS[0]), choose("cpu", "fp32", "torch"))
    expected = engine.embed_cleaned(TEXTS, asked).protein
    assert expected is not None
    with torch.no_grad():
        found = live(MODELS[0], asked).features(TEXTS).x
    np.testing.assert_allclose(found.numpy(), expected[:, 0], atol=2e-6)


def gradients(made: OnNetwork, rows: np.ndarray) -> dict[str, torch.Tensor]:
    made.module.zero_grad(set_to_none=True)
    for part in made.parts(rows):
        part.sum().backward()
    return {
        name: one.grad.clone()
        for name, one in made.module.named_parameters()
        if one.requires_grad and one.grad is not None
    }


@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_do_not_depend_on_the_parts(per: str, method: str, weighted: bool) -> None:
    """In one piece, in several, and with windows that are computed twice: the same loss, the same gradients."""
    kind = "classes" if weighted else "number"
    asked = request(per=per)
    found = []
    for budget in (1000, 25, 1):
        made_live = live(MODELS[0], asked, method, budget)
        chosen = examples(per == "residue")
        if weighted:
            chosen = [Example(e.id, e.sequence, (e.label > 0).astype(np.int64), e.counted) for e in chosen]
            made_live.head = Head(made_live.head.name, 32, 2)
        weights = torch.tensor([1.0, 3.0]) if weighted else None
        made = OnNetwork(made_live, chosen, chosen, kind, 0, weights)
        made_live.eval()
        rows = np.array([5, 0, 2, 4])
        with torch.no_grad():
            loss = made.loss(rows)
        found.append((loss, gradients(made, rows), made.validate()))
    (loss, expected, held_out), *others = found
    assert len(expected) > 10
    for other, theirs, again in others:
        torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(again, held_out, rtol=1e-5)
        assert theirs.keys() == expected.keys()
        for name, one in expected.items():
            torch.testing.assert_close(theirs[name], one, rtol=1e-3, atol=1e-6)


def test_validation_with_labels_that_weigh_nothing() -> None:
    """Proteins of a class without training labels validate nothing, in whatever part they are; alone they end it."""
    of_class = [Example(e.id, e.sequence, np.array([i % 3]), e.counted) for i, e in enumerate(examples())]
    found = []
    for budget in (1000, 1):
        made_live = live(MODELS[0], request(), budget=budget)
        made_live.head = Head("perceptron", 32, 3)
        made = OnNetwork(made_live, of_class, of_class, "classes", 0, torch.tensor([1.0, 3.0, 0.0]))
        made_live.eval()
        found.append(made.validate())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    made.held_out = of_class[2::3]
    with pytest.raises(JobError, match="no protein that validates is of a class that training has"):
        made.validate()


def test_predictions_come_in_order() -> None:
    made_live = live(MODELS[0], request(per="residue", long="truncate"), budget=40)
    chosen = examples(per_residue=True)
    made = OnNetwork(made_live, chosen, chosen, "number", 0)
    found = made.predict(chosen)
    assert [len(one) for one in found] == [min(20, length) for length in LENGTHS]
    alone = made.predict(chosen[2:3])[0]
    middle = slice(0, 20)
    np.testing.assert_allclose(found[2][middle], alone[middle], atol=1e-5)


def test_the_head_is_given_moments_of_the_untuned_network() -> None:
    made_live = live(MODELS[0], request())
    chosen = examples()
    OnNetwork(made_live, chosen, chosen, "number", 0)
    with torch.no_grad():
        x = made_live.features(TEXTS).x
    torch.testing.assert_close(made_live.head.standardise.mean_D, x.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made_live.head.standardise.spread_D, x.std(0, correction=0), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_lora_begins_with_no_change(model: str) -> None:
    plain = resolve(model).network()
    adapted = live(model, request(), adapted=("query", "output", "down")).network
    x = live(model, request(long="truncate"))
    names = [name for name, _ in lora.adapted(adapted)]
    kinds = ("attention.query", "attention.output", "down")
    assert names == [f"layers.{index}.{kind}" for index in range(2) for kind in kinds]
    with torch.no_grad():
        x.network = plain
        expected = x.features(TEXTS).x
        x.network = adapted
        assert torch.equal(x.features(TEXTS).x, expected)


def test_only_lora_and_the_head_learn() -> None:
    made = live(MODELS[0], request())
    learning = {name for name, one in made.named_parameters() if one.requires_grad}
    assert {name.rsplit(".", 1)[1] for name in learning if name.startswith("network.")} == {"lora_A", "lora_B"}
    assert len(learning) == 2 * 2 * 3 + 4
    full = live(MODELS[0], request(), "full")
    assert all(one.requires_grad for name, one in full.named_parameters() if "_head." not in name)
    assert not any(one.requires_grad for name, one in full.named_parameters() if "_head." in name)


def test_lora_goes_no_deeper_than_what_is_asked() -> None:
    """Blocks above the layer that is embedded would learn nothing."""
    names = [name for name, _ in lora.adapted(live(MODELS[0], request(layers=(1,))).network)]
    assert {name.split(".")[1] for name in names} == {"0"}
    with pytest.raises(InputError, match="nothing to adapt"):
        live(MODELS[0], request(layers=(0,)))


@pytest.mark.parametrize("model", MODELS)
def test_full_trains_no_deeper_than_what_is_asked(model: str) -> None:
    """What is above gets no gradient: it is not counted as learnt."""
    made = live(model, request(layers=(1,)), "full")
    made(TEXTS).sum().backward()
    learning = {name for name, one in made.named_parameters() if one.requires_grad}
    assert learning == {name for name, one in made.named_parameters() if one.grad is not None}
    assert any(name.startswith("network.layers.0.") for name in learning)


def test_lora_is_the_paper_s_formula() -> None:
    base = Linear(6, 4)
    made = lora.LoRA(base, rank=2, alpha=8.0, seed=1)
    nn.init.normal_(made.lora_B, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    merged = base.weight + 4.0 * made.lora_B @ made.lora_A
    torch.testing.assert_close(made(x), nn.functional.linear(x, merged, base.bias))
    assert made.lora_A.abs().max() <= 6**-0.5
    assert torch.equal(made.lora_A, lora.LoRA(base, 2, 8.0, 1).lora_A)
    assert not torch.equal(made.lora_A, lora.LoRA(base, 2, 8.0, 2).lora_A)


def test_lora_in_half_precision() -> None:
    base = Linear(6, 4).bfloat16()
    made = lora.LoRA(base, 2, 8.0, 1)
    assert made(torch.randn(3, 6)).dtype == torch.bfloat16
    assert made.lora_A.dtype == torch.float32


def test_training_is_not_in_fp16() -> None:
    with pytest.raises(InputError):
        tuning.hardware(Options(target="x", method="lora", precision="fp16", device="cpu"))


def test_the_order_of_a_batch_does_not_matter() -> None:
    made_live = live(MODELS[0], request())
    chosen = examples()
    made = OnNetwork(made_live, chosen, chosen, "number", 0)
    made_live.eval()
    rows = list(range(6))
    with torch.no_grad():
        expected = made.loss(np.array(rows))
        random.Random(0).shuffle(rows)
        torch.testing.assert_close(made.loss(np.array(rows)), expected)
