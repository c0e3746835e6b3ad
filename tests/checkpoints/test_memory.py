"""Large weights are mapped: the process never holds what it can leave in the file, and holds nothing twice."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from aminoglot.checkpoints import convert

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/status").is_file(), reason="anonymous memory is read from Linux's /proc/PID/status"
    ),
]

LOADER = """
import sys, warnings
import aminoglot
warnings.simplefilter("ignore")

def use(model):
    model.embed(["MKTAYIAK"])
    return model.digest

how = {"device": "cpu", "precision": sys.argv[2], "backend": sys.argv[3]}
use(aminoglot.load("random:esm2-tiny", **how))  # what any model costs
print("ready", flush=True)
sys.stdin.readline()
model = aminoglot.load(sys.argv[1], **how)
use(model)
print("done", flush=True)
sys.stdin.readline()
"""


def anonymous(pid: int) -> int:
    """Bytes that belong to no file; pages mapped from one do not count."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def peak_growth(model: Path, precision: str, backend: str = "torch") -> int:
    """How much anonymous memory a process takes at most to load a model and use it, watched from outside."""
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, str(model), precision, backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = peak = anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(0.002):
                peak = max(peak, anonymous(process.pid))
        assert process.stdout.readline() == "done\n"
        peak = max(peak, anonymous(process.pid))
        process.stdin.close()
    return peak - before


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with esm2-150m, 593 MB, and the same as a .pt."""
    home = tmp_path_factory.mktemp("large")
    convert("random:esm2-150m", home / "hf", "huggingface")
    convert(str(home / "hf"), home / "esm2_large.pt", "fair-esm")
    return home


@pytest.mark.parametrize("name", ["hf", "esm2_large.pt"])
def test_float32_weights_are_mapped(name: str, large: Path) -> None:
    size = (large / "hf" / "model.safetensors").stat().st_size
    assert size > 550e6
    assert peak_growth(large / name, "fp32") < 0.15 * size


def test_bf16_holds_the_narrow_weights_once(large: Path) -> None:
    size = (large / "hf" / "model.safetensors").stat().st_size
    growth = peak_growth(large / "hf", "bf16")
    assert 0.4 * size < growth < 0.65 * size


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("bf16", 0.5)])
def test_openvino_holds_its_own_weights_once(precision: str, share: float, large: Path) -> None:
    """It rearranges weights into a copy; what it read them from is the mapped file."""
    size = (large / "hf" / "model.safetensors").stat().st_size
    growth = peak_growth(large / "hf", precision, "openvino")
    assert 0.8 * share * size < growth < share * size + 0.2 * size


READER = """
import re, sys
from pathlib import Path
from aminoglot.checkpoints import resolve

def high():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

resolve("random:esm2-tiny")
before = high()
resolve(sys.argv[1])
print(high() - before)
"""


def test_a_nemo_needs_no_more_than_its_weights(large: Path, tmp_path: Path) -> None:
    """Mapped pages count too: queries, keys and values are copied out of one matrix, which is given back then."""
    convert(str(large / "hf"), tmp_path / "large.nemo", "nemo1")
    size = (tmp_path / "large.nemo").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "large.nemo")],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "nowhere")},  # no copy of the archive is made
    )
    assert done.returncode == 0, done.stderr
    assert 0.9 * size < int(done.stdout) < size + (64 << 20)
