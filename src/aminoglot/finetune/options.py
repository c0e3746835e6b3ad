"""What a user may choose for fine-tuning, from Python and on the command line. Imports no torch."""

# No postponed annotations here: the command line's subclass would look their names up in its own module.
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aminoglot.errors import InputError
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
    check_workers,
    known,
)

Of = Literal["protein", "residue"]
KindChoice = Literal["auto", "number", "classes"]
Method = Literal["head", "lora", "full"]
HeadChoice = Literal["auto", "perceptron", "linear", "convolution", "no-context"]
SplitChoice = Literal["random", "clusters"]
Contradictions = Literal["error", "mean", "drop"]
ClassWeights = Literal["none", "balanced"]
Target = Literal["query", "key", "value", "output", "up", "down"]


@dataclass(frozen=True)
class Options:
    """Everything a user may choose; the command line makes its flags of this class.

    Attributes:
        model: What is tuned: esm2-8m ... esm2-15b, a Hugging Face id, a folder, a fair-esm .pt, a .nemo file, or
            random:esm2-8m (see `aminoglot models`); unless named aminoglot-5m, the small one that comes with aminoglot.
        target: The column that holds the labels; of a FASTA file the word before an = in its headers. For residues a
            letter for each, or numbers parted by commas or blanks.
        per: One label a protein, or one a residue.
        kind: Whether labels are numbers or names of classes; auto looks at them.
        method: head trains a small network on embeddings, which are computed once; lora also adapts the model by small
            matrices beside its own; full trains all its weights.
        head: perceptron (auto for proteins), linear, convolution (auto for residues), or no-context, which looks at
            each residue alone.
        layer: Whose embeddings: -1 is the last, 0 the first.
        pool: How residues become one vector, where labels are of proteins.
        long: What becomes of proteins over the model's limit (ESM-2: 1,022 residues, ProtT5nv: 512).
        split: How proteins are dealt out where no column says it: at random, or by clusters of MMseqs2, so that what is
            tested is no relative of what was learnt.
        split_column: The column that says train, validation or test.
        validation_column: A column that says which training proteins validate (true or false), as FLIP has it.
        identity: Proteins are relatives from this identity on (--split clusters).
        validation_share: Part of the proteins that training is watched by and the best epoch chosen.
        test_share: Part of the proteins that the result is tested on, once.
        mask_column: A column of 0 and 1 for each residue: only those with 1 count.
        labels: A FASTA file of labels, a letter a residue, by the ids of the data (instead of --target).
        masks: A FASTA file of 0 and 1 for each residue, by the ids of the data.
        contradictions: One sequence with labels that differ stops the run; mean takes their mean (numbers), drop leaves
            such proteins out.
        class_weights: balanced weighs rare classes more, so that all count alike.
        epochs: Passes over the training set, at most (head 100, lora and full 20).
        patience: Ends when more than so many epochs in a row bring no better validation (head 10, lora and full 3).
        rate: The learning rate (head 1e-3, lora 1e-3, full 1e-4).
        batch: Proteins an update (head 64, lora and full 32).
        rank: Of LoRA's matrices.
        alpha: LoRA's weight: what it adds is multiplied by alpha / rank.
        adapted: Which matrices of each block LoRA adapts.
        seed: Of all that is drawn: splits, first weights, order, dropout.
        precision: Of the model's products: auto is bf16 where the device multiplies it natively, else fp32.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Of the embeddings that a head learns from, as they are kept on disk.
        bad_records: Records that are no protein stop the run; skip lists them and goes on.
        id_column: Name of a table's id column.
        sequence_column: Name of a table's sequence column.
        overwrite: Replace a run in the same folder that is not this one.
    """

    model: str | None = None
    target: str | None = None
    per: Of = "protein"
    kind: KindChoice = "auto"
    method: Method = "head"
    head: HeadChoice = "auto"
    layer: Layer = -1
    pool: Pool = "mean"
    long: Long = "truncate"
    split: SplitChoice = "random"
    split_column: str | None = None
    validation_column: str | None = None
    identity: float = 0.3
    validation_share: float = 0.1
    test_share: float = 0.2
    mask_column: str | None = None
    labels: str | Path | None = None
    masks: str | Path | None = None
    contradictions: Contradictions = "error"
    class_weights: ClassWeights = "none"
    epochs: int | None = None
    patience: int | None = None
    rate: float | None = None
    batch: int | None = None
    rank: int = 8
    alpha: float = 16.0
    adapted: tuple[Target, ...] = ("query", "key", "value")
    seed: int = 0
    precision: PrecisionChoice = "auto"
    device: str = "auto"
    dtype: DType = "float32"
    bad_records: BadRecords = "error"
    id_column: str | None = None
    sequence_column: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            known(name, getattr(self, name), words)
        object.__setattr__(self, "adapted", tuple(self.adapted))
        for one in self.adapted:
            known("adapted", one, Target)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not (low <= value <= high):
                raise InputError(f"{name.replace('_', ' ')} {value:g}: between {low:g} and {high:g}")
        if self.validation_share + self.test_share >= 1:
            raise InputError("validation share and test share leave nothing to learn from")
        if self.head in ("convolution", "no-context") and self.per == "protein":
            raise InputError(f"head {self.head}: it looks at residues; for proteins there are perceptron and linear")
        if not self.adapted:
            raise InputError("adapted: name at least one kind of matrix")

    @property
    def head_name(self) -> Literal["perceptron", "linear", "convolution", "no-context"]:
        """The head, once auto has chosen."""
        if self.head == "auto":
            return "perceptron" if self.per == "protein" else "convolution"
        return self.head


@dataclass(frozen=True)
class PredictionOptions:
    """Everything a user may choose; the command line makes its flags of this class.

    Attributes:
        model: The base model, where it lies elsewhere now; its weights must be those of the run.
        probabilities: Write how likely each class is, beside the likeliest.
        long: What becomes of proteins over the model's limit; as in training unless named.
        precision: auto is the run's own, which the head knows; others as for `aminoglot embed`.
        device: auto, cpu, cuda, cuda:N or mps.
        backend: Who computes on a CPU: auto is the run's own.
        bad_records: Records that are no protein stop the job before it computes; skip lists them and goes on.
        duplicates: One id with two sequences stops the job; number keeps both, as P1 and P1_2.
        id_column: Name of a table's id column.
        sequence_column: Name of a table's sequence column.
        workers: So many processes compute, each on GPUs or cores of its own; auto is one a GPU, or one for eight cores.
        overwrite: Replace an output, or drop an unfinished job, that is not this one.
    """

    model: str | None = None
    probabilities: bool = False
    long: Long | None = None
    precision: PrecisionChoice = "auto"
    device: str = "auto"
    backend: BackendChoice = "auto"
    bad_records: BadRecords = "error"
    duplicates: Duplicates = "error"
    id_column: str | None = None
    sequence_column: str | None = None
    workers: Workers | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if self.long is not None:
            known("long", self.long, Long)
        known("bad_records", self.bad_records, BadRecords)
        known("duplicates", self.duplicates, Duplicates)


_WORDS = {
    "per": Of,
    "kind": KindChoice,
    "method": Method,
    "head": HeadChoice,
    "pool": Pool,
    "long": Long,
    "split": SplitChoice,
    "contradictions": Contradictions,
    "class_weights": ClassWeights,
    "precision": PrecisionChoice,
    "dtype": DType,
    "bad_records": BadRecords,
}
_RANGES = (
    ("identity", 0.1, 1.0),
    ("validation_share", 0.001, 0.9),
    ("test_share", 0.0, 0.9),
    ("epochs", 1, 100_000),
    ("patience", 0, 100_000),
    ("rate", 1e-9, 10.0),
    ("batch", 1, 1_000_000),
    ("rank", 1, 4096),
    ("alpha", 1e-6, 1e6),
    ("seed", 0, 2**31 - 1),
)
