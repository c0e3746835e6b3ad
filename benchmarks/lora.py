"""LoRA beside a head on frozen embeddings, on one deep mutational scan: what adapting the model adds.

    pip install -c constraints.txt -e '.[eval,plot,benchmark]'
    python benchmarks/lora.py P62593_bla_variants.fasta.gz FOLDER [--model aminoglot-5m] [--epochs 20] [--json FILE]

The FASTA file's headers are >NUMBER|NAME|FITNESS; it becomes a table in FOLDER, where both runs lie, and go on if they
were stopped. Both see the same splits; the test variants are drawn in pairs for the limits of the difference.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aminoglot
from aminoglot.finetune.metrics import interval, spearman


def table(variants: Path, out: Path) -> None:
    """The variants as CSV; ids are the whole headers, for a name may come twice."""
    raw = variants.read_bytes()
    text = (gzip.decompress(raw) if variants.suffix == ".gz" else raw).decode()
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "sequence", "fitness"))
        for record in text.split(">")[1:]:
            header, *lines = record.split("\n")
            writer.writerow((header, "".join(lines), header.rsplit("|", 1)[1]))


def tested(run: Path) -> dict[str, tuple[float, float]]:
    """The label and the prediction of each test protein of a run."""
    with (run / "proteins.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "test" and row["prediction"]]
    return {row["id"]: (float(row["label"]), float(row["prediction"])) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--epochs", type=int, default=20, help="of LoRA, at most")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = options.folder / "variants.csv"
    table(options.variants, data)
    runs: dict[str, Any] = {}
    for method, epochs in (("head", None), ("lora", options.epochs)):
        runs[method] = aminoglot.fine_tune(
            data,
            options.folder / method,
            target="fitness",
            model=options.model,
            method=method,
            epochs=epochs,
            contradictions="mean",
        )
        print(f"{method}: {runs[method].headline}")
    head, lora = (tested(options.folder / method) for method in ("head", "lora"))
    assert head.keys() == lora.keys()
    actual = np.array([head[name][0] for name in head])
    both = np.array([(lora[name][1], head[name][1]) for name in head])

    def gained(predicted: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
        return spearman(predicted[:, 0], labels) - spearman(predicted[:, 1], labels)

    found = interval(gained, both, actual, 0)
    print(
        f"{len(actual):,} test variants: LoRA above the head by {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    )
    if options.json:
        said = {method: {"headline": one.headline, "scores": one.scores} for method, one in runs.items()}
        said["difference"] = {"spearman": found.value, "interval": [found.low, found.high], "variants": len(actual)}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
