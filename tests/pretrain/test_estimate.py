"""What a run will need, beside what it needs."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from aminoglot.corpus import Corpus
from aminoglot.models import attention
from aminoglot.models.linear import train_in
from aminoglot.pretrain.batching import updates
from aminoglot.pretrain.estimate import _kept_by_products, activation_bytes, estimate
from aminoglot.pretrain.objective import objective_for, samples_for
from aminoglot.pretrain.start import start
from tests.pretrain.helpers import config


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("family", ["esm2", "prott5nv"])
def test_activations(
    family: str, half: bool, products: bool, corpus: Corpus, t5_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a sixth of what autograd keeps, with and without the kernel that keeps exponentials, of CPUs in bf16."""
    if products and (not half or family != "esm2"):
        pytest.skip("the estimate counts that kernel for bf16 and an encoder")
    if not products:
        monkeypatch.setattr("aminoglot.models.attention.choose", lambda *_: attention.by_runs)
    used = t5_corpus if family == "prott5nv" else corpus
    asked = config(used, model={"family": family, "layers": 4, "hidden": 128, "heads": 4})
    network, _ = start(asked.model, 0)
    train_in(network, "bf16" if half else "fp32")
    objective = objective_for(network)
    samples = samples_for(network, used, "train", 0)
    (update,) = islice(updates(samples, None, 8_000), 1)
    batch = objective.batch([samples[n] for n in range(update.first, update.next)], torch.device("cpu"))
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # else another may get its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(batch)
    expected = activation_bytes(objective, batch, half, False)
    if products:
        expected += _kept_by_products(network.config, np.array(batch.source.lengths), False)
    assert expected == pytest.approx(sum(kept.values()), rel=1 / 6)


def test_tokens_and_epochs(corpus: Corpus) -> None:
    asked = config(corpus, batch={"tokens": 2_000, "at_once": 1_000}, schedule={"updates": 200})
    shape = asked.model.shape()
    assert shape is not None
    found = estimate(asked, shape, corpus, False)
    samples = samples_for(start(asked.model, 0)[0], corpus, "train", 0)
    made = list(islice(updates(samples, None, 2_000), 200))
    assert found.proteins == pytest.approx(made[-1].next / 200, rel=0.05)
    assert found.epochs == pytest.approx(made[-1].next / len(samples), rel=0.05)
    assert found.parameters == sum(one.numel() for one in start(asked.model, 0)[0].parameters())
    assert found.state_bytes == 16 * found.parameters
