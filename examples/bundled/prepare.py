"""The proteins that the bundled model learns from, and those that are kept out of its training.

    python examples/bundled/prepare.py DATA OUT

Reads the real proteins of DATA (proteomes/ and uniref/) and writes OUT/proteins.fasta.gz, each distinct sequence once;
and from DATA/flip OUT/excluded.fasta.gz: all validation and test proteins of FLIP's secondary structure (both test
sets), conservation and subcellular localization, and the bare domain of GB1.

FLIP's own proteins and the alignments of DATA are not learnt from: of what lies there that leaves 124,168 sequences.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from aminoglot.sequences import Protein, Reader, Source

GB1_DOMAIN = 56
"""Residues of GB1's domain; the rest of FLIP's construct is a fusion partner that never varies."""
UNIREF = ("uniref50_train_filt.fasta", "ur90_ur50_sampler.fasta")


def proteins(path: Path) -> Iterator[Protein]:
    """The proteins of a FASTA file; anything else in it is an error."""
    for record in Reader([Source(path.name, path)]):
        if not isinstance(record, Protein):
            raise SystemExit(str(record))
        yield record


def unpacked(archive: Path, out: Path) -> Iterator[Path]:
    """The two FASTA files of the UniRef sample."""
    with zipfile.ZipFile(archive) as files:
        for entry in files.infolist():
            name = Path(entry.filename).name
            if name in UNIREF:
                (out / name).write_bytes(files.read(entry))
                yield out / name


def sources(data: Path, out: Path) -> Iterator[Path]:
    """All files with proteins to learn from."""
    yield from sorted((data / "proteomes").glob("*.fasta.gz"))
    yield from sorted((data / "uniref").glob("*.fasta.gz"))
    for archive in sorted((data / "uniref").glob("*.zip")):
        yield from unpacked(archive, out)


def held_out(data: Path) -> Iterator[tuple[str, bytes]]:
    """Validation and test proteins of FLIP, under names of their own."""
    flip = data / "flip"
    for task, split, letters in (
        ("secondary_structure", "sampled", "sequences"),
        ("secondary_structure", "sampled_648", "sequences_648"),
        ("conservation", "sampled", "sequences"),
    ):
        wanted = {name for name, header in headers(flip / task / f"{split}.fasta.gz") if is_held_out(header)}
        for protein in proteins(flip / task / f"{letters}.fasta.gz"):
            if protein.original_id in wanted:
                yield f"{task}/{split}/{protein.original_id}", protein.sequence
    for protein in proteins(flip / "scl" / "mixed_soft_rebuilt.fasta.gz"):
        if is_held_out(protein.description):
            yield f"scl/{protein.original_id}", protein.sequence
    construct = next(proteins(flip / "gb1" / "5LDE_1.fasta"))
    yield "gb1/domain", construct.sequence[:GB1_DOMAIN]


def headers(path: Path) -> Iterator[tuple[str, str]]:
    """Ids and descriptions of a FASTA file, whose records here are labels."""
    with gzip.open(path, "rt") as file:
        for line in file:
            if line.startswith(">"):
                name, _, rest = line[1:].strip().partition(" ")
                yield name, rest


def is_held_out(header: str) -> bool:
    """Whether FLIP's header puts a protein into validation or test."""
    return "SET=test" in header or "VALIDATION=True" in header


def write(path: Path, records: Iterator[tuple[str, bytes]]) -> int:
    """Write each distinct sequence once; the same bytes every time."""
    seen: set[bytes] = set()
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, io.BufferedWriter(packed) as file:
        for name, sequence in records:
            digest = hashlib.sha256(sequence).digest()
            if digest not in seen:
                seen.add(digest)
                file.write(b">%s\n%s\n" % (name.encode(), sequence))
    return len(seen)


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    learned = (
        (f"{path.name.split('.')[0]}/{number}/{protein.original_id}", protein.sequence)  # one file has an id twice
        for path in sources(data, out)
        for number, protein in enumerate(proteins(path))
    )
    print(f"{write(out / 'proteins.fasta.gz', learned):,} distinct proteins")
    print(f"{write(out / 'excluded.fasta.gz', held_out(data)):,} to be kept out")
    for name in UNIREF:
        (out / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
