"""The whole E. coli proteome through the main job, read back with plain h5py, and timed beside the model alone.

    python benchmarks/proteome.py PROTEOME.fasta.gz [--model random:esm2-8m] [--json FILE]

Each run is a process of its own. The model alone is a process that loads it and embeds the same proteins, which it is
given as strings: no file is read but the weights, none is written. A job's file is then opened with nothing but h5py:
one dataset a protein under its accession, the right shape, every value finite.
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

ALONE = """
import gzip, sys, time, aminoglot
started = time.monotonic()
records = gzip.open(sys.argv[1], "rt").read().split(">")[1:]
sequences = sorted({"".join(record.split("\\n")[1:]) for record in records})  # a job computes each once
reading = time.monotonic() - started
aminoglot.load(sys.argv[2]).embed(sequences)
print(reading)
"""


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


def alone(proteome: Path, model: str) -> float:
    """Seconds of a process that loads the model and embeds the proteome per protein, reading of the FASTA left out."""
    started = time.monotonic()
    command = [sys.executable, "-c", ALONE, str(proteome), model]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.monotonic() - started - float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("proteome", type=Path)
    parser.add_argument("--model", default="random:esm2-8m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lengths = lengths_of(options.proteome)
    with tempfile.TemporaryDirectory() as temporary:
        rows, lone = [], []
        for _ in range(options.repeats):
            lone.append(alone(options.proteome, options.model))
            for per in ("protein", "residue"):
                rows.append(run(options.proteome, options.model, per, lengths, Path(temporary)))
                (Path(temporary) / f"{per}.h5").unlink()
    print(f"{'per':8} {'seconds':>8} {'proteins':>9} {'datasets':>9} {'rows':>10} {'residues/s':>11} {'output MB':>10}")
    for row in rows:
        print(
            f"{row['per']:8} {row['seconds']:8.1f} {row['proteins']:9,} {row['written']:9,} {row['rows']:10,} "
            f"{row['residues_per_second']:11,.0f} {row['output_mb']:10,.1f}"
        )
    beside = {
        per: float(np.median([row["seconds"] for row in rows if row["per"] == per]) / np.median(lone) - 1)
        for per in ("protein", "residue")
    }
    print(f"the model alone: {np.median(lone):.1f} seconds (median)")
    print(f"a job takes {beside['protein']:.1%} longer per protein, {beside['residue']:.1%} per residue")
    if options.json:
        machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(
            json.dumps(
                {"model": options.model, "machine": machine, "rows": rows, "alone": lone, "beside": beside}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
