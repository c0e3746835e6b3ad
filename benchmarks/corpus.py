"""Building and sampling a training set of millions of clusters: rates, memory, and what the real UniRef would take.

    pip install -c constraints.txt -e '.[corpus]'
    python benchmarks/corpus.py [--clusters 2000000] [--members 6000000] [--folder FOLDER] [--json FILE]

Clusters are made up: random sequences of UniRef's lengths (log-normal, median 270 residues), members that differ in
some residues, in files laid out as UniRef's FASTA (lines of 60 residues, members in an order of their own) and a
mapping. They are built in a process of its own, whose memory is watched; MMseqs2 is left out, for it is not ours to
time, but not what the leak filter writes for it. Then samplers run, in processes of their own, for a few seconds each;
and the corpus is opened, beside one of a hundredth of its size.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

UNIREF = {"clusters": 65_672_139, "sequences": 187_382_018 + 65_672_139}
"""UniRef 2024_03: UniRef50 clusters, and sequences in both FASTA files."""
_LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)
_BLOCK = 20_000

BUILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from aminoglot.corpus import ESM2, Choices, Inputs, build
from aminoglot.screen import Screen
from aminoglot.sequences import Source
folder = Path(sys.argv[1])
files = [Source(name, folder / name) for name in ("uniref50.fasta.gz", "uniref90.fasta.gz", "mapping.tsv")]
build(Inputs(*files), ESM2, folder / "corpus", Choices(filtered=False, threads=int(sys.argv[2])), Screen())
"""
OPEN = """
import sys, time
import numpy, pyarrow.parquet
from aminoglot.corpus import Corpus
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before = memory()
started = time.perf_counter()
corpus = Corpus(sys.argv[1])
corpus.split("train"), corpus.representatives[0], corpus.member_rows(0)
print(time.perf_counter() - started, (memory() - before) / 1024)
"""
EXPORT = """
import sys, time
from pathlib import Path
import numpy
from aminoglot.corpus import Corpus, leaks
corpus = Corpus(sys.argv[1])
started = time.perf_counter()
for sequences in (corpus.representatives, corpus.members):
    leaks.write_fasta(sequences, numpy.ones(len(sequences), bool), Path(sys.argv[2]))
print(time.perf_counter() - started)
"""
SAMPLE = """
import sys, time
from aminoglot.corpus import Corpus, ESM2Samples
samples = ESM2Samples(Corpus(sys.argv[1]), seed=int(sys.argv[2]))
for number in range(200):
    samples[number]
started, number = time.perf_counter(), 200
while time.perf_counter() - started < 5:
    samples[number]
    number += 1
print((number - 200) / (time.perf_counter() - started))
"""


def made_up(clusters: int, members: int) -> Iterator[tuple[int, list[bytes]]]:
    """Clusters' numbers and their members' residues, the representative first."""
    generator = np.random.default_rng(0)
    sizes = 1 + np.bincount(generator.integers(0, clusters, members - clusters), minlength=clusters)
    for cluster, size in enumerate(sizes.tolist()):
        length = int(np.clip(generator.lognormal(5.6, 0.7), 20, 5000))
        text = _LETTERS[generator.integers(0, 20, length)]
        texts = [text.tobytes()]
        for part in range(1, size):
            text = text.copy()
            text[part % length] = _LETTERS[part % 20]
            texts.append(text.tobytes())
        yield cluster, texts


def wrapped(text: bytes) -> bytes:
    return b"\n".join(text[start : start + 60] for start in range(0, len(text), 60))


def make(folder: Path, clusters: int, members: int) -> None:
    """Write the three files; members are shuffled within blocks of some thousand clusters."""
    generator = np.random.default_rng(1)
    waiting: list[bytes] = []
    with (
        gzip.open(folder / "uniref50.fasta.gz", "wb", 1) as first,
        gzip.open(folder / "uniref90.fasta.gz", "wb", 1) as second,
        (folder / "mapping.partial").open("w") as mapping,
    ):
        mapping.write("UR50_cluster_name\tmapped_id\n")
        for cluster, texts in made_up(clusters, members):
            first.write(b">UniRef50_C%d Made up n=1 RepID=C%d_X\n%s\n" % (cluster, cluster, wrapped(texts[0])))
            names = [f"C{cluster}" if part == 0 else f"C{cluster}.{part}" for part in range(len(texts))]
            mapping.write(f"UniRef50_C{cluster}\t{','.join(names)}\n")
            pairs = zip(names, texts, strict=True)
            waiting += [b">%s Made up\n%s\n" % (name.encode(), wrapped(text)) for name, text in pairs]
            if (cluster + 1) % _BLOCK == 0 or cluster + 1 == clusters:
                second.write(b"".join(waiting[place] for place in generator.permutation(len(waiting)).tolist()))
                waiting = []
    (folder / "mapping.partial").rename(folder / "mapping.tsv")


def watched(command: list[str]) -> tuple[float, float]:
    """Seconds of a process, and its largest resident memory in MB, read from the system four times a second."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            found = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")}
            peak = max(peak, int(found.get("RssAnon", 0)) / 1024)  # without mapped files, which the system takes back
            time.sleep(0.25)

    thread = threading.Thread(target=watch)
    thread.start()
    process.wait()
    thread.join()
    if process.returncode:
        raise SystemExit(f"building failed with status {process.returncode}")
    return time.perf_counter() - started, peak


def printed(program: str, *arguments: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clusters", type=int, default=2_000_000)
    parser.add_argument("--members", type=int, default=6_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mapping.tsv").exists():
            make(folder, options.clusters, options.members)
        small = folder / "small"
        small.mkdir(exist_ok=True)
        if not (small / "mapping.tsv").exists():
            make(small, options.clusters // 100, options.members // 100)
        for place in (small, folder):
            shutil.rmtree(place / "corpus", ignore_errors=True)
            seconds, peak = watched([sys.executable, "-c", BUILD, str(place), str(options.threads)])
        found = report(folder, options, seconds, peak)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def report(folder: Path, options: argparse.Namespace, seconds: float, peak: float) -> dict[str, Any]:
    """Measure what is left, and print all."""
    corpus = folder / "corpus"
    sequences = options.clusters + options.members
    (exported,) = printed(EXPORT, str(corpus), str(folder / "exported.fasta"))
    (folder / "exported.fasta").unlink()
    whole = (seconds + exported) * UNIREF["sequences"] / sequences / 3600
    print(f"built {options.clusters:,} clusters of {options.members:,} members in {seconds:,.0f} s on")
    print(f"{options.threads} cores, {sequences / seconds:,.0f} sequences a second, with {peak:,.0f} MB of memory;")
    print(f"{exported:,.0f} s to write them for MMseqs2. UniRef's {UNIREF['sequences']:,} sequences would take")
    print(f"{whole:.1f} h at these rates, without more cores")
    opened, memory = printed(OPEN, str(corpus))
    small_opened, small_memory = printed(OPEN, str(folder / "small" / "corpus"))
    print(
        f"opened in {opened:.3f} s, {memory:.1f} MB; a hundredth of it in {small_opened:.3f} s, {small_memory:.1f} MB"
    )
    alone = printed(SAMPLE, str(corpus), "0")[0]
    processes = [
        subprocess.Popen([sys.executable, "-c", SAMPLE, str(corpus), str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(options.threads)
    ]
    together = [float(process.communicate()[0]) for process in processes]
    rates = ", ".join(f"{rate:,.0f}" for rate in together)
    print(f"samples a second: one process {alone:,.0f}; {len(together)} together {rates}")
    return {
        "machine": {"processor": processor(), "python": platform.python_version(), "threads": options.threads},
        "clusters": options.clusters,
        "members": options.members,
        "seconds": seconds,
        "peak_mb": peak,
        "export_seconds": exported,
        "hours_for_uniref": whole,
        "opened_seconds": opened,
        "opened_mb": memory,
        "hundredth_opened_seconds": small_opened,
        "hundredth_opened_mb": small_memory,
        "samples_per_second": {"alone": alone, "together": together},
    }


if __name__ == "__main__":
    main()
