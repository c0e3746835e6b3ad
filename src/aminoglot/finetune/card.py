"""The card of a run, README.md: what it predicts, how well, from what, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aminoglot.errors import plural
from aminoglot.finetune.balance import Balance
from aminoglot.finetune.fitting import History
from aminoglot.finetune.metrics import MAIN, Interval
from aminoglot.finetune.outcome import Scored
from aminoglot.finetune.predictor import Recipe
from aminoglot.finetune.results import LABELS, LEARNING, PREDICTIONS
from aminoglot.version import __version__

_METHODS = {
    "head": "a head on embeddings that were not changed",
    "lora": "a head, and LoRA in the model's blocks",
    "full": "a head, and all of the model's weights",
}
_ABOUT = {
    "model": "this run",
    "composition": "the same head on letters alone",
    "constant": "one answer for all",
}


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        recipe: of the predictor.
        balance: of the data.
        counts: how many records became what.
        how: how proteins were dealt out.
        notes: what the user was told.
        history: of the fit.
        scores: on the test set, else on validation; this run's first.
        split: which of the two.
        gained: over composition.
        trained: how many values learnt.
        precision: of the model's products.
        asked: the options.
        drawn: the pictures that there are.
    """

    recipe: Recipe
    balance: Balance
    counts: Sequence[tuple[str, int]]
    how: str
    notes: Sequence[str]
    history: History
    scores: Sequence[Scored]
    split: str
    gained: Interval
    trained: int
    precision: str
    asked: Mapping[str, Any]
    drawn: Sequence[str]


def card(facts: Facts) -> str:
    """The whole text, in Markdown."""
    recipe = facts.recipe
    what = f"one of {len(recipe.classes)} classes" if recipe.classes else "a number"
    lines = [
        f"# {recipe.target}: {what} a {recipe.per}\n",
        f"Fine-tuned by aminoglot {__version__} on {recipe.model}: {_METHODS[recipe.method]} "
        f"({recipe.head['name']}; {plural(facts.trained, 'value')} learnt), layer {recipe.layer}, in "
        f"{facts.precision}. Epoch {facts.history.best[0] + 1} of {len(facts.history.train)} was kept, chosen on "
        "validation alone.\n",
        "```\naminoglot predict THIS_FOLDER proteins.fasta -o predictions.tsv\n```\n",
        f"## How well\n\nOn the {facts.split} proteins, "
        + ("which were used once:\n" if facts.split == "test" else "which also chose the epoch (there is no test):\n"),
        *_table(facts),
    ]
    gained = facts.gained
    lines.append(
        f"\nOver composition: {gained.value:+.3f} ({gained.limits('+')}) in {_main(facts)}. "
        "Intervals hold 95 % of a bootstrap over proteins."
    )
    lines += [f"\n![{name}]({name})" for name in facts.drawn if name in (PREDICTIONS, LEARNING)]
    lines += ["\n## From what\n", f"Proteins were dealt out {facts.how}.\n"]
    lines += [f"- {line}" for line in facts.balance.lines()]
    lines += [f"- {plural(count, 'record')} {status}" for status, count in facts.counts]
    lines += [f"- note: {_flat(line)}" for line in (*facts.notes, *facts.balance.notes())]
    lines += [f"\n![{name}]({name})" for name in facts.drawn if name == LABELS]
    lines += [*_classes(facts.balance), "\n## Asked\n", f"```json\n{json.dumps(facts.asked, indent=1)}\n```"]
    return "\n".join(lines) + "\n"


def _main(facts: Facts) -> str:
    return MAIN[facts.recipe.kind]


def _flat(line: str) -> str:
    return " ".join(line.split())


def _table(facts: Facts) -> Iterator[str]:
    main = _main(facts)
    others = [name for name in facts.scores[0].scores if name != main]
    yield f"| | {main} (95 %) | {' | '.join(name.replace('_', ' ') for name in others)} |"
    yield f"|---|---|{'---|' * len(others)}"
    for one in facts.scores:
        cells = " | ".join(f"{one.scores[name]:.3f}" for name in others)
        yield f"| {one.name}: {_ABOUT[one.name]} | {one.main} | {cells} |"


def _classes(balance: Balance) -> Iterator[str]:
    if not balance.classes:
        return
    yield "\n| class | train | validation | test | median length |\n|---|---|---|---|---|"
    for name, (train, validation, test) in balance.classes.items():
        length = f"{balance.class_lengths[name]:,.0f}" if name in balance.class_lengths else ""
        yield f"| {name} | {train:,} | {validation:,} | {test:,} | {length} |"
