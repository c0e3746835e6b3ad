"""What the bundled model saw: which of the prepared proteins, in which clusters, and which were held out.

    python examples/bundled/training_set.py save CORPUS proteins.fasta.gz training_set.parquet
    python examples/bundled/training_set.py restore training_set.parquet proteins.fasta.gz LAYOUT
    aminoglot corpus import LAYOUT -o CORPUS

The table tells whether a protein of yours was in training. From it the training set can be made again in a minute; to
find it took MMseqs2 more than an hour.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aminoglot.corpus import Corpus
from aminoglot.sequences import Protein, Reader, Source

TRAIN, VALID, MEMBERS, MAPPING = (
    "uniref50_train_filt.fasta",
    "uniref50_valid.fasta",
    "ur90_ur50_sampler.fasta",
    "mapping.tsv",
)
"""NVIDIA's names, which `aminoglot corpus import` knows."""


def proteins(path: Path) -> dict[str, bytes]:
    """Sequences by name."""
    return {one.id: one.sequence for one in Reader([Source(path.name, path)]) if isinstance(one, Protein)}


def save(corpus: Corpus, prepared: Path, out: Path) -> None:
    """Write a row for each prepared protein: its number, its cluster, and whether that trains or is held out."""
    place = {name: row for row, name in enumerate(proteins(prepared))}
    rows, clusters, leads, splits = [], [], [], []
    for split in ("train", "validation"):
        for cluster in corpus.split(split).tolist():
            for at, row in enumerate(corpus.member_rows(cluster).tolist()):
                where, number = corpus.place(row)
                rows.append(place[where.name(number)])
                clusters.append(cluster)
                leads.append(at == 0)
                splits.append(split == "train")
    _, numbers = np.unique(clusters, return_inverse=True)
    columns = {
        "protein": pa.array(rows, pa.int32()),
        "cluster": pa.array(numbers, pa.int32()),
        "represents": pa.array(leads),
        "train": pa.array(splits),
    }
    table = pa.table(columns).sort_by([("protein", "ascending")])
    pq.write_table(table, out, compression="zstd", compression_level=19)
    print(f"wrote {out}: {len(table):,} proteins, {out.stat().st_size / 1e6:.2f} MB")


def restore(table: Path, prepared: Path, out: Path) -> None:
    """Write the training set in NVIDIA's layout."""
    names = list(sequences := proteins(prepared))
    rows = pq.read_table(table).sort_by([("cluster", "ascending"), ("represents", "descending")]).to_pylist()
    out.mkdir(parents=True)
    groups: dict[int, list[str]] = {}
    trains: dict[int, bool] = {}
    for row in rows:
        groups.setdefault(row["cluster"], []).append(names[row["protein"]])
        trains[row["cluster"]] = row["train"]
    with (
        (out / TRAIN).open("wb") as train,
        (out / VALID).open("wb") as valid,
        (out / MEMBERS).open("wb") as members,
        (out / MAPPING).open("w") as mapping,
    ):
        mapping.write("UR50_cluster_name\tmapped_id\n")
        for cluster, group in groups.items():
            record = b">%s\n%s\n" % (group[0].encode(), sequences[group[0]])
            (train if trains[cluster] else valid).write(record)
            if trains[cluster]:
                mapping.write(f"{group[0]}\t{','.join(group)}\n")
                for name in group:
                    members.write(b">%s\n%s\n" % (name.encode(), sequences[name]))
    print(
        f"wrote {out}: {sum(trains.values()):,} clusters to train on, {len(trains) - sum(trains.values()):,} held out"
    )


def main() -> None:
    what, first, prepared, out = sys.argv[1], *map(Path, sys.argv[2:5])
    if what == "save":
        save(Corpus(first), prepared, out)
    elif what == "restore":
        restore(first, prepared, out)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
