"""A run from its file to its model: begun, gone on with, watched, ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aminoglot.corpus import Corpus, Samples
from aminoglot.corpus.stages import CARD
from aminoglot.engine.hardware import Hardware, choose, exact
from aminoglot.errors import DependencyError, InputError, JobError
from aminoglot.jobs.storage import explained, file_digest
from aminoglot.models.esm2 import ESM2Config
from aminoglot.models.family import Network, family_of
from aminoglot.models.linear import train_in
from aminoglot.pretrain import optimizer, record, results
from aminoglot.pretrain.ceiling import ceiling
from aminoglot.pretrain.config import ComputePart, RunConfig
from aminoglot.pretrain.loop import Scores, Trainer, validate
from aminoglot.pretrain.objective import objective_for, samples_for
from aminoglot.pretrain.parallel import World, shared_out, world, wrapped
from aminoglot.pretrain.start import set_dropout, start
from aminoglot.pretrain.state import Progress, States, load, read_progress, tensors_of, whole
from aminoglot.screen import Screen

STATES = "states"


def pretrain(config: RunConfig, folder: Path, screen: Screen) -> Network | None:
    """Train a model, or go on with a run that was begun in this folder.

    Started by torchrun, all processes of it call this.

    Args:
        config: of the run.
        folder: a new one, or of a run that is to go on.
        screen: is told what happens.

    Returns:
        The network, on the process that leads; None on the others.

    Raises:
        InputError: when the config contradicts itself, the corpus or the model.
        JobError: when the run is another one, the disk is full, or the loss is no number; states stay.
        KeyboardInterrupt: after Ctrl-C, when a state was written.
    """
    hardware = hardware_of(config.compute)
    with world(hardware.device) as here, exact(hardware):
        if not here.leads:
            screen.console.quiet = True
        with _locked(folder, here):
            return _Run(config, folder, replace(hardware, device=here.device), here, screen).run()


def hardware_of(part: ComputePart) -> Hardware:
    """The device and precision of a run."""
    return choose(part.device, part.precision, "torch")


@contextmanager
def _locked(folder: Path, here: World) -> Iterator[None]:
    if not here.leads:
        yield
        return
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:  # which is an OSError
            raise JobError(f"{folder}: another process trains here") from None
    try:
        yield
    finally:
        lock.release()


def corpus_for(config: RunConfig, family: str) -> Corpus:
    """The corpus of a run, which must be of the network's family.

    Raises:
        InputError: when it is of the other.
    """
    corpus = Corpus(config.corpus)
    wanted = {"ESM-2": "esm2", "ProtT5nv": "prott5nv"}[family]
    if corpus.recipe.name != wanted:
        raise InputError(
            f"{config.corpus}: a training set for {corpus.recipe.name}, and the model is {family}; build one with "
            f"--recipe {wanted}"
        )
    return corpus


class _Run:
    """One process's part of a run."""

    def __init__(self, config: RunConfig, folder: Path, hardware: Hardware, here: World, screen: Screen) -> None:
        self.config, self.folder, self.here, self.screen = config, folder, here, screen
        self.hardware = hardware
        network, self.notes = start(config.model, config.seed)
        self.network = network
        self.corpus = corpus_for(config, family_of(network.config).name)
        self._fits(network)
        set_dropout(network, config.model.dropout)
        precision = hardware.precision
        assert precision != "fp8"
        train_in(network, precision)
        self.objective = objective_for(network).to(here.device)
        if config.optimizer.name == "muon" and here.size > 1 and shared_out(self.objective, config.compute):
            raise InputError('[optimizer] name = "muon" works on whole matrices: take [compute] parallel = "ddp"')
        self.module = wrapped(self.objective, config.compute, here)
        self.optimizers = optimizer.build(network, config.optimizer)
        self.half = precision == "fp16"

    def _fits(self, network: Network) -> None:
        tokens, positions = self.corpus.recipe.tokens, getattr(network.config, "positions", None)
        if positions is not None and tokens > positions:
            raise InputError(f"the corpus has samples of {tokens} tokens, and the model {positions} positions")
        if self.config.batch.at_once < tokens:
            raise InputError(
                f"[batch] at_once = {self.config.batch.at_once}: less than the longest sample of this corpus, {tokens}"
            )

    def run(self) -> Network | None:
        facts = {
            "corpus": file_digest(self.corpus.folder / CARD),
            "model": {"family": family_of(self.network.config).name, **vars(self.network.config)},
        }
        if self.here.leads:
            record.begin(self.folder, self.config, facts)
        self.here.wait()
        for note in self.notes:
            self.screen.note(note)
        states = States(self.folder / STATES, self.config.save.keep, self.here)
        tensors = tensors_of(self.network, self.optimizers)
        progress = self._resumed(states, tensors)
        self._say()
        log = record.Log(self.folder, progress.update, self.config.tensorboard) if self.here.leads else None
        try:
            self._train(progress, states, tensors, log)
        finally:
            if log is not None:
                log.close()
        self._leave(tensors)
        return self.network if self.here.leads else None

    def _leave(self, tensors: dict[str, Any]) -> None:
        """The model and the picture."""
        weights = {
            name.removeprefix("model."): whole(tensor) for name, tensor in tensors.items() if "model." in name[:6]
        }
        if not self.here.leads:
            return
        try:
            self.screen.say(f"wrote {results.draw(self.folder)}")
        except DependencyError as error:
            self.screen.note(str(error))
        self.screen.say(f"wrote {results.export(self.folder, self.network, weights, self.config, self.corpus)}")

    def _resumed(self, states: States, tensors: dict[str, Any]) -> Progress:
        path = states.last()
        if path is None:
            return Progress()
        progress = read_progress(path)
        load(path, tensors)
        self.screen.say(f"going on from update {progress.update:,}")
        return progress

    def _say(self) -> None:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        family = family_of(self.network.config).name
        where = f"{self.here.size} x {self.hardware.device.type}" if self.here.size > 1 else str(self.hardware.device)
        self.screen.say(
            f"{family} of {parameters:,} parameters on {where} in {self.hardware.precision} ({self.hardware.reason}), "
            f"{len(self.corpus.split('train')):,} clusters, {self.config.schedule.updates:,} updates"
        )

    def _train(self, progress: Progress, states: States, tensors: dict[str, Any], log: record.Log | None) -> None:
        config, corpus = self.config, self.corpus
        samples = samples_for(self.network, corpus, "train", config.seed)
        held_out = None
        if len(corpus.split("validation")):
            held_out = samples_for(self.network, corpus, "validation", config.seed)
        else:
            self.screen.note("nothing is held out in this corpus: there is no validation, and no best state")
        trainer = Trainer(config, self.objective, self.module, self.optimizers, samples, self.here, self.half)
        peak = ceiling(self.here.device, self.hardware.precision != "fp32")
        if progress.update == 0 and held_out is not None:
            self._validate(0, held_out, log)
        best, total = (progress.best, progress.best_update), config.schedule.updates
        with _Stop() as stop, self.screen.progress("training", total, "updates", progress.update) as done:
            for after, made in trainer.run(progress):
                number, better = after.update, False
                share = made.flops / made.seconds / peak
                rate = f"{made.tokens / made.seconds:,.0f} tokens/s, {share:.0%} of the ceiling"
                done(1, f"loss {made.scores.loss:.3f}, {rate}")
                if log is not None and (number % config.log_every == 0 or made.skipped):
                    log.update(number, made, share)
                if held_out is not None and (number == total or number % config.validation.every == 0):
                    loss = self._validate(number, held_out, log).loss
                    if better := best[0] is None or loss < best[0]:
                        best = (loss, number)
                stopping = self.here.any(stop.wanted)
                if better or stopping or number == total or number % config.save.every == 0:
                    states.save(tensors, replace(after, best=best[0], best_update=best[1]))
                if stopping and number < total:
                    states.finish()
                    raise KeyboardInterrupt
        states.finish()

    def _validate(self, number: int, samples: Samples[Any], log: record.Log | None) -> Scores:
        part = self.config
        scores = validate(self.objective, self.module, samples, part.validation.proteins, part.batch.at_once, self.here)
        if log is not None:
            log.validation(number, scores)
        self.screen.say(f"update {number:,}: held out {_said(scores, self.network)}")
        return scores


def _said(scores: Scores, network: Network) -> str:
    text = f"loss {scores.loss:.4f}, perplexity {scores.perplexity:.3f}, accuracy {scores.accuracy:.2%}"
    if not isinstance(network.config, ESM2Config):
        text += f", residues alone {scores.residue_loss:.4f}"
    return text


class _Stop:
    """Ctrl-C and a scheduler's SIGTERM let the update end and a state be written; a second one does not wait."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._noted)
        return self

    def _noted(self, *_: object) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
