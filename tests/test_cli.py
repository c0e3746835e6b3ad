"""The command line itself: cheap to import, commands that exist, and exit codes that scripts can trust."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import aminoglot
from aminoglot import __version__, cli
from aminoglot.embedding.options import Options
from aminoglot.errors import InputError

COMMANDS = [name for name in cli.app if not name.startswith("-")]


def status_of(*arguments: str) -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code in a fresh process."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    """torch takes seconds to import; asking for help, of any command, must not cost them."""
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'transformers', 'h5py', 'pyarrow', 'numpy')\n"
        "atexit.register(lambda: print('imported:', [name for name in heavy if name in sys.modules]))\n"
        "from aminoglot.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Usage: aminoglot" in done.stdout or __version__ in done.stdout
    assert done.stdout.strip().endswith("imported: []")


def test_import_is_lazy() -> None:
    """`import aminoglot` is quick; each name is there when asked for, and a wrong one is an AttributeError."""
    code = (
        "import sys, aminoglot\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert set(aminoglot.__all__) <= set(dir(aminoglot))\n"
        "assert all(getattr(aminoglot, name) is not None for name in aminoglot.__all__)\n"
        "assert not hasattr(aminoglot, 'nonsense')\n"
        "print('fine')\n"
    )
    done = python(code)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands are named by strings; a misspelt one would fail only when used."""
    assert status_of(command, "--help") == 0
    assert f"Usage: aminoglot {command}" in capsys.readouterr().out


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names them all, and there are some."""
    assert {"embed", "convert", "models"} <= set(COMMANDS)
    assert status_of("--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """One number, the package's."""
    assert status_of("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_python_m() -> None:
    """`python -m aminoglot` is the command, for where scripts are not on the PATH."""
    done = subprocess.run([sys.executable, "-m", "aminoglot", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["embed"], "--output"),
        (["embed", "a.fasta"], "--output"),
        (["embed", "a.fasta", "-o", "a.h5", "--frobnicate"], "--frobnicate"),
        (["embed", "a.fasta", "-o", "a.h5", "--per", "atom"], "atom"),
        (["embed", "a.fasta", "-o", "a.h5", "--bad-records", "ignore"], "ignore"),
        (["convert", "a"], "DESTINATION"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], named: str, capfd: pytest.CaptureFixture[str]) -> None:
    """As everywhere; scripts tell a mistyped command from a job that could not be done."""
    assert status_of(*arguments) == 2
    said = capfd.readouterr()
    assert named in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_an_error_is_1_and_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is raised on purpose is printed alone, on standard error."""

    def fail(*_: object, **__: object) -> None:
        raise InputError("a.fasta, line 7, id 'P1': [red]what is wrong[/red] :warning:")

    monkeypatch.setattr(cli, "app", fail)
    assert status_of("embed") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: a.fasta, line 7, id 'P1': [red]what is wrong[/red] :warning:\n"


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (1, 1)])
def test_a_commands_result_is_the_status(result: int | None, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job in which something is missing ends in 1 though nothing was raised."""
    monkeypatch.setattr(cli, "app", lambda *_, **__: result)
    assert status_of("embed") == status


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug hidden behind a sentence could not be reported."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([])


def test_interrupted_is_130() -> None:
    """Ctrl-C ends at once, with the shell's own code, and says how to go on."""
    code = "from aminoglot import cli\ndef stop(*_, **__): raise KeyboardInterrupt\ncli.app = stop\ncli.main([])\n"
    done = python(code)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted")
    assert "again" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_and_command_line_speak_the_same_words() -> None:
    """Every option of the one is a flag of the other, with the same default."""
    from aminoglot.commands.embed import Flags

    arguments = cli.app["embed"].assemble_argument_collection()
    flags = {argument.name for argument in arguments if argument.keys}
    assert flags == {f"--{field.name.replace('_', '-')}" for field in fields(Options)}
    assert [(f.name, f.default) for f in fields(Flags)] == [(f.name, f.default) for f in fields(Options)]


def test_embed_spells_out_its_options() -> None:
    """Keyword for keyword, with the types and defaults of Options; an editor shows them all."""
    signature = inspect.signature(aminoglot.embed).parameters
    keywords = {name: p.default for name, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert list(keywords.items()) == [(field.name, field.default) for field in fields(Options)]
    assert set(signature) - set(keywords) == {"inputs", "output"}
    types, expected = get_type_hints(aminoglot.embed), get_type_hints(Options)
    assert {name: types[name] for name in keywords} == expected
    said = inspect.getdoc(aminoglot.embed) or ""
    assert all(f"\n    {name}: " in said for name in keywords)


@pytest.mark.parametrize(
    ("words", "layer"),
    [
        ([], -1),
        (["--layer", "1"], "1"),
        (["--layer", "1", "2"], ["1", "2"]),
        (["--layer", "1,2"], ["1", "2"]),
        (["--layer=-2"], "-2"),
        (["--layer", "-2", "--layer", "0"], ["-2", "0"]),
        (["--layer", "all"], "all"),
    ],
    ids=str,
)
def test_layers_as_typed(words: list[str], layer: object) -> None:
    """One is one, which gives no axis of layers; several are a list."""
    _, bound, _ = cli.app.parse_args(["embed", "a.fasta", "-o", "x.h5", "-m", "esm2-8m", *words], print_error=False)
    assert bound.arguments["options"].layer == layer


def test_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that comes with aminoglot is taken, and one line says when to take another."""
    (tmp_path / "a.fasta").write_bytes(b">a\nMKV\n")
    assert status_of("embed", str(tmp_path / "a.fasta"), "-o", str(tmp_path / "a.h5")) == 0
    said = capsys.readouterr().err
    assert "no model was named: aminoglot-5m" in said
    assert "take a larger one, such as --model esm2-650m" in said
    with aminoglot.open(tmp_path / "a.h5") as store:
        assert store.provenance["model"] == "aminoglot-5m"
        assert store["a"].shape == (256,)
