"""Reading labelled proteins: every record accounted for, everything that cannot be used named with its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aminoglot.errors import InputError
from aminoglot.finetune.data import counts
from aminoglot.finetune.examples import Dataset, Status
from aminoglot.finetune.labels import LabelError, kind_of, missing, number
from tests.finetune.helpers import dataset, protein, rows, write_table


def statuses(found: Dataset) -> Counter[Status]:
    assert sum(count for _, count in counts(found.entries)) == len(found.entries)
    return Counter(entry.status for entry in found.entries)


def test_numbers(tmp_path: Path) -> None:
    table = rows(12)
    found = dataset(write_table(tmp_path / "a.csv", table))
    assert (found.kind, found.classes, found.outputs) == ("number", (), 1)
    assert [(e.id, e.sequence.decode(), float(e.label[0])) for e in found.examples] == [
        (row["id"], row["sequence"], float(row["label"])) for row in table
    ]
    assert statuses(found) == {Status.USED: 12}


def test_classes(tmp_path: Path) -> None:
    table = rows(12, kind="classes")
    found = dataset(write_table(tmp_path / "a.csv", table))
    assert (found.kind, found.classes, found.outputs) == ("classes", ("greasy", "soluble"), 2)
    assert [found.classes[int(e.label[0])] for e in found.examples] == [row["label"] for row in table]


def test_formats_agree(tmp_path: Path) -> None:
    """CSV, TSV, Parquet with typed columns, and FASTA with words in its headers."""
    table = rows(9)
    csv = write_table(tmp_path / "a.csv", table)
    (tmp_path / "a.tsv").write_text(csv.read_text().replace(",", "\t"))
    columns = {"id": [r["id"] for r in table], "sequence": [r["sequence"] for r in table]}
    pq.write_table(pa.table({**columns, "label": [float(r["label"]) for r in table]}), tmp_path / "a.parquet")
    fasta = "".join(f">{r['id']} some words label={r['label']} SET=train\n{r['sequence']}\n" for r in table)
    (tmp_path / "a.fasta").write_text(fasta)
    expected = dataset(csv)
    for name in ("a.tsv", "a.parquet", "a.fasta"):
        found = dataset(tmp_path / name)
        assert [(e.id, e.sequence, e.label.tolist()) for e in found.examples] == [
            (e.id, e.sequence, e.label.tolist()) for e in expected.examples
        ]


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "nan", "NaN", "null", "#N/A", "  "])
def test_a_missing_label_is_counted(tmp_path: Path, cell: str) -> None:
    table = rows(8)
    table[3]["label"] = cell
    found = dataset(write_table(tmp_path / "a.csv", table))
    assert missing(cell)
    assert statuses(found) == {Status.USED: 7, Status.UNLABELLED: 1}
    assert (found.entries[3].id, found.entries[3].note) == ("P3", "no label")
    assert len(found.examples) == 7


def test_an_empty_cell_of_parquet_is_missing(tmp_path: Path) -> None:
    columns = {"id": list("abcd"), "sequence": ["MK", "MKV", "MA", "MC"], "label": [1.0, None, 2.0, 3.0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert statuses(dataset(tmp_path / "a.parquet")) == {Status.USED: 3, Status.UNLABELLED: 1}


def test_text_in_a_number_column_is_named(tmp_path: Path) -> None:
    """All of it, with file, line, id and what is there; and how to say that they are classes."""
    table = rows(20)
    table[4]["label"], table[7]["label"], table[9]["label"] = "high", "0,5", "inf"
    path = write_table(tmp_path / "a.csv", table)
    with pytest.raises(InputError) as raised:
        dataset(path)
    said = str(raised.value)
    assert f"{path}, line 6, id 'P4': 'high' is no number" in said
    assert "line 9, id 'P7': '0,5' is no number; write 0.5, not 0,5" in said
    assert "line 11, id 'P9': 'inf' is not finite" in said
    assert "--kind classes" in said
    assert dataset(path, kind="classes").kind == "classes"


def test_what_labels_look_like() -> None:
    assert kind_of(["1", "2.5", "1e-3"], per_residue=False) == "number"
    assert kind_of(["0", "1", "1", "0"], per_residue=False) == "classes"
    assert kind_of(["a", "b", "1"], per_residue=False) == "classes"
    assert kind_of([*map(str, range(9)), "oops"], per_residue=False) == "number"
    assert kind_of(["HHCC", "E"], per_residue=True) == "classes"
    assert kind_of(["0112", "3"], per_residue=True) == "classes"
    assert kind_of(["0.1,0.2", "3"], per_residue=True) == "number"
    assert number(" 1e3 ") == 1000
    with pytest.raises(LabelError):
        number("1_000")


def labelled(path: Path, cells: Sequence[str], **options: Any) -> Dataset:
    """Proteins with these labels."""
    return dataset(
        write_table(path / "a.csv", [{**r, "label": c} for r, c in zip(rows(len(cells)), cells, strict=True)]),
        **options,
    )


def test_numbers_are_known_by_all_cells_not_by_different_ones() -> None:
    """Few different numbers, each many times: two words among ten thousand do not make classes of them."""
    assert kind_of([*(str(i % 5) for i in range(10_000)), "lost", "bad"], per_residue=False) == "number"
    assert kind_of([*(str(i) for i in range(3)), *["sick", "well"] * 10], per_residue=False) == "classes"


def test_numbers_and_words_are_not_guessed_at(tmp_path: Path) -> None:
    """26 measurements and 12 words would be 38 classes."""
    cells = [*(f"{i / 7:.3f}" for i in range(26)), *["n.d."] * 7, *["inactive"] * 5]
    with pytest.raises(InputError) as raised:
        labelled(tmp_path, cells)
    assert "26 of 38 labels are numbers, 12 are not ('n.d.' 7, 'inactive' 5): say which" in str(raised.value)
    found = labelled(tmp_path, cells, kind="number")
    assert statuses(found) == {Status.USED: 26, Status.UNLABELLED: 12}
    assert found.entries[30].note == "no number"
    assert "labels that are no numbers count as missing, 12 of them: 'n.d.' 7, 'inactive' 5" in found.notes
    for value in (">10", "0,5", "inf"):  # something was measured: nothing to be dropped
        with pytest.raises(InputError, match=f"'{value}' is no"):
            labelled(tmp_path, [*cells, value], kind="number")
    few = [*["sick", "well"] * 10, "1", "2"]
    said = "2 of 22 labels are numbers, 20 are not ('sick' 10, 'well' 10): all are taken for names of classes"
    assert said in labelled(tmp_path, few).notes


def test_classes_of_one_label_each_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the column 'sequence' has 8 classes of one label each"):
        dataset(write_table(tmp_path / "a.csv", rows(8)), target="sequence")


def test_classes_that_differ_by_case_are_noted(tmp_path: Path) -> None:
    found = labelled(tmp_path, [*["Greasy", "greasy", "soluble"] * 3])
    assert "classes that differ by case alone: 'Greasy' and 'greasy'" in found.notes


def test_labels_a_protein_are_not_a_residue(tmp_path: Path) -> None:
    table = [{"id": f"P{i}", "sequence": protein(20, i), "label": f"0.{i}"} for i in range(1, 9)]
    path = write_table(tmp_path / "a.csv", table)
    for kind in ("auto", "number"):
        with pytest.raises(InputError, match="look like one a protein: leave out --per residue"):
            dataset(path, per="residue", kind=kind)


def test_one_class(tmp_path: Path) -> None:
    table = [{**row, "label": "x"} for row in rows(6)]
    with pytest.raises(InputError, match="the column 'label' is 'x' everywhere"):
        dataset(write_table(tmp_path / "a.csv", table))
    table = [{**row, "label": "1.5"} for row in rows(6)]
    with pytest.raises(InputError, match=r"is 1\.5 everywhere: there is nothing to learn"):
        dataset(write_table(tmp_path / "b.csv", table), kind="number")


def test_too_few(tmp_path: Path) -> None:
    table = rows(6)
    for row in table[2:]:
        row["label"] = ""
    with pytest.raises(InputError, match="2 labelled proteins: too few"):
        dataset(write_table(tmp_path / "a.csv", table))
    for row in table:
        row["label"] = "NA"
    with pytest.raises(InputError, match="none of 6 records has a label in the column 'label'"):
        dataset(write_table(tmp_path / "a.csv", table))


def test_the_same_again_is_merged(tmp_path: Path) -> None:
    """Also under another id, so that no protein is in two splits."""
    table = rows(6)
    table += [table[0], {**table[1], "id": "again"}]
    found = dataset(write_table(tmp_path / "a.csv", table))
    assert statuses(found) == {Status.USED: 6, Status.MERGED: 2}
    assert found.entries[7].note == "the sequence and the label of P1"
    assert found.entries[7].example == 1


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    table = [{**row, "label": f"0,{number:03}"} for number, row in enumerate(rows(12))]
    with pytest.raises(InputError, match=r"12 of 12 labels look like numbers with a comma .*write 0.5, not 0,5"):
        dataset(write_table(tmp_path / "a.csv", table))


def test_labels_that_hardly_repeat_are_no_classes(tmp_path: Path) -> None:
    table = [{**row, "label": f"name{number // 2 if number < 6 else number}"} for number, row in enumerate(rows(12))]
    path = write_table(tmp_path / "a.csv", table)
    with pytest.raises(InputError, match="has 9 different values among 12"):
        dataset(path)
    assert len(dataset(path, kind="classes").classes) == 9


def test_contradictions_are_an_error_unless_told(tmp_path: Path) -> None:
    table = rows(6)
    table += [{**table[0], "id": "again", "label": "0.9"}]
    path = write_table(tmp_path / "a.csv", table)
    with pytest.raises(InputError) as raised:
        dataset(path)
    assert "1 sequence with labels that contradict each other" in str(raised.value)
    assert f"'P0' (record 1): {table[0]['label']} and 'again' (record 7): 0.9" in str(raised.value)
    mean = dataset(path, contradictions="mean")
    assert mean.examples[0].label[0] == pytest.approx((float(table[0]["label"]) + 0.9) / 2)
    assert mean.entries[0].note == mean.entries[6].note == "the mean of 2 labels of this sequence"
    drop = dataset(path, contradictions="drop")
    assert statuses(drop) == {Status.USED: 5, Status.CONTRADICTING: 2}
    assert [e.id for e in drop.examples] == ["P1", "P2", "P3", "P4", "P5"]
    assert any("left out" in note for note in drop.notes)


def test_classes_have_no_mean(tmp_path: Path) -> None:
    table = rows(8, kind="classes")
    other = "soluble" if table[0]["label"] == "greasy" else "greasy"
    path = write_table(tmp_path / "a.csv", [*table, {**table[0], "label": other}])
    with pytest.raises(InputError, match="there is no mean of classes"):
        dataset(path, contradictions="mean")


def test_one_id_with_two_sequences(tmp_path: Path) -> None:
    table = rows(6)
    path = write_table(tmp_path / "a.csv", [*table, {**table[2], "sequence": "MKV"}])
    with pytest.raises(InputError, match=r"'P2': .*line 4 and line 8"):
        dataset(path)


def test_bad_records(tmp_path: Path) -> None:
    table = rows(6)
    table[2]["sequence"] = "MK-V"
    path = write_table(tmp_path / "a.csv", table)
    with pytest.raises(InputError, match="line 4, id 'P2': '-' at position 3 is a gap"):
        dataset(path)
    found = dataset(path, bad_records="skip")
    assert statuses(found) == {Status.USED: 5, Status.BAD: 1}


@pytest.mark.parametrize(("long", "kept"), [("truncate", 7), ("window", 7), ("skip", 6)])
def test_a_protein_of_35_000_residues(tmp_path: Path, long: str, kept: int) -> None:
    table = [*rows(6), {"id": "titin", "sequence": "MKVA" * 8750, "label": "0.7"}]
    path = write_table(tmp_path / "a.csv", table)
    found = dataset(path, long=long)
    assert len(found.examples) == kept
    assert len(found.entries) == 7
    if long == "skip":
        assert found.entries[6].note == "longer than 1,022 residues"
    with pytest.raises(InputError, match=r"id 'titin': 35,000 residues, over 1,022\nChoose --long"):
        dataset(path, long="error")


def test_splits_that_are_given(tmp_path: Path) -> None:
    words = ["train", "Training", "test", "valid", "VAL", ""]
    table = [{**row, "set": word} for row, word in zip(rows(6), words, strict=True)]
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set")
    assert [e.split for e in found.examples] == ["train", "train", "test", "validation", "validation"]
    assert statuses(found)[Status.UNSPLIT] == 1
    table[1]["set"] = "somewhere"
    with pytest.raises(InputError, match="line 3, id 'P1': 'somewhere' is no split"):
        dataset(write_table(tmp_path / "b.csv", table), split_column="set")


def test_a_sequence_in_two_splits_is_said(tmp_path: Path) -> None:
    table = [{**row, "set": "train"} for row in rows(6)]
    table += [{**table[0], "id": "leak", "set": "test"}]
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set")
    assert len(found.examples) == 7
    assert any("1 sequence in more than one split" in note for note in found.notes)


def test_flip_s_validation_column(tmp_path: Path) -> None:
    table = [{**row, "set": "train", "validation": str(i == 2)} for i, row in enumerate(rows(5))]
    table[4]["set"] = "test"
    found = dataset(write_table(tmp_path / "a.csv", table), split_column="set", validation_column="validation")
    assert [e.split for e in found.examples] == ["train", "train", "validation", "train", "test"]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", rows(5))
    with pytest.raises(InputError, match="there is no column 'y'; the columns are id, sequence, label"):
        dataset(path, target="y")
    (tmp_path / "a.fasta").write_text(">a x=1\nMK\n>b x=2\nMV\n>c x=4\nMA\n")
    with pytest.raises(InputError, match="no header has y="):
        dataset(tmp_path / "a.fasta", target="y")
    assert len(dataset(tmp_path / "a.fasta", target="x").examples) == 3


def test_labels_a_residue(tmp_path: Path) -> None:
    table = [
        {**row, "mask": "01" * (len(row["label"]) // 2) + "1" * (len(row["label"]) % 2)}
        for row in rows(6, "residue", "classes")
    ]
    table[1]["label"] = "-" + table[1]["label"][1:]
    path = write_table(tmp_path / "a.csv", table)
    found = dataset(path, per="residue")
    assert (found.kind, found.classes) == ("classes", ("i", "o"))
    for row, one in zip(table, found.examples, strict=True):
        said = "".join(found.classes[int(c)] if there else "-" for c, there in zip(one.label, one.counted, strict=True))
        assert said == row["label"]
    masked = dataset(path, per="residue", mask_column="mask")
    assert masked.examples[0].counted.tolist() == [c == "1" for c in table[0]["mask"]]


def test_numbers_a_residue(tmp_path: Path) -> None:
    table = [
        {"id": "a", "sequence": "MKV", "label": "[0.1, nan, 3]"},
        {"id": "b", "sequence": "MA", "label": "1;2"},
        {"id": "c", "sequence": "W", "label": "-5"},
        {"id": "d", "sequence": "WK", "label": "nan nan"},
    ]
    found = dataset(write_table(tmp_path / "a.csv", table), per="residue")
    assert found.kind == "number"
    assert found.examples[0].label.tolist() == [0.1, 0.0, 3.0]
    assert found.examples[0].counted.tolist() == [True, False, True]
    assert found.entries[3].status == Status.UNLABELLED
    assert found.entries[3].note == "no label among the residues that are embedded"


def test_labels_and_masks_of_another_length(tmp_path: Path) -> None:
    table = [{**row, "mask": "1" * len(row["sequence"])} for row in rows(5, "residue", "classes")]
    table[0]["label"] += "o"
    table[1]["mask"] += "1"
    table[2]["mask"] = "2" * len(table[2]["mask"])
    path = write_table(tmp_path / "a.csv", table)
    with pytest.raises(InputError) as raised:
        dataset(path, per="residue", mask_column="mask")
    length = len(table[0]["sequence"])
    said = str(raised.value)
    assert f"line 2, id 'P0': {length + 1} labels for {length} residues" in said
    assert f"a mask of {len(table[1]['mask'])} for {len(table[1]['sequence'])} residues" in said
    assert "a mask is made of 0 and 1, this one has '2'" in said


def test_labels_beyond_what_is_embedded_do_not_count(tmp_path: Path) -> None:
    table = rows(5, "residue", "classes")
    table[0] = {"id": "P0", "sequence": "M" * 30, "label": "-" * 20 + "o" * 10}
    path = write_table(tmp_path / "a.csv", table)
    assert dataset(path, per="residue", limit=20).entries[0].status == Status.UNLABELLED
    assert dataset(path, per="residue", limit=20, long="window").entries[0].status == Status.USED


def test_fasta_files_of_labels_and_masks(tmp_path: Path) -> None:
    """As FLIP publishes secondary structure: sequences, labels with SET and VALIDATION, and what was resolved."""
    (tmp_path / "s.fasta").write_text(">a\nMKV\n>b\nMA\n>c\nWWW\n>d\nMM\n")
    labels = ">a SET=train VALIDATION=False\nHHC\n>b SET=train VALIDATION=True\nEE\n>c SET=test VALIDATION=False\nCCC\n"
    (tmp_path / "l.fasta").write_text(labels)
    (tmp_path / "m.fasta").write_text(">a\n110\n>b\n11\n>c\n0\n01\n")
    files = {"labels": tmp_path / "l.fasta", "masks": tmp_path / "m.fasta", "target": None, "per": "residue"}
    found = dataset(tmp_path / "s.fasta", **files)
    assert [e.split for e in found.examples] == ["train", "validation", "test"]
    assert [e.counted.tolist() for e in found.examples] == [[True, True, False], [True, True], [False, False, True]]
    assert found.entries[3].status == Status.UNLABELLED
    (tmp_path / "l.fasta").write_text(labels + ">a\nHHH\n")
    with pytest.raises(InputError, match=r"l\.fasta, line 7: 'a' is there twice"):
        dataset(tmp_path / "s.fasta", **files)


def test_the_target_must_be_named(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", rows(5))
    with pytest.raises(InputError, match="--target"):
        dataset(path, target=None)
    with pytest.raises(InputError, match="--per residue"):
        dataset(path, mask_column="label")


def test_classes_are_in_order(tmp_path: Path) -> None:
    """By value, where all are numbers."""
    table = [{**row, "label": str(10 - i % 6)} for i, row in enumerate(rows(12))]
    found = dataset(write_table(tmp_path / "a.csv", table), kind="classes")
    assert found.classes == ("5", "6", "7", "8", "9", "10")
    assert np.all(np.diff([int(e.label[0]) for e in found.examples[:6]]) == -1)


RESIDUES = {"target": None, "per": "residue"}


def labelled_by(folder: Path, labels: str, **options: Any) -> Dataset:
    """Four proteins, a to d, with labels in a FASTA file of their own."""
    (folder / "s.fasta").write_text(">a\nMKV\n>b\nMA\n>c\nWWW\n>d\nMM\n")
    (folder / "l.fasta").write_text(labels)
    return dataset(folder / "s.fasta", labels=folder / "l.fasta", **RESIDUES, **options)


def test_labels_without_a_split_where_others_have_one(tmp_path: Path) -> None:
    """Such a protein is in no split, and nobody is told that it was used."""
    found = labelled_by(tmp_path, ">a SET=train\nHHC\n>b SET=train VALIDATION=True\nEE\n>c SET=test\nCCC\n>d\nHE\n")
    assert [e.split for e in found.examples] == ["train", "validation", "test"]
    assert statuses(found) == {Status.USED: 3, Status.UNSPLIT: 1}
    assert found.entries[3].note == "no SET=, which others have"
    assert "1 protein without SET=, which others have: used nowhere" in found.notes


def test_words_of_labels_are_read_in_any_case(tmp_path: Path) -> None:
    """`set=train` is what it says, and not a random deal."""
    labels = ">a set=train\nHHC\n>b set=train validation=True\nEE\n>c Set=test\nCCC\n"
    assert [e.split for e in labelled_by(tmp_path, labels).examples] == ["train", "validation", "test"]


def test_labels_that_say_only_which_validate(tmp_path: Path) -> None:
    found = labelled_by(tmp_path, ">a\nHHC\n>b VALIDATION=True\nEE\n>c VALIDATION=False\nCCC\n")
    assert [e.split for e in found.examples] == ["train", "validation", "train"]


def test_labels_and_masks_of_ids_that_the_data_lack_are_counted(tmp_path: Path) -> None:
    more = "".join(f">x{i}\nHH\n" for i in range(6))
    (tmp_path / "m.fasta").write_text(">a\n111\n>b\n11\n>c\n111\n>y\n1\n")
    found = labelled_by(tmp_path, f">a\nHHC\n>b\nEE\n>c\nCCC\n{more}", masks=tmp_path / "m.fasta")
    assert f"{tmp_path / 'l.fasta'}: 6 ids that the data lack, unused: x0, x1, x2, x3, x4, ..." in found.notes
    assert f"{tmp_path / 'm.fasta'}: 1 id that the data lack, unused: y" in found.notes
    assert not any("unused" in note for note in labelled_by(tmp_path, ">a\nHHC\n>b\nEE\n>c\nCCC\n").notes)
