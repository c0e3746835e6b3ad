"""The wheel works outside the checkout; what the README shows runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import aminoglot

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_builds_and_works_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (tmp_path / "p.fasta").write_text(">sp|P1|A\nMKTAYIAK\n>P2\nGAVLIM\n")
    code = "import aminoglot; print(aminoglot.__file__); from aminoglot.cli import main; main()"
    arguments = ["embed", "p.fasta", "-o", "p.h5", "-m", "random:esm2-tiny"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(site) in done.stdout
    with h5py.File(tmp_path / "p.h5") as file:
        assert set(file) == {"P1", "P2"}
    assert (site / "aminoglot" / "py.typed").exists()


def test_the_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own lines, with an untrained model in place of one that would have to be fetched."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proteins.fasta").write_text(">sp|P0A7Z4|RPOA_ECOLI\nMQGSVTEFLK\n")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aminoglot.AminoglotWarning)
        exec(code.replace("esm2-650m", "random:esm2-tiny").replace("prott5nv.nemo", "random:prott5nv-tiny"), names)
    assert names["mean"].shape == (2, 32)
    assert names["resid"][0].shape == (10, 32)
    assert names["layers"].shape == (1, 3, 32)
    assert names["logits"][0].shape == (8, 33)
    assert names["touch"][0].shape == (10, 10)
    assert names["prott5nv"].name == "random:prott5nv-tiny"
    assert names["store"].provenance["model"] == "random:esm2-tiny"


def test_the_demo_commands_are_the_readme_s(tmp_path: Path) -> None:
    """What `make demo` runs, on the proteins that ship with the project."""
    output = tmp_path / "ecoli.h5"
    outcome = aminoglot.embed(ROOT / "examples" / "ecoli.fasta", output, model="random:esm2-tiny")
    assert outcome.complete
    with h5py.File(output) as file:
        assert len(file) == 300
        assert np.isfinite(file["P0A7Z4"][()]).all()
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "look.py"), str(output)], check=True, capture_output=True, text=True
    )
    assert "300 proteins" in done.stdout
