"""What reading a checkpoint takes: seconds, and memory beyond its weights, mapped pages counted.

    python benchmarks/reading.py esm2_3b.nemo

A file to try it on: ``aminoglot convert random:esm2-3b esm2_3b.nemo --to nemo1`` (11.4 GB).
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from aminoglot.checkpoints import resolve


def high() -> int:
    """The most memory that this process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None, "this needs Linux"
    return 1024 * int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    options = parser.parse_args()
    resolve("random:esm2-tiny")  # what any model costs
    before, started = high(), time.perf_counter()
    checkpoint = resolve(options.model)
    seconds = time.perf_counter() - started
    weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    beyond = high() - before - weights
    print(f"{weights / 2**30:.2f} GiB of weights, {beyond / 2**30:.2f} GiB beyond them, {seconds:.1f} s")


if __name__ == "__main__":
    main()
