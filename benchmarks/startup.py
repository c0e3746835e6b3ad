"""How long `aminoglot --help` takes, beside an interpreter that does nothing.

python benchmarks/startup.py [--runs 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "aminoglot --help": [sys.executable, "-m", "aminoglot", "--help"],
    "aminoglot embed --help": [sys.executable, "-m", "aminoglot", "embed", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):  # interleaved; the first round only warms the disk's cache
        for name, command in COMMANDS.items():
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.monotonic() - started)
    rows = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"{'command':24} {'median s':>9} {'max s':>7}")
    for name, median in rows.items():
        print(f"{name:24} {median:9.3f} {max(seconds[name][1:]):7.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
