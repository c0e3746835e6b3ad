"""The house keeps its shape: arrows run downwards, rooms stay small, public things say what they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aminoglot

SOURCE = Path(aminoglot.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

BELOW = {
    "version": set(),
    "errors": set(),
    "tokens": {"errors"},
    "packing": {"errors", "tokens"},
    "settings": {"errors"},
    "object_store": {"errors"},
    "sequences": {"errors", "object_store"},
    "models": {"errors", "tokens", "packing"},
    "checkpoints": {"errors", "tokens", "packing", "models"},
    "screen": set(),
    "mmseqs": {"errors"},
    "corpus": {"errors", "settings", "screen", "drawing", "mmseqs", "tokens", "sequences", "jobs", "version"},
    "engine": {"errors", "settings", "tokens", "packing", "sequences", "models", "checkpoints"},
    "jobs": {"errors", "settings", "sequences", "object_store"},
    "pretrain": {
        *("errors", "settings", "screen", "tokens", "packing", "models", "checkpoints", "engine", "jobs", "corpus"),
        *("drawing", "version"),
    },
    "embedding": {
        *("errors", "settings", "screen", "object_store", "sequences", "checkpoints", "engine", "jobs", "version"),
    },
    "drawing": {"errors"},
    "finetune": {
        *("errors", "settings", "screen", "drawing", "tokens", "packing", "sequences", "mmseqs", "models"),
        *("checkpoints", "engine", "jobs", "embedding", "version"),
    },
    "evaluate": {
        *("errors", "settings", "screen", "drawing", "sequences", "models", "checkpoints", "engine", "jobs"),
        *("embedding", "finetune", "version"),
    },
    "commands": {
        *("errors", "screen", "sequences", "checkpoints", "corpus", "embedding", "engine", "pretrain", "finetune"),
        "evaluate",
    },
    "cli": {"errors", "version"},
}
"""What each room may import. The command line names functions as text and imports none of them."""


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aminoglot."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "aminoglot":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("aminoglot."))


@pytest.mark.parametrize("path", [f for f in FILES if room(f) in BELOW], ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_run_downwards(path: Path) -> None:
    found = set(imported_rooms(ast.parse(path.read_text()))) - {room(path)}
    assert found <= BELOW[room(path)], f"{path.name} imports {found - BELOW[room(path)]}"


def test_every_room_has_its_place() -> None:
    rooms = {room(f) for f in FILES} - {"__init__", "__main__"}
    assert rooms == set(BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - docstring.count("\n")
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())) or path.name == "__main__.py"


def test_public_names_exist() -> None:
    for name in aminoglot.__all__:
        assert getattr(aminoglot, name) is not None
    with pytest.raises(AttributeError):
        aminoglot.nothing_of_that_name  # noqa: B018


def test_the_public_function_survives_its_room() -> None:
    """Importing the rooms must not replace `aminoglot.embed` or `aminoglot.open` by a module."""
    import aminoglot.embedding.store

    assert callable(aminoglot.embed)
    assert callable(aminoglot.open)
    assert aminoglot.embedding.store.open is aminoglot.open
