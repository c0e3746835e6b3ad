"""The model that comes with aminoglot: what it is, that it has learned, and that its card says what matters."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import aminoglot
from aminoglot.checkpoints import BUNDLED, KNOWN, resolve
from aminoglot.checkpoints.registry import bundled
from aminoglot.models.family import SIZES
from aminoglot.pretrain.config import read
from aminoglot.sequences import Protein, Reader, Source

ROOT = Path(__file__).parent.parent
HELD_OUT = ROOT / "examples" / "bundled" / "held_out.fasta.gz"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def proteins(count: int, shortest: int, longest: int) -> list[str]:
    """Some of clusters that were held out of its training."""
    found = (one for one in Reader([Source(HELD_OUT.name, HELD_OUT)]) if isinstance(one, Protein))
    fitting = (one for one in found if shortest <= len(one.sequence) <= longest)
    return [one.sequence.decode() for one in islice(fitting, count)]


def masked_losses(model: aminoglot.Model, sequences: list[str]) -> tuple[float, float]:
    """Nats a hidden residue, every eighth of each protein: by the model, and by the letter frequencies of these."""
    shares = Counter("".join(sequences))
    total = sum(shares[letter] for letter in LETTERS)
    places = [[at for at in range(3, len(one), 8) if one[at] in LETTERS] for one in sequences]
    hidden = [
        "".join("<mask>" if at in set(chosen) else letter for at, letter in enumerate(one))
        for one, chosen in zip(sequences, places, strict=True)
    ]
    column = {token: index for index, token in enumerate(model.alphabet.tokens)}
    mine, theirs = [], []
    for one, chosen, logits in zip(sequences, places, model.logits(hidden), strict=True):
        logits = logits - logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        mine += [-logs[at, column[one[at]]] for at in chosen]
        theirs += [-np.log(shares[one[at]] / total) for at in chosen]
    return float(np.mean(mine)), float(np.mean(theirs))


def test_it_comes_along() -> None:
    """Small enough for a package, safetensors alone, and known by name."""
    files = sorted(path.name for path in bundled().iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert sum(path.stat().st_size for path in bundled().iterdir()) < 20e6
    checkpoint = resolve(BUNDLED)
    assert checkpoint.config == SIZES[BUNDLED] == KNOWN[BUNDLED].config
    assert checkpoint.has("lm_head")


def test_it_is_the_default() -> None:
    model = aminoglot.load(precision="fp32")
    assert model.name == BUNDLED
    assert model.embed(["MKTAYIAKQR"]).shape == (1, 256)


def test_it_has_learned() -> None:
    """It tells hidden residues better than these proteins' own letter frequencies, and its untrained self far worse."""
    chosen = proteins(60, 100, 400)
    mine, frequencies = masked_losses(aminoglot.load(precision="fp32"), chosen)
    assert mine < frequencies - 0.02
    with pytest.warns(aminoglot.AminoglotWarning, match="never trained"):
        untrained = aminoglot.load(f"random:{BUNDLED}", precision="fp32")
    assert masked_losses(untrained, chosen[:10])[0] > frequencies


def test_the_card() -> None:
    """What it is, how it was made, how well it does beside what, and what not to use it for."""
    said = (bundled() / "README.md").read_text()
    for words in (
        "aminoglot pretrain configs/bundled.toml",
        "--exclude",
        "letter frequencies alone",
        "the same, untrained",
        "Do not use it",
        "cannot exclude",
        "esm2-650m",
        f"{KNOWN[BUNDLED].licence}",
    ):
        assert words in said


def test_the_card_is_of_the_shipped_config() -> None:
    """The settings that it prints are those of configs/bundled.toml, which its command names."""
    said = (bundled() / "README.md").read_text()
    printed = json.loads(said.split("```json\n")[1].split("```")[0])
    asked = json.loads(json.dumps(read(ROOT / "configs" / "bundled.toml").as_dict()))
    for part in ("model", "batch", "optimizer", "schedule", "seed"):
        assert printed[part] == asked[part]
    assert f"in {asked['schedule']['updates']:,} updates" in said
