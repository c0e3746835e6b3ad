"""What a checkpoint is, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from aminoglot.checkpoints.checkpoint import Checkpoint
from aminoglot.models.family import SIZES, family_of

_FORMATS = {
    "huggingface": "Hugging Face",
    "fair-esm": "fair-esm",
    "nemo1": "NeMo 1",
    "nemo2": "NeMo 2",
    "transformer-engine": "TransformerEngine (NVIDIA's recipes)",
    "untrained": "none: random numbers",
}


def describe(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Names and values: format, family, size, types of numbers, digest, what is missing."""
    config = checkpoint.config
    family = family_of(config)
    known = next((name for name, size in SIZES.items() if size == config), None)
    shape = f"{config.layers} layers, {config.hidden} wide, {config.heads} heads"
    types = Counter[str]()
    for key, tensor in checkpoint.tensors.items():
        if key == "frequencies":  # no parameter: nobody trains them
            continue
        types[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    parts = [part for part in family.parts if checkpoint.has(part)]
    yield "format", _FORMATS[checkpoint.format]
    yield "family", family.name
    yield "size", f"{known or 'no published one'} ({shape})"
    yield "parameters", f"{sum(types.values()):,}"
    yield "numbers", ", ".join(f"{dtype} ({count:,})" for dtype, count in types.most_common())
    yield "holds", " and ".join(["encoder", *parts])
    yield "longest protein", f"{config.longest:,} residues"
    yield "digest", checkpoint.digest
    absent = [part for part in family.parts if part not in parts]
    yield "missing", " and ".join(absent) or "nothing"
    for note in checkpoint.notes:
        yield "note", note
