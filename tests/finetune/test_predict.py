"""Predictions through the job: every record accounted for, killed and gone on with, refused where it is another."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import aminoglot
from aminoglot.embedding import task
from aminoglot.errors import InputError, JobError, OutputError
from aminoglot.finetune import prediction
from aminoglot.finetune.predictor import Predictor
from aminoglot.jobs import ShardLimits
from tests.embedding.helpers import Driver, files, proteins, write_fasta
from tests.finetune.helpers import MODEL, predictor, rows, tsv, tune, write_table

PLAIN = {"precision": "fp32", "backend": "torch"}


def predict(run: Path, source: Path, output: Path, **options: Any) -> Any:
    return aminoglot.predict(run, source, output, **{**PLAIN, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs, by what they predict."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for per, kind in (("protein", "number"), ("protein", "classes"), ("residue", "number"), ("residue", "classes")):
        data = write_table(folder / f"{per}-{kind}.csv", rows(24, per, kind))
        made[f"{per}-{kind}"] = folder / f"run-{per}-{kind}"
        tune(data, made[f"{per}-{kind}"], per=per, epochs=2)
    return made


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "ShardLimits", partial(ShardLimits, proteins=3))


@pytest.mark.parametrize("kind", ["protein-number", "protein-classes", "residue-number", "residue-classes"])
def test_a_file_holds_what_the_predictor_says(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """In the order of the input, as TSV and as Parquet, with probabilities where there are classes."""
    texts = proteins(20, seed=3)
    source, loaded = write_fasta(tmp_path / "a.fasta", texts), predictor(runs[kind])
    chances = bool(loaded.classes)
    made = predict(runs[kind], source, tmp_path / "a.tsv", probabilities=chances)
    predict(runs[kind], source, tmp_path / "a.parquet", probabilities=chances)
    assert made.complete
    assert str(made.audit) == "20 in = 20 written + 0 merged + 0 skipped + 0 failed"
    table, columns = tsv(tmp_path / "a.tsv"), pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert [row["id"] for row in table] == columns["id"] == list(texts)
    expected = loaded.predict(texts.values())
    for row, one, stored in zip(table, expected, columns["prediction"], strict=True):
        if chances:
            assert row["prediction"] == one == stored
        else:
            np.testing.assert_allclose([float(v) for v in row["prediction"].split(",")], one, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(stored, one, rtol=1e-4, atol=1e-5)
    for place, name in enumerate(loaded.classes):
        found = loaded.probabilities(texts.values())
        for row, one, stored in zip(table, found, columns[f"p_{name}"], strict=True):
            values = np.atleast_2d(one)[:, place]
            np.testing.assert_allclose([float(v) for v in row[f"p_{name}"].split(",")], values, atol=1e-5)
            np.testing.assert_allclose(np.atleast_1d(stored), values, atol=1e-5)
    assert set(files(tmp_path)) == {"a.fasta", "a.tsv", "a.tsv.json", "a.parquet", "a.parquet.json"}


@pytest.mark.usefixtures("small_shards")
def test_every_record_is_accounted_for(runs: dict[str, Path], tmp_path: Path) -> None:
    records = [("a", "MKV"), ("b", "MKVAW"), ("a", "MKV"), ("c", "MK-V"), ("d", "MKV"), ("e", "M" * 1500), ("b", "MM")]
    source = write_fasta(tmp_path / "a.fasta", records)
    with pytest.raises(InputError, match="'-' at position 3"):
        predict(runs["residue-classes"], source, tmp_path / "a.tsv")
    made = predict(runs["residue-classes"], source, tmp_path / "a.tsv", bad_records="skip", duplicates="number")
    assert not made.complete
    table = tsv(tmp_path / "a.tsv")
    assert [row["id"] for row in table] == ["a", "b", "a", "c", "d", "e", "b_2"]
    assert [row["status"] for row in table] == [*("written", "written", "merged", "skipped"), *["written"] * 3]
    assert table[0]["prediction"] == table[2]["prediction"] == table[4]["prediction"]
    assert len(table[0]["prediction"]) == 3
    assert (table[2]["duplicate_of"], table[4]["duplicate_of"]) == ("a", "a")
    assert table[3]["prediction"] == ""
    assert "gap" in table[3]["note"]
    assert (table[5]["residues_embedded"], table[5]["note"]) == ("1022", "truncated to 1022 residues")
    assert table[6]["note"] == "renamed: its id was used before"
    noted = json.loads((tmp_path / "a.tsv.json").read_text())
    assert (noted["records"], noted["written"], noted["merged"], noted["skipped"]) == (7, 5, 1, 1)
    counts = Counter(row["status"] for row in table)
    assert sum(counts.values()) == noted["records"]


@pytest.mark.parametrize(("long", "length", "note"), [("window", 2100, "in windows of 1022 residues"), ("skip", 0, "")])
def test_long_proteins(runs: dict[str, Path], tmp_path: Path, long: Any, length: int, note: str) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKVAWL" * 350, "b": "MKV"})
    predict(runs["residue-classes"], source, tmp_path / "a.tsv", long=long)
    row = tsv(tmp_path / "a.tsv")[0]
    assert len(row["prediction"]) == length
    assert row["note"] == note or (long == "skip" and row["note"] == "longer than 1022 residues")
    with pytest.raises(InputError, match="1,022"):
        predict(runs["residue-classes"], source, tmp_path / "b.tsv", long="error")


@pytest.mark.usefixtures("small_shards")
def test_what_is_in_a_shard_does_not_matter(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(20, seed=5))
    predict(runs["residue-number"], source, tmp_path / "a.parquet")
    monkeypatch.setattr(task, "ShardLimits", partial(ShardLimits, proteins=1000))
    predict(runs["residue-number"], source, tmp_path / "b.parquet")
    a, b = (pq.read_table(tmp_path / name).to_pydict() for name in ("a.parquet", "b.parquet"))
    for one, other in zip(a["prediction"], b["prediction"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("small_shards")
def test_it_goes_on_where_it_stopped(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(20, seed=5))
    predict(runs["protein-number"], source, tmp_path / "whole.tsv")
    original, shards = Predictor.of_embedded, [0]

    def stop(self: Predictor, found: Any) -> Any:
        shards[0] += 1
        if shards[0] == 4:
            raise KeyboardInterrupt
        return original(self, found)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Predictor, "of_embedded", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(runs["protein-number"], source, tmp_path / "a.tsv")
    assert not (tmp_path / "a.tsv").exists()
    shards[0] = 10
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Predictor, "of_embedded", stop)
        predict(runs["protein-number"], source, tmp_path / "a.tsv")
    assert shards[0] == 10 + 7 - 3
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    assert not (tmp_path / "a.tsv.aminoglot").exists()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("run", "backend", "suffix"),
    [("residue-classes", "torch", "tsv"), ("lora", "torch", "parquet"), ("lora", "openvino", "tsv")],
)
def test_two_workers(
    runs: dict[str, Path], tmp_path: Path, run: str, backend: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(20, seed=5))
    folder = runs.get(run, tmp_path / "lora")
    if run == "lora":
        tune(write_table(tmp_path / "a.csv", rows(24)), folder, method="lora", epochs=2)
    for name, workers in (("one", None), ("two", 2)):
        predict(folder, source, tmp_path / f"{name}.{suffix}", workers=workers, backend=backend)
    said = capsys.readouterr().err
    assert said.count("2 workers: cpu on") == 1
    assert said.count("untrained") <= 2, "workers repeat what was said"
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert not (tmp_path / f"two.{suffix}.aminoglot").exists()
    with pytest.raises(InputError, match="there must be one at least"):
        predict(folder, source, tmp_path / "b.tsv", workers=0)


@pytest.mark.usefixtures("small_shards")
def test_killed_between_the_output_and_its_note(runs: dict[str, Path], tmp_path: Path) -> None:
    """The output is there, and nothing says whose: the job that wrote it goes on, another does not take it."""
    source = write_fasta(tmp_path / "a.fasta", proteins(12, seed=5))
    predict(runs["protein-number"], source, tmp_path / "whole.tsv")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prediction._Job, "_note_down", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(runs["protein-number"], source, tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").exists()
    assert not (tmp_path / "a.tsv.json").exists()
    with pytest.raises(OutputError, match="exists, and is no predictions of ours"):
        predict(runs["protein-number"], source, tmp_path / "a.tsv", long="window")
    assert predict(runs["protein-number"], source, tmp_path / "a.tsv").complete
    for suffix in ("tsv", "tsv.json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not (tmp_path / "a.tsv.aminoglot").exists()


def test_killed_anywhere(runs: dict[str, Path], tmp_path: Path, driver: Driver) -> None:
    """In planning, computing and writing; the output is there whole or not at all."""
    source = write_fasta(tmp_path / "a.fasta", proteins(30, seed=6))
    flags = ["--precision", "fp32", "--backend", "torch"]
    run = str(runs["residue-classes"])
    assert driver.run(["predict", run, str(source), "-o", str(tmp_path / "whole.tsv"), *flags], shard=3).status == 0
    for strike in (400, 1200, 2500, 5000):
        output = tmp_path / f"{strike}.tsv"
        command = ["predict", run, str(source), "-o", str(output), *flags]
        assert driver.run(command, strike=strike, shard=3).status == -9
        assert not output.exists() or output.read_bytes() == (tmp_path / "whole.tsv").read_bytes()
        assert driver.run(command, shard=3).status == 0
        assert output.read_bytes() == (tmp_path / "whole.tsv").read_bytes()


def test_a_finished_output_is_verified(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    predict(runs["protein-number"], source, tmp_path / "a.tsv")
    before = files(tmp_path)
    capsys.readouterr()
    assert predict(runs["protein-number"], source, tmp_path / "a.tsv").complete
    assert "is complete already" in capsys.readouterr().err
    assert files(tmp_path) == before
    (tmp_path / "a.tsv").write_bytes(before["a.tsv"][:-3])
    with pytest.raises(JobError, match="not as it was written; run with --overwrite"):
        predict(runs["protein-number"], source, tmp_path / "a.tsv")
    predict(runs["protein-number"], source, tmp_path / "a.tsv", overwrite=True)
    assert files(tmp_path) == before


def test_another_run_or_input_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    predict(runs["protein-number"], source, tmp_path / "a.tsv")
    before = files(tmp_path)
    with pytest.raises(JobError, match=r"the result of something else:\n(.*\n)*  run: "):
        predict(runs["protein-classes"], source, tmp_path / "a.tsv")
    with pytest.raises(JobError, match="long: truncate before, window now"):
        predict(runs["protein-number"], source, tmp_path / "a.tsv", long="window")
    assert files(tmp_path) == before
    write_fasta(source, proteins(6))
    with pytest.raises(JobError, match="input_sha256"):
        predict(runs["protein-number"], source, tmp_path / "a.tsv")
    predict(runs["protein-number"], source, tmp_path / "a.tsv", overwrite=True)
    assert len(tsv(tmp_path / "a.tsv")) == 6


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_changed_under_an_unfinished_job(tmp_path: Path) -> None:
    """Shards of one run and shards of another never make one output."""
    data = write_table(tmp_path / "a.csv", rows(24))
    tune(data, tmp_path / "run", epochs=1)
    source = write_fasta(tmp_path / "a.fasta", proteins(12))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aminoglot.finetune.prediction.audit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(tmp_path / "run", source, tmp_path / "a.tsv")
    tune(data, tmp_path / "run", epochs=2, overwrite=True)
    with pytest.raises(JobError, match=r"an unfinished job that is not this one:\n  run: "):
        predict(tmp_path / "run", source, tmp_path / "a.tsv")
    predict(tmp_path / "run", source, tmp_path / "a.tsv", overwrite=True)
    expected = predictor(tmp_path / "run").predict(proteins(12).values())
    np.testing.assert_allclose([float(row["prediction"]) for row in tsv(tmp_path / "a.tsv")], expected, rtol=1e-4)


def test_a_head_that_gives_no_number_is_no_result(runs: dict[str, Path], tmp_path: Path) -> None:
    """Such proteins have failed, by name, and the rest is written."""
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKV", "b": "WWWWWW"})
    original = Predictor.of_embedded

    def broken(self: Predictor, found: Any) -> Any:
        outputs = original(self, found)
        outputs[-1] = np.nan  # the shortest comes last
        return outputs

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Predictor, "of_embedded", broken)
        made = predict(runs["residue-number"], source, tmp_path / "a.tsv")
    assert not made.complete
    assert [row["status"] for row in tsv(tmp_path / "a.tsv")] == ["failed", "written"]
    assert "not finite" in tsv(tmp_path / "a.tsv")[0]["note"]
    assert predict(runs["residue-number"], source, tmp_path / "a.tsv").complete  # the same command tries again
    assert [row["status"] for row in tsv(tmp_path / "a.tsv")] == ["written", "written"]


def test_where_it_cannot_write(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(3))
    run = runs["protein-number"]
    with pytest.raises(InputError, match=r"predictions are written as \.tsv or \.parquet"):
        predict(run, source, tmp_path / "a.h5")
    with pytest.raises(OutputError, match="there is no folder"):
        predict(run, source, tmp_path / "nothing" / "a.tsv")
    with pytest.raises(InputError, match="no such folder; name one that `aminoglot finetune` wrote"):
        predict(tmp_path / "run", source, tmp_path / "a.tsv")
    table = write_table(tmp_path / "in.tsv", [{"id": "a", "sequence": "MKV"}])
    with pytest.raises(OutputError, match="this is the input"):
        predict(run, table, table)
    (tmp_path / "mine.tsv").write_text("precious")
    with pytest.raises(OutputError, match="exists, and is no predictions of ours"):
        predict(run, source, tmp_path / "mine.tsv")
    assert (tmp_path / "mine.tsv").read_text() == "precious"
    with pytest.raises(InputError, match="--probabilities: label is a number"):
        predict(run, source, tmp_path / "a.tsv", probabilities=True)
    assert not list(tmp_path.glob("*.aminoglot"))


def test_standard_input(runs: dict[str, Path], tmp_path: Path, driver: Driver) -> None:
    answer = driver.run(
        ["predict", str(runs["protein-number"]), "-", "-o", str(tmp_path / "a.tsv")], stdin=">a\nMKV\n>b\nMW\n"
    )
    assert answer.status == 0, answer.screen
    assert "2 in = 2 written" in answer.screen
    assert f"label by {MODEL}" in answer.screen
    assert [row["id"] for row in tsv(tmp_path / "a.tsv")] == ["a", "b"]
