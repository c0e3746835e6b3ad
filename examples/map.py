"""A map of a proteome: every protein a point, near those with a similar embedding; `make demo` ends with this.

    python examples/map.py proteome.h5 proteome.fasta.gz map.png

Colours are by words in the proteins' names, which the model never saw.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import aminoglot
from aminoglot import drawing
from aminoglot.sequences import Protein, Reader, Source

KINDS = {
    "transport and membrane": ("transport", "permease", "inner membrane", "porin", "symporter", "efflux", "exporter"),
    "ribosome": ("ribosomal subunit protein", "ribosomal protein"),
    "DNA-binding, regulators": ("dna-binding", "transcriptional", "regulator", "repressor", "activator"),
    "fimbriae, outer membrane, secreted": ("fimbria", "outer membrane", "lipoprotein", "flagell", "autotransporter"),
    "enzymes": ("ase ", "ase,", "ase/"),
}
"""What names contain; the first that fits counts."""
REST, PALE, SMALL = "others", "enzymes", "proteins of under 60 residues"


def kind(name: str, length: int) -> str:
    """What a protein is, as far as its name tells."""
    if length < 60:
        return SMALL
    words = f"{name.lower()} "
    return next((kind for kind, signs in KINDS.items() if any(sign in words for sign in signs)), REST)


def main() -> None:
    embeddings, fasta, picture = map(Path, sys.argv[1:4])
    kinds = {
        record.id: kind(record.description.split(" OS=")[0], len(record.sequence))
        for record in Reader([Source(fasta.name, fasta)])
        if isinstance(record, Protein)
    }
    with aminoglot.open(embeddings) as store:
        names, matrix, model = store.ids, store.matrix(), store.provenance["model"]
    matrix = (matrix - matrix.mean(0)) / matrix.std(0)
    reduced = PCA(30, random_state=0).fit_transform(matrix)
    points = TSNE(perplexity=30, init="pca", random_state=0, n_jobs=2).fit_transform(reduced)
    figure = drawing.figure(9, 7)
    axes = drawing.plain(figure.add_subplot(), f"{fasta.name}: {len(names):,} proteins as {model} sees them (t-SNE)")
    shown = [REST, PALE, *(one for one in KINDS if one != PALE), SMALL]  # what is everywhere lies below the rest
    colours = ["#dcdcdc", "#b3c3d1", *drawing.PALETTE]
    of = np.array([kinds[name] for name in names])
    for label, colour in zip(shown, colours, strict=False):
        chosen = of == label
        axes.scatter(
            *points[chosen].T, s=5 if label in (REST, PALE) else 8, color=colour, label=f"{label} ({chosen.sum():,})"
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, markerscale=2, loc="upper left", bbox_to_anchor=(0, 0))
    drawing.write(figure, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
