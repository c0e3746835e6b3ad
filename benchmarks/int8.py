"""What int8 would give on this CPU: speed and accuracy of ESM-2 with int8 products, beside bf16 and fp32.

    python benchmarks/int8.py --fasta uniref90_10k.fasta.gz [--models esm2-8m esm2-150m] [--json FILE]

Every linear layer has weights of 8 bits, a scale for each row, and activations that OpenVINO rounds to 8 bits as they
come, a scale for each token. One core, one protein at a time, the precisions alternating. Weights are random: trained
ones have activations that are far larger than their neighbours, which is where int8 loses most. So a bad figure here
settles the matter, and a good one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch import nn

from aminoglot.checkpoints import resolve
from aminoglot.engine import openvino as backend
from aminoglot.models.esm2 import ESM2
from aminoglot.packing import Packed
from aminoglot.tokens import ESM2_ALPHABET
from embed_cpu import machine, sample

PROTEINS = 24
WAYS = ("fp32", "bf16", "int8")


def int8_linear(op: Any, x: Any, linear: nn.Linear) -> Any:
    """A product with weights of 8 bits, a scale for each row."""
    weight = linear.weight.detach().float()
    scale = weight.abs().amax(1, keepdim=True) / 127
    whole = op.convert(op.constant((weight / scale).round().to(torch.int8).numpy()), "f32")
    product = op.matmul(x, op.multiply(whole, op.constant(scale.numpy())), False, True)
    return op.add(product, op.constant(linear.bias.detach().float().numpy()))


def compiled(network: ESM2, way: str) -> Any:
    """A request on one core."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    plain = backend._linear
    if way == "bf16":
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    if way == "int8":
        backend._linear = int8_linear
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = network.config.hidden
    try:
        graph = backend._graph(network, [network.config.layers], "bf16" if way == "bf16" else "fp32")
    finally:
        backend._linear = plain
    return openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()


def run(request: Any, network: ESM2, sequence: str) -> tuple[float, np.ndarray]:
    """Seconds, and the mean vector of one protein."""
    ids = ESM2_ALPHABET.encode([ESM2_ALPHABET.framed(sequence.encode())])
    step = backend._step(network.config)
    width = -(-len(ids) // step) * step
    with torch.inference_mode():
        x_TD = network.embedded(Packed.of(ids, [len(ids)]))
    rows = [slice(0, len(ids))]
    inputs = [backend._rectangle(x_TD, rows, width), *backend._tables(width, network)]
    inputs += [backend._mask(rows, width)] if step > 1 else []
    arrays = [one.numpy() for one in inputs]
    started = time.perf_counter()
    found = next(iter(request.infer(arrays, share_inputs=True, share_outputs=True).values()))
    return time.perf_counter() - started, found[0, 1 : 1 + len(sequence)].mean(0)


def measure(name: str, sequences: list[str], repeats: int) -> dict[str, Any]:
    """Residues a second of one core, and how far mean vectors are from fp32's, by way."""
    network = resolve(f"random:{name}").network()
    assert isinstance(network, ESM2)
    requests = {way: compiled(network, way) for way in WAYS}
    seconds = {way: [0.0] * len(sequences) for way in WAYS}
    means: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for index, sequence in enumerate(sequences):
        for way, request in requests.items():
            means[way].append(run(request, network, sequence)[1])
            seconds[way][index] = min(run(request, network, sequence)[0] for _ in range(repeats))
    exact = np.stack(means["fp32"])
    result = {}
    for way in WAYS:
        found = np.stack(means[way])
        cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
        error = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact - exact.mean(0), axis=1)
        result[way] = {
            "residues_per_second": sum(map(len, sequences)) / sum(seconds[way]),
            "smallest_cosine": float(cosine.min()),
            "median_error": float(np.median(error)),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["esm2-8m", "esm2-150m", "esm2-650m"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    described = machine()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": described, "models": {}}
    for name in options.models:
        sequences = sorted(sample(options.fasta, 300 * PROTEINS)[:PROTEINS], key=len)
        results["models"][name] = measure(name, sequences, options.repeats)
        for way, row in results["models"][name].items():
            print(
                f"{name:10} {way}: {row['residues_per_second']:8,.0f} residues/s of one core, smallest cosine "
                f"{row['smallest_cosine']:.6f}, error beside the spread of proteins {row['median_error']:.3f} (median)",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
