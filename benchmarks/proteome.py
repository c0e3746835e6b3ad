"""The whole E. coli proteome through the main job, per protein and per residue, and read back with plain h5py.

    python benchmarks/proteome.py PROTEOME.fasta.gz [--model random:esm2-8m] [--json FILE]

Each run is a process of its own. The file is then opened with nothing but h5py: one dataset a protein under its
accession, the right shape, every value finite.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch


def lengths_of(proteome: Path) -> dict[str, int]:
    """Length of every protein by accession, read without aminoglot."""
    lengths: dict[str, int] = {}
    accession = ""
    with gzip.open(proteome, "rt") as file:
        for line in file:
            if line.startswith(">"):
                accession = line.split("|")[1]
                lengths[accession] = 0
            else:
                lengths[accession] += len(line.strip())
    return lengths


def check(path: Path, lengths: dict[str, int], per: str, limit: int) -> int:
    """Hold the file against the input; returns how many rows it has."""
    rows = 0
    with h5py.File(path, "r") as file:
        if set(file) != set(lengths):
            raise SystemExit(f"{path}: {len(file)} datasets for {len(lengths)} proteins")
        for accession in file:
            array = file[accession][()]
            wanted = (min(lengths[accession], limit),) if per == "residue" else ()
            if array.shape[:-1] != wanted or not np.isfinite(array).all():
                raise SystemExit(f"{path}: {accession} has the shape {array.shape}, or a value that is no number")
            rows += wanted[0] if wanted else 1
    return rows


def run(proteome: Path, model: str, per: str, lengths: dict[str, int], folder: Path) -> dict[str, Any]:
    """One job in its own process."""
    output = folder / f"{per}.h5"
    command = [sys.executable, "-m", "aminoglot", "embed", str(proteome), "-o", str(output), "-m", model, "--per", per]
    started = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    with h5py.File(output, "r") as file:
        written = len(file)
    residues = sum(min(length, 1022) for length in lengths.values())
    return {
        "per": per,
        "seconds": seconds,
        "proteins": len(lengths),
        "written": written,
        "rows": check(output, lengths, per, 1022),
        "residues_per_second": residues / seconds,
        "output_mb": output.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("proteome", type=Path)
    parser.add_argument("--model", default="random:esm2-8m")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lengths = lengths_of(options.proteome)
    with tempfile.TemporaryDirectory() as temporary:
        rows = [run(options.proteome, options.model, per, lengths, Path(temporary)) for per in ("protein", "residue")]
    print(f"{'per':8} {'seconds':>8} {'proteins':>9} {'datasets':>9} {'rows':>10} {'residues/s':>11} {'output MB':>10}")
    for row in rows:
        print(
            f"{row['per']:8} {row['seconds']:8.1f} {row['proteins']:9,} {row['written']:9,} {row['rows']:10,} "
            f"{row['residues_per_second']:11,.0f} {row['output_mb']:10,.1f}"
        )
    if options.json:
        machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(json.dumps({"model": options.model, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
