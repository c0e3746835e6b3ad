"""Planning ten million proteins: seconds and memory of `aminoglot plan`, and of planning a job of a million.

    python benchmarks/planning.py [--proteins 10000000] [--job 1000000] [--json FILE]

Lengths are drawn from a log-normal distribution like UniRef50's (median 270 residues). `plan` reads them as a table;
the job reads synthetic short proteins from a FASTA file (see scale.py), finds what is equal and cuts shards
(`--plan-only`). Each is a process of its own; its peak memory is what the operating system accounts for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scale import write_fasta


def timed(*arguments: str) -> dict[str, float]:
    """Wall seconds and peak memory, in MB, of one command."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "aminoglot", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return {"seconds": time.monotonic() - started, "peak_mb": used.ru_maxrss / 1024}


def write_lengths(path: Path, proteins: int) -> None:
    """A table of how many proteins have each length."""
    drawn = np.random.default_rng(0).lognormal(np.log(270), 0.7, proteins).astype(np.int64).clip(20, 35_000)
    lengths, counts = np.unique(drawn, return_counts=True)
    path.write_text("".join(f"{length}\t{count}\n" for length, count in zip(lengths, counts, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--proteins", type=int, default=10_000_000)
    parser.add_argument("--job", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lengths, fasta = Path(folder, "lengths.tsv"), Path(folder, "many.fasta")
        write_lengths(lengths, asked.proteins)
        found = {}
        for name, more in (
            ("esm2-3b, h100 assumed", ["-m", "esm2-3b", "--device", "h100"]),
            ("aminoglot-5m, measured", []),
        ):
            found[f"plan, {asked.proteins:,} proteins, {name}"] = timed("plan", "--lengths", str(lengths), *more)
        for proteins in (asked.job // 10, asked.job):
            write_fasta(fasta, proteins)
            output = str(Path(folder, f"{proteins}.h5"))
            found[f"embed --plan-only, {proteins:,} proteins"] = timed("embed", str(fasta), "-o", output, "--plan-only")
    print(f"{'':52}{'seconds':>9}{'peak, MB':>10}")
    for name, row in found.items():
        print(f"{name:52}{row['seconds']:9.1f}{row['peak_mb']:10,.0f}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
