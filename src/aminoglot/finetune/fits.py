"""One fit of each method, from a dataset that is dealt out to outputs of all its proteins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine.hardware import Hardware
from aminoglot.errors import plural
from aminoglot.finetune import results, tuning
from aminoglot.finetune.embeddings import composition, features
from aminoglot.finetune.examples import Dataset, Example
from aminoglot.finetune.fitting import History, fit
from aminoglot.finetune.heads import Head
from aminoglot.finetune.network import Live, OnNetwork
from aminoglot.finetune.options import Options
from aminoglot.finetune.problems import Labelled, OnFeatures
from aminoglot.finetune.splits import Splits
from aminoglot.finetune.state import StateFile
from aminoglot.screen import Screen
from aminoglot.settings import Request

STATE = ".state.safetensors"
Outputs = list[NDArray[np.float32]]


@dataclass
class Fitted:
    """What a fit came to.

    Attributes:
        history: what it went through.
        outputs: of every example [rows, C], as many rows as were embedded.
        head: as it was kept.
        trained: how many values were.
        live: the network with it, where that was tuned.
    """

    history: History
    outputs: Outputs
    head: Head
    trained: int
    live: Live | None = None


@dataclass(frozen=True)
class Fits:
    """The fits of a run.

    Attributes:
        dataset: all examples.
        splits: how they are dealt out.
        options: of the run.
        folder: of the run, where its state is kept.
        screen: is told what happens.
        digest: of what the run is, which its state is known by.
    """

    dataset: Dataset
    splits: Splits
    options: Options
    folder: Path
    screen: Screen
    digest: str

    def on_features(self, layer: int) -> Fitted:
        """A head alone, on embeddings of one layer."""
        dataset = self.dataset
        found = features(dataset, self.options, self.folder, self.screen.console)
        head = tuning.new_head(dataset, self.options, found.rows.shape[1])
        train, validation = (found.labelled(dataset, rows) for rows in (self.splits.train, self.splits.validation))
        problem = OnFeatures(head, train, validation, dataset.kind, self._weights())
        self.screen.say(
            f"a {head.name} of {plural(trained(head), 'value')} learns from embeddings of {self.options.model}, layer "
            f"{layer}"
        )
        history = self._fit(problem)
        return Fitted(history, outputs(problem, found.labelled(dataset, self._all)), head, trained(head))

    def on_network(self, checkpoint: Checkpoint, request: Request, where: Hardware) -> Fitted:
        """A head, and the network under it or LoRA in its blocks."""
        dataset, options = self.dataset, self.options
        head = tuning.new_head(dataset, options, checkpoint.config.hidden)
        if options.method == "lora":
            self._fit_first(head)
        live = tuning.live(checkpoint, head, request, options, where)
        count = trained(live)
        self.screen.say(
            f"{'LoRA' if options.method == 'lora' else 'all weights'} of {options.model} and a {head.name} learn, "
            f"{plural(count, 'value')}, on {where.device} in {where.precision} ({where.reason})"
        )
        train, validation = self._examples(self.splits.train), self._examples(self.splits.validation)
        problem = OnNetwork(live, train, validation, dataset.kind, options.seed, self._weights())
        history = self._fit(problem)
        with self.screen.waiting("predicting every protein"):
            found = problem.predict(dataset.examples)
        return Fitted(history, found, head.cpu(), count, live)

    def _fit_first(self, head: Head) -> None:
        """Fit a head to the network as it is, so that LoRA begins where a head alone ends.

        A head that knows nothing yet would pull the features out of shape first (Kumar et al. 2022,
        doi:10.48550/arXiv.2202.10054).
        """
        dataset = self.dataset
        found = features(dataset, self.options, self.folder, self.screen.console)
        train, validation = (found.labelled(dataset, rows) for rows in (self.splits.train, self.splits.validation))
        self._fit_quickly(OnFeatures(head, train, validation, dataset.kind, self._weights()), f"the {head.name} learns")

    def on_letters(self, request: Request) -> Outputs:
        """The same kind of head on what the letters alone say: outputs of every example."""
        dataset = self.dataset
        rows = request.embedded(np.array([len(one.sequence) for one in dataset.examples], np.int64))
        chosen = (self.splits.train, self.splits.validation, self._all)
        train, validation, whole = (composition(dataset, some, rows[some]) for some in chosen)
        head = tuning.new_head(dataset, self.options, train.features.shape[1])
        problem = OnFeatures(head, train, validation, dataset.kind, self._weights())
        self._fit_quickly(problem, "composition learns")
        return outputs(problem, whole)

    def _fit_quickly(self, problem: OnFeatures, what: str) -> None:
        """Fit a head that is no run's result; no state of it is kept."""
        asked = self.options
        if asked.method != "head":  # whose rate and epochs are for a network
            asked = replace(asked, method="head", epochs=None, rate=None, batch=None, patience=None)
        schedule = tuning.schedule(asked)
        with self.screen.progress(what, schedule.epochs * problem.rows, "proteins") as done:
            fit(problem, schedule, self.options.seed, 1, done)

    def _fit(self, problem: OnFeatures | OnNetwork) -> History:
        """Fit, or go on; a line of the log an epoch, and on the screen where epochs take long."""
        schedule, slow = tuning.schedule(self.options), isinstance(problem, OnNetwork)

        def after(train: list[list[float]], validation: list[list[float]], resumed: bool) -> None:
            results.write_log(self.folder, train, validation)
            line = f"epoch {len(train)}: training {train[-1][0]:.4f}, validation {validation[-1][0]:.4f}"
            done(0, line)
            if resumed:
                self.screen.say(f"going on after {line}")
            elif slow:
                self.screen.say(line)

        with self.screen.progress("learning", schedule.epochs * problem.rows, "proteins") as done:
            keeper = StateFile(self.folder / STATE, self.digest, self.options.overwrite, after)
            return fit(problem, schedule, self.options.seed, 1, done, keeper)

    def _weights(self) -> Tensor | None:
        return tuning.class_weights(self.dataset, self.splits.train.tolist(), self.options)

    def _examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return [self.dataset.examples[row] for row in rows.tolist()]

    @property
    def _all(self) -> NDArray[np.int64]:
        return np.arange(len(self.dataset.examples))


def trained(module: nn.Module) -> int:
    """How many values learn."""
    return sum(one.numel() for one in module.parameters() if one.requires_grad)


def outputs(problem: OnFeatures, of: Labelled) -> Outputs:
    """A head's outputs of each protein, [rows, C]."""
    found = problem.predict(replace(of, counted=None))[0]
    ends = np.arange(1, len(of)) if of.starts is None else of.starts[1:-1]
    return np.split(found, ends)
