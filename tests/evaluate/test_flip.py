"""FLIP's files: both forms, every way in which they can be wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from aminoglot.errors import InputError
from aminoglot.evaluate.flip import digests, read, splits_in
from aminoglot.evaluate.split import Example, tenth
from aminoglot.evaluate.tasks import TASKS, Counts
from tests.evaluate.helpers import write_fasta, write_gb1, write_localization, write_residues

GB1, SCL, STRUCTURE = TASKS["gb1"], TASKS["scl"], TASKS["secondary_structure"]


def proteins(folder: Path, *headers: str, text: str = "MKTAYIAK", task: str = "gb1", split: str = "sampled") -> Path:
    """A file of one task's proteins: two for train, one for validation, one for test, and what else is asked for."""
    label = "TARGET=1.5" if task == "gb1" else "TARGET=Nucleus"
    other = "TARGET=2.5" if task == "gb1" else "TARGET=Plastid"
    usual = [f"a {label} SET=train", f"b {other} SET=train VALIDATION=False"]
    usual += [f"c {label} SET=train VALIDATION=True", f"d {label} SET=test"]
    write_fasta(folder / task / f"{split}.fasta", [(h, text) for h in (*usual, *headers)])
    return folder


def test_residues(tmp_path: Path) -> None:
    write_residues(tmp_path)
    split = read(tmp_path, STRUCTURE, "sampled")
    assert split.counts == Counts(40, 12, 14)
    assert split.train[0].id == "train-False-0"
    first = split.test[0]
    assert len(first.label) == len(first.sequence) == len(first.mask or "")
    assert (first.mask or "")[:2] == "01"
    assert split.files == ("sequences.fasta", "sampled.fasta", "mask.fasta")
    assert split.mismatch == (
        "sampled has 40 / 12 / 14 proteins (train / validation / test), published are 9,712 / 1,080 / 364: another "
        "version, or not whole"
    )


def test_the_old_name_of_the_mask_and_compressed_files(tmp_path: Path) -> None:
    write_residues(tmp_path, mask="resolved")
    before = read(tmp_path, STRUCTURE, "sampled")
    for path in list((tmp_path / "secondary_structure").iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    after = read(tmp_path, STRUCTURE, "sampled")
    assert before.sets == after.sets
    assert after.files[-1] == "resolved.fasta.gz"


def test_both_forms_of_proteins_agree(tmp_path: Path) -> None:
    write_gb1(tmp_path / "fasta")
    fasta = read(tmp_path / "fasta", GB1, "sampled")
    rows = "sequence,target,set,validation\n"
    for name, examples in fasta.sets.items():
        for one in examples:
            part, held_out = ("train", "True") if name == "validation" else (name, "")
            rows += f"{one.sequence.decode()},{one.label},{part},{held_out}\n"
    (tmp_path / "csv" / "gb1").mkdir(parents=True)
    (tmp_path / "csv" / "gb1" / "sampled.csv").write_text(rows)
    table = read(tmp_path / "csv", GB1, "sampled")
    assert table.counts == fasta.counts
    for name, examples in fasta.sets.items():
        assert [(e.sequence, e.label) for e in table.sets[name]] == [(e.sequence, e.label) for e in examples]
    assert table.train[0].id == "row_1"


def test_a_class_with_a_slash_stays_whole(tmp_path: Path) -> None:
    write_localization(tmp_path)
    labels = {example.label for example in read(tmp_path, SCL, "mixed_soft").train}
    assert labels == {"Nucleus", "Lysosome/Vacuole", "Cytoplasm"}


def test_a_class_that_was_cut_at_the_slash(tmp_path: Path) -> None:
    folder = proteins(tmp_path, "e TARGET=Lysosome SET=train", task="scl", split="mixed_soft")
    with pytest.raises(InputError, match=r"line 9, id 'e': class 'Lysosome' is none of .*was it cut at the /\?"):
        read(folder, SCL, "mixed_soft")


def test_an_unknown_class_in_test(tmp_path: Path) -> None:
    folder = proteins(tmp_path, "e TARGET=Moon SET=test", task="scl", split="mixed_soft")
    with pytest.raises(InputError, match="class 'Moon' is none of scl's"):
        read(folder, SCL, "mixed_soft")


@pytest.mark.parametrize(("target", "shown"), [("nan", "nan"), ("inf", "inf"), ("high", "high"), ("", "")])
def test_a_target_that_is_no_number(tmp_path: Path, target: str, shown: str) -> None:
    folder = proteins(tmp_path, f"e TARGET={target} SET=test")
    with pytest.raises(InputError, match=rf"sampled.fasta, line 9, id 'e': target '{shown}' is no number"):
        read(folder, GB1, "sampled")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("e SET=test", "id 'e': its header has no TARGET="),
        ("e TARGET=1 SET=maybe", "SET=maybe: choose train, val or test"),
        ("e TARGET=1 SET=test2", "several test sets cannot be evaluated yet"),
        ("e TARGET=1 SET=train VALIDATION=perhaps", "VALIDATION='perhaps' is neither True nor False"),
        ("d TARGET=9 SET=test", "id 'd' twice, and not the same"),
        ("", "a header without an id"),
    ],
)
def test_headers_that_say_nothing_of_use(tmp_path: Path, header: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(proteins(tmp_path, header), GB1, "sampled")


def test_what_is_in_no_set_is_counted(tmp_path: Path) -> None:
    split = read(proteins(tmp_path, "e TARGET=1", "f TARGET=2 SET=nan", "d TARGET=1.5 SET=test"), GB1, "sampled")
    assert split.counts == Counts(2, 1, 1)
    assert "2 proteins in no set, left out" in split.notes
    assert "1 record came twice, the same, and counted once" in split.notes


def test_sequences_that_repeat_are_said(tmp_path: Path) -> None:
    notes = read(proteins(tmp_path), GB1, "sampled").notes
    assert "1 training protein with the sequence of another" in notes
    assert "1 test protein with the very sequence of a training protein" in notes


def test_letters_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sampled.fasta, line 1, id 'a': '-' at position 3 is a gap"):
        read(proteins(tmp_path, text="MK-AY"), GB1, "sampled")


def test_labels_of_another_length(tmp_path: Path) -> None:
    write_residues(tmp_path)
    path = tmp_path / "secondary_structure" / "sampled.fasta"
    lines = path.read_text().split("\n")
    lines[3] += "C"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"sampled.fasta, line 3, id 'train-False-1': (\d+) labels for (\d+) residues"):
        read(tmp_path, STRUCTURE, "sampled")
    lines[3] = "X" + lines[3][2:]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="label 'X' of residue 1 is none of secondary_structure's"):
        read(tmp_path, STRUCTURE, "sampled")


@pytest.mark.parametrize(("mask", "sentence"), [("01", "a mask of 2 for"), ("0" * 11 + "2", "a mask")])
def test_masks_that_do_not_fit(tmp_path: Path, mask: str, sentence: str) -> None:
    write_residues(tmp_path)
    path = tmp_path / "secondary_structure" / "mask.fasta"
    lines = path.read_text().split("\n")
    lines[1] = mask if len(mask) == 2 else "2" + lines[1][1:]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, STRUCTURE, "sampled")


@pytest.mark.parametrize("missing", ["sequences", "mask"])
def test_missing_files_and_missing_proteins(tmp_path: Path, missing: str) -> None:
    write_residues(tmp_path)
    path = tmp_path / "secondary_structure" / f"{missing}.fasta"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[2:]))
    with pytest.raises(InputError, match=rf"{missing}.fasta: no \w+ for 1 labelled protein:\n  train-False-0"):
        read(tmp_path, STRUCTURE, "sampled")
    path.unlink()
    with pytest.raises(InputError, match=f"{missing}.fasta.* is missing beside sampled.fasta"):
        read(tmp_path, STRUCTURE, "sampled")


def test_sequences_without_labels_are_counted(tmp_path: Path) -> None:
    write_residues(tmp_path)
    with (tmp_path / "secondary_structure" / "sequences.fasta").open("a") as file:
        file.write(">stranger\nMKT\n")
    notes = read(tmp_path, STRUCTURE, "sampled").notes
    assert "1 sequence of sequences.fasta without labels, left out: stranger" in notes


def test_damaged_files(tmp_path: Path) -> None:
    write_gb1(tmp_path)
    path = tmp_path / "gb1" / "sampled.fasta"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name("sampled.fasta.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="the gzip data ends early"):
        read(tmp_path, GB1, "sampled")
    path.with_name("sampled.fasta.gz").unlink()
    for content, sentence in ((b"", "the file is empty"), (b"<html>", "starts with '>'"), (b">a\xff\xfe\n", "no text")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            read(tmp_path, GB1, "sampled")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sequence,target\nMKT,1\n", "no column set"),
        ("sequence,target,set,validation\n", "a table without rows"),
        ("sequence,target,set,validation\nMKT,1\n", "line 2: cells are missing"),
        ("sequence,target,set,validation\nMKT,,test,\n", "line 2: target '' is no number"),
        ("sequence,target,set,validation\nMKT,1,test,\n", "no protein in train and validation"),
    ],
)
def test_damaged_tables(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "gb1").mkdir()
    (tmp_path / "gb1" / "sampled.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, GB1, "sampled")


def test_one_class_alone(tmp_path: Path) -> None:
    write_fasta(
        tmp_path / "scl" / "mixed_soft.fasta",
        [(f"p{n} TARGET=Nucleus SET={s}", "MKTAY") for n, s in enumerate(["train", "train", "val", "test"])],
    )
    with pytest.raises(InputError, match="all training proteins have the class Nucleus"):
        read(tmp_path, SCL, "mixed_soft")


def test_without_a_validation_set_a_tenth_stands_in(tmp_path: Path) -> None:
    records = [(f"p{n} TARGET={n} SET=train", "MKTAY" + "G" * (n // 2)) for n in range(40)]
    write_fasta(tmp_path / "gb1" / "sampled.fasta", [*records, ("t TARGET=1 SET=test", "MKT")])
    split = read(tmp_path, GB1, "sampled")
    assert split.counts == Counts(36, 4, 1)
    assert any("no protein is marked for validation: 4 training proteins, a tenth" in note for note in split.notes)
    assert not {e.sequence for e in split.train} & {e.sequence for e in split.validation}
    again = read(tmp_path, GB1, "sampled")
    assert again.validation == split.validation


def test_a_tenth_does_not_depend_on_the_order() -> None:
    examples = [Example(f"p{n}", b"M" * (n + 1), "1") for n in range(50)]
    assert {e.id for e in tenth(examples)[1]} == {e.id for e in tenth(examples[::-1])[1]}


def test_where_files_are_looked_for(tmp_path: Path) -> None:
    write_gb1(tmp_path)
    assert splits_in(tmp_path, GB1) == ["sampled"]
    assert splits_in(tmp_path / "gb1", GB1) == ["sampled"], "the task's own folder will do"
    assert splits_in(tmp_path / "gb1", TASKS["conservation"]) == [], "its split of the same name is no other task's"
    with pytest.raises(InputError, match=r"no split two_vs_rest of gb1: .*; here are sampled"):
        read(tmp_path, GB1, "two_vs_rest")
    with pytest.raises(InputError, match="no such folder; --data names one"):
        read(tmp_path / "nowhere", GB1, "sampled")


def test_a_split_that_cannot_be_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scl mixed_vs_human_2: cannot be evaluated: .*several localizations"):
        read(tmp_path, SCL, "mixed_vs_human_2")


def test_a_rebuilt_set_has_its_own_name(tmp_path: Path) -> None:
    write_localization(tmp_path, "mixed_soft_rebuilt")
    assert splits_in(tmp_path, SCL) == ["mixed_soft_rebuilt"]
    split = read(tmp_path, SCL, "mixed_soft_rebuilt")
    assert split.rebuilt
    assert "what it stands for 9,503 / 1,678 / 2,768" in (split.mismatch or "")
    with pytest.raises(InputError, match="here are mixed_soft_rebuilt"):
        read(tmp_path, SCL, "mixed_soft")


def test_the_older_test_set_under_the_present_name(tmp_path: Path) -> None:
    write_residues(tmp_path)
    split = read(tmp_path, STRUCTURE, "sampled")
    split.train, split.validation, split.test = split.train * 243, split.validation * 90, split.test * 47
    split.train, split.test = split.train[:9712], split.test[:648]
    assert "they are those of what is called sampled_648 here" in (split.mismatch or "")


def test_digests_are_of_the_tables_that_bionemo_pins(tmp_path: Path) -> None:
    """MD5 of a table written by hand, as BioNeMo writes it: a heading, rows, line feeds."""
    import hashlib

    write_residues(tmp_path)
    split = read(tmp_path, STRUCTURE, "sampled")
    rows = ["id,sequence,3state,resolved"]
    rows += [",".join([e.id, e.sequence.decode(), e.label, e.mask or ""]) for e in split.test]
    assert digests(split)["test"] == hashlib.md5(("\n".join(rows) + "\n").encode()).hexdigest()
