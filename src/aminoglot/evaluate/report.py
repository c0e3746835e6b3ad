"""``report.html``: one file that needs no other. Ours first, other people's numbers in tables of their own."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from aminoglot.drawing import image, page
from aminoglot.evaluate.pictures import pictures
from aminoglot.evaluate.published import Published
from aminoglot.evaluate.results import Results, Row, SplitResult
from aminoglot.evaluate.scoring import Score
from aminoglot.jobs.storage import explained, write_whole
from aminoglot.screen import duration

REPORT, PICTURES = "report.html", "pictures"
_KINDS = ("scores", "confusion", "predicted and measured", "learning curves", "layers")
_STYLE = (
    "body { max-width: 72rem } td, th { white-space: nowrap } td.text { white-space: normal } "
    "tr.chosen { font-weight: 600 } .mark { background: #a63d40; color: white; font-size: 11px; padding: 0 .4em; "
    "border-radius: .3em; font-weight: 400; white-space: normal } "
    "table { margin: .6rem 0 } h2 { margin-top: 3rem } th { border-bottom: 1px solid #999 } code { font-size: 13px } "
    ".wide { overflow-x: auto } .published td { white-space: normal; min-width: 3.5rem }"
)
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "spearman": "Spearman",
    "mse": "MSE",
    "rmse": "RMSE",
}
"""Scores' names in tables."""


def draw(folder: Path, split: SplitResult, actual: NDArray[Any], told: NDArray[Any]) -> None:
    """Draw a split's pictures into files; the page takes them from there.

    Args:
        folder: of the run.
        split: with its rows.
        actual: [n]
        told: [S, n], by the model's chosen row.
    """
    with explained(folder / PICTURES):
        (folder / PICTURES).mkdir(exist_ok=True)
    for name, content in pictures(split, told, actual):
        write_whole(_picture(folder, split, name), lambda partial, content=content: _save(partial, content))  # type: ignore[misc]


def _save(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _picture(folder: Path, split: SplitResult, name: str) -> Path:
    return folder / PICTURES / f"{split.task}-{split.split}-{name.replace(' ', '-')}.png"


def write(results: Results, folder: Path) -> Path:
    """Write the page."""
    path = folder / REPORT
    body = "".join(_body(results, folder))
    whole = page(f"FLIP: {results.model['name']}", body, _STYLE)
    write_whole(path, lambda partial: _save(partial, whole.encode()))
    return path


def _body(results: Results, folder: Path) -> Iterator[str]:
    yield _facts(results)
    yield "<h2>In short</h2>" + _summary(results)
    yield _traps(results)
    for split in results.splits:
        yield from _split(results, split, folder)
    yield "<h2>Published by others</h2>"
    yield _paragraph(
        "Rows of other harnesses, with other heads and sometimes other test sets: no row here is comparable with one "
        "above unless harness, head and test set are the same. Where sources disagree, both are shown."
    )
    for task in dict.fromkeys(split.task for split in results.splits):
        title = next(split.title for split in results.splits if split.task == task)
        yield f"<h3>{html.escape(title)}</h3>" + _published([row for row in results.published if row.task == task])


def _facts(results: Results) -> str:
    model = results.model
    rows = {
        "model": f"{model['name']} ({model['family']}, {model['layers']} layers, {model['hidden']} wide, "
        f"{model['encoder_parameters']:,} parameters)",
        "digest of its weights": model["digest"][:16],
        "layers tried": ", ".join(map(str, results.layers)),
        "seeds": f"{results.seeds} of each network head, fitted side by side",
        "long proteins": f"{results.long}; {results.protocol}",
        "embedding took": duration(results.seconds["embedding"]),
        "fitting took": duration(results.seconds["fitting"]),
        "aminoglot": results.aminoglot,
    }
    found = "".join(
        f"<tr><th>{html.escape(k)}</th><td class=text>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
    )
    left = "".join(_paragraph(f"Left out: {line}") for line in results.left_out)
    return f"<table>{found}</table>{left}"


def _summary(results: Results) -> str:
    """The chosen row of each kind of features, and what the model adds."""
    kinds = ("model", "untrained", "one-hot", "composition", "none")
    heading = ["task", "split", "score", *("constant" if kind == "none" else kind for kind in kinds)]
    rows = []
    for split in results.splits:
        cells = [
            html.escape(split.title),
            html.escape(split.split) + _marks(split.marks),
            html.escape(split.score),
        ]
        for kind in kinds:
            row = split.chosen(kind)
            cells.append("" if row is None else _cell(row.scores[split.main]))
        rows.append(cells)
    text = (
        "The head and the layer of each are validation's choice. In brackets: limits between which 95 % of 1,000 (of "
        "correlations and errors 300) draws of whole proteins lie; behind ± the standard deviation over seeds."
    )
    added = []
    for split in results.splits:
        for one in split.differences:
            cells = [
                html.escape(split.title),
                html.escape(split.split) + _marks(split.marks),
                html.escape(one.over),
            ]
            added.append([*cells, f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"])
    return (
        _table(heading, rows)
        + _paragraph(text)
        + "<h3>What the model adds</h3>"
        + _table(["task", "split", "over", "difference"], added)
    )


def _traps(results: Results) -> str:
    """What would mislead a reader who did not know it."""
    found = []
    tasks = {split.task for split in results.splits}
    if tasks & {"secondary_structure", "conservation"}:
        found += [
            "Accuracies of residues count each residue once, of secondary structure those that are resolved; intervals "
            "are over proteins, because residues of one protein are not independent.",
            "A convolution sees six residues on each side, the no-context head none: compare rows of one head.",
        ]
    if "gb1" in tasks:
        found.append(
            "GB1: a constant, the mean of the training set, has errors as small as those published for large models, "
            "or nearly (MSE 1.568 on two_vs_rest, 1.690 on three_vs_rest, 1.455 on sampled, 4.940 on low_vs_high). "
            "Read Spearman: a constant has 0. The counts on ProtT5nv's card are of sampled, the published table is of "
            "two_vs_rest."
        )
    if any(split.rebuilt for split in results.splits):
        found.append(
            "Sets called rebuilt are no files of FLIP's: proteins are missing, or labels come from elsewhere. Their "
            "rows compare with each other, not with published ones."
        )
    if any(row.marks for split in results.splits for row in split.rows if not split.rebuilt):
        found.append("Rows over a part of the proteins are marked, and compare with no row over all of them.")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in found)
    return f"<h3>Mind</h3><ul>{items}</ul>"


def _split(results: Results, split: SplitResult, folder: Path) -> Iterator[str]:
    yield f"<h2>{html.escape(split.title)}: {html.escape(split.split)}{_marks(split.marks)}</h2>"
    yield _counts(split)
    yield _rows(split)
    if len(results.layers) > 1:
        yield _paragraph(
            "Only the layer that validation prefers is shown of each head; all layers are in results.json."
        )
    for name in _KINDS:
        path = _picture(folder, split, name)
        if path.is_file() and not (name == "layers" and len(results.layers) == 1):
            yield image(f"{split.title}, {split.split}: {name}", path.read_bytes())


def _counts(split: SplitResult) -> str:
    names = ("train", "validation", "test")
    rows = [["read", *(f"{split.counts[name]:,}" for name in names)]]
    if split.published_counts is not None:
        what = "published, of what it stands for" if split.rebuilt else "published"
        rows.append([what, *(f"{split.published_counts[name]:,}" for name in names)])
    rows.append(["covered", *(html.escape(split.coverage[name]["says"]) for name in names)])
    if split.checksums:
        said = {True: "as published", False: "not as published"}
        rows.append(["MD5 of BioNeMo's table", *(said[split.checksums[name]] for name in names)])
    notes = [note for note in (split.mismatch, *split.notes) if note]
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return _table(["proteins", *names], rows) + (f"<ul>{listed}</ul>" if listed else "")


def _rows(split: SplitResult) -> str:
    """Our table: all heads on all kinds of features, of one harness."""
    metrics = list(split.rows[0].scores)
    rows, classes = [], []
    for row in split.best_rows:
        head = html.escape(row.head if row.features != "none" else "") + (
            " (published head)" if row.published_head else ""
        )
        name = html.escape(row.name) + _marks(row.marks)
        settings = html.escape(_settings(row))
        rows.append(
            [name, head, *(_cell(row.scores[metric]) for metric in metrics), f"{row.validation.mean:.3f}", settings]
        )
        classes.append("chosen" if row.chosen else "")
    heading = ["features", "head", *(METRICS[metric] for metric in metrics), "validation", "chosen by validation"]
    return _table(heading, rows, classes) + _paragraph("Bold: the head that validation prefers for these features.")


def _settings(row: Row) -> str:
    kept = {key: value for key, value in row.settings.items() if key not in ("rate", "batch", "decay", "products")}
    words = [kept.pop("says")] if "says" in kept else []
    if "best_epochs" in kept:
        best, of = kept.pop("best_epochs"), kept.pop("epochs")
        words.append(f"epochs {', '.join(map(str, best))} of {of}")
    return "; ".join([*words, *(f"{key} {value}" for key, value in kept.items())])


def _cell(score: Score) -> str:
    """A number, its limits, and its spread over seeds."""
    spread = "" if score.spread is None else f" ± {score.spread:.3f}"
    return f"{score.mean:.3f}{spread} <small>({score.low:.3f} to {score.high:.3f})</small>"


def _published(rows: Iterable[Published]) -> str:
    cells = [
        [
            html.escape(row.split), html.escape(row.model), html.escape(row.trained), _as_published(row.value),
            html.escape(METRICS[row.metric]), html.escape(row.head or "not said"), html.escape(row.source),
            html.escape(row.note),
        ]
        for row in rows
    ]  # fmt: skip
    heading = ["split", "model", "network", "value", "metric", "head", "source", "note"]
    return f'<div class="published">{_table(heading, cells)}</div>'


def _as_published(value: float) -> str:
    """All digits that were printed: three at least of what is below one, two of the rest."""
    text = f"{value:g}"
    digits = 3 if value < 1 else 2
    return text if len(text.partition(".")[2]) > digits else f"{value:.{digits}f}"


def _marks(marks: Sequence[str]) -> str:
    return "".join(f' <span class="mark">{html.escape(mark)}</span>' for mark in marks)


def _paragraph(text: str) -> str:
    return f"<p><small>{html.escape(text)}</small></p>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table; cells are HTML already."""
    above = "".join(f"<th>{html.escape(name)}</th>" for name in heading)
    body = ""
    for number, cells in enumerate(rows):
        kind = f' class="{classes[number]}"' if classes and classes[number] else ""
        body += f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f'<div class="wide"><table><tr>{above}</tr>{body}</table></div>'
