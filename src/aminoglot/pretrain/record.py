"""What a run was asked for, and what it went through: ``run.json`` and ``log.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from aminoglot.errors import DependencyError, JobError, OutputError
from aminoglot.jobs.storage import explained, write_whole
from aminoglot.pretrain.config import RunConfig
from aminoglot.pretrain.loop import Made, Scores
from aminoglot.version import __version__

RUN, LOG = "run.json", "log.jsonl"
_FREE = ("compute", "save", "validation.every", "batch.at_once", "log_every", "tensorboard", "corpus")
"""What may change when a run goes on: it does not change what is computed. Corpus and precision are facts."""


def begin(folder: Path, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """Write what a run is, or look whether a run that goes on is the same.

    Args:
        folder: of the run.
        config: what is asked.
        facts: what else must be the same: the digest of the corpus's card, and the network's shape.

    Raises:
        JobError: when it is another run, naming what differs.
        OutputError: when the folder cannot be written, or holds something else.
    """
    asked = {"version": __version__, "config": config.as_dict(), **facts}
    path = folder / RUN
    if not path.exists():
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if strangers := [one.name for one in folder.iterdir() if not one.name.startswith(".")]:
                raise OutputError(f"{folder}: a folder of something else ({strangers[0]}); choose a new one")
        write_whole(path, lambda partial: _write(partial, asked))
        return
    found = read(folder)
    differing = [name for name in facts if found.get(name) != json.loads(json.dumps(facts[name]))]
    before, now = _fixed(found["config"]), _fixed(json.loads(json.dumps(asked["config"])))
    differing += [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        raise JobError(
            f"{folder}: a run begun otherwise ({', '.join(differing)}); choose a new folder, or ask for the same"
        )


def read(folder: Path) -> dict[str, Any]:
    """What a run is.

    Raises:
        OutputError: when the folder is none of a run, or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RUN).read_text())
        found["config"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise OutputError(f"{folder / RUN}: no run here, or damaged ({error})") from error
    return found


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change, each part's keys by name."""
    found: dict[str, Any] = {}
    for part, value in config.items():
        keys = {f"{part}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {part: value}
        found |= {key: one for key, one in keys.items() if part not in _FREE and key not in _FREE}
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


class Log:
    """Lines of a run, one JSON object each; of one that goes on, those after its state are cut off.

    Args:
        folder: of the run.
        update: where it goes on; 0 for a new one.
        tensorboard: write events for TensorBoard besides.

    Raises:
        DependencyError: when TensorBoard is wanted and not there.
        OutputError: when the log cannot be written.
    """

    def __init__(self, folder: Path, update: int, tensorboard: bool = False) -> None:
        self._events = _events(folder / "tensorboard", update) if tensorboard else None
        self._path = folder / LOG
        kept = "".join(f"{json.dumps(line)}\n" for line in lines(folder) if 0 < update >= line["update"])

        def write(partial: Path) -> None:
            partial.write_text(kept)

        write_whole(self._path, write)

    def update(self, number: int, made: Made, share: float) -> None:
        """One line of an update."""
        self._line(
            update=number,
            loss=_number(made.scores.loss),
            accuracy=_number(made.scores.accuracy),
            residue_loss=_number(made.scores.residue_loss),
            rate=made.rate,
            gradient_norm=_number(made.norm),
            tokens=made.tokens,
            tokens_per_second=round(made.tokens / made.seconds, 1),
            share_of_ceiling=round(share, 4),
            **({"skipped": True} if made.skipped else {}),
        )

    def validation(self, number: int, scores: Scores) -> None:
        """One line of a validation."""
        self._line(update=number, validation=asdict(scores))

    def _line(self, **content: Any) -> None:
        if self._events is not None:
            number = content["update"]
            for name, value in {**content, **content.get("validation", {})}.items():
                if isinstance(value, float):
                    group = "validation" if "validation" in content else "training"
                    self._events.add_scalar(f"{group}/{name}", value, number)
        with explained(self._path), self._path.open("a") as file:
            file.write(json.dumps(content) + "\n")

    def close(self) -> None:
        """Let TensorBoard's writer write what it has."""
        if self._events is not None:
            self._events.close()


def _number(value: float) -> float | None:
    """To six places; none for what is no number, which JSON has not (an update that fp16 skipped may have it)."""
    return round(value, 6) if isfinite(value) else None


def _events(folder: Path, update: int) -> Any:
    """TensorBoard's writer; what it has after this update is left out of its curves."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError("tensorboard = true needs TensorBoard: pip install 'aminoglot[train]'") from error
    return SummaryWriter(str(folder), purge_step=update + 1)


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's log; one that a kill cut short is left out."""
    path = folder / LOG
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("update"), int):
            yield found
