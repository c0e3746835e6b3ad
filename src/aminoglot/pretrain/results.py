"""What a run leaves: a picture of its losses, and the model with its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aminoglot import drawing
from aminoglot.checkpoints import Checkpoint, write
from aminoglot.corpus import Corpus
from aminoglot.corpus.show import composition
from aminoglot.errors import plural
from aminoglot.jobs.storage import explained, sync, write_whole
from aminoglot.models.family import Network, family_of
from aminoglot.pretrain import record
from aminoglot.pretrain.config import RunConfig
from aminoglot.pretrain.objective import samples_for
from aminoglot.tokens import Alphabet
from aminoglot.version import __version__

MODEL, BEST, PICTURE, CARD = "model", "best", "loss.png", "README.md"
_SMOOTHED = 0.02


def letter_frequency_loss(network: Network, corpus: Corpus, proteins: int) -> float:
    """Mean cross-entropy, in nats, of a model that knows only how frequent each residue is, on the residues that
    validation asks for.

    Args:
        network: whose family's validation.
        corpus: whose training set is counted.
        proteins: of validation; 0 for all.
    """
    shares = composition(corpus)
    samples = samples_for(network, corpus, "validation", 0)
    alphabet: Alphabet = samples.alphabet
    frequencies = np.array([shares.get(token, 0.0) if len(token) == 1 else 0.0 for token in alphabet.tokens])
    asked: NDArray[np.int64] = np.concatenate(
        [samples[n].labels for n in range(min(proteins or len(samples), len(samples)))]
    )
    asked = asked[(asked >= 0)]
    asked = asked[frequencies[asked] > 0]
    return float(-np.log(frequencies[asked]).mean())


def draw(folder: Path) -> Path:
    """Draw a run's losses: of training, smoothed, and on what is held out.

    Raises:
        DependencyError: without matplotlib.
    """
    lines = list(record.lines(folder))
    trained = [line for line in lines if line.get("loss") is not None]
    held_out = [line for line in lines if "validation" in line]
    figure = drawing.figure(8, 5.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    updates = [line["update"] for line in trained]
    losses = np.array([line["loss"] for line in trained])
    above.plot(updates, losses, color=drawing.BLUE, linewidth=0.5, alpha=0.3)
    above.plot(updates, _smooth(losses), color=drawing.BLUE, label="training, smoothed")
    above.plot(
        [line["update"] for line in held_out],
        [line["validation"]["loss"] for line in held_out],
        "o-",
        color=drawing.ORANGE,
        markersize=3,
        label="held out",
    )
    drawing.plain(above, beside="loss (nats a target)").legend(frameon=False)
    below.plot(updates, [line["rate"] for line in trained], color=drawing.GREY)
    drawing.plain(below, below="update", beside="learning rate")
    path = folder / PICTURE
    write_whole(path, lambda partial: drawing.write(figure, partial))
    return path


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A running mean over a part of the run."""
    width = max(1, int(len(values) * _SMOOTHED))
    sums = np.cumsum(np.concatenate(([0.0], values)))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    smoothed: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return smoothed


def export(
    folder: Path,
    network: Network,
    tensors: Mapping[str, Tensor],
    config: RunConfig,
    corpus: Corpus,
    best_update: int | None = None,
) -> Path:
    """Write the model as a Hugging Face folder, with a card.

    Args:
        folder: of the run; one that was exported before is replaced.
        network: for its shape.
        tensors: its weights, whole, by name.
        config: of the run.
        corpus: what it was trained on.
        best_update: after which update these weights were, when they are not those of the end.
    """
    path = folder / (MODEL if best_update is None else BEST)
    partial = folder / f".{path.name}.new"
    kept = {name: tensor.float().cpu() for name, tensor in tensors.items()}
    name = family_of(network.config).name
    text = card(folder, network, config, corpus, best_update)
    with explained(path):
        shutil.rmtree(partial, ignore_errors=True)
        write(Checkpoint(name, "trained", network.config, kept), partial, "huggingface")
        (partial / CARD).write_text(text)
        for file in (*partial.iterdir(), partial):
            sync(file)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    return path


def card(folder: Path, network: Network, config: RunConfig, corpus: Corpus, best_update: int | None = None) -> str:
    """What a model is, how it was made, and how well it does on what was held out; arguments as of :func:`export`."""
    lines = list(record.lines(folder))
    last = config.schedule.updates if best_update is None else best_update
    held_out = [line for line in lines if "validation" in line and line["update"] <= last]
    family, shape = family_of(network.config).name, network.config
    parameters = sum(parameter.numel() for parameter in network.parameters())
    accuracy = "accuracy" if family == "ESM-2" else "accuracy, sentinels and ends included"
    facts = corpus.card["stages"]["result"]
    of_all = "" if best_update is None else f"of {config.schedule.updates:,} "
    text = [
        f"# {family}, {parameters:,} parameters\n",
        f"{shape.layers} layers, width {shape.hidden}, {shape.heads} heads. Trained by aminoglot {__version__} "
        f"(`aminoglot pretrain`) in {last:,} {of_all}updates on {len(corpus.split('train')):,} clusters "
        f"of proteins; {plural(len(corpus.split('validation')), 'cluster')} held out"
        + (", and what is similar to them taken out of training." if facts.get("filtered") else ", unfiltered."),
        "\n## Held out\n",
        f"| | loss of a residue (nats) | perplexity | {accuracy} |\n|---|---|---|---|",
    ]
    if held_out:
        frequencies = letter_frequency_loss(network, corpus, config.validation.proteins)
        text.append(_row("this model", held_out[-1]["validation"]))
        if held_out[0]["update"] == 0:
            before = "before training" if config.model.start else "untrained"
            text.append(_row(f"the same, {before}", held_out[0]["validation"]))
        text.append(f"| letter frequencies alone (residues) | {frequencies:.4f} | {np.exp(frequencies):.3f} | |")
    else:
        text.append("| nothing was held out | | | |")
    asked = {**config.as_dict(), "corpus": Path(config.corpus).name}
    if config.model.start is not None and Path(config.model.start).exists():  # a path is nobody's business
        asked["model"] = {**asked["model"], "start": Path(config.model.start).name}
    text += [
        "\nPerplexities compare only on the same proteins with the same masks.",
        "\n## How it was made\n",
        f"```json\n{json.dumps(asked, indent=1)}\n```",
        "\nThe training set:\n",
        f"```json\n{json.dumps(_known(corpus.card), indent=1)}\n```",
    ]
    return "\n".join(text) + "\n"


def _row(name: str, scores: Mapping[str, float]) -> str:
    """Scores of residues; those of all targets together, where there are others, say little."""
    loss = scores["residue_loss"]
    return f"| {name} | {loss:.4f} | {np.exp(loss):.3f} | {scores['accuracy']:.2%} |"


def _known(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("version", "recipe", "level", "stages")}
