"""Whole runs: each method on both families, what they leave, and that the same job is the same."""

from __future__ import annotations

import csv
import errno
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aminoglot
from aminoglot.checkpoints import resolve
from aminoglot.errors import DependencyError, InputError, JobError, ModelError, OutputError
from aminoglot.finetune import metrics, pictures, results, state
from aminoglot.finetune.options import Options
from tests.finetune.helpers import MODEL, contents, predictor, protein, rows, tsv, tune, write_table

MODELS = {"esm2": MODEL, "prott5nv": "random:prott5nv-tiny"}


def numbers(text: str) -> np.ndarray:
    return np.array([float(one) for one in text.split(",")])


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("method", ["head", "lora", "full"])
@pytest.mark.parametrize(("per", "kind"), [("protein", "number"), ("residue", "classes")])
def test_a_run_of_each_method(tmp_path: Path, family: str, method: str, per: str, kind: str) -> None:
    """From a table to a folder that predicts as the run did itself, merged or not."""
    table = rows(30, per, kind)
    table[4]["label"] = ""
    data, folder = write_table(tmp_path / "a.csv", table), tmp_path / "run"
    made = tune(data, folder, model=MODELS[family], method=method, per=per)
    weights = {"head": [], "lora": ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]}
    written = set(contents(folder))
    expected = {"README.md", "head.safetensors", "learning.png", "labels.png", "log.jsonl", "predictions.png"}
    expected |= {"predictor.json", "proteins.tsv", "run.json", *weights.get(method, ["model/model.safetensors"])}
    assert expected <= written
    assert not any(name.startswith(".") for name in written)
    account = tsv(folder / "proteins.tsv")
    assert [row["id"] for row in account] == [row["id"] for row in table]
    assert {row["split"] for row in account} == {"train", "validation", "test", ""}
    assert (account[4]["status"], account[4]["prediction"]) == ("unlabelled", "")
    used = [(row, one) for row, one in zip(account, table, strict=True) if row["status"] == "used"]
    loaded = predictor(folder)
    predicted = loaded.predict([one["sequence"] for _, one in used])
    for (row, _), one in zip(used, predicted, strict=True):
        if kind == "classes":
            assert row["prediction"] == one
        else:
            assert float(row["prediction"]) == pytest.approx(float(one), rel=1e-4, abs=1e-5)
    assert set(made.scores) == {"model", "composition", "constant"}
    assert json.loads((folder / "run.json").read_text())["scores"]["of"] == made.scores
    assert repr(loaded).startswith("<aminoglot.Predictor of 'label', ")


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_predictions_are_computed_as_in_the_run(tmp_path: Path, method: str) -> None:
    """Heads on proteins that differ by one residue are steep: a rounding of another kind would move what they say."""
    wild = protein(60, 1)
    places = [place for place, letter in enumerate(wild) if letter != "W"][:30]
    table = [
        {"id": f"V{i}", "sequence": f"{wild[:i]}W{wild[i + 1 :]}", "label": f"{0.1 * (i % 7):.1f}"} for i in places
    ]
    tune(write_table(tmp_path / "a.csv", table), tmp_path / "run", method=method, precision="bf16")
    written = [float(row["prediction"]) for row in tsv(tmp_path / "run" / "proteins.tsv")]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = aminoglot.Predictor(tmp_path / "run")
    assert not any("the run computed" in str(one.message) for one in said)
    assert (loaded.model.hardware.precision, loaded.model.hardware.backend) == ("bf16", "torch")
    found = loaded.predict([row["sequence"] for row in table])
    np.testing.assert_allclose(found, written, atol=2e-3 * np.std(written))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        aminoglot.Predictor(tmp_path / "run", precision="fp32")
    assert any("the run computed in bf16 by torch on cpu, this does in fp32" in str(one.message) for one in said)


def test_classes_of_proteins(tmp_path: Path) -> None:
    table = rows(40, kind="classes")
    made = tune(write_table(tmp_path / "a.csv", table), tmp_path / "run", class_weights="balanced")
    loaded = predictor(tmp_path / "run")
    assert loaded.classes == ("greasy", "soluble")
    sequences = [row["sequence"] for row in table]
    chances = loaded.probabilities(sequences)
    assert isinstance(chances, np.ndarray)
    assert chances.shape == (40, 2)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert loaded.predict(sequences) == [loaded.classes[i] for i in chances.argmax(1)]
    assert 0 <= made.scores["model"]["scores"]["balanced_accuracy"] <= 1


def test_numbers_a_residue(tmp_path: Path) -> None:
    table = rows(30, "residue", "number")
    tune(write_table(tmp_path / "a.csv", table), tmp_path / "run", per="residue")
    loaded = predictor(tmp_path / "run")
    found = loaded.predict([row["sequence"] for row in table])
    assert [len(one) for one in found] == [len(row["sequence"]) for row in table]
    account = tsv(tmp_path / "run" / "proteins.tsv")
    for row, one in zip(account, found, strict=True):
        np.testing.assert_allclose(numbers(row["prediction"]), one, atol=1e-4)
    with pytest.raises(InputError, match="no probabilities"):
        loaded.probabilities(["MKV"])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_tuning_learns(tmp_path: Path, method: str) -> None:
    """Enough epochs, and validation is told well: gradients reach what they should."""
    data = write_table(tmp_path / "a.csv", rows(40))
    tune(data, tmp_path / "run", method=method, epochs=20, rate=0.01, patience=20)
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert min(line["validation"] for line in losses) < 0.5 * losses[0]["validation"]


def test_the_same_job_is_the_same(tmp_path: Path) -> None:
    """To the byte: weights, predictions, card and pictures."""
    data = write_table(tmp_path / "a.csv", rows(30))
    for method in ("head", "lora"):
        for name in ("one", "two"):
            tune(data, tmp_path / method / name, method=method)
        assert contents(tmp_path / method / "one") == contents(tmp_path / method / "two")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    first = tune(data, tmp_path / "run")
    before = contents(tmp_path / "run")
    capsys.readouterr()
    assert tune(data, tmp_path / "run") == first
    assert contents(tmp_path / "run") == before
    assert "is finished already, and whole" in capsys.readouterr().err
    (tmp_path / "run" / "head.safetensors").unlink()
    tune(data, tmp_path / "run")  # what was lost is made again
    assert contents(tmp_path / "run") == before


def test_another_run_is_refused(tmp_path: Path) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(JobError, match=r"is another run:\n  seed: 0 before, 1 now\nGive this one another -o"):
        tune(data, tmp_path / "run", seed=1)
    write_table(data, rows(31))
    with pytest.raises(JobError, match="data_sha256: "):
        tune(data, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    tune(data, tmp_path / "run", method="lora", overwrite=True)
    assert predictor(tmp_path / "run").recipe.method == "lora"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"a folder of something else \(thesis\.txt\)"):
        tune(data, tmp_path / "mine")


def test_bad_data_loses_no_finished_run(tmp_path: Path) -> None:
    """Even with --overwrite a table that cannot be read takes nothing away."""
    table = rows(30)
    data = write_table(tmp_path / "a.csv", table)
    tune(data, tmp_path / "run")
    before = contents(tmp_path / "run")
    table[3]["label"] = "high"
    write_table(data, table)
    with pytest.raises(InputError, match="'high' is no number"):
        tune(data, tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_no_test_set(tmp_path: Path) -> None:
    made = tune(write_table(tmp_path / "a.csv", rows(30)), tmp_path / "run", test_share=0.0)
    assert made.split == "validation"
    assert made.headline.startswith("validation spearman")
    assert "which also chose the epoch (there is no test)" in (tmp_path / "run" / "README.md").read_text()


def test_very_short_and_very_long_proteins(tmp_path: Path) -> None:
    """One residue is less than any filter sees; 35,000 are 35 times the limit. All are accounted for."""
    table = rows(20, "residue", "classes")
    table += [
        {"id": "one", "sequence": "M", "label": "o"},
        {"id": "titin", "sequence": "MKVA" * 8750, "label": "oioo" * 8750},
    ]
    data = write_table(tmp_path / "a.csv", table)
    for long, method, note in (
        ("truncate", "head", "truncated to 1022 residues"),
        ("window", "head", "longer than 1022 residues"),
        ("truncate", "lora", "truncated to 1022 residues"),
    ):
        folder = tmp_path / f"{long}-{method}"
        tune(data, folder, per="residue", long=long, method=method, epochs=1)
        one, titin = tsv(folder / "proteins.tsv")[-2:]
        assert len(one["prediction"]) == 1
        assert len(titin["prediction"]) == (1022 if long == "truncate" else 35000)
        assert titin["note"] == note
    tune(data, tmp_path / "skip", per="residue", long="skip", epochs=1)
    assert tsv(tmp_path / "skip" / "proteins.tsv")[-1]["status"] == "too long"


def test_training_in_windows(tmp_path: Path) -> None:
    """A protein of several windows learns as a whole."""
    table = [*rows(20), {"id": "long", "sequence": "MKVAWL" * 400, "label": "0.9"}]
    tune(write_table(tmp_path / "a.csv", table), tmp_path / "run", method="lora", long="window", epochs=1)
    row = tsv(tmp_path / "run" / "proteins.tsv")[-1]
    found = predictor(tmp_path / "run").predict([table[-1]["sequence"]])
    assert float(row["prediction"]) == pytest.approx(float(found[0]), rel=1e-4)


def test_the_card_says_it_all(tmp_path: Path) -> None:
    table = [{**row, "label": "rare" if i in (3, 9, 12, 20) else "common"} for i, row in enumerate(rows(60))]
    table.append({**table[0], "id": "again"})
    table.append({**rows(61)[-1], "label": ""})
    data = write_table(tmp_path / "a.csv", table)
    tune(data, tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    for line in (
        "# label: one of 2 classes a protein",
        "| model: this run |",
        "| composition: the same head on letters alone |",
        "| constant: one answer for all |",
        "Proteins were dealt out at random, each class by itself.",
        "- 1 record merged",
        "- 1 record unlabelled",
        "classes are uneven: 'common' has 56 labels, 'rare' 4",
        "| common | 39 | 6 | 11 |",
        "![predictions.png](predictions.png)",
    ):
        assert line in card, line
    assert str(tmp_path) not in card


def test_outputs_hold_no_paths(tmp_path: Path) -> None:
    tune(write_table(tmp_path / "a.csv", rows(30)), tmp_path / "run", method="lora")
    for name, content in contents(tmp_path / "run").items():
        assert str(tmp_path).encode() not in content, name


def test_a_base_model_in_a_folder(tmp_path: Path) -> None:
    """Its path is kept, for there is no other name; where it moves, --model says where; other weights are refused."""
    aminoglot.checkpoints.convert(MODEL, tmp_path / "base", "huggingface")
    data = write_table(tmp_path / "a.csv", rows(30))
    for method in ("head", "lora"):
        tune(data, tmp_path / method, model=str(tmp_path / "base"), method=method)
    expected = predictor(tmp_path / "head").predict(["MKVAWL"])
    assert predictor(tmp_path / "lora").predict(["MKVAWL"]).shape == (1,)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ModelError):
        predictor(tmp_path / "head")
    assert predictor(tmp_path / "head", model=tmp_path / "moved").predict(["MKVAWL"]) == expected
    with pytest.raises(ModelError, match="not the model that the run used: its weights differ"):
        predictor(tmp_path / "head", model="random:prott5nv-tiny")


def test_lora_begins_where_a_head_alone_ends(tmp_path: Path) -> None:
    """With a learning rate of hardly anything it stays there."""
    data = write_table(tmp_path / "a.csv", rows(60))
    tune(data, tmp_path / "head", epochs=None, batch=None)
    tune(data, tmp_path / "lora", method="lora", epochs=1, rate=1e-9)
    expected, found = (predictor(tmp_path / run).predict([protein(20), protein(35)]) for run in ("head", "lora"))
    assert np.allclose(found, expected, atol=1e-3)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_lora_finds_a_base_that_moved(tmp_path: Path) -> None:
    aminoglot.checkpoints.convert(MODEL, tmp_path / "base", "huggingface")
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "run", model=str(tmp_path / "base"), method="lora")
    expected = predictor(tmp_path / "run").predict(["MKVAWL"])
    (tmp_path / "base").rename(tmp_path / "moved")
    assert predictor(tmp_path / "run", model=tmp_path / "moved").predict(["MKVAWL"]) == expected
    with pytest.raises(ModelError, match="not the model that the run used: its weights differ"):
        predictor(tmp_path / "run", model="random:prott5nv-tiny")


def test_the_tuned_model_is_a_model(tmp_path: Path) -> None:
    """`embed --model run/model` and `run/adapter` work; the heads of the language model are as they were."""
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "full", method="full")
    tune(data, tmp_path / "lora", method="lora")
    base, full, lora = resolve(MODEL), resolve(tmp_path / "full" / "model"), resolve(tmp_path / "lora" / "adapter")
    assert full.has("lm_head")
    assert (full.tensors["lm_head.dense.weight"] == base.tensors["lm_head.dense.weight"]).all()
    assert len({base.digest, full.digest, lora.digest}) == 3


def test_what_a_run_folder_must_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        predictor(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no predictor\.json in it: no run is here"):
        predictor(tmp_path / "empty")
    (tmp_path / "empty" / "run.json").touch()
    with pytest.raises(InputError, match="its run did not end"):
        predictor(tmp_path / "empty")
    tune(write_table(tmp_path / "a.csv", rows(30)), tmp_path / "run")
    head = tmp_path / "run" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"head\.safetensors: not the file that the run wrote"):
        predictor(tmp_path / "run")
    (tmp_path / "run" / "predictor.json").write_text("{")
    with pytest.raises(ModelError, match="damaged, or written by another version"):
        predictor(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": [0, 1]}, "a head stands on one layer"),
        ({"layer": 7}, "layer 7: this model has layers 0 to 2"),
        ({"head": "convolution"}, "head convolution: it looks at residues"),
        ({"rank": 0}, "rank 0: between 1 and 4096"),
        ({"test_share": 0.6, "validation_share": 0.5}, "leave nothing to learn from"),
        ({"adapted": ("nose",)}, "adapted='nose': choose query, key, value, output, up, down"),
        ({"method": "magic"}, "method='magic': choose head, lora, full"),
        ({"model": "random:prott5nv-tiny", "pool": "cls"}, "pool cls: ProtT5nv's encoder has no token"),
        ({"model": "random:prott5nv-tiny", "long": "full"}, "long full: ProtT5nv has learned positions"),
        ({"method": "lora", "precision": "fp16"}, "precision fp16"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    data = write_table(tmp_path / "a.csv", rows(10))
    with pytest.raises(InputError, match=re.escape(said)):
        tune(data, tmp_path / "run", **options)


def test_four_proteins_are_scored_without_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One test protein orders nothing, and has no limits to it."""
    made = tune(write_table(tmp_path / "a.csv", rows(4)), tmp_path / "run")
    assert made.headline.startswith("test spearman 0.000 (too few proteins for an interval)")
    assert made.scores["model"]["interval"] == [None, None]
    assert "scores will be of 1 test protein only, and say little" in capsys.readouterr().err
    assert "NaN" not in (tmp_path / "run" / "run.json").read_text()
    assert "(too few proteins for an interval)" in (tmp_path / "run" / "README.md").read_text()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    data = write_table(tmp_path / "a.csv", rows(10))
    (tmp_path / "d.csv").touch()
    with pytest.raises(OutputError, match=r"d\.csv: a file; -o names a folder"):
        tune(data, tmp_path / "d.csv")


def test_without_matplotlib_there_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> bytes:
        raise DependencyError("no matplotlib")

    monkeypatch.setattr(pictures, "figure", absent)
    tune(write_table(tmp_path / "a.csv", rows(20)), tmp_path / "run")
    assert not any(name.endswith(".png") for name in contents(tmp_path / "run"))
    assert predictor(tmp_path / "run").predict(["MKV"]).shape == (1,)


def test_without_scipy_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise DependencyError("scores need SciPy: pip install 'aminoglot[eval]'")

    monkeypatch.setattr(metrics, "_ranks", absent)
    with pytest.raises(DependencyError, match="aminoglot"):
        tune(write_table(tmp_path / "a.csv", rows(20)), tmp_path / "run")
    assert set(contents(tmp_path / "run")) == set()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("method", ["head", "lora"])
@pytest.mark.parametrize("where", ["state", "results"])
def test_a_full_disk_is_a_sentence_and_costs_nothing(tmp_path: Path, method: str, where: str) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "whole", method=method)
    module = state if where == "state" else results
    original, count = module._write, [0]

    def write(path: Path, content: bytes) -> None:
        count[0] += 1
        if count[0] == 3:
            full_disk()
        original(path, content)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_write", write)
        with pytest.raises(OutputError, match=r"the disk is full .* Free some space and run the same command again"):
            tune(data, tmp_path / "run", method=method)
    assert not list((tmp_path / "run").glob("*.partial"))
    tune(data, tmp_path / "run", method=method)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_state_that_is_damaged_is_said(tmp_path: Path) -> None:
    data = write_table(tmp_path / "a.csv", rows(30))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "write_head", full_disk)
        with pytest.raises(OSError, match="No space"):
            tune(data, tmp_path / "run")
    path = tmp_path / "run" / ".state.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(JobError, match=r"\.state\.safetensors: damaged .* delete it to begin training again"):
        tune(data, tmp_path / "run")


def test_embeddings_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that goes on, or another head in the same folder, takes what is there."""
    data = write_table(tmp_path / "a.csv", rows(30))
    tune(data, tmp_path / "run")
    capsys.readouterr()
    tune(data, tmp_path / "run", head="linear", overwrite=True)
    assert "features.safetensors is complete already" in capsys.readouterr().err


def test_the_table_of_a_run_reads_as_tsv(tmp_path: Path) -> None:
    """Whatever labels and ids hold."""
    table = [{**row, "label": f"cl\tass {i % 2}\n"} for i, row in enumerate(rows(20))]
    tune(write_table(tmp_path / "a.csv", table), tmp_path / "run")
    with (tmp_path / "run" / "proteins.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(found) == 20
    assert {row["label"] for row in found} == {"cl ass 0", "cl ass 1"}


def test_python_and_command_line_speak_the_same_words() -> None:
    import inspect
    from dataclasses import fields
    from typing import get_type_hints

    from aminoglot import cli
    from aminoglot.commands import finetune, predict
    from aminoglot.finetune.options import PredictionOptions

    for function, options, command in (
        (aminoglot.fine_tune, Options, finetune.Flags),
        (aminoglot.predict, PredictionOptions, predict.Flags),
    ):
        signature = inspect.signature(function).parameters
        keywords = {name: p.default for name, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert list(keywords.items()) == [(field.name, field.default) for field in fields(options)]
        types, expected = get_type_hints(function), get_type_hints(options)
        assert {name: types[name] for name in keywords} == expected
        said = inspect.getdoc(function) or ""
        assert all(f"\n    {name}: " in said for name in keywords)
        assert [(f.name, f.default) for f in fields(command)] == [(f.name, f.default) for f in fields(options)]
    flags = {argument.name for argument in cli.app["finetune"].assemble_argument_collection() if argument.keys}
    assert flags == {f"--{field.name.replace('_', '-')}" for field in fields(Options)}
