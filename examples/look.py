"""Open a file of embeddings and show what is in it; `make demo` ends with this.

python examples/look.py demo/ecoli.h5
"""

from __future__ import annotations

import sys

import h5py

import aminoglot


def main(path: str) -> None:
    with aminoglot.open(path) as store:
        name = store.ids[0]
        matrix = store.matrix()
        print(f"{path}: {len(store)} proteins, model {store.provenance['model']}, matrix {matrix.shape} {matrix.dtype}")
        print(f"aminoglot.open(path)[{name!r}] = {store[name][:4]} ...")
    with h5py.File(path) as file:
        print(f"h5py.File(path)[{name!r}]      = {file[name][:4]} ...")


if __name__ == "__main__":
    main(sys.argv[1])
