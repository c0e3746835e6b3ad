"""ESM-2 on one NVIDIA GPU: residues a second beside transformers at its best, kernels' parity, an out-of-memory drill.

    pip install '.[benchmark]'      # with a CUDA build of torch
    python benchmarks/embed_gpu.py --fasta uniref90_10k.fasta.gz [--models esm2-650m esm2-3b] [--json FILE]

The sample, the peers and the way of measuring are those of benchmarks/embed_cpu.py; the ceiling is one Linear of 16,384
rows. Parity is against fp32 on the CPU. The drill leaves the process too little memory for its usual batches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aminoglot
import embed_cpu
from aminoglot.engine import choose
from aminoglot.models.esm2 import SIZES
from embed_cpu import Bench, ask, sample, summary

BATCHES = (8, 32, 128)
RESIDUES = 2_000_000
LEAST_COSINE = {"fp32": 0.999999, "bf16": 0.999, "fp16": 0.999, "fp8": 0.99}
"""Of residues with fp32 on the CPU."""


def settings(precision: str) -> dict[str, list[dict[str, Any]]]:
    """What each system tries."""
    common = {"precision": precision, "device": "cuda"}
    padded = [{**common, "batch": batch} for batch in BATCHES]
    compiled = [{**common, "batch": batch, "compiled": True} for batch in BATCHES]
    return {"aminoglot": [{**common, "backend": "torch"}], "transformers": [*padded, *compiled]}


def precisions() -> list[str]:
    """Those of this card: bf16 is none of Volta's, fp8 is Hopper's."""
    found = []
    for precision in ("bf16", "fp16", "fp32", "fp8"):
        with contextlib.suppress(aminoglot.AminoglotError):
            choose("cuda", precision)  # type: ignore[arg-type]
            found.append(precision)
    return found


def measure(bench: Bench, precisions: list[str], repeats: int) -> dict[str, Any]:
    """Tune, repeat interleaved, and hold against the ceiling of each precision."""
    finalists, tried = [], []
    for precision in precisions:
        for system, choices in settings(precision).items():
            for options in choices:
                row = embed_cpu.tried_once(bench, system, options, 10)
                tried.append({"system": system, **options, **row})
            rates = [row["residues_per_second"] for row in tried[-len(choices) :]]
            if max(rates) > 0:
                finalists.append((system, choices[int(np.argmax(rates))]))
    rows: list[dict[str, Any]] = [{"system": s, "options": o, "runs": []} for s, o in finalists]
    ceilings: dict[str, list[float]] = {precision: [] for precision in precisions}
    for _ in range(repeats):
        for row in rows:
            row["runs"].append(bench.run(row["system"], row["options"]))
        for precision, found in ceilings.items():
            options = {"width": SIZES[bench.name].hidden, "precision": precision, "device": "cuda", "rows": 16_384}
            found.append(ask({"system": "ceiling", "options": options})["gflops"])
    medians = {precision: float(np.median(found)) for precision, found in ceilings.items()}
    return {"rows": [summary(bench, row, medians) for row in rows], "ceilings": medians, "tried": tried}


def parity(weights: Path, sequences: list[str], precisions: Sequence[str]) -> dict[str, float]:
    """The GPU's kernels against fp32 on the CPU: largest difference, smallest cosine.

    Raises:
        SystemExit: where a precision is further off than LEAST_COSINE allows.
    """
    exact = aminoglot.load(weights, device="cpu", precision="fp32", backend="torch").embed(sequences, per="residue")
    stacked = np.concatenate(exact)
    found: dict[str, float] = {}
    for precision in precisions:
        model = aminoglot.load(weights, device="cuda", precision=precision)  # type: ignore[arg-type]
        mine = np.concatenate(model.embed(sequences, per="residue"))
        cosine = (mine * stacked).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(stacked, axis=1)
        found |= {
            f"{precision}_largest_difference": float(np.abs(mine - stacked).max()),
            f"{precision}_smallest_cosine": float(cosine.min()),
        }
        if cosine.min() < LEAST_COSINE[precision]:
            raise SystemExit(f"{precision} is wrong on this GPU: {found}")
    return found


def drill(weights: Path, sequences: list[str]) -> dict[str, Any]:
    """A third of the memory that a run takes beyond its weights: batches are halved, and the results are the same."""
    model = aminoglot.load(weights, device="cuda")
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected = model.embed(sequences)
    peak = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    before = torch.cuda.memory_stats()["num_ooms"]
    torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 3) / total)
    try:
        found = model.embed(sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    refused = torch.cuda.memory_stats()["num_ooms"] - before
    if not refused:
        raise SystemExit("the drill was none: no allocation failed")
    return {
        "allocations_refused": refused,
        "peak_mb": peak / 1e6,
        "weights_mb": held / 1e6,
        "difference": float(np.abs(found - expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["esm2-650m", "esm2-3b"])
    parser.add_argument("--residues", type=int, default=RESIDUES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = {**embed_cpu.machine(), "gpu": torch.cuda.get_device_name(0)}
    results: dict[str, Any] = {"machine": machine, "models": {}}
    offered = precisions()
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            weights = Path(temporary) / name
            convert = [sys.executable, "-m", "aminoglot", "convert", f"random:{name}", str(weights), "--to"]
            subprocess.run([*convert, "huggingface"], check=True)
            sequences = sample(options.fasta, options.residues)
            bench = Bench(name, weights, sequences, Path(temporary))
            bench.run("aminoglot", {"precision": "fp32", "backend": "torch", "device": "cuda"})  # the exact vectors
            found = measure(bench, [one for one in offered if one != "fp8"], options.repeats)
            for row in found["rows"]:
                print(
                    f"{name:10} {row['system']:13} {row['options']['precision']} {row['residues_per_second']:11,.0f} "
                    f"residues/s, {row['share']:.2f} of the ceiling"
                )
            found |= {"parity": parity(weights, sequences[:50], offered), "drill": drill(weights, sequences[:2000])}
            print(f"{name:10} parity {found['parity']}\n{name:10} drill {found['drill']}", flush=True)
            results["models"][name] = found
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
