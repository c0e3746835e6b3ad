"""What the leak filter finds and what it does not, beside an exhaustive alignment of real proteins.

    pip install -c constraints.txt -e '.[corpus]' parasail
    python benchmarks/leaks.py --fasta a.fasta.gz b.fasta.gz [--proteins 2000] [--held-out 500] [--json FILE]

Proteins are drawn from the files; some are held out. Every other is aligned with each of those by Smith and Waterman
(parasail; BLOSUM62, gaps 11 and 1): the truth is a share of identical columns of 50 % or more, over 80 % of both. The
filter's answer is MMseqs2's by our own code. Then what MMseqs2 cannot see: short peptides, copies at 95 % identity of
residues of held out proteins, alone and beside random proteins, whose number its E-value counts; and proteins of low
complexity. Each by the published search among validation, and by that among proteins to be kept out (--exclude).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aminoglot import mmseqs
from aminoglot.corpus import leaks
from aminoglot.jobs.storage import file_digest
from aminoglot.sequences import Protein, Reader, Source

PEPTIDES = (8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
BESIDE = (0, 3_000_000, 100_000_000)
"""Residues of random proteins: none, those of a small validation set, and those of UniRef's."""
SIMPLE = {"GPP": "GPP" * 60, "Q": "Q" * 120, "PEVK": "PEVK" * 50, "GAGAGS": "GAGAGS" * 40, "SR": "SR" * 70}
_LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def drawn(paths: list[Path], count: int) -> list[str]:
    """Distinct proteins, evenly from the files, at most 1,022 residues."""
    generator = np.random.default_rng(0)
    found: dict[str, None] = {}
    for path in paths:
        records = [r.sequence.decode() for r in Reader([Source(path.name, path)]) if isinstance(r, Protein)]
        texts = [text for text in dict.fromkeys(records) if len(text) <= 1022]
        found |= dict.fromkeys(texts[i] for i in generator.choice(len(texts), count // len(paths), replace=False))
    return list(found)


def similar_to_any(targets: list[str], query: str) -> float:
    """The largest identity with a target, of alignments that cover 80 % of both; 0 where there is none."""
    import parasail

    best = 0.0
    for target in targets:
        if not 0.5 <= len(query) / len(target) <= 2:  # no alignment with 50 % identity covers 80 % of both
            continue
        result = parasail.sw_trace_striped_16(query, target, 11, 1, parasail.blosum62)
        columns = result.traceback
        length = len(columns.comp)
        covered = (
            (length - columns.query.count("-")) / len(query),
            (length - columns.ref.count("-")) / len(target),
        )
        if length and min(covered) >= leaks.COVERAGE:
            best = max(best, columns.comp.count("|") / length)
    return best


def filtered(queries: list[str], targets: list[str], folder: Path, kept_out: bool = False) -> set[int]:
    """Numbers of the queries that MMseqs2 finds."""
    for name, texts in (("query", queries), ("target", targets)):
        (folder / f"{name}.fasta").write_text("".join(f">{n}\n{text}\n" for n, text in enumerate(texts)))
    threads = os.cpu_count() or 1
    flags = leaks.of_target(len(targets)) if kept_out else leaks.of_both()
    return set(leaks.similar(folder / "query.fasta", folder / "target.fasta", flags, folder, threads).tolist())


def changed(text: str, share: float, generator: np.random.Generator) -> str:
    letters = list(text)
    for place in np.flatnonzero(generator.random(len(text)) < share):
        letters[place] = str(generator.choice(list(_LETTERS)))
    return "".join(letters)


def exhaustive(queries: list[str], targets: list[str], folder: Path) -> dict[str, dict[str, int]]:
    """How many of the proteins in each band of identity are taken out."""
    with ProcessPoolExecutor() as pool:
        identity = np.array(list(pool.map(partial(similar_to_any, targets), queries, chunksize=20)))
    found, bands = filtered(queries, targets, folder), {}
    print(f"{'identity, exhaustive':22} {'proteins':>9} {'taken out':>10}")
    for low, high in ((0.0, 0.3), (0.3, 0.4), (0.4, 0.45), (0.45, 0.5), (0.5, 0.55), (0.55, 0.7), (0.7, 1.01)):
        inside = np.flatnonzero((identity >= low) & (identity < high))
        taken = sum(int(number) in found for number in inside)
        bands[f"{low:.2f}"] = {"proteins": len(inside), "taken_out": taken}
        print(f"{low:4.0%} to {min(high, 1):4.0%} {len(inside):22,} {taken:10,}")
    return bands


def unseen(long: list[str], folder: Path) -> dict[str, dict[str, float]]:
    """Shares of short peptides and of proteins of low complexity that are found, by what they are searched among."""
    generator = np.random.default_rng(2)
    shares: dict[str, dict[str, float]] = {}
    for beside in BESIDE:
        random = ["".join(generator.choice(list(_LETTERS), 300)) for _ in range(beside // 300)]
        for kept_out in (False, True):
            what = f"{'kept out' if kept_out else 'validation'}, beside {beside:,} residues"
            found = shares[what] = {}
            targets: list[str] = []
            queries: list[tuple[str, str]] = []
            for length in PEPTIDES:
                whole = [text[10 : 10 + length] for text in long]
                targets += whole
                queries += [(str(length), changed(text, 0.05, generator)) for text in whole]
            targets += SIMPLE.values()
            queries += list(SIMPLE.items())
            hits = filtered([text for _, text in queries], [*targets, *random], folder, kept_out)
            for kind in dict.fromkeys(kind for kind, _ in queries):
                numbers = [number for number, query in enumerate(queries) if query[0] == kind]
                found[kind] = sum(number in hits for number in numbers) / len(numbers)
            print(f"\n{what}\n" + "  ".join(f"{kind}: {share:.0%}" for kind, share in found.items()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, nargs="+", required=True)
    parser.add_argument("--proteins", type=int, default=2_000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = drawn(options.fasta, options.proteins)
    np.random.default_rng(1).shuffle(texts)
    targets, queries = texts[: options.held_out], texts[options.held_out :]
    with tempfile.TemporaryDirectory() as temporary:
        results: dict[str, Any] = {
            "files": {path.name: file_digest(path) for path in options.fasta},
            "queries": len(queries),
            "targets": len(targets),
            "search": mmseqs.described(leaks.of_both()),
            "bands": exhaustive(queries, targets, Path(temporary)),
            "unseen": unseen([text for text in targets if len(text) >= 100], Path(temporary)),
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
