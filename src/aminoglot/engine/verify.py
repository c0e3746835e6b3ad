"""A model's self-check: what can be said of weights without knowing what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from aminoglot.checkpoints import Checkpoint, registry
from aminoglot.engine.hardware import choose, exact
from aminoglot.engine.model import Model
from aminoglot.engine.writing import PROBES, SENTINEL_NOTES
from aminoglot.errors import AminoglotError, InputError, ModelError
from aminoglot.models.esm2 import ESM2
from aminoglot.models.esm2 import SIZES as ESM2_SIZES
from aminoglot.models.family import SIZES, family_of
from aminoglot.packing import Packed

Array = NDArray[np.float32]
MOST_DIFFERENCE = 1e-5
"""Between a protein alone and among others in fp32, beside the largest value."""
LEAST_COSINE = 0.9999
"""Between mean embeddings in bf16 and in fp32."""
PROTEINS = [text[start : start + length].decode() for text in PROBES for start, length in ((0, 96), (5, 40), (20, 13))]
_SLICES = (
    (
        "logits",
        (0, 1, 2, 3, 4, 5),
        ((8.9215, -10.5898, -6.4671), (-6.3967, -13.9114, -1.1212), (-7.7812, -13.9516, -3.7406)),
    ),
    (
        "last layer",
        (0, 6, 4, 13, 5, 4, 16, 12, 11, 7, 2),
        ((0.1444, 0.5413, 0.3248), (0.3034, 0.0053, 0.3108), (0.3228, -0.2499, 0.3415)),
    ),
)
"""The first values of facebook/esm2_t6_8M_UR50D for some tokens, as transformers' own tests hold them (Apache-2.0)."""


class Check(NamedTuple):
    """One thing looked at; ``passed`` is None where there was nothing to hold it against."""

    name: str
    passed: bool | None
    said: str


def verify(checkpoint: Checkpoint, device: str = "auto") -> Iterator[Check]:
    """Check a model, the cheapest first. Later checks are left out where their ground is missing.

    Args:
        checkpoint: what to check.
        device: where to compute; see :func:`aminoglot.load`.
    """
    yield _parameters(checkpoint)
    weights = _weights(checkpoint)
    yield weights
    if not weights.passed:
        return
    model = Model(checkpoint, choose(device, "fp32", "torch"))
    try:
        together = model.embed(PROTEINS)
    except ModelError as error:
        yield Check("outputs are finite", False, str(error))
        return
    yield Check("outputs are finite", True, f"{len(PROTEINS)} real proteins embedded")
    yield _alone(model, together)
    yield from _slices(model)
    yield from _sentinels(model, checkpoint)
    hardware = model.hardware
    del model
    if hardware.device.type != "cpu":  # torch computes bf16 on every CPU, fast or not
        try:
            choose(device, "bf16", "torch")
        except InputError as error:
            yield Check("bf16 is near fp32", None, str(error))
            return
    yield _narrow(Model(checkpoint, replace(hardware, precision="bf16")).embed(PROTEINS), together)


def _parameters(checkpoint: Checkpoint) -> Check:
    family = family_of(checkpoint.config)
    absent = [part for part in family.parts if not checkpoint.has(part)]
    with torch.device("meta"):
        whole = family.build(checkpoint.config)
    expected = checkpoint.config.parameters - sum(
        parameter.numel() for part in absent for parameter in getattr(whole, part).parameters()
    )
    found = sum(tensor.numel() for key, tensor in checkpoint.tensors.items() if key != "frequencies")
    without = f" without {' and '.join(absent)}" if absent else ""
    name = next((name for name, config in SIZES.items() if config == checkpoint.config), None)
    if name is None:
        return Check("parameters", None, f"{found:,}; no published model has this shape")
    return Check("parameters", found == expected, f"{found:,}; {name}{without} has {expected:,}")


def _weights(checkpoint: Checkpoint) -> Check:
    bad = [key for key, tensor in checkpoint.tensors.items() if not tensor.isfinite().all()]
    dull = [key for key, tensor in checkpoint.tensors.items() if tensor.ndim == 2 and not tensor.any()]
    said = f"not finite: {', '.join(bad[:5])}" if bad else f"all zero: {', '.join(dull[:5])}" if dull else "all of them"
    return Check("weights are numbers", not bad and not dull, said)


def _alone(model: Model, together: Array) -> Check:
    """A protein's embedding must not depend on what else is in the batch."""
    alone = np.concatenate([model.embed([protein]) for protein in PROTEINS])
    difference = float(np.abs(alone - together).max() / np.abs(together).max())
    said = f"alone and together differ by {difference:.1e} of the largest value ({MOST_DIFFERENCE:.0e} allowed)"
    return Check("batches change nothing", difference <= MOST_DIFFERENCE, said)


def _narrow(narrow: Array, together: Array) -> Check:
    cosine = (narrow * together).sum(1) / np.linalg.norm(narrow, axis=1) / np.linalg.norm(together, axis=1)
    said = f"smallest cosine of means {cosine.min():.6f} ({LEAST_COSINE} asked)"
    return Check("bf16 is near fp32", bool(cosine.min() >= LEAST_COSINE), said)


def _slices(model: Model) -> Iterator[Check]:
    """Published values, where the shape has some. Other weights of that shape are a fault only under its name."""
    network = model.network
    if not isinstance(network, ESM2) or network.config != ESM2_SIZES["esm2-8m"] or network.lm_head is None:
        return
    same, worst = True, 0.0
    with exact(model.hardware), torch.inference_mode():
        for what, tokens, expected in _SLICES:
            batch = Packed(torch.tensor(tokens, device=model.hardware.device), (len(tokens),))
            found = network(batch) if what == "logits" else network.representations(batch, [network.config.layers])[0]
            values = found[:3, :3].cpu()
            same = same and torch.allclose(values, torch.tensor(expected), rtol=1e-4, atol=1e-4)
            worst = max(worst, float((values - torch.tensor(expected)).abs().max()))
    said = "as in facebook/esm2_t6_8M_UR50D" if same else f"not those of facebook/esm2_t6_8M_UR50D (by {worst:.2g})"
    claimed = registry.find(model.name) is not None
    yield Check("published values", same if same or claimed else None, said)


def _sentinels(model: Model, checkpoint: Checkpoint) -> Iterator[Check]:
    if not checkpoint.has("decoder"):
        return
    try:
        found = model.sentinels
    except AminoglotError as error:
        yield Check("sentinels", False, str(error))
        return
    said = SENTINEL_NOTES.get(found, "those of its training")
    yield Check("sentinels", None if found == "unknown" else True, said)
