"""Small corpora of both families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aminoglot.corpus import ESM2, PROTT5NV, Choices, Corpus, Inputs, build
from tests.corpus.conftest import SOME, source
from tests.corpus.helpers import QUIET, all_members, clusters, mapping, uniref50
from tests.pretrain.helpers import config, ran


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """400 clusters, 40 of them held out, samples of up to 100 tokens."""
    folder = tmp_path_factory.mktemp("esm2")
    inputs = Inputs(
        source(uniref50(folder / "50.fasta", SOME)),
        source(all_members(folder / "90.fasta", SOME)),
        source(mapping(folder / "map.tsv", SOME)),
    )
    recipe = replace(ESM2, validation=0.1, tokens=100)
    return build(inputs, recipe, folder / "corpus", Choices(filtered=False), QUIET)


@pytest.fixture(scope="session")
def t5_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """400 proteins, 40 of them held out."""
    folder = tmp_path_factory.mktemp("prott5nv")
    inputs = Inputs(source(uniref50(folder / "50.fasta", clusters(400, seed=9))))
    return build(inputs, replace(PROTT5NV, validation=40, test=0), folder / "corpus", Choices(), QUIET)


@pytest.fixture(scope="session")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = ran(config(corpus), folder)
    assert done.returncode == 0, done.stderr
    return folder
