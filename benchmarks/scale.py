"""A million synthetic proteins through the whole job: seconds, proteins a second, memory above a small run's.

    python benchmarks/scale.py [--proteins 1000000] [--mean 70] [--formats h5 parquet npz safetensors] [--json FILE]

Sequences are drawn from the letter frequencies of UniProt with lengths uniform between 30 and 110 (mean 70; see
--mean), and embedded by `random:esm2-tiny`, whose arithmetic is small: what is measured is everything around the model.
Each run is a process of its own; its peak memory is what the operating system accounts for it, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)
FREQUENCIES = np.array(
    [9.7, 8.3, 7.1, 6.9, 6.6, 6.7, 5.5, 5.4, 5.9, 5.5, 4.7, 5.8, 3.9, 4.1, 3.9, 2.9, 2.4, 2.3, 1.1, 1.4]
)


def write_fasta(path: Path, proteins: int, mean: int = 70, seed: int = 0) -> int:
    """Write a FASTA of synthetic proteins; returns its residues."""
    rng = np.random.default_rng(seed)
    residues = 0
    with path.open("wb") as file:
        for start in range(0, proteins, 10_000):
            count = min(10_000, proteins - start)
            lengths = rng.integers(30, 2 * mean - 29, count)
            letters = rng.choice(LETTERS, lengths.sum(), p=FREQUENCIES / FREQUENCIES.sum()).tobytes()
            ends = np.cumsum(lengths)
            for i, (end, length) in enumerate(zip(ends, lengths, strict=True), start):
                file.write(b">sp|S%07d|SYNTH_%d synthetic\n%b\n" % (i, i, letters[end - length : end]))
            residues += int(lengths.sum())
    return residues


def run(fasta: Path, output: Path) -> dict[str, float]:
    """One job in its own process: wall seconds and peak memory in MB."""
    command = [sys.executable, "-m", "aminoglot", "embed", str(fasta), "-o", str(output), "-m", "random:esm2-tiny"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak >= before  # the largest child so far: run the small job first
    return {"seconds": seconds, "peak_mb": peak / 1024, "output_mb": output.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--proteins", type=int, default=1_000_000)
    parser.add_argument("--mean", type=int, default=70, help="mean length of the proteins")
    parser.add_argument("--formats", nargs="+", default=["h5", "parquet"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small, large = folder / "small.fasta", folder / "large.fasta"
        write_fasta(small, 1000, options.mean)
        residues = write_fasta(large, options.proteins, options.mean)
        base = run(small, folder / "small.h5")
        for kind in options.formats:
            row = run(large, folder / f"large.{kind}")
            row |= {
                "proteins": options.proteins,
                "residues": residues,
                "proteins_per_second": options.proteins / row["seconds"],
                "memory_above_a_thousand_mb": row["peak_mb"] - base["peak_mb"],
            }
            rows.append({"format": kind, **row})
    print(f"{'format':12} {'seconds':>8} {'proteins/s':>11} {'peak MB':>8} {'above 1,000':>12} {'output MB':>10}")
    print(f"{'(1,000, h5)':12} {base['seconds']:8.1f} {'':11} {base['peak_mb']:8.0f}")
    for row in rows:
        print(
            f"{row['format']:12} {row['seconds']:8.1f} {row['proteins_per_second']:11,.0f} {row['peak_mb']:8.0f} "
            f"{row['memory_above_a_thousand_mb']:9.0f} MB {row['output_mb']:10.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"thousand": base, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
