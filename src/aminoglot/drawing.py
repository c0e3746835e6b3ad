"""Pictures and pages: one palette, one style, files that need no other. matplotlib is imported when one is drawn."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aminoglot.errors import DependencyError

BLUE, ORANGE, GREY, GREEN, RED = "#33658a", "#e07a2f", "#888888", "#5b8e55", "#a63d40"
PALETTE = (BLUE, ORANGE, GREEN, RED, "#7d5ba6", "#c9a227", "#4c9f9f", "#8d6e63", GREY, "#3f3f3f")
"""Colours of categories, in order."""

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} th {{ text-align: left }} img {{ max-width: 100% }} small {{ color: #666 }}
td, th {{ padding: .1rem 1.2rem .1rem 0; vertical-align: top }} {style}</style>
<h1>{title}</h1>{body}</html>
"""


def figure(width: float = 8, height: float = 3.4) -> Any:
    """An empty matplotlib figure, apart from whatever pictures the user has open.

    Raises:
        DependencyError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, whose backend is the user's
    except ImportError as error:
        raise DependencyError("pictures need matplotlib: pip install 'aminoglot[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Any, title: str = "", below: str = "", beside: str = "") -> Any:
    """Axes without a frame, with their words; returned for more."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def png(drawn: Any) -> bytes:
    """A figure as a PNG."""
    stream = io.BytesIO()
    drawn.savefig(stream, dpi=130, format="png")
    return stream.getvalue()


def write(drawn: Any, path: Path) -> None:
    """A figure as a PNG file."""
    path.write_bytes(png(drawn))


def image(name: str, content: bytes) -> str:
    """A PNG inside an HTML page."""
    return f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'


def images(drawn: Mapping[str, bytes]) -> str:
    """Several, in order."""
    return "".join(image(name, content) for name, content in drawn.items())


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page in one file.

    Args:
        title: as plain text.
        body: as HTML.
        style: more rules of CSS.
    """
    return _PAGE.format(title=html.escape(title), body=body, style=style)
