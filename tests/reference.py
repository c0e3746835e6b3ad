"""Independent implementations of ESM-2 with the same random weights: transformers' and fair-esm's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import esm
import torch
from torch import Tensor
from transformers import EsmForMaskedLM

from aminoglot.checkpoints import Checkpoint, convert
from aminoglot.checkpoints.untrained import untrained
from aminoglot.packing import Packed
from aminoglot.tokens import ESM2_ALPHABET, MASK

PAD = ESM2_ALPHABET.tokens.index("<pad>")


def randomised(name: str, seed: int = 0) -> Checkpoint:
    """Random weights in which nothing is trivially one or zero, so that a forgotten bias or norm shows."""
    checkpoint = untrained(name)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim < 2 and key != "frequencies"
        else tensor
        for key, tensor in checkpoint.tensors.items()
    }
    return Checkpoint(checkpoint.name, checkpoint.format, checkpoint.config, tensors)


def packed(sequences: Sequence[str]) -> Packed:
    """Sequences, ``<mask>`` allowed, as a packed batch with their special tokens."""
    framed = [ESM2_ALPHABET.framed(s.encode().replace(b"<mask>", MASK)) for s in sequences]
    return Packed.of(ESM2_ALPHABET.encode(framed), [len(f) for f in framed])


def padded(batch: Packed) -> Tensor:
    """The same batch as every other tool sees it: [B, longest], padded."""
    return torch.nn.utils.rnn.pad_sequence(batch.tokens_T.split(batch.lengths), batch_first=True, padding_value=PAD)


def unpadded(x: Tensor, batch: Packed) -> Tensor:
    """Rows of a padded [B, S, ...] result in packed order."""
    return torch.cat([row[:length] for row, length in zip(x, batch.lengths, strict=True)])


def transformers_model(checkpoint: Checkpoint, folder: Path) -> EsmForMaskedLM:
    """transformers' model, loaded from what our writer wrote."""
    from aminoglot.checkpoints import huggingface

    folder.mkdir()
    huggingface.write(checkpoint, folder)
    return EsmForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()


def fair_esm_model(checkpoint: Checkpoint, folder: Path) -> esm.model.esm2.ESM2:
    """fair-esm's model, loaded from what our writer wrote, by its own loader."""
    import argparse

    from aminoglot.checkpoints import fair_esm

    folder.mkdir()
    path = folder / "esm2_test.pt"
    fair_esm.write(checkpoint, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        model, _ = esm.pretrained.load_model_and_alphabet_local(path)
    return model.eval()


__all__ = ["convert", "fair_esm_model", "packed", "padded", "randomised", "transformers_model", "unpadded"]
