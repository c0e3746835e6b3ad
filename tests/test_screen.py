"""What is said of long work where there is no terminal."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from aminoglot.screen import Screen


def test_no_time_is_promised_where_nothing_was_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies undoes what it had told of its shard."""
    monkeypatch.setattr("aminoglot.screen._LINE_EVERY", 0.0)
    said = StringIO()
    with Screen(Console(file=said)).progress("embedding", 100, "residues") as done:
        for count in (20, 30, -50, 20, 20):
            time.sleep(0.01)
            done(count)
    lines = said.getvalue().splitlines()
    assert lines[1:3] == ["embedding: 0 of 100 residues", "embedding: 20 of 100 residues"]
    assert lines[0].startswith("embedding: 50 of 100 residues, ")
    assert lines[3].startswith("embedding: 40 of 100 residues, ")
    assert lines[3].endswith(" left")
    assert len(lines) == 4
