"""Two workers beside one process: residues a second of the same machine, for the same bytes.

    python benchmarks/workers.py [--model random:esm2-150m] [--fasta FILE] [--workers 2] [--repeats 3] [--json FILE]

Whole commands are timed, on some proteins and on more of them, drawn alike, in turns. The rate is the additional
residues by the additional seconds, so that what starting takes, which is more for two processes, does not count; it is
in a column of its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FASTA = Path(__file__).parent.parent / "examples" / "ecoli_proteome.fasta.gz"
LONGEST = 1000


def proteins(path: Path) -> list[tuple[str, str]]:
    """Names and sequences of a FASTA file, none over the model's limit."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        text = file.read()
    records = [record.split("\n", 1) for record in text.split(">")[1:]]
    found = [(name.split()[0], sequence.replace("\n", "")) for name, sequence in records]
    return [(name, sequence) for name, sequence in found if len(sequence) <= LONGEST]


def command(fasta: Path, output: Path, model: str, workers: int | None) -> float:
    """Seconds of one whole command."""
    asked = [sys.executable, "-m", "aminoglot", "embed", str(fasta), "-o", str(output), "-m", model]
    started = time.monotonic()
    subprocess.run(
        [*asked, *([] if workers is None else ["--workers", str(workers)])], check=True, stderr=subprocess.DEVNULL
    )
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="random:esm2-150m")
    parser.add_argument("--fasta", type=Path, default=FASTA)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--few", type=int, default=80, help="proteins of the short command")
    parser.add_argument("--many", type=int, default=480, help="proteins of the long one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    every = proteins(asked.fasta)
    taken = {count: every[:: len(every) // count][:count] for count in (asked.few, asked.many)}
    residues = {count: sum(len(sequence) for _, sequence in found) for count, found in taken.items()}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    seconds: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count, found in taken.items():
            text = "".join(f">{name}\n{sequence}\n" for name, sequence in found)
            Path(folder, f"{count}.fasta").write_text(text)
        for turn in range(asked.repeats):
            outputs = {}
            for mode, workers in (("one process", None), (f"{asked.workers} workers", asked.workers)):
                for count in taken:
                    output = Path(folder, f"{turn}-{mode}-{count}.h5")
                    took = command(Path(folder, f"{count}.fasta"), output, asked.model, workers)
                    seconds.setdefault((mode, count), []).append(took)
                    assert outputs.setdefault(count, output.read_bytes()) == output.read_bytes(), "not the same bytes"
    rows = []
    for mode in dict.fromkeys(mode for mode, _ in seconds):
        few, many = (statistics.median(seconds[mode, count]) for count in taken)
        rate = (residues[asked.many] - residues[asked.few]) / (many - few)
        rows.append(
            {"mode": mode, "residues_a_second": rate, "start": few - residues[asked.few] / rate, "seconds": many}
        )
    print(f"{asked.model}, {asked.few} and {asked.many} proteins, median of {asked.repeats}")
    print(f"{'':14}{'residues/s':>12}{'start, s':>10}{'whole, s':>10}")
    for row in rows:
        print(f"{row['mode']:14}{row['residues_a_second']:12,.0f}{row['start']:10.1f}{row['seconds']:10.1f}")
    print(f"ratio {rows[1]['residues_a_second'] / rows[0]['residues_a_second']:.3f}")
    if asked.json:
        raw = {f"{mode}, {count}": took for (mode, count), took in seconds.items()}
        asked.json.write_text(
            json.dumps(
                {"model": asked.model, "machine": machine, "rows": rows, "residues": residues, "raw": raw}, indent=1
            )
        )


if __name__ == "__main__":
    main()
