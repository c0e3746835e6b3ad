"""Homologs of a validation protein, planted: taken out when they should be, left when they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aminoglot import mmseqs
from aminoglot.corpus import ESM2, PROTT5NV, Choices, Corpus, Inputs, build, leaks
from aminoglot.corpus.draws import draws, mixed
from aminoglot.corpus.stages import STATE
from aminoglot.errors import DependencyError, InputError, JobError
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


def seed_of(last: int) -> int:
    """The first whose draw falls on the last of so many clusters."""
    return next(seed for seed in count() if np.argmin(draws(mixed(seed, 0), last + 1)) == last)


def against(target: str, planted: dict[str, list[str]], folder: Path, **choices: Any) -> Corpus:
    """Build with ``target`` as the one protein held out: by the first seed whose draw falls on it."""
    seed = seed_of(BACKGROUND + len(planted))
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


def test_held_out_proteins_are_kept_out_too(target: str, tmp_path: Path) -> None:
    """Checkpoints are chosen by validation: what is a test set's is not there either."""
    planted = {"same": [mutated(target, 0.9, 1)], "target": [target]}
    corpus = corpus_of(tmp_path, planted, [target], seed_of(BACKGROUND + 1), filtered=False)
    assert not len(corpus.split("validation"))
    result = corpus.card["stages"]["result"]
    assert (result["taken out of validation"], result["taken out of train"]) == (1, 1)
    path = fasta(tmp_path / "own", [(f"p{n}", protein(LENGTH, n)) for n in range(9)] + [("target", target)])
    out = source(fasta(tmp_path / "target", [("target", target)]))
    for seed in range(4):
        recipe = replace(PROTT5NV, validation=4, test=4, seed=seed)
        found = build(Inputs(source(path), excluded=out), recipe, tmp_path / f"t5-{seed}", Choices(threads=2), QUIET)
        assert sum(len(found.split(name)) for name in ("train", "validation", "test")) == 9


def test_more_targets_than_mmseqs_lists(target: str, tmp_path: Path) -> None:
    """A domain in hundreds of long proteins that are to be kept out, and alone: alone it is covered."""
    domain = target[:80]
    long = [domain_in(mutated(domain, 0.95, seed), 150 + seed % 50, 200) for seed in range(320)]
    planted = {"contains": [domain_in(mutated(domain, 0.7, 9), 300, 300)]}
    corpus = corpus_of(tmp_path, planted, exclude=[*long, domain], filtered=False)
    assert "contains" not in trains(corpus)


SIMPLE = ["GPP" * 60, "Q" * 120, "PEVK" * 50, "GAGAGS" * 40, "MKTAYIAKQ"]


@pytest.mark.parametrize("text", SIMPLE)
def test_identical_ones_that_mmseqs_does_not_see(text: str, tmp_path: Path) -> None:
    """Proteins of low complexity, and very short ones: letter for letter the same, they are out."""
    corpus = corpus_of(tmp_path, {"same": [text], "other": [protein(LENGTH, 900), text]}, [text], filtered=False)
    assert "same" not in trains(corpus)
    assert corpus.card["stages"]["clusters to keep out"]["identical ones"] == 1
    assert corpus.card["stages"]["members to keep out"]["identical ones"] == 1
    other = next(c for c in corpus.split("train").tolist() if corpus.representatives.name(c) == "other")
    assert len(corpus.member_rows(other)) == 1


@pytest.mark.parametrize("text", SIMPLE)
def test_identical_to_one_held_out(text: str, tmp_path: Path) -> None:
    corpus = against(text, {"same": [text]}, tmp_path)
    assert "same" not in trains(corpus)
    assert corpus.card["stages"]["similar clusters"]["identical ones"] == 1


def test_bad_records_to_keep_out_show_first(target: str, tmp_path: Path) -> None:
    """Before anything is searched; and a file of DNA is noted."""
    with pytest.raises(InputError, match="no proteins"):
        corpus_of(tmp_path, {}, exclude=[target, "MK-T"])
    assert "representatives" not in json.loads((tmp_path / "corpus" / STATE).read_text())["stages"]


def test_a_search_in_parts_that_is_stopped(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was searched is not searched again, and the result is that of one search."""
    planted = homologs(target)
    (tmp_path / "whole").mkdir()
    whole = against(target, planted, tmp_path / "whole")
    monkeypatch.setattr("aminoglot.corpus.filtering._PART", 10)
    searched: list[int] = []
    similar = leaks.similar

    def stopping(*given: Any) -> Any:
        searched.append(1)
        if len(searched) == 3:
            (tmp_path / "corpus" / "work" / "mmseqs-killed").mkdir()
            raise KeyboardInterrupt
        return similar(*given)

    monkeypatch.setattr(leaks, "similar", stopping)
    with pytest.raises(KeyboardInterrupt):
        against(target, planted, tmp_path)
    found = against(target, planted, tmp_path)
    parts = -(-len(whole.split("train")) // 10)
    assert len(searched) >= parts + 1, "one was begun twice"
    assert trains(found) == trains(whole)
    assert found.card["stages"] == whole.card["stages"], "parts leave no trace"


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
    assert corpus.card["level"] == "representatives at 90 %"
    assert [line.split()[2:4] for line in found["by"]] == [["--min-seq-id", "0.9"], ["--min-seq-id", "0.5"]]
    lines = [line.split("\t") for line in (corpus.folder / "clusters.tsv").read_text().splitlines()]
    assert lines[0] == ["protein", "member", "cluster"]
    assert [line[0] for line in lines[1:]] == [f"p{number}" for number in range(60)]
    assert all(len({int(name[1:]) // 3 for name in line}) == 1 for line in lines[1:]), "of one family"


def test_own_proteins_twice(tmp_path: Path) -> None:
    """The same record twice is one protein, even where MMseqs2 cannot see that they are the same."""
    records = [(f"p{number}", protein(9, number)) for number in range(30)]
    path = fasta(tmp_path / "own.fasta", records * 2)
    corpus = build(Inputs(source(path)), replace(ESM2, validation=5), tmp_path / "corpus", Choices(threads=2), QUIET)
    assert corpus.card["stages"]["proteins"]["repeated records"] == 30
    names = [corpus.representatives.name(row) for row in range(len(corpus.representatives))]
    assert sorted(names) == sorted(name for name, _ in records)


def test_a_program_that_loses_proteins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = mmseqs.cluster
    monkeypatch.setattr(mmseqs, "cluster", lambda *given: cluster(*given)[:-1])
    path = fasta(tmp_path / "own.fasta", [(f"p{number}", protein(90, number)) for number in range(9)])
    with pytest.raises(JobError, match="MMseqs2 gave back 8 of 9 proteins"):
        build(Inputs(source(path)), replace(ESM2, validation=2), tmp_path / "corpus", Choices(threads=2), QUIET)


# --------------------------------------------------------------------------------------------------------- the program


def test_found_on_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho 14-7e284\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mmseqs.find() == program
    assert mmseqs.described(("-s", "7")) == "MMseqs2 14-7e284 -s 7"


def test_its_last_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho it is full >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    fasta(tmp_path / "a", [("1", "MKT")])
    with pytest.raises(JobError, match=r"MMseqs2 failed \(easy-cluster, status 3\):\nit is full"):
        mmseqs.cluster(tmp_path / "a", (), tmp_path, 1)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminoglot.mmseqs.shutil.which", lambda _: None)
    monkeypatch.setattr("aminoglot.mmseqs.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install 'aminoglot\[corpus\]'"):
        mmseqs.find()
