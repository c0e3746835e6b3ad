"""The page stands alone, says what it must, and believes no name that it is given."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from aminoglot.evaluate import report
from aminoglot.evaluate.results import Results, read
from aminoglot.evaluate.run import Outcome
from aminoglot.evaluate.show import show
from tests.evaluate.helpers import evaluate, write_gb1, write_localization, write_residues

pytestmark = pytest.mark.usefixtures("pictures", "quick")


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    write_residues(tmp_path / "FLIP")
    write_gb1(tmp_path / "FLIP")
    write_localization(tmp_path / "FLIP", "mixed_soft_rebuilt")
    return evaluate(tmp_path / "FLIP", tmp_path / "out", layer="all")


class Seen(HTMLParser):
    """What a page refers to, and what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(page: str) -> Seen:
    found = Seen()
    found.feed(page)
    return found


def test_the_page(outcome: Outcome) -> None:
    page = outcome.report.read_text()
    found = seen(page)
    assert found.open == []
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert found.addresses
    assert all(address.startswith("data:image/png;base64,") for address in found.addresses)
    assert "url(" not in page
    assert page.count("<img") == 3 * 4, "scores, confusion or scatter, curves, layers"
    assert found.text.index("In short") < found.text.index("Published by others")
    for words in (
        "Read Spearman: a constant has 0",
        "how it was run is not documented",
        "Sets called rebuilt are no files of FLIP's",
        "mixed_soft_rebuilt",
        "What the model adds",
        "Left out: conservation sampled",
        "all 14 proteins",
        "not as published",
    ):
        assert words in found.text, words
    published = found.text[found.text.index("Published by others") :]
    assert "ProtT5nv" in published
    for model in ("ESM-1nv 44M", "ESM-2 15B", "ProtBERT"):
        assert model in published
        assert model not in found.text[: found.text.index("Published by others")]
    numbers = re.findall(r"\d\.\d{3}(?: ± \d\.\d{3})? <small>\(-?\d+\.\d{3} to -?\d+\.\d{3}\)</small>", page)
    assert len(numbers) > 60, "every score has its limits"


def test_names_are_escaped(outcome: Outcome, tmp_path: Path) -> None:
    found: Results = read(outcome.results)
    evil = '<script>alert("x")</script>'
    found.model["name"] = evil
    found.left_out = [evil]
    found.splits[0].notes.append(evil)
    found.splits[0].mismatch = evil
    found.splits[0].rows[0].settings["says"] = evil
    found.splits[0].rows[0].marks.append(evil)
    found.splits[0].rows[0].best_layer = True
    page = report.write(found, tmp_path / "out").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") >= 6


def test_the_table_on_the_screen(outcome: Outcome) -> None:
    stream = io.StringIO()
    show(outcome.found, Console(file=stream, width=60))
    said = stream.getvalue()
    lines = said.splitlines()
    (row,) = (line for line in lines if "mixed_soft_rebuilt" in line)
    assert "[1]" in row
    assert "[1] rebuilt, not FLIP's" in lines
    model = outcome.found.splits[0].chosen("model")
    assert model is not None
    assert f"{model.scores['accuracy'].mean:.3f}" in said
    assert "…" not in said


def test_pictures_are_pictures(outcome: Outcome) -> None:
    files = sorted((outcome.report.parent / "pictures").iterdir())
    assert len(files) == 12
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000 for path in files)
