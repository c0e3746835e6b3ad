"""Small UniRefs made up for tests: clusters with members, in all the files that UniProt publishes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from aminoglot.corpus.recipes import CANONICAL
from aminoglot.screen import Screen

QUIET = Screen()
QUIET.console.quiet = True


def protein(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list(CANONICAL), length))


def mutated(text: str, identity: float, seed: int) -> str:
    """As many residues changed, evenly, that so large a share stays."""
    generator = np.random.default_rng(seed)
    letters = list(text)
    for place in generator.choice(len(text), round(len(text) * (1 - identity)), replace=False):
        letters[place] = generator.choice([letter for letter in CANONICAL if letter != letters[place]])
    return "".join(letters)


@dataclass(frozen=True)
class Cluster:
    """A UniRef50 cluster: its representative's accession, and members (accession, UniRef90 cluster, sequence)."""

    accession: str
    members: list[tuple[str, str, str]]

    @property
    def id(self) -> str:
        return f"UniRef50_{self.accession}"

    @property
    def sequence(self) -> str:
        return self.members[0][2]


def clusters(count: int, seed: int = 0) -> list[Cluster]:
    """Clusters of one to four UniRef90 clusters of one or two members each."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        text = protein(int(generator.integers(30, 120)), seed * 100_000 + number)
        members = []
        for part in range(int(generator.integers(1, 5))):
            near = text if part == 0 else mutated(text, 0.7, number * 10 + part)
            for twin in range(int(generator.integers(1, 3))):
                accession = f"A{number:04d}{part}{twin}"
                members.append((accession, f"UniRef90_A{number:04d}{part}0", near if twin == 0 else near[:-1]))
        found.append(Cluster(members[0][0], members))
    return found


def fasta(path: Path, records: list[tuple[str, str]]) -> Path:
    text = "".join(f">{header}\n{sequence}\n" for header, sequence in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def uniref50(path: Path, some: list[Cluster]) -> Path:
    return fasta(path, [(f"{c.id} Some protein n={len(c.members)} RepID={c.accession}_X", c.sequence) for c in some])


def uniref90(path: Path, some: list[Cluster]) -> Path:
    """Representatives of UniRef90 clusters."""
    return fasta(path, [(ur90, text) for c in some for name, ur90, text in c.members if ur90.endswith(name)])


def all_members(path: Path, some: list[Cluster]) -> Path:
    return fasta(path, [(name, text) for c in some for name, _, text in c.members])


def mapping(path: Path, some: list[Cluster]) -> Path:
    lines = [f"{c.id}\t{','.join(name for name, _, _ in c.members)}" for c in some]
    path.write_text("\n".join(["UR50_cluster_name\tmapped_id", *lines]) + "\n")
    return path


def idmapping(path: Path, some: list[Cluster]) -> Path:
    """22 columns; UniRef90 and UniRef50 are the ninth and tenth."""
    rows = []
    for c in some:
        for name, ur90, _ in c.members:
            cells = [name, f"{name}_X", *[""] * 5, f"UniRef100_{name}", ur90, c.id, *[""] * 12]
            rows.append("\t".join(cells))
    path.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    return path


def xml50(path: Path, some: list[Cluster]) -> Path:
    """UniRef50's XML as UniProt writes it, the representative first."""
    parts = [
        '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<UniRef50 xmlns="http://uniprot.org/uniref" version="2021_04">'
    ]
    for c in some:
        parts.append(f'<entry id="{c.id}" updated="2021-11-17">\n<name>Cluster: some &amp; more</name>')
        for number, (name, ur90, text) in enumerate(c.members):
            tag = "representativeMember" if number == 0 else "member"
            parts.append(
                f'<{tag}>\n<dbReference type="UniProtKB ID" id={quoteattr(name + "_X")}>\n'
                f'<property type="UniProtKB accession" value="{name}"/>\n'
                f'<property type="UniRef100 ID" value="UniRef100_{name}"/>\n'
                f'<property type="UniRef90 ID" value="{ur90}"/>\n</dbReference>'
            )
            if number == 0:
                parts.append(f'<sequence length="{len(text)}" checksum="0">{text}</sequence>')
            parts.append(f"</{tag}>")
        parts.append("</entry>")
    path.write_text("\n".join([*parts, "</UniRef50>\n"]))
    return path


def xml90(path: Path, some: list[Cluster]) -> Path:
    """UniRef90's XML, whose members name their UniRef50 cluster."""
    parts = ['<?xml version="1.0"?>\n<UniRef90 xmlns="http://uniprot.org/uniref">']
    for c in some:
        for ur90 in dict.fromkeys(ur90 for _, ur90, _ in c.members):
            parts.append(f'<entry id="{ur90}">')
            for name in (name for name, whose, _ in c.members if whose == ur90):
                parts.append(
                    f'<member><dbReference type="UniProtKB ID" id="{name}_X">'
                    f'<property type="UniProtKB accession" value="{name}"/>'
                    f'<property type="UniRef50 ID" value="{c.id}"/></dbReference></member>'
                )
            parts.append("</entry>")
    path.write_text("".join([*parts, "</UniRef90>"]))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
