"""A corpus to look at: counts, histograms, and samples as the model will see them, on one page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot import drawing
from aminoglot.corpus.reader import SPLITS, Corpus, read_rows
from aminoglot.corpus.recipes import CANONICAL
from aminoglot.corpus.samples import IGNORED, ESM2Samples, Hidden, Masked, ProtT5nvSamples
from aminoglot.corpus.tables import MEMBER_STARTS
from aminoglot.errors import OutputError
from aminoglot.jobs.storage import explained
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET

_LONGEST = 2_000
_BLOCK = 1 << 20
_COUNTED = 20_000_000
"""Residues whose composition is counted, evenly over the corpus."""
_WORDS = {"<mask>": "mask", "<cls>": "cls", "<eos>": "eos"}


def counts(corpus: Corpus) -> list[tuple[str, str]]:
    """What the card counts, a line each: words and numbers."""
    found: list[tuple[str, str]] = [("recipe", corpus.recipe.name)]
    if corpus.card.get("level"):
        found.append(("members", str(corpus.card["level"])))
    found += [(f"{name} clusters" if corpus.members else name, f"{len(corpus.split(name)):,}") for name in SPLITS]
    for stage, result in corpus.card["stages"].items():
        found += [(f"{stage}: {name}", text) for name, text in _flat(result)]
    return found


def _flat(result: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in result.items():
        words = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{words}, ")
        elif isinstance(value, list):
            yield from ((words, str(one)) for one in value)
        else:
            yield words, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def pictures(corpus: Corpus) -> dict[str, bytes]:
    """Histograms of lengths and cluster sizes, and the composition of residues, each a PNG.

    Raises:
        DependencyError: without matplotlib.
    """
    drawn = {"lengths": _draw_lengths(corpus), "composition": _draw_composition(corpus)}
    if corpus.members is not None:
        drawn["cluster sizes"] = _draw_sizes(corpus)
    return drawn


def _figure(title: str, below: str) -> tuple[Any, Any]:
    figure = drawing.figure()
    return figure, drawing.plain(figure.add_subplot(), title, below)


def _draw_lengths(corpus: Corpus) -> bytes:
    edges = np.arange(0, _LONGEST + 50, 25)
    figure, axes = _figure("How long the proteins are", f"residues (the last bar: {_LONGEST:,} and more)")
    held = {"representatives": corpus.representatives}
    if corpus.members is not None:
        held = {"members": corpus.members, **held}
    for (name, sequences), colour in zip(held.items(), (drawing.BLUE, drawing.ORANGE), strict=False):
        total = np.zeros(len(edges) - 1)
        for first in range(0, len(sequences), _BLOCK):
            lengths = sequences.lengths(first, min(first + _BLOCK, len(sequences)))
            total += np.histogram(np.minimum(lengths, _LONGEST), edges)[0]
        axes.stairs(total, edges, label=f"{name}: {len(sequences):,}", color=colour, fill=name == "members", alpha=0.8)
    limit = corpus.recipe.tokens - 2 if corpus.recipe.name == "esm2" else corpus.recipe.tokens
    axes.axvline(limit, color="black", linewidth=0.8, linestyle=":", label=f"a sample holds {limit:,}")
    axes.set_ylabel("proteins")
    axes.legend(frameon=False, fontsize=9)
    return drawing.png(figure)


def _draw_sizes(corpus: Corpus) -> bytes:
    sizes = np.diff(read_rows(corpus.folder / MEMBER_STARTS).astype(np.int64))
    edges = np.concatenate(([0.5], 2 ** np.arange(0, np.ceil(np.log2(sizes.max())) + 1) + 0.5))
    total = np.histogram(sizes, edges)[0]
    figure, axes = _figure("How many members a cluster has", "members")
    ranges = [(int(low + 0.5), int(high - 0.5)) for low, high in pairwise(edges)]
    labels = [f"{first} to {last}" if first < last else str(last) for first, last in ranges]
    axes.bar(range(len(total)), total, color=drawing.BLUE)
    axes.set_xticks(range(len(total)), labels, fontsize=8, rotation=20)
    axes.set_yscale("log")
    axes.set_ylabel("clusters")
    return drawing.png(figure)


def composition(corpus: Corpus) -> dict[str, float]:
    """Share of each letter among the residues of the training set's representatives."""
    train = corpus.split("train")
    every = max(1, corpus.representatives.residues // _COUNTED)
    total: NDArray[np.int64] = np.zeros(256, np.int64)
    for cluster in train[::every].tolist():
        total += np.bincount(np.frombuffer(corpus.representatives[cluster], np.uint8), minlength=256)
    return {chr(letter): float(total[letter] / total.sum()) for letter in np.flatnonzero(total)}


def _draw_composition(corpus: Corpus) -> bytes:
    shares = composition(corpus)
    order = sorted(shares, key=lambda letter: -shares[letter])
    figure, axes = _figure("Which residues the training set's representatives have", "residue (orange: none of the 20)")
    colours = [drawing.BLUE if letter in CANONICAL else drawing.ORANGE for letter in order]
    axes.bar(order, [100 * shares[letter] for letter in order], color=colours)
    axes.set_ylabel("percent")
    return drawing.png(figure)


def sample_rows(corpus: Corpus, count: int = 6) -> Iterator[tuple[str, str]]:
    """The first samples of training, each a name and its tokens as HTML."""
    for number in range(min(count, len(corpus.split("train")))):
        if corpus.recipe.name == "esm2":
            masked = ESM2Samples(corpus)[number]
            where, row = corpus.member_at(masked.member)
            yield f"{where.name(row)}, from token {masked.start:,}", _masked_html(masked)
        else:
            hidden = ProtT5nvSamples(corpus)[number]
            yield corpus.representatives.name(hidden.cluster), _hidden_html(hidden)


def _masked_html(sample: Masked) -> str:
    parts = []
    for token, label in zip(sample.tokens.tolist(), sample.labels.tolist(), strict=True):
        text = html.escape(_WORDS.get(ESM2_ALPHABET.tokens[token], ESM2_ALPHABET.tokens[token]))
        if label == IGNORED:
            parts.append(f"<i>{text}</i>" if len(text) > 1 else text)
            continue
        asked = html.escape(ESM2_ALPHABET.tokens[label])
        kind = "hidden" if token == ESM2_ALPHABET.mask else "kept" if token == label else "replaced"
        parts.append(f'<b class="{kind}" title="asked: {asked}">{asked if kind == "hidden" else text}</b>')
    return "".join(parts)


def _hidden_html(sample: Hidden) -> str:
    names = PROTT5NV_ALPHABET.tokens
    told = dict(zip(sample.decoder[1::2].tolist(), sample.decoder[2::2].tolist(), strict=True))
    return "".join(
        f'<b class="hidden" title="seen as {html.escape(names[token])}">{names[told[token]]}</b>'
        if token in told
        else names[token]
        for token in sample.tokens.tolist()
    )


_STYLE = """td + td { text-align: right } i { color: #888 }
p.sample { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere }
b.hidden { background: #33658a; color: white } b.replaced { background: #e07a2f; color: white }
b.kept { background: #cfe3cf }"""
_LEGEND = """<h2>Samples</h2><p><small>Blue: hidden (what stood there is shown). Orange: replaced by another. Green:
scored, but left. Hover for more.</small></p>"""


def page(corpus: Corpus, drawn: Mapping[str, bytes]) -> str:
    """All of it as one HTML file that needs no other."""
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in counts(corpus))
    samples = "".join(
        f'<p class="sample"><small>{html.escape(name)}</small><br>{text}</p>' for name, text in sample_rows(corpus)
    )
    body = f"<table>{rows}</table>{drawing.images(drawn)}{_LEGEND}{samples}"
    return drawing.page(corpus.folder.name, body, _STYLE)


def write(corpus: Corpus, folder: Path) -> list[Path]:
    """Write the page and its pictures into a folder; which files.

    Raises:
        DependencyError: without matplotlib.
        OutputError: when the folder cannot be written, or the corpus is damaged.
    """
    try:
        drawn = pictures(corpus)
        whole = page(corpus, drawn)
    except IndexError as error:
        raise OutputError(f"{corpus.folder}: damaged ({error}); remove it and build it again") from error
    contents = {f"{name.replace(' ', '-')}.png": png for name, png in drawn.items()}
    contents["corpus.html"] = whole.encode()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return [folder / name for name in contents]
