"""A corpus to look at: real PNGs, one page that needs no other file, masks to be seen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from aminoglot.corpus import PROTT5NV, Choices, Corpus, Inputs, build
from aminoglot.corpus.show import composition, counts, sample_rows, write
from tests.corpus.conftest import source
from tests.corpus.helpers import QUIET, fasta, protein


def test_the_page_and_its_pictures(built: Corpus, tmp_path: Path) -> None:
    files = write(built, tmp_path / "show")
    assert [path.name for path in files] == ["lengths.png", "composition.png", "cluster-sizes.png", "corpus.html"]
    for path in files[:-1]:
        assert path.read_bytes().startswith(b"\x89PNG")
    page = files[-1].read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count('class="sample"') == 6
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing from elsewhere"
    assert "360" in page


def test_counts_are_words_and_numbers(built: Corpus) -> None:
    found = dict(counts(built))
    assert found["train clusters"] == "360"
    assert found["validation clusters"] == "40"
    assert found["members"] == "members"
    assert found["result: filtered"] == "False"
    assert len(found["inputs: mapping, sha256"]) == 64


def test_shares_of_residues(built: Corpus) -> None:
    shares = composition(built)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set("ACDEFGHIKLMNPQRSTVWY")


def test_samples_show_what_is_hidden(built: Corpus) -> None:
    rows = list(sample_rows(built, 5))
    assert len(rows) == 5
    text = " ".join(row for _, row in rows)
    assert '<b class="hidden"' in text
    assert "<i>cls</i>" in text


def test_prott5nv_too(tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fasta", [(f"p{number}", protein(100, number)) for number in range(10)])
    recipe = replace(PROTT5NV, validation=2, test=2)
    corpus = build(Inputs(source(path)), recipe, tmp_path / "corpus", Choices(), QUIET)
    page = write(corpus, tmp_path / "show")[-1].read_text()
    assert "&lt;extra_id_0&gt;" in page
    assert page.count("data:image/png;base64,") == 2
