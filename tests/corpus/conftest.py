"""A corpus for all tests that only read one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aminoglot.corpus import ESM2, Choices, Corpus, Inputs, build
from aminoglot.sequences import Source
from tests.corpus.helpers import QUIET, all_members, clusters, mapping, uniref50

SOME = clusters(400, seed=3)


def source(path: Path) -> Source:
    return Source(path.name, path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """400 clusters, 40 of them for validation, nothing filtered."""
    folder = tmp_path_factory.mktemp("built")
    inputs = Inputs(
        source(uniref50(folder / "50.fasta", SOME)),
        source(all_members(folder / "90.fasta", SOME)),
        source(mapping(folder / "map.tsv", SOME)),
    )
    return build(inputs, replace(ESM2, validation=0.1), folder / "corpus", Choices(filtered=False), QUIET)
