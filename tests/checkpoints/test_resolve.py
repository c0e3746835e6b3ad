"""From what a user types to files: names, near misses, caches laid out by hand, and a machine without a network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import aminoglot
from aminoglot.checkpoints import KNOWN, convert, registry, resolve
from aminoglot.checkpoints.untrained import untrained
from aminoglot.errors import AminoglotWarning, ModelError

DIGESTS = {
    "random:esm2-tiny": "1e101284d94f6d200ebdffcbe011274c970687a6d817cec9acbd193099b3b98f",
    "random:esm2-8m": "bf45515544fa133444ead7d770f3391efd846bc29ee3a327f38f7b2e566b48ee",
}
"""As first observed: tests and benchmarks of every machine and version compare with these weights."""
REVISION = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"
HERE = "facebook/esm2_t6_8M_UR50D"


def refusal(model: str) -> str:
    with pytest.raises(ModelError) as raised:
        resolve(model)
    return str(raised.value)


def snapshot(home: Path) -> Path:
    """Lay out the hub's cache as its own client does, without the files: where the snapshot goes."""
    repository = home / "hub" / f"models--{HERE.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / REVISION


# ------------------------------------------------------------------------------------------------------------- random


@pytest.mark.parametrize(("model", "digest"), DIGESTS.items())
def test_random_weights_are_the_same_everywhere(model: str, digest: str) -> None:
    assert resolve(model).digest == digest
    assert resolve(model).digest == digest


def test_random_weights_are_not_degenerate() -> None:
    """Every matrix has its own values, and another seed other ones."""
    tensors = untrained("esm2-tiny").tensors
    matrices = [tensor for key, tensor in tensors.items() if tensor.ndim == 2]
    firsts = {round(matrix.flatten()[0].item(), 9) for matrix in matrices}
    assert len(firsts) == len(matrices)
    for matrix in matrices:
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert matrix.abs().max() <= bound
        assert abs(matrix.mean().item()) < bound
    assert untrained("esm2-tiny", seed=1).digest != untrained("esm2-tiny").digest


def test_random_weights_say_that_nobody_trained_them() -> None:
    with pytest.warns(AminoglotWarning, match="was never trained") as caught:
        model = aminoglot.load("random:esm2-tiny", device="cpu")
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert model.name == "random:esm2-tiny"
    assert resolve("random:esm2-tiny").format == "untrained"


def test_random_of_an_unknown_size_lists_the_sizes() -> None:
    said = refusal("random:esm2-9m")
    assert "random:esm2-9m: no such size" in said
    assert "random:esm2-8m" in said


# -------------------------------------------------------------------------------------------------------------- names


def test_every_known_name_is_found_by_its_three_names() -> None:
    for known in KNOWN.values():
        for name in filter(None, (known.name, known.repository, known.fair_esm)):
            assert registry.find(name) is known
    assert registry.find("esm2") is None


def test_what_nobody_may_pass_on_has_to_be_brought() -> None:
    said = refusal("prott5nv")
    assert "NGC" in said
    assert "random:prott5nv" in said


def test_names_are_those_of_the_released_models() -> None:
    assert [known.repository for known in KNOWN.values()] == [
        None,
        "facebook/esm2_t6_8M_UR50D",
        "facebook/esm2_t12_35M_UR50D",
        "facebook/esm2_t30_150M_UR50D",
        "facebook/esm2_t33_650M_UR50D",
        "facebook/esm2_t36_3B_UR50D",
        "facebook/esm2_t48_15B_UR50D",
        None,
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("esm2-650", "esm2-650m"), ("esm2-8M", "esm2-8m"), ("esm-2-8m", "esm2-8m"), ("esm2_35m", "esm2-35m")],
)
def test_an_unknown_name_suggests_the_near_one(typed: str, meant: str) -> None:
    said = refusal(typed)
    assert f"Did you mean {meant}?" in said
    assert all(name in said for name in KNOWN)


@pytest.mark.parametrize("typed", ["nonsense", "nowhere/model.pt", "a/b/c", "x" * 300, "~nobody-of-this-name/model"])
def test_an_unknown_name_near_nothing(typed: str) -> None:
    said = refusal(typed)
    assert "no such model or path" in said
    assert "Did you mean" not in said


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize("typed", ["./esm2_t6_8M_UR50D", "../esm2_t6_8M_UR50D", "/nowhere/esm2_t6_8M_UR50D"])
def test_a_path_that_is_not_there_is_no_name_on_the_hub(typed: str) -> None:
    """Our own advice says ``--model ./folder``: a slip in it must not be answered with `hf download ./folder`."""
    said = refusal(typed)
    assert "no such model or path" in said
    assert "hf download" not in said


def test_a_file_of_no_format(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("")
    assert "not a format aminoglot reads" in refusal(str(tmp_path / "model.onnx"))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert("random:esm2-tiny", tmp_path / "hf", "huggingface")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/hf").digest == DIGESTS["random:esm2-tiny"]


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    """``aminoglot.load(folder / "model")`` is what people write."""
    convert("random:esm2-tiny", tmp_path / "hf", "huggingface")
    model = aminoglot.load(cast(Any, tmp_path / "hf"), device="cpu", precision="fp32")
    assert model.digest == DIGESTS["random:esm2-tiny"]
    assert model.name == str(tmp_path / "hf")


# ------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("name", ["esm2-8m", HERE, "esm2_t6_8M_UR50D", f"{HERE}@main", f"{HERE}@{REVISION}"])
def test_a_cached_model_is_found(name: str, nothing_cached: Path) -> None:
    convert("random:esm2-8m", snapshot(nothing_cached), "huggingface")
    found = resolve(name)
    assert found.digest == DIGESTS["random:esm2-8m"]
    assert found.format == "huggingface"
    assert found.name in (name, "esm2-8m")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_half_cached_model_without_a_network(missing: str, nothing_cached: Path) -> None:
    folder = snapshot(nothing_cached)
    convert("random:esm2-8m", folder, "huggingface")
    (folder / missing).unlink()
    said = refusal("esm2-8m")
    assert "not on this machine, or only half of it" in said
    assert f"hf download {HERE}" in said


@pytest.mark.parametrize("index", [{"weight_map": {"a": "model-1-of-2.safetensors"}}, {}])
def test_a_cached_model_whose_index_is_half_there(index: dict[str, object], nothing_cached: Path) -> None:
    folder = snapshot(nothing_cached)
    convert("random:esm2-8m", folder, "huggingface")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"hf download {HERE}" in refusal("esm2-8m")


def test_fair_esms_own_download_is_found(nothing_cached: Path) -> None:
    path = nothing_cached / "torch" / "hub" / "checkpoints" / "esm2_t6_8M_UR50D.pt"
    convert("random:esm2-8m", path, "fair-esm")
    found = resolve("esm2-8m")
    assert (found.name, found.format) == ("esm2-8m", "fair-esm")
    assert found.digest == DIGESTS["random:esm2-8m"]
    assert found.has("contact_head")


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize(
    ("variable", "inside"), [("TORCH_HOME", "hub/checkpoints"), ("XDG_CACHE_HOME", "torch/hub/checkpoints")]
)
def test_where_torch_keeps_its_downloads(
    variable: str, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rules as torch.hub's, which put the file there, ``~`` included."""
    convert("random:esm2-8m", tmp_path / "there" / inside / "esm2_t6_8M_UR50D.pt", "fair-esm")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/there")
    assert resolve("esm2-8m").format == "fair-esm"


# ---------------------------------------------------------------------------------------------------- without a network


def asked(arguments: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command line answers in a process of its own, whose caches are in an empty folder."""
    settings = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    settings |= {"HF_HOME": str(home), "TORCH_HOME": str(home), "NO_PROXY": "*", **environment}
    without_waiting = "import time; time.sleep = lambda seconds: None\nfrom aminoglot.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", without_waiting, *arguments], env=settings, capture_output=True, text=True, timeout=120
    )


def test_offline_with_nothing_cached(tmp_path: Path) -> None:
    answer = asked(["convert", "esm2-8m", str(tmp_path / "new"), "--to", "huggingface"], tmp_path, HF_HUB_OFFLINE="1")
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {HERE} is not on this machine")
    assert f"hf download {HERE} --local-dir esm2_t6_8M_UR50D" in answer.stderr
    assert "--model ./esm2_t6_8M_UR50D" in answer.stderr
    assert not (tmp_path / "new").exists()


def test_a_network_that_is_down(tmp_path: Path) -> None:
    """Nobody sets HF_HUB_OFFLINE before the cable comes out; the client's own exceptions are no OSErrors."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        answer = asked(
            ["convert", "esm2-8m", str(tmp_path / "new"), "--to", "huggingface"],
            tmp_path,
            HF_ENDPOINT=endpoint,
            HF_HUB_OFFLINE="0",
        )
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert f"{HERE} is not on this machine" in answer.stderr
    assert f"hf download {HERE}" in answer.stderr
