"""What a job says of sizes and times."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from aminoglot.embedding.report import Report, roughly, size
from aminoglot.screen import duration
from tests.embedding.helpers import embed, write_fasta

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 min"),
        (100, "2 min"),
        (9 * MINUTE, "9 min"),
        (9.6 * MINUTE, "10 min"),
        (12 * MINUTE, "10 min"),
        (13 * MINUTE, "15 min"),
        (57 * MINUTE, "55 min"),
        (58 * MINUTE, "1 h"),
        (80 * MINUTE, "1.5 h"),
        (2 * HOUR, "2 h"),
        (7000, "2 h"),
        (9.7 * HOUR, "9.5 h"),
        (9.8 * HOUR, "10 h"),
        (35 * HOUR, "35 h"),
        (37 * HOUR, "1.5 days"),
        (3 * DAY, "3 days"),
        (9.8 * DAY, "10 days"),
        (1234 * DAY, "1,234 days"),
    ],
)
def test_roughly(seconds: float, said: str) -> None:
    assert roughly(seconds) == said


def test_roughly_never_goes_back() -> None:
    """A longer time is never said to be shorter."""
    units = {"min": MINUTE, "h": HOUR, "days": DAY}

    def value(seconds: float) -> float:
        number, unit = roughly(seconds).split()
        return float(number.replace(",", "")) * units[unit]

    values = [value(seconds) for seconds in range(0, 20 * DAY, 17)]
    assert values == sorted(values)
    for seconds in range(10 * MINUTE, 20 * DAY, 17):
        assert abs(value(seconds) - seconds) <= 0.26 * seconds


def said(seconds: float | None) -> str:
    screen = io.StringIO()
    Report(Console(file=screen)).estimate(seconds)
    return screen.getvalue()


def test_an_estimate_says_that_it_is_one() -> None:
    assert said(7000) == "computing will take about 2 h on this machine (an estimate: a sample was timed)\n"
    assert said(None) == ""


def test_duration_and_size() -> None:
    assert duration(90) == "1:30"
    assert duration(3600) == "1:00:00"
    assert size(999) == "999 bytes"
    assert size(5_800_000) == "5.8 MB"


@pytest.mark.parametrize("dry_run", [False, True])
def test_dna_is_noticed_before_it_is_computed(
    dry_run: bool, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Loud, but no error: the letters alone do not prove it."""
    source = write_fasta(tmp_path / "genes.fasta", {"gene": "ATGGCCTTAGCA" * 30})
    assert embed(source, out / "x.h5", dry_run=dry_run).complete
    lines = capfd.readouterr().err.splitlines()
    (note,) = [number for number, line in enumerate(lines) if "DNA" in line]
    assert lines[note].startswith("note: 100 % of all letters are A, C, G, T, U or N: is this DNA or RNA?")
    assert lines[note + 1].startswith("1 protein, 360 residues")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_long_job_says_how_long(
    dry_run: bool, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it starts, for what is left of it; with --reuse nobody can know."""
    asked: list[list[int]] = []

    def estimated(_: object, __: object, todo: list[int]) -> float:
        asked.append(list(todo))
        return 7000.0

    monkeypatch.setattr("aminoglot.embedding.job.estimate", estimated)
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV"})
    assert embed(source, out / "x.h5", dry_run=dry_run).complete
    screen = capfd.readouterr().err
    assert asked == [[0]]
    assert screen.index("on disk") < screen.index("computing will take about 2 h on this machine")
    if not dry_run:
        assert embed(source, out / "y.h5", reuse=out / "x.h5").complete
        assert "computing will take" not in capfd.readouterr().err
