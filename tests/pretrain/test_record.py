"""The log of a run, and what it was asked."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from aminoglot.corpus import Corpus
from aminoglot.errors import DependencyError
from aminoglot.pretrain.loop import Scores
from aminoglot.pretrain.record import LOG, Log, lines
from aminoglot.pretrain.run import pretrain
from tests.corpus.helpers import QUIET
from tests.pretrain.helpers import config

SCORES = Scores.of(torch.tensor([20.0, 10.0, 4.0, 6.0, 5.0]))


def test_scores_are_means() -> None:
    assert Scores(2.0, pytest.approx(7.38905609893065), 0.4, 1.2, 10) == SCORES
    assert Scores.of(torch.zeros(5)).targets == 0


def test_what_comes_after_a_state_is_cut_off(tmp_path: Path) -> None:
    """And a line that a kill cut short is left out."""
    log = Log(tmp_path, 0)
    for number in (0, 5, 10):
        log.validation(number, SCORES)
    log.close()
    with (tmp_path / LOG).open("a") as file:
        file.write('{"update": 11, "lo')
    assert [line["update"] for line in lines(tmp_path)] == [0, 5, 10]
    Log(tmp_path, 5).close()
    assert [line["update"] for line in lines(tmp_path)] == [0, 5]


def test_tensorboard_that_is_not_there(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"pip install 'aminoglot\[train\]'"):
        pretrain(config(corpus, tensorboard=True), tmp_path / "run", QUIET)


def test_tensorboards_events(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for its writer is told what the log has."""
    said: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (Path(folder), purge_step) == (tmp_path / "run" / "tensorboard", 1)

        def add_scalar(self, *given: Any) -> None:
            said.append(given)

        def close(self) -> None:
            said.append(("closed", 0.0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    pretrain(config(corpus, tensorboard=True), tmp_path / "run", QUIET)
    written = list(lines(tmp_path / "run"))
    for line in written:
        for group, values in (("training", line), ("validation", line.get("validation", {}))):
            for name in ("loss", "accuracy"):
                if name in values:
                    assert (f"{group}/{name}", values[name], line["update"]) in said
    assert said[-1][0] == "closed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports and looks at
def test_compiled(corpus: Corpus, tmp_path: Path) -> None:
    """Where there is a compiler: the same losses."""
    short = {"schedule": {"updates": 3, "warmup": 1}}
    pretrain(config(corpus, **short), tmp_path / "plain", QUIET)
    try:
        pretrain(config(corpus, compute={"compile": True}, **short), tmp_path / "compiled", QUIET)
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip("there is no C++ compiler here")
        raise
    one, other = ([line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("plain", "compiled"))
    assert one == pytest.approx(other, abs=1e-5)
