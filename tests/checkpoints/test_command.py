"""``aminoglot models``, ``convert``, ``inspect`` and ``verify``, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import aminoglot
from aminoglot.checkpoints import KNOWN, convert, resolve
from aminoglot.cli import main
from aminoglot.errors import AminoglotWarning, ModelError
from tests.checkpoints.test_resolve import DIGESTS, snapshot


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert isinstance(raised.value.code, int)
    return raised.value.code


class Rows:
    """The table of ``aminoglot models`` by name."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self) -> dict[str, str]:
        assert status("models") == 0
        lines = [line.strip() for line in self.capsys.readouterr().out.splitlines()]
        return {line.split()[0]: line for line in lines if line.startswith(("aminoglot-", "esm2-", "prott5nv"))}

    def here(self) -> list[str]:
        """Those that are here, beside the one that comes along."""
        table = self()
        assert table.pop("aminoglot-5m").endswith(" yes")
        assert all(line.endswith((" yes", " no")) for line in table.values())
        return [name for name, line in table.items() if line.endswith(" yes")]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setenv("COLUMNS", "200")
    return Rows(capsys)


@pytest.mark.usefixtures("nothing_cached")
def test_models_lists_every_known_model(rows: Rows) -> None:
    table = rows()
    assert list(table) == list(KNOWN)
    for known in KNOWN.values():
        line = table[known.name]
        assert (known.repository or known.elsewhere) in line
        assert known.licence in line
    assert "2,839 M" in table["esm2-3b"]
    assert rows.here() == []


@pytest.mark.usefixtures("nothing_cached")
def test_models_sets_the_untrained_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the list must not take a model of the tests for a small ESM-2."""
    assert status("models") == 0
    table, _, rest = capsys.readouterr().out.partition("\n\n")
    words = " ".join(rest.split())
    assert "tiny" not in table
    assert "random" not in table
    _, only, untrained = words.partition("For tests and benchmarks only: random:NAME")
    assert only
    assert "nobody trained it and its embeddings mean nothing" in untrained
    assert "random:esm2-tiny" in untrained


def test_models_tells_what_is_on_this_machine(nothing_cached: Path, rows: Rows) -> None:
    folder = snapshot(nothing_cached)
    convert("random:esm2-8m", folder, "huggingface")
    assert rows.here() == ["esm2-8m"]
    (folder / "model.safetensors").unlink()
    assert rows.here() == [], "half a model is none"


def test_models_sees_fair_esms_downloads(nothing_cached: Path, rows: Rows) -> None:
    convert("random:esm2-8m", nothing_cached / "torch" / "hub" / "checkpoints" / "esm2_t6_8M_UR50D.pt", "fair-esm")
    assert rows.here() == ["esm2-8m"]


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_models_survives_a_damaged_cache(text: str, nothing_cached: Path, rows: Rows) -> None:
    """One file that was cut short must not take the whole list away."""
    folder = snapshot(nothing_cached)
    convert("random:esm2-8m", folder, "huggingface")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    assert rows.here() == []


@pytest.mark.usefixtures("nothing_cached")
def test_models_can_be_copied_from_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminals, and everything that is piped, have 80 columns: a source cut off there is no source."""
    monkeypatch.setenv("COLUMNS", "80")
    assert status("models") == 0
    printed = capsys.readouterr().out
    for known in KNOWN.values():
        assert known.repository is None or known.repository in printed


@pytest.mark.parametrize(("to", "name"), [("huggingface", "hf"), ("fair-esm", "esm2_tiny.pt"), ("nemo1", "m.nemo")])
def test_convert(to: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert", "random:esm2-tiny", str(tmp_path / name), "--to", to) == 0
    digest = DIGESTS["random:esm2-tiny"]
    printed = capsys.readouterr().out
    assert "note: random:esm2-tiny was never trained" in printed
    assert f"wrote {tmp_path / name} ({to}), weights {digest[:16]}" in printed
    assert resolve(str(tmp_path / name)).digest == digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_convert_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {}}, tmp_path / "old.pt")
    assert status("convert", str(tmp_path / "old.pt"), str(tmp_path / "new"), "--to", "huggingface") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'old.pt'}: this is an older model")
    assert not (tmp_path / "new").exists()


def test_convert_to_an_unknown_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert", "random:esm2-tiny", str(tmp_path / "new"), "--to", "nemo") != 0
    assert "huggingface" in "".join(capsys.readouterr())
    assert not (tmp_path / "new").exists()


def test_convert_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert", "random:esm2-tiny", str(tmp_path / "m.nemo"), "--to", "nemo1") == 0
    assert "note: NeMo 1 has no place for a contact head" in capsys.readouterr().out
    with pytest.warns(
        AminoglotWarning, match="no contact head in this checkpoint: contacts are not available .it was lost"
    ):
        model = aminoglot.load(tmp_path / "m.nemo", device="cpu", precision="fp32")
    with pytest.raises(ModelError, match=r"contacts are not available .it was lost in a conversion"):
        model.contacts(["MKTAYIAK"])


def test_convert_writes_no_prott5nv_for_fair_esm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert", "random:prott5nv-tiny", str(tmp_path / "esm2_m.pt"), "--to", "fair-esm") == 1
    assert "ProtT5nv" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert("random:prott5nv-tiny", tmp_path / "m.nemo", "nemo1")
    assert status("inspect", str(tmp_path / "m.nemo")) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["format"] == "NeMo 1"
    assert said["family"] == "ProtT5nv"
    assert said["size"].startswith("prott5nv-tiny")
    assert said["holds"] == "encoder and decoder"
    assert said["digest"] == resolve("random:prott5nv-tiny").digest
    assert said["missing"] == "nothing"
    assert said["numbers"].startswith("float32")


def test_inspect_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert("random:esm2-tiny", tmp_path / "m.nemo", "nemo1")
    assert status("inspect", str(tmp_path / "m.nemo")) == 0
    said = capsys.readouterr().out
    assert "no contact head in this checkpoint" in said
    assert "encoder and lm_head" in said


@pytest.mark.parametrize("name", ["random:esm2-tiny", "random:prott5nv-tiny", "random:esm2-8m"])
def test_verify(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights are a sound model that publishes nothing: nothing fails, and nothing is claimed of them."""
    assert status("verify", name, "--device", "cpu") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note")]
    assert lines.pop().startswith("sound")
    checks = {line[8:].split(":")[0]: line[:8].strip() for line in lines}
    for check in (
        "parameters",
        "weights are numbers",
        "outputs are finite",
        "batches change nothing",
        "bf16 is near fp32",
    ):
        assert checks[check] == "ok"
    assert checks.get("sentinels", "-") == "-"
    assert checks.get("published values", "-") == "-"
    assert ("sentinels" in checks) == (name == "random:prott5nv-tiny")
    assert ("published values" in checks) == (name == "random:esm2-8m")


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "not finite: layers.1.up.weight"), (0.0, "all zero")])
def test_verify_finds_bad_weights(value: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert("random:esm2-tiny", tmp_path / "hf", "huggingface")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    tensors["esm.encoder.layer.1.intermediate.dense.weight"].fill_(value)
    save_file(tensors, file, {"format": "pt"})
    assert status("verify", str(tmp_path / "hf"), "--device", "cpu") == 1
    assert said in capsys.readouterr().out
