"""``aminoglot flip`` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aminoglot.cli import main
from tests.evaluate.helpers import MODEL, write_gb1

pytestmark = pytest.mark.usefixtures("quick")


def typed(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["flip", *map(str, words)])
    return int(str(ended.value.code))


def test_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gb1(tmp_path / "FLIP", "sampled", "two_vs_rest")
    words = ("-m", MODEL, "--data", tmp_path / "FLIP", "-o", tmp_path / "out", "--task", "gb1", "--seeds", 2)
    assert typed(*words, "--split", "sampled", "two_vs_rest", "--layer", "0,2") == 0
    said = capfd.readouterr()
    assert "two_vs_rest" in said.out
    assert "layers 0, 2 of 2" in said.err
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in said.err
    assert (tmp_path / "out" / "results.json").is_file()
    assert typed(*words[:4], "-o", tmp_path / "all", "--seeds", 1) == 1, "four tasks are left out"
    assert "left out: scl mixed_soft" in capfd.readouterr().err


def test_wrong_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed("-o", tmp_path / "out", "-m", MODEL, "--task", "folding") == 2
    assert typed("-o", tmp_path / "out", "-m", MODEL, "--data", tmp_path / "nowhere") == 1
    assert "nowhere: no such folder" in capfd.readouterr().err
    assert typed("-o", tmp_path / "out", "--data", tmp_path) == 1
    said = capfd.readouterr().err
    assert "no model was named: aminoglot-5m" in said
    assert "none of FLIP's tasks is here" in said
