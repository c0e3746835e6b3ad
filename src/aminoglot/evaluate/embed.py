"""Embedding a task's proteins by the main job: the model's, and the same network's untrained."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aminoglot.checkpoints import Checkpoint, resolve, write
from aminoglot.checkpoints.untrained import SEED, shaped
from aminoglot.embedding.job import Outcome, embed
from aminoglot.embedding.options import Options as EmbedOptions
from aminoglot.embedding.report import Report
from aminoglot.engine import choose
from aminoglot.errors import JobError, OutputError
from aminoglot.evaluate.blocks import Block
from aminoglot.evaluate.features import Embedded, Embeddings, Features, Network, digest_of, write_fasta
from aminoglot.evaluate.options import Options
from aminoglot.evaluate.parts import fingerprint
from aminoglot.evaluate.tasks import Per, Task
from aminoglot.jobs.storage import explained, write_whole
from aminoglot.models.family import SIZES
from aminoglot.screen import Screen
from aminoglot.settings import DType, resolve_layers
from aminoglot.version import __version__

_SECONDS = "seconds.json"
UNTRAINED = "untrained"
_DTYPES: dict[Per, DType] = {"residue": "float16", "protein": "float32"}
"""Residues are many; proteins are few, and the means of variants differ by little."""


class Embedder:
    """Embeds what is needed when it is needed, into files that a rerun verifies.

    Args:
        folder: for the files.
        checkpoint: the model.
        options: of the run; its model is named.
        screen: for notes.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint, options: Options, screen: Screen) -> None:
        self._folder, self._options, self._screen = folder, options, screen
        with explained(folder):
            folder.mkdir(exist_ok=True)
        self._hardware = choose(options.device, options.precision).fitted(checkpoint.config.hidden)
        layers, _ = resolve_layers(options.layer, checkpoint.config.layers)
        assert options.model is not None
        self.layers = tuple(sorted(set(layers)))
        self.networks = (
            Network("model", options.model, checkpoint.digest, self.layers),
            _untrained(folder.parent / UNTRAINED, checkpoint, options.model, self.layers),
        )

    def features(self, task: Task, blocks: Sequence[Block]) -> list[Features]:
        """Both networks' layers; nothing is computed yet."""
        found: list[Features] = []
        for network in self.networks:
            embeddings = Embeddings(self._path(task, blocks, network), blocks, task.per)
            found += [Embedded(network, place, embeddings, self._made()) for place in range(len(network.layers))]
        return found

    def _made(self) -> dict[str, Any]:
        hardware = self._hardware
        how = [hardware.kind, hardware.precision, hardware.backend]
        versions = [__version__, torch.__version__]
        if hardware.backend == "openvino":
            versions.append(version("openvino"))
        return {"long": self._options.long, "hardware": how, "versions": versions}

    def _path(self, task: Task, blocks: Sequence[Block], network: Network) -> Path:
        """A name of its own for whatever would be other numbers, so that nothing is ever in the way."""
        facts = {"network": network.digest, "layers": network.layers, "dtype": _DTYPES[task.per], **self._made()}
        made = fingerprint(sequences=digest_of(blocks), **facts)[:8]
        return self._folder / f"{task.name}.{network.name}.{made}.safetensors"

    def ready(self, task: Task, blocks: Sequence[Block], name: str) -> None:
        """Embed all of a task's proteins by one of the networks, or verify that it was done.

        Raises:
            JobError: when proteins failed.
        """
        network = next(one for one in self.networks if one.name == name)
        path = self._path(task, blocks, network)
        fasta = path.with_name(f"{task.name}-{digest_of(blocks)}.fasta")
        if not fasta.exists():
            write_whole(fasta, lambda partial: write_fasta(partial, blocks))
        options = EmbedOptions(
            model=network.model,
            per=task.per,
            layer=list(network.layers),
            long=self._options.long,
            precision=self._options.precision,
            device=self._options.device,
            dtype=_DTYPES[task.per],
        )
        there = path.exists()
        started = time.monotonic()
        self._screen.say(f"{task.title}: embedding by the {'model' if name == 'model' else 'same network, untrained'}")
        try:
            outcome = self._embedded(fasta, path, options)
        finally:
            if not there:
                self._add_seconds(path.name, time.monotonic() - started)
        if not outcome.complete:
            raise JobError(
                f"{path}: some proteins could not be embedded; {outcome.files[-1].name} beside it says which and why"
            )

    def _embedded(self, fasta: Path, path: Path, options: EmbedOptions) -> Outcome:
        report = Report(self._screen.console)
        there = path.exists()
        try:
            return embed([fasta], path, options, report)
        except OutputError as error:
            if not there:
                raise
            self._screen.note(f"{error}\n{path.name} is embedded again")
            return embed([fasta], path, replace(options, overwrite=True), report)

    def seconds(self, task: Task, blocks: Sequence[Block]) -> float:
        """What embedding took, of all runs that had a share in it."""
        names = [self._path(task, blocks, network).name for network in self.networks]
        return sum(self._seconds().get(name, 0.0) for name in names)

    def _seconds(self) -> dict[str, float]:
        try:
            found: dict[str, float] = json.loads((self._folder / _SECONDS).read_text())
        except (OSError, ValueError):
            return {}
        return found

    def _add_seconds(self, name: str, seconds: float) -> None:
        known = self._seconds()
        known[name] = known.get(name, 0.0) + seconds

        def save(partial: Path) -> None:
            partial.write_text(json.dumps(known))

        write_whole(self._folder / _SECONDS, save)


def _untrained(folder: Path, checkpoint: Checkpoint, model: str, layers: tuple[int, ...]) -> Network:
    """The model's network with random weights.

    A shape that has a name is embedded as ``random:NAME``; any other is written as a folder, as is one of which the
    model itself is the random one: its own weights would show nothing.
    """
    size = next((name for name, config in SIZES.items() if config == checkpoint.config), None)
    if size is not None and not model.startswith("random:"):
        name = f"random:{size}"
        return Network("untrained", name, resolve(name).digest, layers)
    drawn = shaped(checkpoint.config, UNTRAINED, SEED + 1)
    if not folder.exists():
        write(drawn, folder, "huggingface")
    return Network("untrained", str(folder), drawn.digest, layers)
