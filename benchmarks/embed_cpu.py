"""ESM-2 and ProtT5nv on a CPU: residues a second, beside transformers, OpenVINO and ONNX Runtime at their best.

    pip install -c constraints.txt -e '.[benchmark]'
    python benchmarks/embed_cpu.py --fasta uniref90_10k.fasta.gz [--models esm2-8m esm2-150m prott5nv] [--json FILE]

The proteins are a seeded sample, stratified by length, cut at 1,022 residues (ProtT5nv: 512), the same for everyone;
weights are random, also the same. Every system first tries its settings once (one at a time, batches sorted by length,
compiled, several streams); its best, and what comes near it, is then repeated, interleaved with all others, and the
best median is reported. Pads and special tokens do not count. Each pass is a process of its own
(benchmarks/systems.py).
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aminoglot.models.family import SIZES, family_of

RESIDUES = {"esm2-8m": 100_000, "esm2-35m": 60_000, "esm2-150m": 12_000, "esm2-650m": 6_000, "esm2-3b": 5_000}
RESIDUES["prott5nv"] = 20_000
"""Residues of the sample: enough for a steady rate, few enough for an afternoon."""
TUNED_ON = 3
"""Settings are tried on a third of the sample."""
EXAMPLE = Path(__file__).parent.parent / "examples/ecoli.fasta"
DOCUMENTED = ("transformers", {"precision": "fp32", "batch": 8, "sorted": False})
NEAR = 0.95
"""Settings that reach this share of a system's best are repeated too: which is best shows on the whole sample."""
BATCHES = (1, 8)
NARROW_BATCHES = (1, 2, 4, 8, 16)
NARROW = ("esm2-8m", "esm2-35m")
"""Networks in which a call costs so much that batches, padded as they are, may pay."""


def settings(name: str, precision: str, threads: int, compiler: bool) -> dict[str, list[dict[str, Any]]]:
    """What each system tries with one model at one precision."""
    padded = [{"precision": precision, "batch": batch} for batch in (NARROW_BATCHES if name in NARROW else BATCHES)]
    found = {
        "aminoglot": [{"precision": precision, "backend": backend} for backend in ("torch", "openvino")],
        "transformers": [*padded, {**padded[0], "workers": threads}],
        "openvino": [*({**one, "streams": 1} for one in padded), *({**one, "streams": threads} for one in padded)],
    }
    if compiler:
        found["transformers"] += [{**one, "compiled": True} for one in (padded[0], padded[-1])]
    if precision == "fp32":
        found["onnxruntime"] = [*padded, {**padded[0], "workers": threads}]
    return found


def sample(path: Path, residues: int, longest: int = 1022, seed: int = 0) -> list[str]:
    """Proteins drawn evenly over the ranks of length, cut, in random order."""
    raw = path.read_bytes()
    records = ("\n" + (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()).split("\n>")[1:]
    sequences = sorted(("".join(r.split("\n")[1:])[:longest] for r in records), key=len)
    count = round(residues / float(np.mean([len(s) for s in sequences])))
    rng = np.random.default_rng(seed)
    ranks = ((np.arange(count) + rng.random(count)) / count * len(sequences)).astype(int)
    chosen = [sequences[i] for i in ranks]
    rng.shuffle(chosen)
    return chosen


class Bench:
    """Runs systems on one model and one sample, and remembers what they gave."""

    def __init__(self, name: str, weights: Path, sequences: list[str], folder: Path) -> None:
        self.name, self.weights, self.sequences, self.folder = name, weights, sequences, folder
        self.residues = sum(map(len, sequences))
        self.exact: np.ndarray | None = None

    def run(self, system: str, options: dict[str, Any], share: int = 1) -> dict[str, float]:
        """One pass: residues a second, peak memory, and how far its mean vectors are from exact ones.

        Args:
            share: take every so many-th protein only.
        """
        sequences = self.sequences[::share]
        means = self.folder / "means.npy"
        request = {
            "system": system,
            "options": options,
            "weights": str(self.weights),
            "sequences": sequences,
            "means": str(means),
        }
        answer = ask(request)
        found = np.load(means)
        if self.exact is None:
            self.exact = found
        exact = self.exact[::share]
        cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
        return {
            "residues_per_second": sum(map(len, sequences)) / answer["seconds"],
            "peak_mb": answer["peak_mb"],
            "smallest_cosine": float(cosine.min()),
        }


def ask(request: dict[str, Any]) -> Any:
    """A process of its own for one request."""
    script = Path(__file__).with_name("systems.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{request['system']} {request.get('options')}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def search(bench: Bench, compiler: bool, log: Any) -> Iterator[dict[str, Any]]:
    """Every system's settings, each tried once."""
    for precision in ("fp32", "bf16"):
        for system, choices in settings(bench.name, precision, torch.get_num_threads(), compiler).items():
            for options in choices:
                row = tried_once(bench, system, options, TUNED_ON)
                log(f"{bench.name:10} {system:13} {describe(options):34} {row['residues_per_second']:9,.0f} residues/s")
                yield {"system": system, "options": options, **row}


def measure(bench: Bench, repeats: int, tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Repeat the best of each system's settings, interleaved."""
    top: dict[Any, float] = {}
    for one in tried:
        key = (one["system"], one["options"]["precision"])
        top[key] = max(one["residues_per_second"], top.get(key, 0.0))
    near = [one for one in tried if one["residues_per_second"] > NEAR * top[one["system"], one["options"]["precision"]]]
    finalists = [DOCUMENTED, *((one["system"], one["options"]) for one in near)]
    rows: list[dict[str, Any]] = [{"system": s, "options": o, "runs": []} for s, o in finalists]
    ceilings: dict[str, list[float]] = {"fp32": [], "bf16": []}
    width = SIZES[bench.name].hidden
    for _ in range(repeats):
        for row in rows:
            row["runs"].append(bench.run(row["system"], row["options"]))
        for precision, found in ceilings.items():
            found.append(ask({"system": "ceiling", "options": {"width": width, "precision": precision}})["gflops"])
    medians = {precision: float(np.median(found)) for precision, found in ceilings.items()}
    return [*best(summary(bench, row, medians) for row in rows), {"ceilings": medians, "tried": tried}]


def best(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each system at each precision the row with the highest median; *as documented* stays."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = (row["system"], row["options"]["precision"], row["options"] == DOCUMENTED[1])
        if key not in found or row["residues_per_second"] > found[key]["residues_per_second"]:
            found[key] = row
    return list(found.values())


def tried_once(bench: Bench, system: str, options: dict[str, Any], share: int) -> dict[str, Any]:
    """One pass for tuning; a system that cannot is no winner, and is named."""
    try:
        return bench.run(system, options, share=share)
    except RuntimeError as error:
        return {"residues_per_second": 0.0, "failed": str(error)[-300:]}


def summary(bench: Bench, row: dict[str, Any], ceilings: dict[str, float]) -> dict[str, Any]:
    """Medians, and the share of what one Linear of that width reaches. No floating-point operation on a pad counts."""
    special = family_of(SIZES[bench.name]).alphabet.special_length
    lengths = np.array([len(s) + special for s in bench.sequences])
    flops = float((SIZES[bench.name].flops_per_token(lengths) * lengths).sum())
    rate = float(np.median([run["residues_per_second"] for run in row["runs"]]))
    gflops = flops / bench.residues * rate / 1e9
    return {
        **row,
        "residues_per_second": rate,
        "gflops": gflops,
        "share": gflops / ceilings[row["options"]["precision"]],
        "peak_mb": max(run["peak_mb"] for run in row["runs"]),
        "smallest_cosine": min(run["smallest_cosine"] for run in row["runs"]),
    }


def describe(options: dict[str, Any]) -> str:
    """Settings in a few words."""
    if "backend" in options:
        return f"{options['precision']}, {options['backend']}"
    words = [options["precision"], "one at a time" if options["batch"] == 1 else f"batches of {options['batch']}"]
    if options["batch"] > 1:
        words.append("sorted" if options.get("sorted", True) else "as they come")
    if options.get("compiled"):
        words.append("compiled")
    if options.get("workers", 1) > 1:
        words.append(f"{options['workers']} workers")
    if options.get("streams", 1) > 1:
        words.append(f"{options['streams']} streams")
    return ", ".join(words)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = ("torch", "transformers", "openvino", "onnxruntime")
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """One model's rows, and how aminoglot compares."""
    lines = [f"\n{name}", f"{'system':13} {'settings':36} {'residues/s':>11} {'of the ceiling':>15} {'cosine':>9}"]
    for row in rows:
        lines.append(
            f"{row['system']:13} {describe(row['options']):36} {row['residues_per_second']:11,.0f} "
            f"{row['share']:15.2f} {row['smallest_cosine']:9.6f}"
        )
    documented = rows[0]["residues_per_second"]
    for precision in ("fp32", "bf16"):
        same = [row for row in rows[1:] if row["options"]["precision"] == precision]
        rates = {row["system"]: row["residues_per_second"] for row in same}
        ours = rates.pop("aminoglot", 0.0)
        best, best_rate = max(rates.items(), key=lambda one: one[1], default=("none", float("nan")))
        lines.append(
            f"{precision}: {ours / best_rate:.2f}x the best tuned peer ({best}), "
            f"{ours / documented:.1f}x transformers as documented"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, default=EXAMPLE, help="proteins to draw a sample of (the example's)")
    parser.add_argument("--models", nargs="+", default=["esm2-8m", "esm2-150m", "esm2-650m"], help="20, 45 and 60 min")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each system's best settings")
    parser.add_argument("--residues", type=int, help="residues of the sample, instead of one for each model")
    parser.add_argument("--tuned", type=Path, help="an earlier run's JSON: repeat what was best there, search no more")
    parser.add_argument("--no-compiler", action="store_true", help="leave out what needs a C++ compiler")
    parser.add_argument("--json", type=Path, help="write all figures here, after each model")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "models": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            weights = Path(temporary) / name
            convert = [sys.executable, "-m", "aminoglot", "convert", f"random:{name}", str(weights), "--to"]
            subprocess.run([*convert, "huggingface"], check=True)
            sequences = sample(options.fasta, options.residues or RESIDUES[name], SIZES[name].longest)
            bench = Bench(name, weights, sequences, Path(temporary))
            bench.run("aminoglot", {"precision": "fp32", "backend": "torch"})  # the exact vectors
            if options.tuned:
                tried = json.loads(options.tuned.read_text())["models"][name]["tried"]
            else:
                tried = list(search(bench, not options.no_compiler, lambda line: print(line, flush=True)))
            *rows, rest = measure(bench, options.repeats, tried)
            print(table(name, rows), flush=True)
            counts = {"proteins": len(sequences), "residues": bench.residues}
            results["models"][name] = {"sample": counts, "rows": rows, **rest}
            if options.json:  # after each model: what was measured is not lost
                options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
