"""The bundled model's files, from the run that trained it.

    python examples/bundled/pack.py RUN OUT [FLIP]

Writes RUN's exported model into the folder OUT, its numbers in 16 bits, and OUT/README.md, its card. FLIP is the folder
that ``aminoglot flip`` wrote for it; without one the card says nothing of what its embeddings are good for. corpus.json
beside this script is the training set's own card, as ``aminoglot corpus build`` wrote it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from aminoglot.evaluate.results import read

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
NAME = "aminoglot-5m"

INTRODUCTION = """# {name}

A small protein language model, an ESM-2 of 6 layers, width 256 and 4 heads: {parameters:,} parameters. It comes with
aminoglot so that everything works at once, without a download and on a laptop. It was trained by `aminoglot pretrain`,
from random weights, on {clusters:,} clusters of real proteins: {tokens} million tokens in {updates:,} updates. ESM-2's
own were trained on about a trillion. An embedding has 256 numbers; proteins of more than 1,022 residues are truncated
unless `--long` says otherwise.

## What it is for

A first look, tests, teaching: it knows how proteins are composed and something of what stands beside what. **Take a
larger one for work that counts**: `--model esm2-650m`, or `esm2-8m` where that must be small.

Do not use it to score mutations, to predict contacts (its contact head was never fitted, and the files have none), to
judge whether a protein works or is harmful, or for anything a person's health depends on. It saw mostly proteins of
{organisms}; of viruses, plants and animals it saw little beside Swiss-Prot's eukaryotes.
"""

MADE = """
## How it was made

    python examples/bundled/prepare.py DATA .
    aminoglot corpus build --fasta proteins.fasta.gz --exclude excluded.fasta.gz -o corpus
    aminoglot pretrain configs/bundled.toml --corpus corpus -o run
    aminoglot flip --model run/model --data DATA/flip -o flip
    python examples/bundled/pack.py run {name} flip

DATA holds reference proteomes and Swiss-Prot's eukaryotes (UniProt, CC BY 4.0), samples of UniRef, and FLIP's sets. The
first three are learnt from, {sequences:,} distinct sequences; FLIP's are not. All
validation and test proteins of FLIP's secondary structure (both sets), conservation and localization, and GB1's bare
domain, were kept out of training, and with them every protein in which MMseqs2 finds one of them at 50 % identity over
80 % of its length (`--exclude`). `examples/bundled/training_set.parquet` says which proteins were left. What that
cannot exclude: relatives of less than 50 % identity, which may still have the same fold, and what MMseqs2 does not
find. What it excluded, and the run's settings:

```json
{settings}
```

Licence: Apache-2.0.
"""


def weights(run: Path, out: Path) -> int:
    """Write the weights in 16 bits; how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(run / "model" / WEIGHTS)
    largest = max(float(tensor.abs().max()) for tensor in tensors.values())
    if largest > torch.finfo(torch.float16).max:
        raise SystemExit(f"a weight of {largest:g} does not fit into 16 bits")
    save_file({key: tensor.half() for key, tensor in tensors.items()}, out / WEIGHTS, {"format": "pt"})
    shutil.copyfile(run / "model" / CONFIG, out / CONFIG)
    return sum(tensor.numel() for key, tensor in tensors.items() if "inv_freq" not in key)  # nobody trains those


def held_out(run: Path) -> str:
    """The table of the run's own card: this model, the same untrained, letter frequencies, chance."""
    text = (run / "model" / CARD).read_text()
    table = text.split("## Held out\n")[1].split("Perplexities")[0].strip()
    chance = f"| one of 20 residues at random | {math.log(20):.4f} | 20.000 | 5.00% |"
    return f"\n## On proteins that were held out\n\n{table}\n{chance}\n"


def harness(flip: Path) -> str:
    """What its embeddings are good for, by ``aminoglot flip``: the published head on each kind of features."""
    found = read(flip / "results.json")
    kinds = ("model", "untrained", "one-hot", "composition")
    text = [
        "\n## Its embeddings, frozen\n",
        "`aminoglot flip`: small heads on frozen features, all in one harness; the head named, its epoch chosen on",
        f"validation; means of {found.seeds} seeds on the test set, in brackets limits by drawing proteins anew.",
        "Composition is what one-hot becomes in the mean over a protein. ESM-2 8M is published with 0.753 on the first",
        "(another harness, a head that sees one residue alone).\n",
        "| task, split | score, head | this model | the same, untrained | one-hot | composition |",
        "|---|---|---|---|---|---|",
    ]
    for split in found.splits:
        head = next(row.head for row in split.rows if row.published_head)
        cells = []
        for kind in kinds:
            rows = [row for row in split.rows if row.features == kind and row.head == head and row.best_layer]
            score = rows[0].scores[split.main] if rows else None
            cells.append(f"{score.mean:.3f} ({score.low:.3f} to {score.high:.3f})" if score is not None else "")
        what = f"{split.title}, `{split.split}`"
        text.append(f"| {what} | {split.score}, {head} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def card(run: Path, flip: Path | None, parameters: int) -> str:
    """The card, every number from what the run and the harness left."""
    asked = json.loads((run / "run.json").read_text())["config"]
    (state,) = (run / "states").glob(f"{asked['schedule']['updates']:09}/state.json")
    tokens = json.loads(state.read_text())["progress"]["tokens"] / 1e6
    corpus = json.loads((Path(__file__).parent / "corpus.json").read_text())["stages"]
    settings = {key: asked[key] for key in ("model", "batch", "optimizer", "schedule", "seed")}
    parts = [
        INTRODUCTION.format(
            name=NAME,
            parameters=parameters,
            clusters=corpus["result"]["train"],
            tokens=round(tokens),
            updates=asked["schedule"]["updates"],
            organisms="bacteria, yeasts, other fungi and unicellular parasites",
        ),
        held_out(run),
        harness(flip) if flip is not None else "",
        MADE.format(
            name=NAME,
            sequences=corpus["proteins"]["sequences"],
            settings=json.dumps({**settings, "corpus": corpus}, indent=1),
        ),
    ]
    return "".join(parts)


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    parameters = weights(run, out)
    flip = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    (out / CARD).write_text(card(run, flip, parameters))
    print(f"wrote {out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
