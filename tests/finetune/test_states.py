"""The state of a run that was stopped: its own is gone on from, that of another never."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aminoglot.errors import JobError
from aminoglot.finetune import results, run
from aminoglot.finetune.splits import Splits
from tests.finetune.helpers import contents, rows, tune, write_table

STATE = ".state.safetensors"


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped(data: Path, folder: Path, **options: Any) -> Path:
    """A run that ends once it has learnt, before anything is written of it; its folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "write_head", full_disk)
        with pytest.raises(OSError, match="No space"):
            tune(data, folder, **options)
    assert (folder / STATE).exists()
    return folder


def test_what_is_hidden_of_another_run_is_not_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its visible files deleted, a folder looks empty; yet the state in it has seen this run's test proteins."""
    folder = stopped(write_table(tmp_path / "a.csv", rows(30)), tmp_path / "run")
    for path in folder.iterdir():
        if not path.name.startswith("."):
            path.unlink()
    data = write_table(tmp_path / "b.csv", rows(30, seed=1))
    capsys.readouterr()
    tune(data, folder)
    assert "going on" not in capsys.readouterr().err
    tune(data, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_state_says_whose_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Put under another run, by whatever way, it counts as none."""
    data = write_table(tmp_path / "a.csv", rows(30))
    first, second = (stopped(data, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    shutil.copy(first / STATE, second / STATE)
    capsys.readouterr()
    tune(data, second, seed=1)
    assert "going on" not in capsys.readouterr().err
    tune(data, tmp_path / "whole", seed=1)
    assert contents(second) == contents(tmp_path / "whole")
    tune(data, first)
    assert "going on after epoch 3" in capsys.readouterr().err


@pytest.mark.parametrize("advice", ["delete", "overwrite"])
def test_the_advice_on_a_damaged_state_works(tmp_path: Path, advice: str) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    folder = stopped(data, tmp_path / "run")
    path = folder / STATE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(JobError, match="delete it to begin training again, or run with --overwrite"):
        tune(data, folder)
    if advice == "delete":
        path.unlink()
    tune(data, folder, overwrite=advice == "overwrite")
    tune(data, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_whole_state_is_gone_on_from_whatever_may_be_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that always says --overwrite loses no epochs when it is killed."""
    data = write_table(tmp_path / "a.csv", rows(30))
    folder = stopped(data, tmp_path / "run")
    capsys.readouterr()
    tune(data, folder, overwrite=True)
    assert "going on after epoch 3" in capsys.readouterr().err


def test_another_version_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    folder = stopped(data, tmp_path / "run")
    monkeypatch.setattr(run, "__version__", "9.9")
    with pytest.raises(
        JobError, match=r"aminoglot: .* before, 9\.9 now\n.* finished by the versions, and on the splits"
    ):
        tune(data, folder)
    tune(data, folder, overwrite=True)


def test_proteins_that_are_dealt_out_otherwise_do_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another MMseqs2 might: what was learnt from would be tested on."""
    data = write_table(tmp_path / "a.csv", rows(30))
    folder = stopped(data, tmp_path / "run")
    before = contents(folder)
    original = run.split

    def other(*arguments: Any) -> Splits:
        made = original(*arguments)
        return replace(made, train=made.test, test=made.train)

    monkeypatch.setattr(run, "split", other)
    with pytest.raises(JobError, match=r"is another run:\n  splits_sha256: .* before, .* now\n"):
        tune(data, folder)
    assert contents(folder) == before
    tune(data, folder, overwrite=True)


def test_an_edited_card_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for people; the model is whole without it."""
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "run")
    card = tmp_path / "run" / "README.md"
    card.write_text(f"{card.read_text()}\nMeasured by Ada.\n")
    before = contents(tmp_path / "run")
    capsys.readouterr()
    tune(data, tmp_path / "run")
    assert "is finished already" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
