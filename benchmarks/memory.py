"""A large model from float32 shards into bf16: memory of its own beside the size of its weights, and its speed.

    python benchmarks/memory.py --fasta uniref90_10k.fasta.gz [--model esm2-3b] [--json FILE]

Memory is what the process has for itself (RssAnon). The mapped shards count as well while they are read, but that
memory is the page cache's: the system takes it back where it is short. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aminoglot.models.esm2 import SIZES
from embed_cpu import RESIDUES, ask, machine, sample


def embed(name: str, weights: Path, fasta: Path, backend: Any) -> dict[str, float]:
    """Seconds of loading and of embedding, in this process; the first pass arranges weights and is not timed."""
    import aminoglot

    warnings.simplefilter("ignore")
    sequences = sample(fasta, RESIDUES[name])
    started = time.perf_counter()
    model = aminoglot.load(weights, device="cpu", precision="bf16", backend=backend)
    model.embed(sequences[:1])
    loaded = time.perf_counter()
    model.embed(sequences)
    seconds = time.perf_counter() - loaded
    lengths = np.array([len(s) + 2 for s in sequences])
    operations = float((SIZES[name].flops_per_token(lengths) * lengths).sum())
    return {
        "loading": loaded - started,
        "residues_per_second": sum(map(len, sequences)) / seconds,
        "gflops": operations / seconds / 1e9,
    }


def watched(command: list[str]) -> tuple[Any, float]:
    """The last line that a process prints, as JSON, and the most private memory it had, in bytes."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
            peak = max([peak, *(1024 * int(kilobytes) for kilobytes in found)])
            time.sleep(0.05)
        assert process.stdout is not None
        answer = process.stdout.read().splitlines()[-1]
    return json.loads(answer), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--model", default="esm2-3b")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("WEIGHTS", "BACKEND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(embed(options.model, Path(options.one[0]), options.fasta, options.one[1])))
        return
    config = SIZES[options.model]
    weights = 2.0 * config.parameters
    results: dict[str, Any] = {"machine": machine(), "model": options.model, "weights": weights, "backends": {}}
    with tempfile.TemporaryDirectory() as folder:
        convert = [sys.executable, "-m", "aminoglot", "convert", f"random:{options.model}", f"{folder}/weights"]
        subprocess.run([*convert, "--to", "huggingface"], check=True)
        for backend in ("openvino", "torch"):
            command = [sys.executable, __file__, "--fasta", str(options.fasta), "--model", options.model]
            found, peak = watched([*command, "--one", f"{folder}/weights", backend])
            ceiling = ask({"system": "ceiling", "options": {"width": config.hidden, "precision": "bf16"}})["gflops"]
            row = {**found, "peak": peak, "ceiling": ceiling, "share": found["gflops"] / ceiling}
            results["backends"][backend] = row
            print(
                f"{options.model} bf16 by {backend}: {peak / 1e9:.2f} GB for {weights / 1e9:.2f} GB of weights "
                f"(1.15 times that and 1 GiB: {(1.15 * weights + 2**30) / 1e9:.2f}), loaded in {row['loading']:.0f} s, "
                f"{row['residues_per_second']:.1f} residues/s, {row['share']:.2f} of the ceiling",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
