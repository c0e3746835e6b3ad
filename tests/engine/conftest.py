"""Two small models, and transformers' model with the same weights to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, EsmForMaskedLM, PreTrainedTokenizerBase

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine import Model, choose
from aminoglot.engine.hardware import Backend
from tests.reference import randomised, transformers_model

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """transformers' ESM-2, one protein at a time, so that nothing of its batching can agree with ours by accident."""

    network: EsmForMaskedLM
    tokenizer: PreTrainedTokenizerBase

    def ids(self, text: str) -> list[int]:
        """Token ids of the residues alone."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def framed(self, text: str) -> list[int]:
        return [self.tokenizer.cls_token_id, *self.ids(text), self.tokenizer.eos_token_id]

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int]) -> Array:
        """All layers of every token, special ones too, [L + 1, S, D]."""
        answer = self.network(torch.tensor([ids]), output_hidden_states=True)
        return torch.cat(answer.hidden_states).numpy()

    def layers(self, text: str) -> Array:
        return self.hidden(self.framed(text))

    @torch.inference_mode()
    def logits(self, text: str) -> Array:
        return self.network(torch.tensor([self.framed(text)])).logits[0, 1:-1].numpy()

    @torch.inference_mode()
    def contacts(self, text: str) -> Array:
        ids = torch.tensor([self.framed(text)])
        return self.network.predict_contacts(ids, torch.ones_like(ids))[0].numpy()


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """esm2-tiny with random weights in which nothing is zero or one; read only."""
    return randomised("esm2-tiny")


@pytest.fixture(params=["torch", "openvino"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Whoever computes, everything holds."""
    name: Backend = request.param
    return name


@pytest.fixture
def model(checkpoint: Checkpoint, backend: Backend) -> Model:
    """A model of one's own: tests may set its limit and its budget."""
    return Model(checkpoint, choose("cpu", "fp32", backend))


@pytest.fixture(scope="session")
def reference(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference") / "hf"
    transformers.utils.logging.disable_progress_bar()
    network = transformers_model(checkpoint, folder)
    transformers.utils.logging.enable_progress_bar()
    return Reference(network, AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def rounded_model(checkpoint: Checkpoint, backend: Backend) -> Model:
    """The same weights, with bf16 products."""
    return Model(checkpoint, choose("cpu", "bf16", backend))
