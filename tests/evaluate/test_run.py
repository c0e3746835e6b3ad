"""Whole runs: what is found, what is kept, what is marked, what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aminoglot.errors import AminoglotError, InputError, JobError, OutputError
from aminoglot.evaluate import predictors, run
from aminoglot.evaluate.features import mapped_tensor
from aminoglot.evaluate.parts import Part, Parts, fingerprint
from aminoglot.evaluate.results import Results, Row, SplitResult, Validation, choose, read
from aminoglot.evaluate.tasks import TASKS
from tests.evaluate.helpers import MODEL, Said, evaluate, write_gb1, write_localization, write_residues

pytestmark = pytest.mark.usefixtures("quick")


def split_of(found: Results, name: str, task: str | None = None) -> SplitResult:
    return next(one for one in found.splits if one.split == name and task in (None, one.task))


def without_seconds(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    found.pop("seconds")
    for split in found["splits"]:
        for row in split["rows"]:
            row.pop("seconds")
    return found


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The heads that are fitted, in order."""
    seen: list[str] = []
    original = predictors.fitted

    def counted(head: str, *rest: Any) -> Any:
        seen.append(head)
        return original(head, *rest)

    monkeypatch.setattr(run, "fitted", counted)
    return seen


def test_a_run_and_the_same_again(data: Path, tmp_path: Path, fits: list[str]) -> None:
    screen = Said()
    outcome = evaluate(data, tmp_path / "out", screen, task=("secondary_structure", "scl", "gb1"))
    assert not outcome.complete, "the second test set and the second reading of GB1 are not here"
    assert outcome.found.left_out == [
        "secondary_structure sampled_648: no file of it in the folder of --data",
        "gb1 two_vs_rest: no file of it in the folder of --data",
    ]
    assert [(one.task, one.split) for one in outcome.found.splits] == [
        ("secondary_structure", "sampled"),
        ("scl", "mixed_soft"),
        ("gb1", "sampled"),
    ]
    assert "sampled has 40 / 12 / 14 proteins" in screen.text
    assert len(fits) == (4 * 2 + 1) + (3 * 3 + 1) + (4 * 3 + 1)
    for split in outcome.found.splits:
        kinds = {row.features for row in split.rows}
        hot = {"one-hot"} - ({"one-hot"} if split.task == "scl" else set())
        assert kinds == {"model", "untrained", "composition", "none"} | hot
        assert [d.over for d in split.differences][-1] == "constant"
        for kind in kinds:
            assert sum(row.chosen for row in split.rows if row.features == kind) == 1
        for row in split.rows:
            assert row.marks == []
            assert all(
                score.low <= score.mean <= score.high or score.low == score.high for score in row.scores.values()
            )
    assert read(outcome.results) == outcome.found
    before = without_seconds(outcome.results)
    fits.clear()
    again = Said()
    evaluate(data, tmp_path / "out", again, task=("secondary_structure", "scl", "gb1"))
    assert fits == []
    assert "going on: 32 of 32 heads are fitted already" in again.text
    assert "embedding by" not in again.text, "embeddings are not even read"
    assert without_seconds(outcome.results) == before


def test_signals_that_were_planted_are_found(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("secondary_structure", "gb1"):
        recipe = replace(TASKS[name].recipe, epochs=30, rate=1e-2, batch=8)  # type: ignore[index]
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], recipe=recipe))  # type: ignore[index,misc]
    found = evaluate(data, tmp_path / "out", task=("secondary_structure", "gb1")).found
    structure, gb1 = split_of(found, "sampled", "secondary_structure"), split_of(found, "sampled", "gb1")
    hot, constant = structure.chosen("one-hot"), structure.chosen("none")
    assert hot is not None
    assert constant is not None
    assert hot.scores["accuracy"].mean > 0.97, "a letter decides"
    assert 0.3 < constant.scores["accuracy"].mean < 0.6
    composition = structure.chosen("composition")
    assert composition is not None
    assert composition.scores["accuracy"].mean < 0.6, "which letter it is, composition does not know"
    by_name = {row.head: row.scores["spearman"].mean for row in gb1.rows if row.features == "one-hot"}
    assert by_name["ridge"] > 0.5
    (none,) = (row for row in gb1.rows if row.head == "constant")
    assert none.scores["spearman"].mean == 0
    measured = json.loads((tmp_path / "out" / "results.json").read_text())
    assert measured["model"]["hidden"] == 32


def test_two_test_sets_share_their_heads(tmp_path: Path, fits: list[str]) -> None:
    data = tmp_path / "FLIP"
    write_residues(data)
    for name in ("sequences", "sampled", "mask"):
        path = data / "secondary_structure" / f"{name}.fasta"
        lines = path.read_text().split("\n")
        path.with_name(f"{name}_648.fasta").write_text("\n".join(lines[:-9]) + "\n")
    found = evaluate(data, tmp_path / "out", task=("secondary_structure",)).found
    assert len(fits) == 9
    assert [one.counts["test"] for one in found.splits] == [14, 10]
    one, other = (split.rows[0] for split in found.splits)
    assert one.validation == other.validation
    assert one.scores != other.scores


def test_a_layer_is_chosen_by_validation(data: Path, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path / "out", task=("gb1",), split=("sampled",), layer="all").found
    (split,) = found.splits
    for kind in ("model", "untrained"):
        for head in TASKS["gb1"].heads:
            rows = [row for row in split.rows if (row.features, row.head) == (kind, head)]
            assert [row.layer for row in rows] == [0, 1, 2]
            (best,) = (row for row in rows if row.best_layer)
            assert best.validation.mean == max(row.validation.mean for row in rows)


def row(head: str, layer: int, validation: float) -> Row:
    return Row("model", layer, head, False, [], {}, 1, Validation(validation, [validation]), {}, {}, 0.0)


def test_choosing_looks_at_validation_and_nothing_else() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.7), row("b", 0, 0.7), row("b", 1, 0.6)]
    choose(rows, ("a", "b"))
    assert [one.best_layer for one in rows] == [False, True, True, False]
    assert [one.chosen for one in rows] == [False, True, False, False], "of equals the first head"


def test_shuffled_test_labels_change_no_choice(data: Path, tmp_path: Path) -> None:
    """Choices, settings and validation are the same to the bit; the scores are not."""
    first = evaluate(data, tmp_path / "one", task=("gb1",), split=("sampled",), layer="all").found.splits[0]
    path = data / "gb1" / "sampled.fasta"
    lines = path.read_text().split("\n")
    places = [n for n, line in enumerate(lines) if "SET=test" in line]
    targets = [lines[n].split()[1] for n in places]
    for n, target in zip(places, targets[3:] + targets[:3], strict=True):
        words = lines[n].split()
        lines[n] = " ".join([words[0], target, *words[2:]])
    path.write_text("\n".join(lines))
    other = evaluate(data, tmp_path / "two", task=("gb1",), split=("sampled",), layer="all").found.splits[0]
    facts = ("features", "layer", "head", "settings", "validation", "best_layer", "chosen", "history")
    for one, two in zip(first.rows, other.rows, strict=True):
        assert [getattr(one, name) for name in facts] == [getattr(two, name) for name in facts]
    assert first.rows[0].scores != other.rows[0].scores


def test_a_killed_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: list[str]) -> None:
    options: dict[str, Any] = {"task": ("gb1",), "split": ("sampled",)}
    whole = evaluate(data, tmp_path / "whole", **options)
    fits.clear()
    counted = run.fitted

    def interrupted(head: str, *rest: Any) -> Any:
        if len(fits) == 5:
            raise KeyboardInterrupt
        return counted(head, *rest)

    monkeypatch.setattr(run, "fitted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "results.json").exists()
    monkeypatch.setattr(run, "fitted", counted)
    fits.clear()
    outcome = evaluate(data, tmp_path / "out", **options)
    assert len(fits) == 13 - 5
    assert without_seconds(outcome.results) == without_seconds(whole.results)


def test_another_mask_is_told_anew(tmp_path: Path) -> None:
    """Heads are learnt from training proteins; what they tell of the test set depends on which residues count."""
    data = tmp_path / "FLIP"
    write_residues(data)
    masks = data / "secondary_structure" / "mask.fasta"
    evaluate(data, tmp_path / "out", task=("secondary_structure",))
    lines = masks.read_text().split("\n")
    for n, line in enumerate(lines):
        if line.startswith(">test"):
            lines[n + 1] = "1" * (len(lines[n + 1]) - 2) + "00"
    masks.write_text("\n".join(lines))
    again = evaluate(data, tmp_path / "out", task=("secondary_structure",)).results
    fresh = evaluate(data, tmp_path / "fresh", task=("secondary_structure",)).results
    assert without_seconds(again) == without_seconds(fresh)


def test_a_report_says_what_it_no_longer_shows(data: Path, tmp_path: Path) -> None:
    screen = Said()
    evaluate(data, tmp_path / "out", screen, task=("gb1",), split=("sampled",))
    assert "also showed" not in screen.text
    evaluate(data, tmp_path / "out", screen, task=("scl",))
    assert "also showed gb1 sampled; this one does not" in screen.text


def test_one_class_is_left_without_long_proteins(data: Path, tmp_path: Path) -> None:
    path = data / "scl" / "mixed_soft.fasta"
    lines = path.read_text().split("\n")
    for n, line in enumerate(lines):
        if line.startswith(">") and "TARGET=Nucleus" not in line and "SET=train" in line:
            lines[n + 1] = "MKTAYIAKQR" * 103
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"without long proteins: all training proteins have the class Nucleus"):
        evaluate(data, tmp_path / "out", task=("scl",), long="skip")


@pytest.mark.slow
def test_a_run_killed_by_the_system_goes_on(data: Path, tmp_path: Path) -> None:
    """SIGKILL, wherever that comes; the next run ends well."""
    out = tmp_path / "out"
    words = ["flip", "-o", out, "-m", MODEL, "--data", data, "--task", "scl", "--seeds", 1]
    command = [sys.executable, "-m", "aminoglot", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    parts = out / "parts"
    while process.poll() is None and not (parts.is_dir() and len(list(parts.glob("*.safetensors"))) >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert not (out / "results.json").exists()
    kept = len(list(parts.glob("*.safetensors")))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"going on: {kept} of 10 heads are fitted already" in done.stderr
    assert "mixed_soft" in done.stdout


def test_a_damaged_part_is_fitted_again(data: Path, tmp_path: Path, fits: list[str]) -> None:
    options: dict[str, Any] = {"task": ("gb1",), "split": ("sampled",)}
    before = without_seconds(evaluate(data, tmp_path / "out", **options).results)
    path = min((tmp_path / "out" / "parts").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:40])
    fits.clear()
    after = without_seconds(evaluate(data, tmp_path / "out", **options).results)
    assert len(fits) == 1
    assert after == before


def test_parts_are_what_was_saved(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    part = Part(np.array([[1, 2]], np.uint8), {"a": np.array([[0.5]], np.float32)}, {"k": 3}, {"train": [[1.0]]}, 2.5)
    parts.save("x", part)
    found = parts.find("x")
    assert found is not None
    assert (found.settings, found.history, found.seconds) == ({"k": 3}, {"train": [[1.0]]}, 2.5)
    assert found.validation.tolist() == [[1, 2]]
    assert found.tests["a"].tolist() == [[0.5]]
    assert parts.find("y") is None
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=1, b=3)


def test_more_seeds_are_another_fit(data: Path, tmp_path: Path, fits: list[str]) -> None:
    evaluate(data, tmp_path / "out", task=("scl",), seeds=1)
    fits.clear()
    found = evaluate(data, tmp_path / "out", task=("scl",), seeds=3).found
    assert len(fits) == 10
    spread = {row.head: (row.seeds, row.scores["accuracy"].spread is not None) for row in found.splits[0].rows}
    assert spread == {"perceptron": (3, True), "ridge": (1, False), "neighbours": (1, False), "constant": (1, False)}


def long_protein(data: Path, length: int = 1_100) -> None:
    """One more test protein, longer than the model's limit."""
    for name, text in (("sequences", "M"), ("sampled", "H"), ("mask", "1")):
        path = data / "secondary_structure" / f"{name}.fasta"
        header = "giant SET=test VALIDATION=False" if name == "sampled" else "giant"
        path.write_text(path.read_text() + f">{header}\n{text * length}\n")


def structure(data: Path, output: Path, **options: Any) -> SplitResult:
    return evaluate(data, output, task=("secondary_structure",), split=("sampled",), seeds=1, **options).found.splits[0]


def test_every_residue_is_covered(data: Path, tmp_path: Path) -> None:
    long_protein(data)
    split = structure(data, tmp_path / "out")
    assert split.coverage["test"]["residues"] == split.coverage["test"]["all_residues"] > 1_100
    assert split.rows[0].marks == []


def test_truncation_is_marked_and_counted(data: Path, tmp_path: Path) -> None:
    long_protein(data)
    split = structure(data, tmp_path / "out", long="truncate")
    assert split.coverage["test"]["all_residues"] - split.coverage["test"]["residues"] == 78
    assert {mark for row in split.rows for mark in row.marks} == {"long proteins: truncate at 1,022 residues"}


def test_the_bionemo_protocol_drops_and_marks(data: Path, tmp_path: Path) -> None:
    long_protein(data, 1_023)
    screen = Said()
    split = structure(data, tmp_path / "out", screen=screen, bionemo_protocol=True)
    assert (split.coverage["test"]["proteins"], split.coverage["test"]["all_proteins"]) == (14, 15)
    mark = "BioNeMo protocol: 14 of 15 test proteins, those of at most 1,022 residues"
    assert all(row.marks == [mark] for row in split.rows), "baselines too"
    assert "these numbers are none over all proteins" in screen.text
    page = (tmp_path / "out" / "report.html").read_text()
    table = page[page.index("<h2>Secondary structure: sampled") :]
    rows = [line for line in table.split("<tr") if "published head" in line]
    assert rows
    assert all(mark in line for line in rows)
    with pytest.raises(JobError, match="another handling of long proteins; choose a new folder"):
        structure(data, tmp_path / "out")


def test_a_rebuilt_set_is_marked_everywhere(tmp_path: Path) -> None:
    data, screen = tmp_path / "FLIP", Said()
    write_localization(data, "mixed_soft_rebuilt")
    outcome = evaluate(data, tmp_path / "out", screen, task=("scl",))
    assert outcome.complete, "the rebuilt set stands in, under its own name"
    (split,) = outcome.found.splits
    assert (split.split, split.rebuilt) == ("mixed_soft_rebuilt", True)
    assert all("rebuilt, not FLIP's" in row.marks for row in split.rows)
    page = outcome.report.read_text()
    assert "scl" not in page.split("<h2>")[0]
    assert ">mixed_soft<" not in page.split("Published by others")[0]
    with pytest.raises(InputError, match=r"no split mixed_soft of scl.*here are mixed_soft_rebuilt"):
        evaluate(data, tmp_path / "out2", task=("scl",), split=("mixed_soft",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": ("sampld",)}, "split 'sampld': choose "),
        ({"task": ("scl",), "split": ("sampled",)}, "choose balanced, human_hard"),
        ({"task": ("scl", "gb1"), "split": ("sampled",)}, "scl has no split sampled; it has mixed_soft"),
        ({"task": ("conservation",)}, "no split sampled of conservation"),
        ({"split": ("mixed_vs_human_2",)}, "cannot be evaluated"),
        ({"layer": 9}, "layer 9: this model has layers 0 to 2"),
        ({"model": "nothing"}, "nothing: no such model or path"),
        ({"model": "random:prott5nv-tiny", "long": "full"}, "learned positions for 512 residues"),
    ],
)
def test_what_cannot_be_run(data: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AminoglotError, match=sentence):
        evaluate(data, tmp_path / "out", **options)


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("long", "cut"), ("task", ("fold",))])
def test_options_are_checked(data: Path, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        evaluate(data, tmp_path / "out", **{name: value})


def test_folders_that_are_something_else(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; --data names one"):
        evaluate(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="none of FLIP's tasks is here"):
        evaluate(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"a folder of something else \(thesis.tex\)"):
        evaluate(data, tmp_path / "mine", task=("scl",))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_another_model_gets_another_folder(data: Path, tmp_path: Path) -> None:
    evaluate(data, tmp_path / "out", task=("scl",), seeds=1)
    before = (tmp_path / "out" / "results.json").read_text()
    with pytest.raises(JobError, match="holds the results of another model; choose a new folder"):
        evaluate(data, tmp_path / "out", task=("scl",), model="random:prott5nv-tiny")
    assert (tmp_path / "out" / "results.json").read_text() == before


def test_the_other_family(data: Path, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path / "out", task=("scl",), seeds=1, model="random:prott5nv-tiny").found
    assert found.model["family"] == "ProtT5nv"
    model, untrained = found.splits[0].chosen("model"), found.splits[0].chosen("untrained")
    assert model is not None
    assert untrained is not None
    first, second = sorted((tmp_path / "out" / "embeddings").glob("*.safetensors"))
    assert not np.allclose(mapped_tensor(first, "embeddings"), mapped_tensor(second, "embeddings"))


def test_results_that_are_none(tmp_path: Path) -> None:
    for text in ("", "{}", '{"schema": 99}', "[1]"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(OutputError):
            read(tmp_path / "results.json")


def test_a_folder_with_one_task_alone(tmp_path: Path) -> None:
    """Nobody named a task: the one that is here runs, the others are named as left out."""
    write_gb1(tmp_path / "FLIP", "sampled", "two_vs_rest")
    screen = Said()
    outcome = evaluate(tmp_path / "FLIP", tmp_path / "out", screen, seeds=1)
    assert [one.split for one in outcome.found.splits] == ["sampled", "two_vs_rest"]
    assert not outcome.complete
    assert len(outcome.found.left_out) == 5
    assert "left out: conservation sampled: no file of it" in screen.text
