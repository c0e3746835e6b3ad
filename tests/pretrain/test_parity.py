"""Twenty updates beside transformers': the same losses, the same gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EsmForMaskedLM, PegasusForConditionalGeneration

from aminoglot.checkpoints import Checkpoint, write
from aminoglot.checkpoints.huggingface import KEYS
from aminoglot.checkpoints.pegasus import KEYS as PEGASUS
from aminoglot.corpus import Corpus
from aminoglot.models.family import family_of
from aminoglot.pretrain.batching import updates
from aminoglot.pretrain.config import RunConfig
from aminoglot.pretrain.loop import Made, Trainer
from aminoglot.pretrain.objective import objective_for, samples_for
from aminoglot.pretrain.optimizer import build
from aminoglot.pretrain.parallel import World
from aminoglot.pretrain.start import start
from aminoglot.pretrain.state import Progress
from tests.pretrain.helpers import config

HERE = World(0, 1, torch.device("cpu"))
STEPS = 20
TOLERANCE = 1e-4


class Watched(Trainer):
    """Keeps the gradients of every update, before they are clipped."""

    def _norm(self) -> float:
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.objective.network.named_parameters()
            if parameter.grad is not None
        }
        return super()._norm()


def ours(asked: RunConfig, corpus: Corpus) -> tuple[Any, Iterator[tuple[Made, dict[str, torch.Tensor]]]]:
    """The network as it begins, and what each update made of it."""
    network, _ = start(asked.model, asked.seed)
    objective = objective_for(network)
    samples = samples_for(network, corpus, "train", asked.seed)
    trainer = Watched(asked, objective, objective, build(network, asked.optimizer), samples, HERE)
    return network, ((made, trainer.gradients) for _, made in trainer.run(Progress()))


def saved(network: Any, folder: Path) -> Path:
    tensors = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    write(Checkpoint("x", "trained", network.config, tensors), folder, "huggingface")
    return folder


def optimizer_of(model: torch.nn.Module, asked: RunConfig) -> torch.optim.AdamW:
    """AdamW as people write it, matrices decaying and the rest not."""
    deep = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    flat = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    part = asked.optimizer
    groups = [{"params": deep, "weight_decay": part.decay}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=part.rate, betas=part.betas, eps=part.epsilon)


def padded(rows: list[np.ndarray[Any, Any]], fill: int) -> torch.Tensor:
    out = torch.full((len(rows), max(map(len, rows))), fill)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = torch.from_numpy(values.astype(np.int64))
    return out


def backward(model: Any, optimizer: Any, inputs: dict[str, torch.Tensor]) -> float:
    """Loss and gradients."""
    optimizer.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return float(loss.detach())


def step(model: Any, optimizer: Any, asked: RunConfig, number: int) -> None:
    """Clip, and step at our schedule's rate."""
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], asked.optimizer.clip)
    for group in optimizer.param_groups:
        group["lr"] = asked.rates().rate(number)
    optimizer.step()


def compare(gradients: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for key, mine in gradients.items():
        other = theirs[key]
        scale = max(1e-3, float(other.abs().max()))
        assert float((mine - other).abs().max()) <= TOLERANCE * scale, key


def renamed(model: Any, network: Any) -> dict[str, torch.Tensor]:
    """Their gradients under our names."""
    table = KEYS if hasattr(network, "lm_head") else PEGASUS
    parameters = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {}
    for name, gradient in parameters.items():
        mine = table.ours(name)
        if mine is not None:
            found[mine] = gradient
    return found


@pytest.mark.parametrize("at_once", [1_000, 10_000])
def test_esm2(at_once: int, corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, batch={"tokens": 2_000, "at_once": at_once}, schedule={"updates": STEPS})
    network, made = ours(asked, corpus)
    model = EsmForMaskedLM.from_pretrained(saved(network, tmp_path / "start"), attn_implementation="eager").train()
    optimizer = optimizer_of(model, asked)
    samples = samples_for(network, corpus, "train", asked.seed)
    stream = updates(samples, None, 2_000)
    for number, (mine, gradients) in enumerate(made, 1):
        update = next(stream)
        batch = [samples[n] for n in range(update.first, update.next)]
        tokens = padded([one.tokens for one in batch], 1)
        inputs = {
            "input_ids": tokens,
            "attention_mask": (tokens != 1).long(),
            "labels": padded([one.labels for one in batch], -100),
        }
        loss = backward(model, optimizer, inputs)
        assert mine.scores.loss == pytest.approx(loss, abs=TOLERANCE)
        theirs = renamed(model, network)
        assert theirs.keys() == gradients.keys()
        compare(gradients, theirs)
        step(model, optimizer, asked, number)
    assert number == STEPS


def test_prott5nv(t5_corpus: Corpus, tmp_path: Path) -> None:
    """But for positions and the last bias, which their class does not train: ours are held still."""
    asked = config(t5_corpus, schedule={"updates": STEPS})
    network, made = ours(asked, t5_corpus)
    network.positions.requires_grad_(False)
    network.decoder.bias.requires_grad_(False)
    model = PegasusForConditionalGeneration.from_pretrained(saved(network, tmp_path / "start")).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.dropout = model.config.attention_dropout = 0.0
    for module in model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    optimizer = optimizer_of(model, asked)
    samples = samples_for(network, t5_corpus, "train", asked.seed)
    stream = updates(samples, None, 2_000)
    for number, (mine, gradients) in enumerate(made, 1):
        update = next(stream)
        batch = [samples[n] for n in range(update.first, update.next)]
        tokens = padded([one.tokens for one in batch], 3)
        decoder = padded([one.decoder for one in batch], 3)
        inputs = {
            "input_ids": tokens,
            "attention_mask": (tokens != 3).long(),
            "decoder_input_ids": decoder,
            "labels": padded([one.labels for one in batch], -100),
        }
        loss = backward(model, optimizer, inputs)
        assert mine.scores.loss == pytest.approx(loss, abs=TOLERANCE)
        theirs = renamed(model, network)
        assert gradients.keys() <= theirs.keys() | {"positions.weight", "decoder.bias"}
        compare({key: one for key, one in gradients.items() if key in theirs}, theirs)
        step(model, optimizer, asked, number)
    assert number == STEPS
    assert family_of(network.config).name == "ProtT5nv"
