"""From every format into every other: what both can hold, to the bit and in its type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aminoglot.checkpoints import Checkpoint, convert, fair_esm, huggingface, pegasus, resolve
from aminoglot.checkpoints.resolve import Format, lost
from tests.checkpoints import nvidia
from tests.checkpoints.test_nvidia import TYPES, assert_holds, typed
from tests.reference import randomised

Writer = Callable[[Path, Checkpoint], Path]


def nemo(rows: int, suffix: str = ".nemo") -> Writer:
    def write(folder: Path, start: Checkpoint) -> Path:
        state = nvidia.esm2_nemo1(start, rows) if "lm_head.bias" in start.tensors else nvidia.prott5nv_nemo1(start)
        return nvidia.nemo(folder / f"source{suffix}", nvidia.settings(start), state)

    return write


def hf(folder: Path, start: Checkpoint) -> Path:
    (folder / "source").mkdir()
    (huggingface if "lm_head.bias" in start.tensors else pegasus).write(start, folder / "source")
    return folder / "source"


def pt(folder: Path, start: Checkpoint) -> Path:
    fair_esm.write(start, folder / "esm2_source.pt")
    return folder / "esm2_source.pt"


SOURCES: dict[str, tuple[str, Writer]] = {
    "nemo1-33": ("esm2-tiny", nemo(33)),
    "nemo1-64": ("esm2-tiny", nemo(64)),
    "nemo1-128": ("esm2-tiny", nemo(128)),
    "nemo1-gzip": ("esm2-tiny", nemo(128, ".nemo.gz")),
    "nemo2-stacked": ("esm2-tiny", lambda folder, start: nvidia.nemo2(folder / "source", start)),
    "nemo2": ("esm2-tiny", lambda folder, start: nvidia.nemo2(folder / "source", start, stacked=False)),
    "te-33": ("esm2-tiny", lambda folder, start: nvidia.transformer_engine(folder / "source", start, 33)),
    "te-64": ("esm2-tiny", lambda folder, start: nvidia.transformer_engine(folder / "source", start, 64)),
    "huggingface": ("esm2-tiny", hf),
    "fair-esm": ("esm2-tiny", pt),
    "prott5nv-nemo1": ("prott5nv-tiny", nemo(128)),
    "prott5nv-pegasus": ("prott5nv-tiny", hf),
}
TARGETS: dict[Format, str] = {"huggingface": "hf", "fair-esm": "esm2_there.pt", "nemo1": "there.nemo"}


PAIRS = [
    (source, to)
    for source in SOURCES
    for to in TARGETS
    if not (source.startswith("prott5nv") and to == "fair-esm")  # which has no place for it, and says so
]


@TYPES
@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_every_pair_of_formats(source: str, to: Format, dtype: torch.dtype, tmp_path: Path) -> None:
    name, write = SOURCES[source]
    start = typed(randomised(name), dtype)
    path = write(tmp_path, start)
    before = resolve(str(path))
    convert(str(path), tmp_path / TARGETS[to], to)
    there = resolve(str(tmp_path / TARGETS[to]))
    absent = ["contact_head"] if to == "nemo1" or not before.has("contact_head") else []
    assert_holds(there, before, *absent)
    assert_holds(there, start, *absent, frequencies=source in ("huggingface", "fair-esm") or source.startswith("nemo1"))
    notes = " ".join(lost(before, to))
    assert ("it was left out" in notes) == (to == "nemo1" and before.has("contact_head"))
    assert ("no contact head to write" in notes) == (to == "fair-esm" and not before.has("contact_head"))
