"""What heads are fitted to: embeddings from the main job, and what needs no network.

Shapes: N proteins, T residues of all of them end to end, A letters, D features, C layers.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import OutputError
from aminoglot.evaluate.blocks import Block
from aminoglot.evaluate.tasks import Per
from aminoglot.finetune.letters import WIDTH, columns, shares

Name = Literal["model", "untrained", "one-hot", "composition", "none"]


class Features(ABC):
    """One kind of features of all blocks of a task.

    Attributes:
        name: of its kind.
        layer: of the network; None where there is none.
        fingerprint: what sets its numbers apart from others', the sequences aside.
        says: in words, where the name does not say all.
    """

    name: Name
    layer: int | None = None
    fingerprint: dict[str, Any]
    says: str = ""

    @abstractmethod
    def of(self, block: Block) -> NDArray[Any]:
        """[N, D], or [T, D] where residues have labels."""


class OneHot(Features):
    """A column for each letter: of each residue; or of each place of a protein, where all are of one length.

    Places at which all proteins are the same say nothing and are left out.
    """

    name: Name = "one-hot"

    def __init__(self, per: Per, blocks: Sequence[Block]) -> None:
        self._per = per
        self._places: NDArray[np.int64] = np.zeros(0, np.int64)
        self.says = "one residue's letter"
        if per == "protein":
            letters = np.frombuffer(b"".join(s for one in blocks for s in one.sequences), np.uint8)
            letters = letters.reshape(-1, len(blocks[0].sequences[0]))
            self._places = np.flatnonzero((letters != letters[0]).any(axis=0))
            self.says = f"the letters of the {len(self._places)} places that vary, of {letters.shape[1]}"
        self.fingerprint = {"features": self.name, "places": self._places.tolist()}

    def of(self, block: Block) -> NDArray[np.uint8]:
        letters = columns(b"".join(block.sequences))
        if self._per == "residue":
            return _hot(letters)
        chosen = letters.reshape(len(block.sequences), -1)[:, self._places]
        return _hot(chosen.reshape(-1)).reshape(len(block.sequences), -1)


def _hot(letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = np.zeros((len(letters), WIDTH), np.uint8)
    found[np.arange(len(letters)), letters] = 1
    return found


class Composition(Features):
    """How much of a protein is each letter; where residues have labels, all of a protein's have the same features."""

    name: Name = "composition"
    says = "the share of each letter in the protein"

    def __init__(self, per: Per) -> None:
        self._per = per
        self.fingerprint = {"features": self.name}

    def of(self, block: Block) -> NDArray[Any]:
        found = np.stack([shares(sequence) for sequence in block.sequences])
        if self._per == "protein":
            return found.astype(np.float32)
        repeated: NDArray[np.float16] = np.repeat(found.astype(np.float16), [len(s) for s in block.sequences], axis=0)
        return repeated


class Nothing(Features):
    """No features, for what tells all proteins the same."""

    name: Name = "none"

    def __init__(self) -> None:
        self.fingerprint = {"features": self.name}

    def of(self, block: Block) -> NDArray[Any]:
        return np.zeros((block.rows, 0), np.uint8)


def of_sequences(per: Per, blocks: Sequence[Block]) -> list[Features]:
    """Features that need no network: one-hot where it can be, and composition."""
    lengths = {len(sequence) for one in blocks for sequence in one.sequences}
    varied = len({sequence for one in blocks for sequence in one.sequences}) > 1
    hot: list[Features] = [OneHot(per, blocks)] if per == "residue" or (len(lengths) == 1 and varied) else []
    return [*hot, Composition(per)]


@dataclass(frozen=True)
class Network:
    """What embeds a task's proteins.

    Attributes:
        name: the model, or the same network untrained.
        model: as the main job takes it.
        digest: of its weights.
        layers: that are wanted.
    """

    name: Name
    model: str
    digest: str
    layers: tuple[int, ...]


class Embeddings:
    """A file of the main job that holds all blocks of a task, mapped when its numbers are first asked for."""

    def __init__(self, path: Path, blocks: Sequence[Block], per: Per) -> None:
        self.path, self._per = path, per
        self._first: dict[str, int] = {}
        rows = 0
        for one in distinct(blocks):
            self._first[one.digest] = rows
            rows += one.rows
        self._rows = rows

    @cached_property
    def _mapped(self) -> NDArray[Any]:
        """All rows, [R, C, D]."""
        mapped = mapped_tensor(self.path, "embeddings")
        if len(mapped) != self._rows:
            raise OutputError(f"{self.path}: {len(mapped):,} rows where {self._rows:,} should be; remove it")
        return mapped

    def of(self, block: Block, place: int) -> NDArray[Any]:
        """A block's rows of the layer at a place of the list, float32 [N, D] or float16 [T, D]; nothing is read yet."""
        first = self._first[block.digest]
        rows: NDArray[Any] = self._mapped[first : first + block.rows, place]
        return rows


class Embedded(Features):
    """One layer of a network's embeddings."""

    def __init__(self, network: Network, place: int, embeddings: Embeddings, made: dict[str, Any]) -> None:
        self.name, self.layer = network.name, network.layers[place]
        self._embeddings, self._place = embeddings, place
        self.fingerprint = {"features": "embedding", "model": network.digest, "layer": self.layer, **made}

    def of(self, block: Block) -> NDArray[Any]:
        return self._embeddings.of(block, self._place)


def distinct(blocks: Sequence[Block]) -> list[Block]:
    """Blocks in order, those of the same sequences once: splits may share their training set."""
    return list({one.digest: one for one in blocks}.values())


def write_fasta(path: Path, blocks: Sequence[Block]) -> None:
    """All proteins of distinct blocks, numbered."""
    with path.open("w") as file:
        row = 0
        for one in distinct(blocks):
            for name, sequence in zip(one.ids, one.sequences, strict=True):
                file.write(f">{row}:{name}\n{sequence.decode()}\n")
                row += 1


def digest_of(blocks: Sequence[Block]) -> str:
    """Eight letters that stand for a task's sequences."""
    return hashlib.sha256(" ".join(one.digest for one in distinct(blocks)).encode()).hexdigest()[:8]


def mapped_tensor(path: Path, name: str) -> NDArray[Any]:
    """One tensor of a safetensors file, mapped.

    Raises:
        OutputError: when the file is none, or cut short.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))[name]
        start = 8 + size + header["data_offsets"][0]
        dtype = {"F16": np.float16, "F32": np.float32}[header["dtype"]]
        shape = tuple(header["shape"])
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise OutputError(f"{path}: damaged, or cut short ({error}); remove it and run again") from error
