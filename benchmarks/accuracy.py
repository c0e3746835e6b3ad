"""bf16 (or fp16, fp8) against fp32, same weights, real proteins: cosine, and the error left without the mean vector.

    python benchmarks/accuracy.py [--fasta FILE] [--models random:esm2-8m ...] [--ways torch:bf16 ...] [--json FILE]

Embeddings of different proteins share a large common vector, which makes any two cosines look close to 1. So the mean
embedding of all proteins is also removed from both, and the relative error of what is left is given: the norm of the
difference over the norm of the centred fp32 embedding, median and largest over proteins. fp32 is torch's.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import aminoglot
from aminoglot.engine import Model
from aminoglot.models.linear import prepare
from aminoglot.sequences import Protein, Reader, Source


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def centred_errors(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> NDArray[np.float32]:
    centre = exact.mean(0)
    return np.linalg.norm(rounded - exact, axis=-1) / np.linalg.norm(exact - centre, axis=-1)


def rounded_model(name: str, way: str) -> Model:
    """A model by backend and precision; a GPU's precisions are computed on the CPU here, as exactly as there."""
    backend, precision = way.split(":")
    if precision not in ("fp16", "fp8"):
        return aminoglot.load(name, precision=precision, backend=backend)  # type: ignore[arg-type]
    model = aminoglot.load(name, device="cpu", precision="fp32", backend="torch")
    prepare(model._network, precision)  # type: ignore[arg-type]
    return model


def compare(model: str, way: str, sequences: list[str]) -> dict[str, float]:
    exact = aminoglot.load(model, precision="fp32", backend="torch").embed(sequences, per="both")
    rounded = rounded_model(model, way).embed(sequences, per="both")
    errors = centred_errors(exact.protein, rounded.protein)
    residue, residue_rounded = np.concatenate(exact.residue), np.concatenate(rounded.residue)
    residue_errors = centred_errors(residue, residue_rounded)
    return {
        "mean_cosine_smallest": float(cosines(exact.protein, rounded.protein).min()),
        "residue_cosine_smallest": float(cosines(residue, residue_rounded).min()),
        "mean_error_median": float(np.median(errors)),
        "mean_error_largest": float(errors.max()),
        "residue_error_median": float(np.median(residue_errors)),
        "residue_error_largest": float(residue_errors.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, default=Path(__file__).parent.parent / "examples" / "ecoli.fasta")
    parser.add_argument("--models", nargs="+", default=["random:esm2-8m", "random:esm2-35m", "random:esm2-150m"])
    parser.add_argument("--ways", nargs="+", default=["torch:bf16", "openvino:bf16", "torch:fp8"])
    parser.add_argument("--proteins", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", aminoglot.AminoglotWarning)
    records = [r for r in Reader([Source(str(options.fasta), options.fasta)]) if isinstance(r, Protein)]
    sequences = [record.sequence.decode() for record in records[: options.proteins]]
    rows = {f"{model} {way}": compare(model, way, sequences) for model in options.models for way in options.ways}
    print(f"{len(sequences)} proteins; smallest cosine, then relative error without the mean vector (median, largest)")
    print(
        f"{'model, way':32} {'cos mean':>9} {'cos res.':>9} {'mean med':>9} {'mean max':>9} "
        f"{'res. med':>9} {'res. max':>9}"
    )
    for model, row in rows.items():
        print(
            f"{model:32} "
            + " ".join(f"{value:9.6f}" if i < 2 else f"{value:9.2e}" for i, value in enumerate(row.values()))
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
