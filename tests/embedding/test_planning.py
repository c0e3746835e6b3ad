"""The plan of a job before it is begun: sums as over single proteins, rates that say where they are from, refusals."""

from __future__ import annotations

import gzip
import io
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aminoglot import cli
from aminoglot.embedding import lengths as tables
from aminoglot.embedding import rates
from aminoglot.embedding.lengths import Lengths, counted
from aminoglot.embedding.options import Options
from aminoglot.embedding.plan_options import PlanOptions
from aminoglot.embedding.planning import Estimate, lines, plan_of, planned, task_for
from aminoglot.embedding.rates import DEVICES, Rate, measured
from aminoglot.embedding.report import BYTES_A_PROTEIN
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine.pieces import pieces
from aminoglot.errors import InputError, ModelError, OutputError
from aminoglot.jobs.plan import cut_shards
from aminoglot.screen import Screen
from tests.embedding.helpers import MODEL, protein, write_fasta

RANDOM = np.random.default_rng(0)
MIXED = [*RANDOM.gamma(2.0, 160.0, 3000).astype(int).clip(20, 5000).tolist(), 1022, 1023, 2044, 35_000]
"""Lengths as a proteome has them, and those about the limit."""
H100: dict[str, Any] = {"model": "esm2-650m", "device": "h100"}


def lengths_of(proteins: list[int]) -> Lengths:
    return Lengths.of({length: proteins.count(length) for length in set(proteins)})


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=1000))


def said(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


def task(**options: Any) -> EmbeddingTask:
    return task_for(PlanOptions(**{"model": MODEL, "device": "cpu", **options}), quiet())


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("model", ["esm2-3b", "prott5nv"])
@pytest.mark.parametrize("long", ["truncate", "window", "full", "skip", "error"])
def test_sums_are_those_over_single_proteins(model: str, long: Any) -> None:
    """Protein for protein, piece for piece, token for token: what the engine would make of them."""
    if (model, long) == ("prott5nv", "full"):
        return
    asked = task(model=model, long=long, device="h100")
    found = plan_of(lengths_of(MIXED), asked)
    request, alphabet = asked.request, asked.model.alphabet
    proteins = residues = tokens = 0
    operations = cost = 0.0
    for length in MIXED:
        embedded = int(request.embedded(np.array([length]))[0])
        if not embedded:
            continue
        proteins, residues = proteins + 1, residues + embedded
        cost += float(asked.cost(np.array([length]))[0])
        for piece in pieces(0, embedded, request):
            size = len(alphabet.framed(b"A" * piece.length, start=piece.cls, end=piece.eos))
            tokens += size
            operations += float(size * asked.model.config.flops_per_token(np.array([size]))[0])
    assert (found.proteins, found.residues, found.tokens) == (proteins, residues, tokens)
    assert found.over == sum(length > request.limit for length in MIXED)
    assert found.proteins == len(MIXED) - (found.over if long in ("skip", "error") else 0)
    assert found.operations == pytest.approx(operations, rel=1e-4)  # a window at an end has a token more
    assert found.cost == pytest.approx(cost)


@pytest.mark.parametrize(("per", "files"), [("protein", 1), ("residue", 1), ("both", 2)])
@pytest.mark.parametrize(("dtype", "wide"), [("float32", 4), ("float16", 2)])
def test_bytes(per: Any, files: int, dtype: Any, wide: int) -> None:
    """Layers times width times numbers, for each vector that is written; and the job's folder beside it."""
    asked = task(per=per, layer="all", dtype=dtype)
    found = plan_of(lengths_of(MIXED), asked)
    embedded = [min(length, 1022) for length in MIXED]
    vectors = {"protein": len(MIXED), "residue": sum(embedded), "both": len(MIXED) + sum(embedded)}[per]
    assert found.output_bytes == vectors * 3 * 32 * wide + files * len(MIXED) * BYTES_A_PROTEIN
    assert found.folder_bytes == vectors * 3 * 32 * wide + sum(MIXED)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "esm2-650m"},  # by cost
        {"model": "esm2-8m", "per": "residue", "layer": "all"},  # by bytes
        {"device": "h100"},  # by number
        {"model": "esm2-15b"},  # a protein each
    ],
    ids=str,
)
def test_shards_are_about_those_of_the_job(options: dict[str, Any]) -> None:
    asked = task(**options)
    many = MIXED * 30
    cut = len(cut_shards(np.array(sorted(many, reverse=True)), asked)) - 1
    assert plan_of(lengths_of(MIXED).scaled(len(many)), asked).shards == pytest.approx(cut, rel=0.02, abs=2)


def test_a_billion_of_long_proteins() -> None:
    """More bytes than 64 bits can count, exactly; the histogram stays as small as it was."""
    asked = task(model="esm2-15b", per="residue", layer="all", long="full", device="h200")
    found = plan_of(Lengths.of({35_000: 1}).scaled(10**9), asked)
    assert found.output_bytes == 35_000 * 10**9 * 49 * 5120 * 4 + 10**9 * BYTES_A_PROTEIN > 2**63
    assert len(found.lengths.residues) == 1
    assert found.operations == pytest.approx(1e9 * 35_002 * asked.model.config.flops_per_token(np.array([35_002]))[0])


@pytest.mark.parametrize("proteins", [1, 2, 2999, 3005, 1_234_567, 10**9, 10**15])
def test_scaling_keeps_the_distribution(proteins: int) -> None:
    """As many as asked for, to the one, and each length has its share."""
    sample = lengths_of(MIXED)
    scaled = sample.scaled(proteins)
    assert scaled.proteins == proteins
    share = dict(zip(sample.residues.tolist(), (sample.counts / len(MIXED) * proteins).tolist(), strict=True))
    given = dict(zip(scaled.residues.tolist(), scaled.counts.tolist(), strict=True))
    assert all(abs(given.get(length, 0) - expected) <= 1 for length, expected in share.items())
    assert min(given.values()) > 0


def estimate(rate: Rate | None) -> Estimate:
    return plan_of(lengths_of(MIXED), task(), rate)


def test_hours_and_workers_follow_from_the_rate() -> None:
    plain = estimate(None)
    assert plain.hours() is None
    assert plain.workers(1.0) is None
    found = estimate(Rate.given(plain.tokens / 36_000))  # ten hours
    assert found.hours() == pytest.approx(10)
    assert found.hours(4) == pytest.approx(2.5)
    assert [found.workers(hours) for hours in (10, 9.99, 5, 3, 0.1, 1000)] == [1, 2, 2, 4, 100, 1]
    for unit in ("operations", "cost"):
        rate = Rate(getattr(plain, unit) / 3600, unit, "measured", "")
        assert estimate(rate).hours() == pytest.approx(1)


@pytest.mark.parametrize("name", list(DEVICES))
def test_a_device_that_is_not_here_is_an_assumption(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations over a share of the peak; every row that follows from it says so, and so does the end."""
    monkeypatch.setattr(rates.torch.cuda, "is_available", lambda: False)
    options = PlanOptions(model="esm2-3b", device=name.upper(), deadline=24, workers=8)
    asked = task_for(options, quiet())
    rate = rates.rate_for(lengths_of(MIXED), asked, options, quiet())
    assert rate is not None
    assert rate.source == "assumed"
    precision = asked.model.hardware.precision
    assert precision == ("fp16" if name == "v100" else "bf16")
    found = plan_of(lengths_of(MIXED), asked, rate)
    peak = DEVICES[name].peaks[precision]  # type: ignore[index]
    assert found.hours() == pytest.approx(found.operations / (peak * rates.SHARE) / 3600)
    shown = dict(lines(found, asked, options))
    for row in ("rate of a worker", "1 worker", "8 workers", "done in 24 hours"):
        assert "assumed" in shown[row]
        assert "measured here" not in shown[row]
    assert f"{peak / 1e12:,.0f} TFLOPS" in shown["rate of a worker"]


def test_a_named_device_that_is_here_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """L4 is not L40S."""
    monkeypatch.setattr(rates.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(rates.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(rates.torch.cuda, "get_device_name", lambda n: ["NVIDIA L40S", "NVIDIA H100 80GB HBM3"][n])
    chosen: list[str] = []
    monkeypatch.setattr(rates, "choose", lambda device, *_: chosen.append(device))
    for name in ("h100", "l40s", "L40S"):
        rates.hardware_for(PlanOptions(device=name))
    assert chosen == ["cuda:1", "cuda:0", "cuda:0"]
    assert rates.hardware_for(PlanOptions(device="l4")).reason == "L4, which is not here"


@pytest.mark.parametrize("long", ["truncate", "window", "skip"])
def test_measuring_scales_to_the_whole(long: Any) -> None:
    """On a machine of constant speed the hours are the whole's cost, whatever was timed; no protein over the limit."""
    asked = task(model="esm2-650m", long=long)
    seen: list[int] = []

    def timed(texts: list[bytes]) -> float:
        seen.extend(map(len, texts))
        return float(asked.cost(np.array([len(text) for text in texts])).sum()) * 1e-12

    many = lengths_of(MIXED).scaled(10**9)
    rate = measured(many, asked, timed)
    assert rate is not None
    found = plan_of(many, asked, rate)
    assert found.hours() == pytest.approx(found.cost * 1e-12 / 3600)
    assert 16 < max(seen) <= 1022
    assert measured(many, asked, lambda _: None) is None


def test_short_of_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the hours, and how to get those; the weights are not even drawn."""
    monkeypatch.setattr(rates, "available_memory", lambda: 5e9)
    monkeypatch.setattr(rates, "resolve", lambda _: pytest.fail("drawn"))
    options = PlanOptions(model="esm2-15b", device="cpu", workers=2)
    screen = quiet()
    asked = task_for(options, screen)
    assert rates.rate_for(lengths_of(MIXED), asked, options, screen) is None
    assert "5.0 GB are free" in said(screen)
    assert "--rate" in said(screen)
    assert "h100" in said(screen)
    shown = dict(lines(plan_of(lengths_of(MIXED), asked), asked, options))
    assert shown["rate of a worker"] == shown["1 worker"] == shown["2 workers"] == "not known"
    assert shown["operations in all"].endswith("FLOPs")


def test_weights_that_are_not_here_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched for a plan."""
    monkeypatch.setattr(rates.hub, "cached", lambda _: None)
    monkeypatch.setattr(rates.hub, "torch_hub", lambda _: None)
    assert rates._weights("esm2-3b") == ("random:esm2-3b", True)
    assert rates._weights("facebook/esm2_t36_3B_UR50D") == ("random:esm2-3b", True)
    assert rates._weights("prott5nv") == ("random:prott5nv", True)
    assert rates._weights("aminoglot-5m") == ("aminoglot-5m", False)
    assert rates._weights("random:aminoglot-5m") == ("random:aminoglot-5m", True)
    monkeypatch.setattr(rates.hub, "cached", lambda _: Path("here"))
    assert rates._weights("esm2-3b") == ("esm2-3b", False)
    assert rates._weights("random:esm2-3b") == ("random:esm2-3b", True)


def test_counting_files(tmp_path: Path) -> None:
    """Whatever `embed` reads; what is no protein is counted and said, not refused."""
    records = {f"P{i}": protein(length, i) for i, length in enumerate([5, 5, 7, 60])}
    write_fasta(tmp_path / "a.fasta", {**records, "bad": "MK1"})
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"name,residues\nx,MKVLA\n"))
    screen = quiet()
    found = counted([tmp_path], PlanOptions(id_column="name", sequence_column="residues"), screen)
    assert dict(zip(found.residues.tolist(), found.counts.tolist(), strict=True)) == {5: 3, 7: 1, 60: 1}
    assert "1 record cannot be used" in said(screen)
    assert "--bad-records skip" in said(screen)
    assert "'bad'" in said(screen)


def test_tables_come_back(tmp_path: Path) -> None:
    """What is written is read, also without its first line, in any order, and added up."""
    made = lengths_of(MIXED)
    tables.write(made, tmp_path / "l.tsv")
    back = tables.read(tmp_path / "l.tsv")
    assert np.array_equal(back.residues, made.residues)
    assert np.array_equal(back.counts, made.counts)
    (tmp_path / "m.tsv").write_text("7\t2\n5 1\n\n7\t3\n9\t0\n")
    back = tables.read(tmp_path / "m.tsv")
    assert (back.residues.tolist(), back.counts.tolist()) == ([5, 7], [1, 5])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no protein"),
        (b"length\tcount\n", "no protein"),
        (b"300\t0\n", "no protein"),
        (b"length\tcount\n300\n", "line 2: '300' is not a length and a count"),
        (b"300\t1\nlength\tcount\n", "line 2"),
        (b"300\t-1\n", "line 1"),
        (b"300\t1.5\n", "line 1"),
        (b"0\t1\n", "lengths are from 1"),
        (b"99999999\t1\n", "a protein of 99,999,999 residues"),
        (b"300\t9999999999999999999999\n", "line 1"),
        (b"300\t999999999999999\n301\t999999999999999\n", "at most 1,000,000,000,000,000"),
        (b"\xff\xfe\x00", "no text"),
    ],
)
def test_tables_that_are_none(text: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_bytes(text)
    with pytest.raises(InputError, match=why):
        tables.read(tmp_path / "l.tsv")


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"rate": 0.0}, InputError, "rate 0"),
        ({"rate": math.nan}, InputError, "rate nan"),
        ({"rate": math.inf}, InputError, "rate inf"),
        ({"deadline": -1.0}, InputError, "deadline -1"),
        ({"workers": 0}, InputError, "workers 0"),
        ({"proteins": 0}, InputError, "proteins 0"),
        ({"proteins": 10**16}, InputError, "from 1 to"),
        ({"dtype": "float64"}, InputError, "float64"),
        ({"lengths": Path("nowhere.tsv")}, InputError, "nowhere.tsv: cannot be read"),
        ({"lengths": None}, InputError, "--lengths"),
        ({"device": "h1000"}, InputError, "plan for one that is not here: v100"),
        ({**H100, "precision": "fp32"}, InputError, "known only in bf16 and fp16"),
        ({**H100, "device": "v100", "precision": "bf16"}, InputError, "known only in fp16"),
        ({**H100, "backend": "openvino"}, InputError, "not on H100"),
        ({"model": "esm2-7m"}, ModelError, "esm2-8m"),
        ({"model": "esm2-8m", "layer": 7}, InputError, "layer 7"),
        ({"model": "prott5nv", "long": "full"}, InputError, "learned positions"),
        ({"long": "skip", "lengths": Path("long.tsv")}, InputError, "every protein is over 1,022"),
        ({"write_lengths": Path("l.tsv")}, OutputError, "exists already"),
        ({"write_lengths": Path("no/l.tsv")}, OutputError, "no folder"),
    ],
    ids=str,
)
def test_what_is_refused(
    options: dict[str, Any], error: type[Exception], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.tsv").write_text("300\t5\n")
    (tmp_path / "long.tsv").write_text("3000\t5\n")
    with pytest.raises(error, match=why):
        planned([], PlanOptions(**{"model": MODEL, "lengths": Path("l.tsv"), **options}), quiet())


def test_proteins_or_a_table_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--lengths"):
        planned([tmp_path / "a.fasta"], PlanOptions(lengths=tmp_path / "l.tsv"), quiet())


def test_the_words_of_embed() -> None:
    """What is called the same means the same."""
    mine, its = ({f.name: (f.type, f.default) for f in fields(c)} for c in (PlanOptions, Options))
    shared = set(mine) & set(its) - {"workers"}
    assert {"model", "per", "layer", "long", "precision", "device", "backend", "dtype"} <= shared
    assert all(mine[name] == its[name] for name in shared)


def test_the_command_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file to the table on standard output, by a model that really runs; nothing is left behind."""
    write_fasta(tmp_path / "a.fasta", {f"P{i}": protein(40, i) for i in range(8)})
    arguments = [tmp_path / "a.fasta", "-m", MODEL, "--device", "cpu", "--workers", 2, "--deadline", 1]
    assert status_of("plan", *arguments, "--proteins", 1_000_000, "--write-lengths", tmp_path / "l.tsv") == 0
    shown = capsys.readouterr()
    rows = {line[:28].strip(): line[29:] for line in shown.out.splitlines()}
    assert rows["proteins"] == "1,000,000"
    assert rows["tokens"] == "42,000,000"
    assert "measured here" in rows["rate of a worker"]
    assert "measured here" in rows["2 workers"]
    assert "done in 1 hour" in rows
    assert "Equal sequences" in shown.out
    assert (tmp_path / "l.tsv").read_text() == "length\tcount\n40\t8\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fasta", "l.tsv"]


def test_the_command_with_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A billion proteins, from a table, by a rate: nothing is measured."""
    tables.write(lengths_of(MIXED), tmp_path / "l.tsv")
    arguments = ["--lengths", tmp_path / "l.tsv", "-m", "esm2-3b", "--device", "h100", "--proteins", 10**9]
    assert status_of("plan", *arguments, "--rate", 1e5, "--deadline", 24) == 0
    rows = {line[:28].strip(): line[29:] for line in capsys.readouterr().out.splitlines()}
    tokens = int(rows["tokens"].replace(",", ""))
    assert rows["rate of a worker"] == "100,000 tokens a second, as given by --rate"
    assert rows["done in 24 hours"] == f"{math.ceil(tokens / 1e5 / 3600 / 24)} workers, by the rate given"


def test_an_answer_that_is_asked_for_and_missing_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rates, "available_memory", lambda: 1e9)
    (tmp_path / "l.tsv").write_text("300\t5\n")
    arguments = ["plan", "--lengths", tmp_path / "l.tsv", "-m", "random:esm2-3b", "--device", "cpu"]
    assert status_of(*arguments) == 0
    assert status_of(*arguments, "--deadline", 1) == 1
    assert "not known" in capsys.readouterr().out
    assert status_of("plan", tmp_path / "nothing.fasta") == 1
    assert status_of("plan", "--per", "atom") == 2


def test_more_workers_than_shards() -> None:
    found = replace(estimate(Rate.given(1.0)), shards=3)
    shown = dict(lines(found, task(), PlanOptions(deadline=0.5)))
    assert "only about 3 shards" in shown["done in 0.5 hours"]
