"""A run from its file to its model: begun, gone on with, watched, ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from aminoglot.corpus import Corpus, Samples
from aminoglot.corpus.stages import CARD
from aminoglot.engine.hardware import Hardware, choose, exact, keep_freed_memory, remember_kernels
from aminoglot.errors import AminoglotError, DependencyError, InputError, JobError, plural
from aminoglot.jobs.storage import explained, file_digest
from aminoglot.models.esm2 import ESM2Config
from aminoglot.models.family import Config, Network, family_of
from aminoglot.models.linear import train_in
from aminoglot.pretrain import optimizer, record, results
from aminoglot.pretrain.ceiling import ceiling
from aminoglot.pretrain.config import ComputePart, RunConfig
from aminoglot.pretrain.loop import Made, Scores, Trainer, validate
from aminoglot.pretrain.objective import objective_for, samples_for
from aminoglot.pretrain.parallel import World, shared_out, world, wrapped
from aminoglot.pretrain.start import set_dropout, start
from aminoglot.pretrain.state import Progress, States, load, read_progress, tensors_of, whole
from aminoglot.screen import Screen

STATES = "states"
_FEW = 30
"""Clusters held out below which their losses are said to be chance."""
_MODEL = "model."
"""What names of weights begin with in a state."""


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
    if hardware.kind == "cpu":
        keep_freed_memory()
    with world(hardware.device) as here, exact(hardware):
        if not here.leads:
            screen.console.quiet = True
        with _locked(folder, here):
            return _Run(config, folder, replace(hardware, device=here.device), here, screen).run()


def hardware_of(part: ComputePart) -> Hardware:
    """The device and precision of a run."""
    remember_kernels()
    return choose(part.device, part.precision, "torch")


@contextmanager
def _locked(folder: Path, here: World) -> Iterator[None]:
    lock = FileLock(folder / ".lock")

    def acquire() -> None:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:  # which is an OSError
                raise JobError(f"{folder}: another process trains here") from None

    here.led(acquire)
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


def fits(config: RunConfig, shape: Config, corpus: Corpus) -> None:
    """Look whether config, network and corpus go together.

    Raises:
        InputError: when they do not.
    """
    tokens, positions = corpus.recipe.tokens, getattr(shape, "positions", None)
    if positions is not None and tokens > positions:
        raise InputError(f"the corpus has samples of {tokens} tokens, and the model {positions} positions")
    if config.batch.tokens is not None and config.batch.tokens < tokens:
        raise InputError(
            f"[batch] tokens = {config.batch.tokens}: less than the longest sample of this corpus, {tokens}"
        )
    if config.batch.at_once < tokens:
        raise InputError(
            f"[batch] at_once = {config.batch.at_once}: less than the longest sample of this corpus, {tokens}"
        )
    if config.model.dropout and isinstance(shape, ESM2Config):
        raise InputError(f"[model] dropout = {config.model.dropout}: ESM-2 has none")


class _Run:
    """One process's part of a run."""

    def __init__(self, config: RunConfig, folder: Path, hardware: Hardware, here: World, screen: Screen) -> None:
        self.config, self.folder, self.here, self.screen = config, folder, here, screen
        self.hardware = hardware
        network, self.notes = start(config.model, config.seed)
        self.network = network
        self.corpus = corpus_for(config, family_of(network.config).name)
        fits(config, network.config, self.corpus)
        set_dropout(network, config.model.dropout)
        precision = hardware.precision
        assert precision != "fp8"
        train_in(network, precision)
        self.objective = objective_for(network).to(here.device)
        if (
            config.optimizer.name == "muon"
            and here.size > 1
            and shared_out(self.objective, config.compute, here.device)
        ):
            raise InputError('[optimizer] name = "muon" works on whole matrices: take [compute] parallel = "ddp"')
        self.module = wrapped(self.objective, config.compute, here)
        self.optimizers = optimizer.build(network, config.optimizer)
        self.half = precision == "fp16"

    def run(self) -> Network | None:
        facts = {
            "corpus": file_digest(self.corpus.folder / CARD),
            "model": {"family": family_of(self.network.config).name, **vars(self.network.config)},
            "precision": self.hardware.precision,
        }
        self.here.led(lambda: record.begin(self.folder, self.config, facts))
        for note in self.notes:
            self.screen.note(note)
        states = States(self.folder / STATES, self.config.save.keep, self.here)
        tensors = tensors_of(self.network, self.optimizers)
        progress = self._resumed(states, tensors)
        if progress.update == self.config.schedule.updates and (self.folder / results.MODEL).exists():
            self.screen.say(f"{self.folder} is whole already")
            return self.network if self.here.leads else None
        self._say()
        log = _Log(self.here, self.folder, progress.update, self.config.tensorboard)
        try:
            best = self._train(progress, states, tensors, log)
        except AminoglotError:  # on all processes: what was being written is whole
            states.finish()
            raise
        finally:
            log.close()
        trained = {name: tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
        if best is not None and best < self.config.schedule.updates:
            older = {name: torch.empty_like(tensor) for name, tensor in trained.items()}
            load(states.path(best), older)
            self._leave(older, best)
        self._leave(trained)
        if self.here.leads:
            self._picture()
        return self.network if self.here.leads else None

    def _leave(self, tensors: dict[str, Any], best_update: int | None = None) -> None:
        """The model, of the end or of the best state."""
        weights = {}
        for name, tensor in tensors.items():
            full = whole(tensor)  # all processes together, one tensor after the other
            if self.here.leads:
                weights[name.removeprefix(_MODEL)] = full.cpu()
        if self.here.leads:
            path = results.export(self.folder, self.network, weights, self.config, self.corpus, best_update)
            what = "" if best_update is None else f", the best on what is held out, of update {best_update:,}"
            self.screen.say(f"wrote {path}{what}; try aminoglot embed proteins.fasta -m {path} -o proteins.h5")

    def _picture(self) -> None:
        try:
            self.screen.say(f"wrote {results.draw(self.folder)}")
        except DependencyError as error:
            self.screen.note(str(error))

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

    def _train(self, progress: Progress, states: States, tensors: dict[str, Any], log: _Log) -> int | None:
        """All updates that are left; which state is the best on what is held out, if one is."""
        config, corpus = self.config, self.corpus
        samples = samples_for(self.network, corpus, "train", config.seed)
        held_out = None
        if len(corpus.split("validation")):
            held_out = samples_for(self.network, corpus, "validation", config.seed)
            if (count := len(corpus.split("validation"))) < _FEW:
                self.screen.note(
                    f"{plural(count, 'cluster')} held out: how well they are told, and which state is the best, is "
                    "nearly chance; aminoglot corpus build --validation 0.1 holds out more"
                )
        else:
            self.screen.note("nothing is held out in this corpus: there is no validation, and no best state")
        trainer = Trainer(config, self.objective, self.module, self.optimizers, samples, self.here, self.half)
        peak = ceiling(self.here.device, self.hardware.precision)
        if progress.update == 0 and held_out is not None:
            self._validate(0, held_out, log)
        best, total = (progress.best, progress.best_update), config.schedule.updates
        with _Stop() as stop, self.screen.progress("training", total, "updates", progress.update) as done:
            for after, made in trainer.run(progress):
                number, better = after.update, False
                share = made.flops / made.seconds / peak
                rate = f"{made.tokens / made.seconds:,.0f} tokens/s, {share:.0%} of the ceiling"
                done(1, f"loss {made.scores.loss:.3f}, {rate}")
                if number % config.log_every == 0 or made.skipped:
                    log.update(number, made, share)
                if held_out is not None and (number == total or number % config.validation.every == 0):
                    loss = self._validate(number, held_out, log).loss
                    if better := best[0] is None or loss < best[0]:
                        best = (loss, number)
                self.here.agree(log.trouble)
                stopping, writing = self.here.any(stop.wanted, not states.written)
                if not writing:
                    states.finish()
                if better or stopping or number == total or number % config.save.every == 0:
                    states.save(tensors, replace(after, best=best[0], best_update=best[1]))
                if stopping and number < total:
                    states.finish()
                    raise KeyboardInterrupt
        states.finish()
        return best[1]

    def _validate(self, number: int, samples: Samples[Any], log: _Log) -> Scores:
        part = self.config
        scores = validate(self.objective, self.module, samples, part.validation.proteins, part.batch.at_once, self.here)
        log.validation(number, scores)
        self.screen.say(f"update {number:,}: held out {_said(scores, self.network)}")
        return scores


class _Log:
    """The log on the process that leads; what goes wrong is kept until all processes can end together."""

    def __init__(self, here: World, folder: Path, update: int, tensorboard: bool) -> None:
        self.trouble: AminoglotError | None = None
        self._log: record.Log | None = None
        here.led(lambda: self._open(folder, update, tensorboard))

    def _open(self, folder: Path, update: int, tensorboard: bool) -> None:
        self._log = record.Log(folder, update, tensorboard)

    def update(self, number: int, made: Made, share: float) -> None:
        if self._log is not None:
            with self._kept():
                self._log.update(number, made, share)

    def validation(self, number: int, scores: Scores) -> None:
        if self._log is not None:
            with self._kept():
                self._log.validation(number, scores)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except AminoglotError as error:
            self.trouble = error


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
