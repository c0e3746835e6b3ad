"""Other people's numbers on FLIP, copied as data: each with its source, split, and head where those are known.

They come from harnesses that differ, and are no rows of one table with ours. Where two sources disagree both are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aminoglot.evaluate.tasks import TaskName

NOT_DOCUMENTED = "how it was run is not documented"
_PAGE = "NVIDIA BioNeMo 1, docs/bionemo/models/model-benchmarks.md"
_CARD = "NVIDIA, model card of ProtT5nv"
_ESM2_PAGE = "NVIDIA BioNeMo 1.10, docs, esm2-nv.md"
_SCHMIRLER = "Schmirler, Heinzinger, Rost 2024, doi:10.1038/s41467-024-51844-2, supplement (CC BY 4.0)"
_PLMFIT = "PLMFit (LSSI-ETH/plmfit, 0403574), results_matrices.py"
_PROTTRANS = "ProtTrans, README"
_ANKH = "Ankh, README"
_DEEPLOC = "Almagro Armenteros et al. 2017 (DeepLoc)"


@dataclass(frozen=True)
class Published:
    """One number.

    Attributes:
        task: which.
        split: by FLIP's name.
        model: as people write it.
        metric: ``accuracy``, ``mse``, ``rmse`` or ``spearman``; accuracies as shares of one.
        value: the number.
        trained: what of the network: ``frozen``, ``fine-tuned``, ``trained from random weights``, ``no network``.
        head: what it was told with; None where that is not said.
        source: who says so.
        note: what one has to know besides.
    """

    task: TaskName
    split: str
    model: str
    metric: str
    value: float
    trained: str
    head: str | None
    source: str
    note: str = ""


_MODELS = {
    "one-hot": (0.643, 0.386, 0.202, 128.21, 2.56),
    "ESM-1nv 44M": (0.773, 0.720, 0.249, 82.85, 1.58),
    "ProtT5nv": (0.793, 0.764, 0.256, 77.39, 1.60),
    "ProtBERT": (0.818, 0.740, 0.326, 58.87, 1.61),
    "ProtT5-XL": (0.854, 0.820, 0.343, 44.76, 1.69),
    "ESM-2 650M": (0.855, 0.791, 0.329, 53.38, 1.67),
    "ESM-2 3B": (0.861, 0.812, 0.337, 45.78, 1.64),
    "ESM-2 15B": (0.867, 0.839, 0.340, 39.49, 1.52),
}
"""Of NVIDIA's page: secondary structure, localization, conservation, meltome, GB1."""
_PAGE_TASKS: tuple[tuple[TaskName, str, str, str], ...] = (
    ("secondary_structure", "sampled", "accuracy", "which test set (364 or 648) is not said"),
    ("scl", "mixed_soft", "accuracy", ""),
    ("conservation", "sampled", "accuracy", ""),
    ("meltome", "mixed_split", "mse", ""),
    ("gb1", "two_vs_rest", "mse", "a constant has 1.568; ProtT5nv's card has the counts of the split sampled"),
)


def _page() -> Iterator[Published]:
    for model, values in _MODELS.items():
        trained = "no network" if model == "one-hot" else "frozen"
        for (task, split, metric, note), value in zip(_PAGE_TASKS, values, strict=True):
            said = "; ".join(part for part in (NOT_DOCUMENTED, note) if part)
            yield Published(task, split, model, metric, value, trained, None, _PAGE, said)
    note = f"on 648 proteins; {NOT_DOCUMENTED}"
    yield Published("secondary_structure", "sampled_648", "ProtT5nv", "accuracy", 0.793, "frozen", None, _CARD, note)


def _esm2_page() -> Iterator[Published]:
    """The same company's other page, which disagrees with the first."""
    note = f"disagrees with the other page of NVIDIA's; {NOT_DOCUMENTED}"
    head = "a small head"
    for model, structure, gb1, conservation, meltome in (
        ("ESM-2 650M", 0.852, 1.29, 0.332, 7.19),
        ("ESM-2 3B", 0.857, 1.28, 0.345, 6.68),
    ):
        yield Published(
            "secondary_structure", "sampled", model, "accuracy", structure, "frozen", head, _ESM2_PAGE, note
        )
        yield Published("gb1", "two_vs_rest", model, "rmse", gb1, "frozen", head, _ESM2_PAGE, note)
        yield Published("conservation", "sampled", model, "accuracy", conservation, "frozen", head, _ESM2_PAGE, note)
        yield Published("meltome", "mixed_split", model, "rmse", meltome, "frozen", head, _ESM2_PAGE, note)


_SCHMIRLER_MODELS = (
    *("ProtT5-XL", "ESM-2 8M", "ESM-2 35M", "ESM-2 150M", "ESM-2 650M", "ESM-2 3B", "Ankh base", "Ankh large"),
)
_SCHMIRLER_TASKS: tuple[tuple[TaskName, str, str, str], ...] = (
    ("meltome", "mixed_split", "spearman", ""),
    ("gb1", "three_vs_rest", "spearman", ""),
    ("secondary_structure", "sampled", "accuracy", "364 proteins (NEW364)"),
    ("scl", "mixed_hard", "accuracy", "490 proteins (setHARD)"),
)
_FROZEN = (
    (69.4, 56.4, 58.6, 61.7, 65.6, 67.7, 57.8, 62.0),
    (85.2, 81.8, 82.7, 83.3, 85.7, 86.6, 84.7, 85.4),
    (84.3, 75.3, 78.2, 82.2, 84.7, 85.6, 84.4, 86.0),
    (61.3, 52.0, 54.9, 59.4, 62.9, 64.2, 60.3, 60.6),
)
_TUNED = (
    (72.6, 58.4, 59.8, 62.6, 66.4, 69.9, 61.3, 59.9),
    (87.9, 88.3, 87.9, 87.9, 87.9, 89.3, 86.5, 88.8),
    (84.9, 76.1, 79.1, 82.8, 85.5, 86.4, 84.0, 85.7),
    (65.1, 55.9, 58.1, 61.6, 63.8, 67.8, 62.5, 62.8),
)
_FULL = ("ESM-2 8M", "ESM-2 35M", "ESM-2 150M", "ESM-2 650M")
"""Fine-tuned in full; the others by LoRA."""
_RANDOM: Mapping[str, Sequence[float]] = {"ESM-2 8M": (52.7, 85.7, 70.8, 47.0), "ESM-2 150M": (51.3, 87.0, 70.8, 45.9)}


def _schmirler() -> Iterator[Published]:
    for (task, split, metric, note), frozen, tuned in zip(_SCHMIRLER_TASKS, _FROZEN, _TUNED, strict=True):
        head = "no-context" if task == "secondary_structure" else None
        for model, before, after in zip(_SCHMIRLER_MODELS, frozen, tuned, strict=True):
            yield Published(task, split, model, metric, _share(before), "frozen", head, _SCHMIRLER, note)
            how = "fine-tuned" if model in _FULL else "fine-tuned (LoRA)"
            yield Published(task, split, model, metric, _share(after), how, None, _SCHMIRLER, note)
    for model, values in _RANDOM.items():
        for (task, split, metric, note), value in zip(_SCHMIRLER_TASKS, values, strict=True):
            how = "trained from random weights"
            yield Published(task, split, model, metric, _share(value), how, None, _SCHMIRLER, note)
    for model, value in (("homology", 39.8), ("RFA", 68.0)):
        yield Published("gb1", "three_vs_rest", model, "spearman", _share(value), "no network", None, _SCHMIRLER)


_BY_LAYER: Mapping[tuple[TaskName, str], Mapping[str, Sequence[float]]] = {
    ("gb1", "three_vs_rest"): {
        "650M": (0.550, 0.798, 0.743, 0.696, 0.768),
        "3B": (0.506, 0.791, 0.773, 0.694, 0.719),
        "15B": (0.512, 0.804, 0.783, 0.771, 0.769),
    },
    ("meltome", "mixed_split"): {
        "650M": (0.507, 0.504, 0.513, 0.456, 0.525),
        "3B": (0.402, 0.467, 0.374, 0.408, 0.454),
        "15B": (0.455, 0.588, 0.560, 0.549, 0.671),
    },
}
"""PLMFit's: at the first layer, a quarter, half, three quarters of the way, and the last."""


def _plmfit() -> Iterator[Published]:
    for task, split, value in (
        ("gb1", "three_vs_rest", 0.838),
        ("gb1", "one_vs_rest", 0.332),
        ("meltome", "mixed_split", 0.332),
    ):
        yield Published(task, split, "one-hot", "spearman", value, "no network", None, _PLMFIT)  # type: ignore[arg-type]
    for (name, split), sizes in _BY_LAYER.items():
        for size, values in sizes.items():
            for percent, value in zip((0, 25, 50, 75, 100), values, strict=True):
                note = f"layer at {percent} % of the depth"
                yield Published(name, split, f"ESM-2 {size}", "spearman", value, "frozen", None, _PLMFIT, note)


def _localization() -> Iterator[Published]:
    light = "light attention"
    for split, model, value, head, source in (
        ("mixed_soft", "ProtT5-XL", 81, "perceptron on the mean", _PROTTRANS),
        ("mixed_soft", "ProtBERT", 74, "perceptron on the mean", _PROTTRANS),
        ("mixed_soft", "ProtT5-XL", 86, light, _PROTTRANS),
        ("mixed_soft", "ESM-1b", 83, light, _PROTTRANS),
        ("mixed_soft", "ProtBERT-BFD", 80, light, _PROTTRANS),
        ("mixed_hard", "ProtT5-XL", 65, light, _PROTTRANS),
        ("mixed_hard", "ESM-1b", 62, light, _PROTTRANS),
        ("mixed_hard", "ProtBERT-BFD", 58, light, _PROTTRANS),
        ("mixed_soft", "DeepLoc 1.0", 77.97, "recurrent network with attention", _DEEPLOC),
        ("mixed_soft", "ESM-2 650M", 82.08, None, _ANKH),
        ("mixed_soft", "ESM-2 3B", 81.22, None, _ANKH),
        ("mixed_soft", "ESM-1b", 80.51, None, _ANKH),
        ("mixed_soft", "ProtT5-XL", 82.95, None, _ANKH),
        ("mixed_soft", "Ankh large", 83.01, None, _ANKH),
        ("mixed_soft", "Ankh base", 81.38, None, _ANKH),
    ):
        trained = "trained from random weights" if model == "DeepLoc 1.0" else "frozen"
        note = "DeepLoc's test set" if split == "mixed_soft" else "setHARD"
        yield Published("scl", split, model, "accuracy", _share(value), trained, head, source, note)


def _share(percent: float) -> float:
    return round(percent / 100, 6)


ROWS: tuple[Published, ...] = (*_page(), *_esm2_page(), *_schmirler(), *_plmfit(), *_localization())
"""All of them."""


def rows(task: TaskName) -> list[Published]:
    """Of one task: by split and metric, the best first."""
    return sorted(
        (row for row in ROWS if row.task == task),
        key=lambda row: (row.split, row.metric, row.value if row.metric in ("mse", "rmse") else -row.value),
    )
