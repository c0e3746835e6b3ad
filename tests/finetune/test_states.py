"""The state of a run that was stopped: its own is gone on from, that of another never."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from aminoglot.finetune import results
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
