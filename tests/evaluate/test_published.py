"""Other people's numbers are those that they published."""

from __future__ import annotations

import json

from aminoglot.evaluate.published import NOT_DOCUMENTED, ROWS, rows
from tests.sequences.files import shared

NAMES = {"one_hot": "one-hot", "ESM1nv": "ESM-1nv 44M", "ProtT5": "ProtT5-XL"}


def name(theirs: str) -> str:
    return NAMES.get(theirs) or theirs.replace("ESM2_", "ESM-2 ").replace("Ankh_", "Ankh ")


def value(task: str, split: str, model: str, metric: str, source: str, trained: str = "") -> float:
    (found,) = (
        row.value
        for row in ROWS
        if (row.task, row.split, row.model, row.metric) == (task, split, model, metric)
        and source in row.source
        and trained in (row.trained, "")
        and "%" not in row.note
    )
    return found


def test_nvidia_s_page_against_the_copied_numbers() -> None:
    page = json.loads(shared("reference/reference_numbers.json").read_text())["bionemo_v1_model_benchmarks"]
    for task, split, key, metric in (
        ("secondary_structure", "sampled", "secondary_structure_accuracy", "accuracy"),
        ("scl", "mixed_soft", "scl_accuracy", "accuracy"),
        ("conservation", "sampled", "conservation_accuracy", "accuracy"),
        ("meltome", "mixed_split", "meltome_mse", "mse"),
        ("gb1", "two_vs_rest", "gb1_mse", "mse"),
    ):
        assert len(page[key]) == 8
        for model, number in page[key].items():
            assert value(task, split, name(model), metric, "model-benchmarks.md") == number


def test_schmirler_against_the_copied_numbers() -> None:
    found = json.loads(shared("reference/reference_numbers.json").read_text())["schmirler_2024"]
    splits = {
        "meltome": ("meltome", "mixed_split", "spearman"),
        "gb1": ("gb1", "three_vs_rest", "spearman"),
        "secondary_structure": ("secondary_structure", "sampled", "accuracy"),
        "scl_setHARD": ("scl", "mixed_hard", "accuracy"),
    }
    frozen, tuned = found["frozen_percent"], found["finetuned_percent"]
    for key, (task, split, metric) in splits.items():
        for place, model in enumerate(frozen["models"]):
            how = {"full": "fine-tuned", "LoRA": "fine-tuned (LoRA)"}[tuned["mode"][place]]
            assert value(task, split, name(model), metric, "Schmirler", "frozen") == round(frozen[key][place] / 100, 6)
            assert value(task, split, name(model), metric, "Schmirler", how) == round(tuned[key][place] / 100, 6)
        for model, numbers in found["random_init_finetuned"].items():
            how = "trained from random weights"
            assert value(task, split, name(model), metric, "Schmirler", how) == numbers[key]


def test_plmfit_against_the_copied_numbers() -> None:
    found = json.loads(shared("reference/reference_numbers.json").read_text())["plmfit"]
    for task, split, key in (
        ("gb1", "three_vs_rest", "gb1_three_vs_rest"),
        ("meltome", "mixed_split", "meltome_mixed"),
    ):
        assert value(task, split, "one-hot", "spearman", "PLMFit") == found["one_hot"][key]
        for size, numbers in found["esm2_frozen_by_layer_0_25_50_75_100pct"][key].items():
            ours = [
                r.value for r in ROWS if (r.task, r.split, r.model) == (task, split, f"ESM-2 {size}") and "%" in r.note
            ]
            assert ours == numbers


def test_where_sources_disagree_both_are_there() -> None:
    """NVIDIA's two pages on ESM-2 650M and meltome: 53.38, and 7.19 squared, which is 51.7."""
    assert value("meltome", "mixed_split", "ESM-2 650M", "mse", "model-benchmarks.md") == 53.38
    assert value("meltome", "mixed_split", "ESM-2 650M", "rmse", "esm2-nv.md") == 7.19
    assert value("secondary_structure", "sampled", "ESM-2 650M", "accuracy", "model-benchmarks.md") == 0.855
    assert value("secondary_structure", "sampled", "ESM-2 650M", "accuracy", "esm2-nv.md") == 0.852


def test_every_row_says_where_it_is_from() -> None:
    for row in ROWS:
        assert row.source
        assert row.metric in ("accuracy", "mse", "rmse", "spearman")
        assert 0 < row.value < (150 if row.metric == "mse" else 8 if row.metric == "rmse" else 1)
        if "NVIDIA" in row.source:
            assert NOT_DOCUMENTED in row.note
    assert len({(r.task, r.split, r.model, r.metric, r.trained, r.source, r.head, r.note) for r in ROWS}) == len(ROWS)


def test_the_models_that_are_asked_for() -> None:
    models = {row.model for row in ROWS}
    wanted = {"ESM-1nv 44M", "ProtT5nv", "ProtT5-XL", "ProtBERT", *(f"ESM-2 {s}" for s in ("8M", "35M", "150M"))}
    assert wanted | {"ESM-2 650M", "ESM-2 3B", "ESM-2 15B", "one-hot"} <= models


def test_the_best_come_first() -> None:
    found = [row.value for row in rows("gb1") if (row.split, row.metric) == ("two_vs_rest", "mse")]
    assert found == sorted(found)
    found = [row.value for row in rows("scl") if row.split == "mixed_soft"]
    assert found == sorted(found, reverse=True)
