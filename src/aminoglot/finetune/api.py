"""``aminoglot.fine_tune`` and ``aminoglot.predict``: the commands from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from aminoglot.embedding.job import Outcome
from aminoglot.finetune.options import (
    ClassWeights,
    Contradictions,
    HeadChoice,
    KindChoice,
    Method,
    Of,
    Options,
    PredictionOptions,
    SplitChoice,
    Target,
)
from aminoglot.finetune.prediction import predict as run_prediction
from aminoglot.finetune.run import Finetuned
from aminoglot.finetune.run import finetune as run
from aminoglot.settings import (
    BackendChoice,
    BadRecords,
    DType,
    Duplicates,
    Layer,
    Long,
    Pool,
    PrecisionChoice,
    Workers,
)


def fine_tune(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | None = None,
    target: str | None = None,
    per: Of = "protein",
    kind: KindChoice = "auto",
    method: Method = "head",
    head: HeadChoice = "auto",
    layer: Layer = -1,
    pool: Pool = "mean",
    long: Long = "truncate",
    split: SplitChoice = "random",
    split_column: str | None = None,
    validation_column: str | None = None,
    identity: float = 0.3,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    mask_column: str | None = None,
    labels: str | Path | None = None,
    masks: str | Path | None = None,
    contradictions: Contradictions = "error",
    class_weights: ClassWeights = "none",
    epochs: int | None = None,
    patience: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    adapted: tuple[Target, ...] = ("query", "key", "value"),
    seed: int = 0,
    precision: PrecisionChoice = "auto",
    device: str = "auto",
    dtype: DType = "float32",
    bad_records: BadRecords = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    overwrite: bool = False,
) -> Finetuned:
    """Learn a property from labelled proteins; an interrupted run of the same goes on.

    Args:
        inputs: a table or FASTA file of labelled proteins, or several.
        output: the run's folder.
        model: what is tuned: esm2-8m ... esm2-15b, a Hugging Face id, a folder, a fair-esm .pt, a .nemo file,
            or random:esm2-8m (see ``aminoglot models``).
        target: the column that holds the labels; of a FASTA file the word before an = in its headers. For
            residues a letter for each, or numbers parted by commas or blanks.
        per: one label a protein, or one a residue.
        kind: whether labels are numbers or names of classes; auto looks at them.
        method: head trains a small network on embeddings, which are computed once; lora also adapts the model
            by small matrices beside its own; full trains all its weights.
        head: perceptron (auto for proteins), linear, convolution (auto for residues), or no-context, which
            looks at each residue alone.
        layer: whose embeddings: -1 is the last, 0 the first.
        pool: how residues become one vector, where labels are of proteins.
        long: what becomes of proteins over the model's limit (ESM-2: 1,022 residues, ProtT5nv: 512).
        split: how proteins are dealt out where no column says it: at random, or by clusters of MMseqs2, so that
            what is tested is no relative of what was learnt.
        split_column: the column that says train, validation or test.
        validation_column: a column that says which training proteins validate (true or false), as FLIP has it.
        identity: proteins are relatives from this identity on (split="clusters").
        validation_share: part of the proteins that training is watched by and the best epoch chosen.
        test_share: part of the proteins that the result is tested on, once.
        mask_column: a column of 0 and 1 for each residue: only those with 1 count.
        labels: a FASTA file of labels, a letter a residue, by the ids of the data (instead of target).
        masks: a FASTA file of 0 and 1 for each residue, by the ids of the data.
        contradictions: one sequence with labels that differ stops the run; mean takes their mean (numbers),
            drop leaves such proteins out.
        class_weights: balanced weighs rare classes more, so that all count alike.
        epochs: passes over the training set, at most (head 100, lora and full 20).
        patience: ends when more than so many epochs in a row bring no better validation (head 10, lora and full
            3).
        rate: the learning rate (head 1e-3, lora 1e-3, full 1e-4).
        batch: proteins an update (head 64, lora and full 32).
        rank: of LoRA's matrices.
        alpha: LoRA's weight: what it adds is multiplied by alpha / rank.
        adapted: which matrices of each block LoRA adapts.
        seed: of all that is drawn: splits, first weights, order, dropout.
        precision: of the model's products: auto is bf16 where the device multiplies it natively, else fp32.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the embeddings that a head learns from, as they are kept on disk.
        bad_records: records that are no protein stop the run; skip lists them and goes on.
        id_column: name of a table's id column.
        sequence_column: name of a table's sequence column.
        overwrite: replace a run in the same folder that is not this one.

    Returns:
        Scores on the test set, and the folder, which :class:`aminoglot.Predictor` loads.

    Raises:
        AminoglotError: with a sentence that says what to do; what was computed is kept.
    """
    return run(_paths(inputs), output, Options(**_chosen(locals(), Options)))


def predict(
    run_folder: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | None = None,
    probabilities: bool = False,
    long: Long | None = None,
    precision: PrecisionChoice = "auto",
    device: str = "auto",
    backend: BackendChoice = "auto",
    bad_records: BadRecords = "error",
    duplicates: Duplicates = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Predict for files of proteins of any size; an interrupted job of the same goes on.

    Args:
        run_folder: of a finished run of ``aminoglot finetune``.
        inputs: a file, a folder, or several: what ``aminoglot embed`` takes.
        output: the file to write, ``.tsv`` or ``.parquet``: a row for every record of the input.
        model: the base model, where it lies elsewhere now; its weights must be those of the run.
        probabilities: write how likely each class is, beside the likeliest.
        long: what becomes of proteins over the model's limit; as in training unless named.
        precision: auto is the run's own, which the head knows; others as for `aminoglot embed`.
        device: auto, cpu, cuda, cuda:N or mps.
        backend: who computes on a CPU: auto is the run's own.
        bad_records: records that are no protein stop the job before it computes; skip lists them and goes on.
        duplicates: one id with two sequences stops the job; number keeps both, as P1 and P1_2.
        id_column: name of a table's id column.
        sequence_column: name of a table's sequence column.
        workers: so many processes compute, each on GPUs or cores of its own; auto is one a GPU, or one for eight cores.
        overwrite: replace an output, or drop an unfinished job, that is not this one.

    Returns:
        The files written, the audit, and whether everything was written.

    Raises:
        AminoglotError: with a sentence that says what to do; what was computed is kept.
    """
    options = PredictionOptions(**_chosen(locals(), PredictionOptions))
    return run_prediction(run_folder, _paths(inputs), output, options)


def _chosen(arguments: Mapping[str, Any], options: type[Options | PredictionOptions]) -> dict[str, Any]:
    """Those arguments of a function that are options, which have the same names."""
    return {field.name: arguments[field.name] for field in fields(options)}


def _paths(inputs: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [inputs] if isinstance(inputs, str | Path) else list(inputs)
