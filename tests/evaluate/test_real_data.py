"""FLIP's real files, with the numbers that their publishers give."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aminoglot.evaluate.blocks import Reach, block, covered
from aminoglot.evaluate.flip import PUBLISHED_DIGESTS, digests, read, splits_in
from aminoglot.evaluate.predictors import CONSTANT, fitted
from aminoglot.evaluate.scoring import scored
from aminoglot.evaluate.split import Split
from aminoglot.evaluate.tasks import TASKS, Counts, TaskName, bionemo_limit
from aminoglot.finetune.problems import Labelled
from tests.sequences.files import shared


def flip(name: str) -> Path:
    return shared(f"flip/{name}")


def split_of(task: TaskName, name: str) -> Split:
    return read(flip(task).parent, TASKS[task], name)


@pytest.mark.parametrize(("name", "test"), [("sampled", 364), ("sampled_648", 648)])
def test_secondary_structure_to_the_published_checksums(name: str, test: int) -> None:
    """BioNeMo 1's own test pins these of its tables."""
    split = split_of("secondary_structure", name)
    assert split.counts == Counts(9712, 1080, test)
    assert split.mismatch is None
    found = digests(split)
    assert found["train"] == "af653e0e56e63442b4f3bafe68de7d70"
    assert found["validation"] == "fa5d9cbdd729180b8401d18b31ecc0a9"
    expected = {364: "a92c394b0017cd573d25fbd86cc6abf7", 648: "0d680b0ef7765cf6b587ab5ec1882469"}
    assert found["test"] == expected[test]
    assert all(found[name] in PUBLISHED_DIGESTS[name] for name in found)
    residues = sum(len(e.sequence) for e in split.test)
    resolved = sum((e.mask or "").count("1") for e in split.test)
    assert (residues, resolved) == {364: (84_541, 75_402), 648: (132_756, 118_603)}[test]


def test_secondary_structure_s_classes() -> None:
    """Shares of resolved residues, C/E/H."""
    split = split_of("secondary_structure", "sampled")
    made = block(split.train, TASKS["secondary_structure"])
    assert made.counted is not None
    assert (made.rows, int(made.counted.sum())) == (2_479_773, 2_319_963)
    shares = np.bincount(made.labels[made.counted]) / made.counted.sum()
    assert shares.round(3).tolist() == [0.386, 0.227, 0.387]


def test_conservation() -> None:
    split = split_of("conservation", "sampled")
    assert split.mismatch is None
    assert split.counts == Counts(9392, 555, 519)
    assert any(note.startswith("41 sequences of sequences.fasta.gz without labels, left out") for note in split.notes)
    labels = Counter("".join(e.label for e in split.test))
    total = sum(labels.values())
    assert total == 133_857
    shares = [labels[letter] / total for letter in "123456789"]
    assert shares == pytest.approx([0.126, 0.069, 0.088, 0.105, 0.120, 0.140, 0.132, 0.111, 0.109], abs=1e-3)


def test_localization_is_rebuilt_and_says_so() -> None:
    folder = flip("scl").parent
    assert splits_in(folder, TASKS["scl"]) == ["mixed_soft_rebuilt"]
    split = split_of("scl", "mixed_soft_rebuilt")
    assert split.counts == Counts(8926, 1678, 2768)
    assert split.rebuilt
    assert split.mismatch is not None
    assert Counter(e.label for e in split.test)["Nucleus"] == 806
    assert Counter(e.label for e in split.train)["Lysosome/Vacuole"] == 199
    _, coverage = covered(split.test, TASKS["scl"], Reach("window", 512, bionemo_limit("ProtT5nv")))
    assert coverage.proteins == 1694, "61 % of them, as counted for the shipped harness"


def test_genuine_lines_of_localization(tmp_path: Path) -> None:
    """134 lines that biotrainer's tests kept, with val as a set of its own and Lysosome cut at the slash in four."""
    genuine = flip("scl/flip_scl_134_sample.fasta.gz")
    (tmp_path / "scl").mkdir()
    (tmp_path / "scl" / "mixed_soft.fasta.gz").write_bytes(genuine.read_bytes())
    with pytest.raises(Exception, match=r"class 'Lysosome' is none of .*was it cut at the /\?"):
        read(tmp_path, TASKS["scl"], "mixed_soft")


def test_genuine_lines_of_meltome(tmp_path: Path) -> None:
    genuine = flip("meltome_rebuilt/flip_mixed_split_100_sample.fasta.gz")
    (tmp_path / "meltome").mkdir()
    (tmp_path / "meltome" / "mixed_split.fasta.gz").write_bytes(genuine.read_bytes())
    split = read(tmp_path, TASKS["meltome"], "mixed_split")
    assert split.counts == Counts(67, 4, 29)
    assert float(split.train[0].label) == 43.3297884677024
    assert "published are 22,335 / 2,482 / 3,134" in (split.mismatch or "")


def test_meltome_is_rebuilt_and_says_so() -> None:
    folder = flip("meltome_rebuilt").parent
    assert splits_in(folder, TASKS["meltome"]) == ["meltome_rebuilt"]
    split = read(folder, TASKS["meltome"], "meltome_rebuilt")
    assert split.rebuilt
    assert sum(map(len, split.sets.values())) == 10_701
    assert any(note.startswith("rebuilt, not FLIP's") for note in split.notes)
    sequences = [{e.sequence for e in examples} for examples in split.sets.values()]
    assert not sequences[0] & sequences[1]
    assert not sequences[0] & sequences[2]


GB1 = {
    "sampled": (Counts(6289, 699, 1745), 1.4545),
    "two_vs_rest": (Counts(381, 43, 8309), 1.568),
    "three_vs_rest": (Counts(2691, 299, 5743), 1.690),
    "one_vs_rest": (Counts(25, 3, 8705), 1.840),
    "low_vs_high": (Counts(4580, 509, 3644), 4.940),
}


@pytest.mark.parametrize("name", GB1)
def test_gb1_and_its_constant(name: str) -> None:
    """All five splits; what the mean of the training set alone comes to, by our own harness."""
    counts, mse = GB1[name]
    task, split = TASKS["gb1"], split_of("gb1", name)
    assert split.counts == counts
    assert split.mismatch is None
    train, held_out, test = (
        Labelled(np.zeros((len(e), 0), np.uint8), block(e, task).labels) for e in split.sets.values()
    )
    told = fitted(CONSTANT, task, train, held_out, 1, None).tell(test)  # type: ignore[arg-type]
    found = scored(task, told, test.actual, test.owners, len(test)).scores
    assert found["mse"].mean == pytest.approx(mse, abs=6e-4)
    assert found["spearman"].mean == 0


def test_gb1_s_two_forms_agree(tmp_path: Path) -> None:
    (tmp_path / "gb1").mkdir()
    for name in GB1:
        content = flip(f"gb1/{name}.csv.gz").read_bytes()
        (tmp_path / "gb1" / f"{name}.csv.gz").write_bytes(content)
        table, fasta = read(tmp_path, TASKS["gb1"], name), split_of("gb1", name)
        for part, examples in fasta.sets.items():
            assert [e.sequence for e in table.sets[part]] == [e.sequence for e in examples]
            numbers = [float(e.label) for e in examples]
            assert [float(e.label) for e in table.sets[part]] == pytest.approx(numbers, rel=1e-12)
