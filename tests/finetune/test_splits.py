"""Splits: functions of sequences and the seed, each class by itself, relatives together; and what is uneven is said."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from aminoglot import mmseqs
from aminoglot.errors import InputError
from aminoglot.finetune.balance import balance
from aminoglot.finetune.examples import Dataset
from aminoglot.finetune.options import Options
from aminoglot.finetune.splits import NAMES, Splits, split
from tests.embedding.helpers import LETTERS, protein
from tests.finetune.helpers import dataset, rows, write_table


def made(found: Dataset, folder: Path, **options: object) -> Splits:
    return split(found, Options(**{"target": "label", **options}), folder, 1)  # type: ignore[arg-type]


def where(found: Dataset, splits: Splits) -> dict[bytes, str]:
    return {one.sequence: name for one, name in zip(found.examples, splits.of(len(found.examples)), strict=True)}


def test_random_shares(tmp_path: Path) -> None:
    found = dataset(write_table(tmp_path / "a.csv", rows(100)))
    splits = made(found, tmp_path, validation_share=0.15, test_share=0.25)
    assert [len(splits.rows(name)) for name in NAMES] == [60, 15, 25]
    assert sorted(np.concatenate([splits.rows(name) for name in NAMES])) == list(range(100))
    assert made(found, tmp_path, seed=1).test.tolist() != made(found, tmp_path).test.tolist()
    assert not len(made(found, tmp_path, test_share=0.0).test)


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    table = rows(50)
    first = dataset(write_table(tmp_path / "a.csv", table))
    again = dataset(write_table(tmp_path / "b.csv", table[::-1]))
    assert where(first, made(first, tmp_path)) == where(again, made(again, tmp_path))


def test_each_class_is_dealt_out_by_itself(tmp_path: Path) -> None:
    """A rare class is in all splits; one with a single example is learnt from."""
    table = [
        {**row, "label": "rare" if i < 10 else "alone" if i == 10 else "common"} for i, row in enumerate(rows(111))
    ]
    found = dataset(write_table(tmp_path / "a.csv", table))
    splits = made(found, tmp_path)
    of = np.array([found.classes[int(one.label[0])] for one in found.examples])
    assert [int((of[splits.rows(name)] == "rare").sum()) for name in NAMES] == [7, 1, 2]
    assert [int((of[splits.rows(name)] == "alone").sum()) for name in NAMES] == [1, 0, 0]
    said = list(balance(found, splits).notes())
    assert any("'common' has 100 labels, 'alone' 1" in line and "--class-weights balanced" in line for line in said)
    assert "classes with one label alone, which is for training: alone" in said


def test_three_proteins_are_enough(tmp_path: Path) -> None:
    found = dataset(write_table(tmp_path / "a.csv", rows(3)))
    splits = made(found, tmp_path)
    assert len(splits.train) >= 1
    assert len(splits.validation) >= 1


def test_given_splits(tmp_path: Path) -> None:
    table = [{**row, "set": "test" if i < 3 else "train"} for i, row in enumerate(rows(40))]
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set")
    splits = made(found, tmp_path, split_column="set")
    assert splits.test.tolist() == [0, 1, 2]
    assert 3 <= len(splits.validation) <= 6
    assert any("no protein is marked for validation" in note for note in splits.notes)
    with pytest.raises(InputError, match="leave --split out"):
        made(found, tmp_path, split="clusters", split_column="set")
    table = [{**row, "set": "test"} for row in table]
    found = dataset(write_table(tmp_path / "b.csv", table), split_column="set")
    with pytest.raises(InputError, match="no protein is marked for training"):
        made(found, tmp_path)


def test_no_test_is_said(tmp_path: Path) -> None:
    table = [{**row, "set": "val" if i < 3 else "train"} for i, row in enumerate(rows(20))]
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set")
    assert any("there will be no test scores" in note for note in made(found, tmp_path).notes)


def family(seed: int, members: int) -> list[str]:
    """Relatives at some 85 % identity."""
    generator = random.Random(seed)
    first = protein(120, seed)
    return [
        "".join(generator.choice(LETTERS) if generator.random() < 0.15 else c for c in first) for _ in range(members)
    ]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[int]]:
    """Twenty families of five, and a protein of four residues that MMseqs2 is blind to."""
    of = [number for number in range(20) for _ in range(5)]
    texts = [text for number in range(20) for text in family(number, 5)]
    table = [{"id": f"P{i}", "sequence": text, "label": str(i)} for i, text in enumerate([*texts, "MKVA"])]
    return dataset(write_table(tmp_path_factory.mktemp("families") / "a.csv", table)), [*of, 20]


@pytest.mark.slow
def test_relatives_stay_together(families: tuple[Dataset, list[int]], tmp_path: Path) -> None:
    found, of = families
    splits = made(found, tmp_path, split="clusters")
    names = splits.of(len(found.examples))
    assert set(names) == set(NAMES)
    for number in range(21):
        assert len({name for name, family in zip(names, of, strict=True) if family == number}) == 1
    assert 0.1 * 101 <= len(splits.test) <= 0.25 * 101
    assert re.search(r"by clusters at 30% identity, 21 of them \(MMseqs2 ", splits.how)
    assert names == made(found, tmp_path, split="clusters").of(len(found.examples))
    assert list(tmp_path.iterdir()) == []


def test_one_family_cannot_be_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataset(write_table(tmp_path / "a.csv", rows(12)))
    monkeypatch.setattr(mmseqs, "cluster", lambda *_: np.array([(0, i) for i in range(12)]))
    with pytest.raises(InputError, match="1 cluster of these 12 proteins, and three are needed"):
        made(found, tmp_path, split="clusters")


def test_a_large_family_trains(
    families: tuple[Dataset, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all clusters are larger than a share, the smallest of them tests, the next validates; none is left out."""
    found, _ = families
    pairs = np.array([(0, i) if i < 50 else (50, i) if i < 80 else (80, i) for i in range(101)])
    monkeypatch.setattr(mmseqs, "cluster", lambda *_: pairs)
    splits = made(found, tmp_path, split="clusters", validation_share=0.01, test_share=0.01)
    assert sorted(np.concatenate([splits.rows(name) for name in NAMES])) == list(range(101))
    assert splits.test.tolist() == list(range(80, 101))
    assert splits.validation.tolist() == list(range(50, 80))
    assert any("largest cluster has 50 of 101" in note for note in splits.notes)


def test_one_label_alone_is_for_training_only_where_it_is(tmp_path: Path) -> None:
    """Given splits and clusters may have it elsewhere."""
    table = [
        {**row, "label": "x" if i == 1 else "y" if i == 5 else "ab"[i % 2], "set": "test" if i < 4 else "train"}
        for i, row in enumerate(rows(40))
    ]
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set")
    said = list(balance(found, made(found, tmp_path)).notes())
    assert "classes with one label alone, which is for training: y" in said
    assert "classes without a training label, which are never predicted right: x" in said
    assert "scores will be of 4 test proteins only, and say little" in said
    many = dataset(write_table(tmp_path / "b.csv", rows(150)))
    assert not any("say little" in note for note in balance(many, made(many, tmp_path)).notes())


def test_clusters_of_a_third_each(
    families: tuple[Dataset, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three splits have one, and it is said that they are larger than was asked."""
    found, _ = families
    pairs = np.array([(i // 34 * 34, i) for i in range(101)])
    monkeypatch.setattr(mmseqs, "cluster", lambda *_: pairs)
    splits = made(found, tmp_path, split="clusters")
    assert sorted(len(splits.rows(name)) for name in NAMES) == [33, 34, 34]
    assert splits.test.tolist() == list(range(68, 101))
    assert any(
        "as small as the test set was to be (20 of 101 proteins): the smallest was taken for it, 33" in note
        for note in splits.notes
    )
    splits = made(found, tmp_path, split="clusters", test_share=0.0)
    assert [len(splits.rows(name)) for name in NAMES] == [68, 33, 0]


def test_a_test_that_vanishes_is_noted(tmp_path: Path) -> None:
    """Ten classes of two: a fifth of each is none."""
    table = [{**row, "label": "abcdefghij"[i % 10]} for i, row in enumerate(rows(20))]
    found = dataset(write_table(tmp_path / "a.csv", table))
    splits = made(found, tmp_path)
    assert len(splits.test) == 0
    assert any("no protein is left for the test, though 20% were wanted (classes are small)" in n for n in splits.notes)
    assert not made(found, tmp_path, test_share=0.0).notes


def test_lengths_that_differ_are_said(tmp_path: Path) -> None:
    table = [{"id": f"P{i}", "sequence": protein(20 + 80 * (i % 2), i), "label": "ab"[i % 2]} for i in range(40)]
    found = dataset(write_table(tmp_path / "a.csv", table))
    spread = balance(found, made(found, tmp_path))
    assert spread.class_lengths == {"a": 20, "b": 100}
    assert any("length alone tells something of the class" in note for note in spread.notes())
    assert any(line.startswith("classes: a 20 (50.0%), b 20 (50.0%)") for line in spread.lines())
