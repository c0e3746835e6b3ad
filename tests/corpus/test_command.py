"""The corpus commands, as a shell runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aminoglot import cli
from tests.corpus.conftest import SOME
from tests.corpus.helpers import all_members, fasta, mapping, protein, uniref50


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_build_show_export_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        *("--uniref50", uniref50(tmp_path / "50.fasta", SOME)),
        *("--uniref90", all_members(tmp_path / "90.fasta", SOME)),
        *("--members", mapping(tmp_path / "map.tsv", SOME)),
    ]
    corpus = tmp_path / "corpus"
    assert run("corpus", "build", *files, "-o", corpus, "--validation", "0.1", "--no-leak-filter") == 0
    assert "clusters: members" in capsys.readouterr().out
    assert run("corpus", "build", *files, "-o", corpus, "--validation", "0.1", "--no-leak-filter") == 0
    assert "is whole already" in capsys.readouterr().err
    assert run("corpus", "show", corpus) == 0
    assert (corpus / "show" / "corpus.html").exists()
    assert run("corpus", "export", corpus, tmp_path / "out", "--to", "sqlite") == 0
    assert run("corpus", "import", tmp_path / "out", "-o", tmp_path / "again") == 0
    assert re.search(r"train clusters +360\nvalidation clusters +40\n", capsys.readouterr().out)


def test_prott5nv_from_a_fasta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fasta(tmp_path / "a.fasta", [(f"p{number}", protein(100, number)) for number in range(20)])
    flags = ["--recipe", "prott5nv", "--fasta", path, "--validation", "2", "--test", "3"]
    assert run("corpus", "build", *flags, "-o", tmp_path / "corpus") == 0
    assert re.search(r"train +15\nvalidation +2\ntest +3\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "name --uniref50"),
        (["--fasta", "a", "--uniref50", "a"], "name --uniref50"),
        (["--uniref50", "a"], "--recipe esm2 needs --uniref90 and --members"),
        (["--fasta", "nothing"], "nothing: no such file"),
    ],
)
def test_what_is_missing_is_said(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fasta(tmp_path / "a", [("p", "MKT")])
    assert run("corpus", "build", *flags, "-o", tmp_path / "corpus") == 1
    assert said in capsys.readouterr().err
