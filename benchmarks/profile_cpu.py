"""Where every millisecond of embedding on a CPU goes, by one lane, and a picture of it.

    pip install -c constraints.txt -e '.[benchmark]'
    python benchmarks/profile_cpu.py --fasta uniref90_10k.fasta.gz --json FILE --picture FILE.png

OpenVINO's own clock times every operation of the network. What a call takes beside them is its preparation, most of it
for lengths it has not met; what is left of the whole is packing, pooling and Python. Each network is profiled in a
process of its own, on one core, so that nothing waits for anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from aminoglot.models.esm2 import SIZES
from embed_cpu import machine, sample

RESIDUES = {"esm2-8m": 50_000, "esm2-35m": 30_000, "esm2-150m": 8_000, "esm2-650m": 4_000}
PARTS = {
    "FullyConnected": "linear layers",
    "Subgraph": "attention",
    "RoPE": "rotary positions",
    "MVN": "norms and sums",
    "Add": "norms and sums",
    "Multiply": "norms and sums",
}
MOVING, PREPARING, PYTHON = "moving and converting", "calls and new lengths", "packing, pooling, Python"
ORDER = [*dict.fromkeys(PARTS.values()), MOVING, PREPARING, PYTHON]


class Clock:
    """Times every call of OpenVINO in this process, and lets OpenVINO time its operations."""

    def __init__(self) -> None:
        import openvino

        self.calls: Counter[Any] = Counter()
        self.seconds = 0.0
        compile_model, infer = openvino.Core.compile_model, openvino.InferRequest.infer

        def counting(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
            return compile_model(core, model, device, {**settings, "PERF_COUNT": True})

        def timed(request: Any, *given: Any, **options: Any) -> Any:
            started = time.perf_counter()
            results = infer(request, *given, **options)
            self.seconds += time.perf_counter() - started
            self.calls[request] += 1
            return results

        openvino.Core.compile_model, openvino.InferRequest.infer = counting, timed

    def operations(self) -> Counter[str]:
        """Seconds by kind of operation since the beginning; OpenVINO reports the mean of all calls."""
        found: Counter[str] = Counter()
        for request, count in self.calls.items():
            for one in request.profiling_info:
                found[one.node_type] += one.real_time.total_seconds() * count
        return found


def profile(name: str, precision: Any, fasta: Path) -> dict[str, Any]:
    """Milliseconds each thousand residues, by part."""
    import torch

    import aminoglot

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clock = Clock()
    model = aminoglot.load(f"random:{name}", device="cpu", precision=precision, backend="openvino")
    sequences = sample(fasta, RESIDUES[name])
    model.embed(sequences[:2])
    before, clock.seconds = clock.operations(), 0.0
    started = time.perf_counter()
    model.embed(sequences)
    total = time.perf_counter() - started
    seconds: Counter[str] = Counter()
    for kind, spent in clock.operations().items():
        seconds[PARTS.get(kind, MOVING)] += spent - before[kind]
    seconds[PREPARING] = clock.seconds - sum(seconds.values())
    seconds[PYTHON] = total - clock.seconds
    residues = sum(map(len, sequences))
    found = {"residues_per_second": residues / total, **{part: seconds[part] / residues * 1e6 for part in ORDER}}
    return {**found, "at_best": at_best(name, found, sequences)}


def at_best(name: str, found: dict[str, float], sequences: list[str]) -> float:
    """How many times as fast it were, had attention the rate of the linear layers and all else cost nothing.

    Linear layers run at the processor's own rate, or near it: nothing that computes the same can be faster than this.
    """
    config = SIZES[name]
    lengths = np.array([len(sequence) + 2 for sequence in sequences])
    products = float((config.flops_per_token(lengths) * lengths).sum())
    attention = float((4 * config.layers * config.hidden * lengths**2).sum())
    return sum(found[part] for part in ORDER) / (found["linear layers"] * products / (products - attention))


def picture(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One bar a network and precision, as shares of its time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = ["#33658a", "#e07a2f", "#f2b134", "#6a994e", "#a7c4a0", "#9a8c98", "#c9ada7"]
    figure, axes = pyplot.subplots(figsize=(10, 0.55 * len(results) + 1.6), layout="constrained")
    for row, parts in enumerate(reversed(results.values())):
        total, at = sum(parts[part] for part in ORDER), 0.0
        for part, colour in zip(ORDER, colours, strict=True):
            share = parts[part] / total
            axes.barh(row, share, left=at, color=colour, label=part if row == 0 else None)
            if share > 0.03:
                axes.text(at + share / 2, row, f"{share:.0%}", ha="center", va="center", color="white", fontsize=9)
            at += share
        axes.text(1.01, row, f"{total:,.0f} ms", va="center", fontsize=9)
    axes.set_yticks(range(len(results)), list(reversed(results)))
    axes.set_xlim(0, 1.0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.set_title("Where one core's time goes; at the right, for a thousand residues", fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["esm2-8m", "esm2-150m", "esm2-650m"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(profile(*options.one, options.fasta)))
        return
    results: dict[str, dict[str, Any]] = {}
    for name in options.models:
        for precision in ("bf16", "fp32"):
            command = [sys.executable, __file__, "--fasta", str(options.fasta), "--one", name, precision]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            label = f"{name.removeprefix('esm2-').upper()} {precision}"
            found = results[label] = json.loads(done.stdout.splitlines()[-1])
            print(label, ", ".join(f"{part} {found[part]:.1f} ms" for part in ORDER), end="; ")
            print(f"at best {found['at_best']:.2f}x as fast", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "profiles": results}, indent=1) + "\n")
    if options.picture:
        picture(results, options.picture)


if __name__ == "__main__":
    main()
