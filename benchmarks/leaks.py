"""What the leak filter finds and what it does not, beside an exhaustive alignment of real proteins.

    pip install -c constraints.txt -e '.[corpus]' parasail
    python benchmarks/leaks.py --fasta a.fasta.gz b.fasta.gz [--proteins 2000] [--held-out 100] [--json FILE]

Proteins are drawn from the files; some are held out. Every other is aligned with each of those by Smith and Waterman
(parasail; BLOSUM62, gaps 11 and 1): the truth is a share of identical columns of 50 % or more, over 80 % of both. The
filter's answer is MMseqs2's by our own code. Then short peptides: copies at 95 % identity of the first residues of held
out proteins, whose share that is found is given by length.
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

from aminoglot.corpus import leaks
from aminoglot.sequences import Protein, Reader, Source

PEPTIDES = (8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
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
        if not 0.7 <= len(query) / len(target) <= 1.43:  # no local alignment covers 80 % of both
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


def filtered(queries: list[str], targets: list[str], folder: Path) -> set[int]:
    """Numbers of the queries that the filter takes out."""
    for name, texts in (("query", queries), ("target", targets)):
        (folder / f"{name}.fasta").write_text("".join(f">{n}\n{text}\n" for n, text in enumerate(texts)))
    threads = os.cpu_count() or 1
    found = leaks.similar(folder / "query.fasta", folder / "target.fasta", leaks.OF_BOTH, folder, threads)
    return set(found.tolist())


def changed(text: str, share: float, generator: np.random.Generator) -> str:
    letters = list(text)
    for place in np.flatnonzero(generator.random(len(text)) < share):
        letters[place] = str(generator.choice(list(_LETTERS)))
    return "".join(letters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, nargs="+", required=True)
    parser.add_argument("--proteins", type=int, default=2_000)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = drawn(options.fasta, options.proteins)
    np.random.default_rng(1).shuffle(texts)
    targets, queries = texts[: options.held_out], texts[options.held_out :]
    with ProcessPoolExecutor() as pool:
        identity = np.array(list(pool.map(partial(similar_to_any, targets), queries, chunksize=20)))
    results: dict[str, Any] = {"queries": len(queries), "targets": len(targets), "bands": {}, "peptides": {}}
    with tempfile.TemporaryDirectory() as temporary:
        found = filtered(queries, targets, Path(temporary))
        print(f"{'identity, exhaustive':22} {'proteins':>9} {'taken out':>10}")
        for low, high in ((0.0, 0.3), (0.3, 0.4), (0.4, 0.45), (0.45, 0.5), (0.5, 0.55), (0.55, 0.7), (0.7, 1.01)):
            inside = np.flatnonzero((identity >= low) & (identity < high))
            taken = sum(int(number) in found for number in inside)
            results["bands"][f"{low:.2f}"] = {"proteins": len(inside), "taken_out": taken}
            print(f"{low:4.0%} to {min(high, 1):4.0%} {len(inside):22,} {taken:10,}")
        generator = np.random.default_rng(2)
        print(f"\n{'residues':>9} {'peptides found':>15}")
        long = [text for text in targets if len(text) >= 100]
        for length in PEPTIDES:
            whole = [text[10 : 10 + length] for text in long]
            got = filtered([changed(text, 0.05, generator) for text in whole], whole, Path(temporary))
            results["peptides"][str(length)] = len(got) / len(whole)
            print(f"{length:9} {len(got) / len(whole):15.0%}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
