"""``aminoglot pretrain`` as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aminoglot.cli import main
from aminoglot.corpus import Corpus
from tests.pretrain.helpers import held_out

RUN = """
[model]
family = "esm2"
layers = 1
hidden = 32
heads = 2
[batch]
tokens = 2000
at_once = 1000
[optimizer]
rate = 3e-3
[schedule]
updates = 8
warmup = 2
[validation]
every = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


def typed(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *map(str, words)])
    return int(str(ended.value.code))


def test_a_run(file: Path, corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed(file, "--corpus", corpus.folder, "-o", tmp_path / "run") == 0
    said = capfd.readouterr().err
    assert "ESM-2 of " in said
    assert "update 8: held out loss" in said
    assert f"wrote {tmp_path / 'run' / 'model'}" in said
    assert list(held_out(tmp_path / "run")) == [0, 4, 8]
    assert typed(file, "--corpus", corpus.folder, "-o", tmp_path / "run") == 0
    assert "going on from update 8" in capfd.readouterr().err
    assert typed(file, "--corpus", corpus.folder, "-o", tmp_path / "run", "--updates", 12) == 1
    assert "a run begun otherwise (schedule.updates)" in capfd.readouterr().err


def test_a_dry_run(file: Path, corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed(file, "--corpus", corpus.folder, "--dry-run") == 0
    out = capfd.readouterr().out
    for word in ("parameters", "memory, weights and optimizer", "tokens an update", "epochs", "learning rate"):
        assert word in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.toml"], "nothing is written"


def test_no_output(file: Path, corpus: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed(file, "--corpus", corpus.folder) == 1
    assert "name a folder for the run with -o" in capfd.readouterr().err


def test_no_corpus(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed(file, "-o", tmp_path / "run") == 1
    assert f"{tmp_path / 'corpus'}: no corpus here" in capfd.readouterr().err


def test_help_needs_no_torch() -> None:
    program = "import sys; from aminoglot.cli import app; app(['pretrain', '--help'], result_action='return_value')"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout
