"""Homologs of a validation protein, planted: taken out when they should be, left when they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aminoglot import mmseqs
from aminoglot.corpus import ESM2, Choices, Corpus, Inputs, build
from aminoglot.errors import DependencyError, JobError
from tests.corpus.conftest import source
from tests.corpus.helpers import QUIET, fasta, mutated, protein

LENGTH = 240
BACKGROUND = 60


def corpus_of(
    folder: Path, planted: dict[str, list[str]], exclude: list[str] | None = None, seed: int = 0, **choices: Any
) -> Corpus:
    """Unrelated clusters and planted ones, representative first, members after it; one of all is held out."""
    texts = {f"b{number}": [protein(LENGTH, number)] for number in range(BACKGROUND)} | planted
    records = [(name, members[0]) for name, members in texts.items()]
    members = [(f"{name}m{number}", text) for name, some in texts.items() for number, text in enumerate(some)]
    lines = [f"{name}\t{','.join(f'{name}m{number}' for number in range(len(some)))}" for name, some in texts.items()]
    (folder / "map").write_text("cluster\tmembers\n" + "\n".join(lines) + "\n")
    out = None if exclude is None else source(fasta(folder / "out", [(f"x{n}", t) for n, t in enumerate(exclude)]))
    inputs = Inputs(
        source(fasta(folder / "50", records)), source(fasta(folder / "90", members)), source(folder / "map"), out
    )
    recipe = replace(ESM2, validation=1, seed=seed)
    return build(inputs, recipe, folder / "corpus", Choices(threads=2, **choices), QUIET)


def trains(corpus: Corpus) -> set[str]:
    return {corpus.representatives.name(cluster) for cluster in corpus.split("train").tolist()}


@pytest.fixture(scope="module")
def target() -> str:
    return protein(LENGTH, 4711)


def domain_in(text: str, before: int, after: int) -> str:
    return protein(before, 1) + text + protein(after, 2)


def against(target: str, planted: dict[str, list[str]], folder: Path, **choices: Any) -> Corpus:
    """Build with ``target`` as the one protein held out: by the first seed whose draw falls on it."""
    last = BACKGROUND + len(planted)
    seed = next(s for s in count() if np.random.default_rng(s).choice(last + 1, 1, replace=False)[0] == last)
    found = corpus_of(folder, planted | {"target": [target]}, seed=seed, **choices)
    assert [found.representatives.name(int(c)) for c in found.split("validation")] == ["target"]
    return found


IDENTITIES = (40, 55, 70, 95)
SHAPES: dict[str, Callable[[str], str]] = {
    "full": lambda text: text,
    "most": lambda text: text[: int(0.9 * LENGTH)],
    "fragment": lambda text: text[: int(0.6 * LENGTH)],
    "domain": lambda text: domain_in(text, 200, 200),
}


def homologs(target: str) -> dict[str, list[str]]:
    """Each shape at each identity, a cluster of one."""
    cases = enumerate(product(SHAPES, IDENTITIES))
    return {
        f"{shape}{identity}": [SHAPES[shape](mutated(target, identity / 100, seed))]
        for seed, (shape, identity) in cases
    }


def similar(*shapes: str) -> set[str]:
    return {f"{shape}{identity}" for shape, identity in product(shapes, IDENTITIES) if identity > 50}


def test_homologs_of_a_protein_held_out(target: str, tmp_path: Path) -> None:
    """At 50 % identity or more, over 80 % of both: no fragments, no domains in longer proteins."""
    planted = homologs(target)
    corpus = against(target, planted, tmp_path)
    assert set(planted) - trains(corpus) == similar("full", "most")
    assert corpus.card["stages"]["similar clusters"]["clusters"] == 6
    assert corpus.card["stages"]["similar clusters"]["by"].startswith("MMseqs2 ")
    assert len(trains(corpus)) == BACKGROUND + len(planted) - 6


def test_homologs_of_a_protein_to_keep_out(target: str, tmp_path: Path) -> None:
    """At 50 % identity or more, over 80 % of the excluded protein: wherever it lies in a longer one."""
    planted = homologs(target)
    corpus = corpus_of(tmp_path, planted, exclude=[target], filtered=False)
    held_out = {corpus.representatives.name(int(cluster)) for cluster in corpus.split("validation")}
    assert set(planted) - trains(corpus) - held_out == similar("full", "most", "domain")


@pytest.mark.parametrize("strict", [False, True])
def test_members_that_leak(strict: bool, target: str, tmp_path: Path) -> None:
    """A member at 55 %, whose representative is at 40 %."""
    planted = {"far": [mutated(target, 0.40, 4), mutated(target, 0.55, 3), protein(LENGTH, 77)]}
    corpus = against(target, planted, tmp_path, strict=strict)
    assert corpus.card["stages"]["similar members"]["members"] == 1
    cluster = BACKGROUND
    assert corpus.representatives.name(cluster) == "far"
    names = [where.name(at) for where, at in map(corpus.place, corpus.member_rows(cluster).tolist())]
    assert names == (["farm0", "farm2"] if strict else ["farm0", "farm1", "farm2"])
    assert corpus.card["stages"]["result"]["members taken out"] == int(strict)
    after = [corpus.place(row) for row in corpus.member_rows(cluster + 1).tolist()]
    assert [where.name(at) for where, at in after] == ["targetm0"], "the next cluster's members are where they were"


def test_a_short_test_domain_in_a_long_protein(target: str, tmp_path: Path) -> None:
    """Counted on the excluded protein alone; the filter against validation would leave it."""
    domain = target[:80]
    planted = {
        "contains": [domain_in(domain, 300, 300)],
        "contains70": [domain_in(mutated(domain, 0.7, 1), 300, 300)],
        "half": [domain_in(domain[:40], 100, 100)],
        "member": [protein(LENGTH, 1234), domain_in(domain, 50, 50)],
    }
    corpus = corpus_of(tmp_path, planted, exclude=[domain], filtered=False)
    assert trains(corpus) & set(planted) == {"half", "member"}
    assert corpus.card["stages"]["clusters to keep out"]["clusters"] == 2
    assert corpus.card["stages"]["members to keep out"]["members"] == 1
    assert corpus.card["stages"]["result"]["members taken out"] == 1, "what is kept out is kept out, strict or not"


def test_no_filter_is_said(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {}, filtered=False)
    assert corpus.card["stages"]["result"]["filtered"] is False


def test_a_relative_folder(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = against(target, {"same": [target]}, Path())
    assert "same" not in trains(corpus)


def test_own_proteins_are_clustered(tmp_path: Path) -> None:
    """At 90 % and at 50 %: members are no near copies, clusters are families."""
    families = [protein(200, number) for number in range(20)]
    texts = [t for f, text in enumerate(families) for t in (text, mutated(text, 0.97, f), mutated(text, 0.65, f + 50))]
    path = fasta(tmp_path / "own.fasta", [(f"p{number}", text) for number, text in enumerate(texts)])
    recipe = replace(ESM2, validation=2)
    corpus = build(Inputs(source(path)), recipe, tmp_path / "corpus", Choices(threads=2), QUIET)
    found = corpus.card["stages"]["clusters"]
    assert (found["proteins"], found["clusters at 90 %"], found["clusters at 50 %"]) == (60, 40, 20)
    assert corpus.members is not None
    assert len(corpus.members) == 40
    for cluster in range(20):
        names = [where.name(at) for where, at in map(corpus.place, corpus.member_rows(cluster).tolist())]
        assert names[0] == corpus.representatives.name(cluster)
        assert len({int(name[1:]) // 3 for name in names}) == 1, "one family"
        assert len(names) == 2


# --------------------------------------------------------------------------------------------------------- the program


def test_found_on_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho 14-7e284\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mmseqs.find() == program
    assert mmseqs.version() == "14-7e284"


def test_its_last_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho it is full >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    fasta(tmp_path / "a", [("1", "MKT")])
    with pytest.raises(JobError, match=r"MMseqs2 failed \(easy-cluster, status 3\):\nit is full"):
        mmseqs.cluster(tmp_path / "a", identity=0.5, coverage=0.8, folder=tmp_path, threads=1)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminoglot.mmseqs.shutil.which", lambda _: None)
    monkeypatch.setattr("aminoglot.mmseqs.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install 'aminoglot\[corpus\]'"):
        mmseqs.find()
