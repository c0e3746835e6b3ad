"""The table that a run ends with, on standard output."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from aminoglot.evaluate.results import Results, SplitResult

_WIDTH = 160
_KINDS = ("model", "untrained", "one-hot", "composition", "none")


def show(results: Results, console: Console | None = None) -> None:
    """Print the chosen row of each kind of features, a line a split, and what marks them."""
    console = console or Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)  # lines of a log stay whole
    table = Table("task", "split", "score", *("constant" if kind == "none" else kind for kind in _KINDS), box=None)
    marks: dict[str, int] = {}
    for split in results.splits:
        numbers = [marks.setdefault(mark, len(marks) + 1) for mark in split.marks]
        sign = "".join(f" [{number}]" for number in numbers)
        cells = [_cell(split, kind) + (sign if split.chosen(kind) else "") for kind in _KINDS]
        table.add_row(split.task, split.split, split.score, *(cell.replace("[", "\\[") for cell in cells))
    console.print(table)
    for mark, number in marks.items():
        console.print(f"[{number}] {mark}", markup=False)
    console.print("Mean over seeds, ± their standard deviation; head and layer are validation's choice.", markup=False)


def _cell(split: SplitResult, kind: str) -> str:
    row = split.chosen(kind)
    if row is None:
        return ""
    score = row.scores[split.main]
    return f"{score.mean:.3f}" + ("" if score.spread is None else f" ± {score.spread:.3f}")
