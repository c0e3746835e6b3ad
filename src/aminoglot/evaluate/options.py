"""What a user may choose for ``aminoglot flip``. Imports no torch."""

# No postponed annotations here: the command line's subclass would look their names up in its own module.
from dataclasses import dataclass
from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.evaluate.tasks import TaskName
from aminoglot.settings import Layer, Long, PrecisionChoice, known

MOST_SEEDS = 20


@dataclass(frozen=True)
class Options:
    """Everything a user may choose; the command line makes its flags of this class.

    Attributes:
        model: What `aminoglot embed` takes: esm2-8m ... esm2-15b, a Hugging Face id, a folder, a fair-esm .pt, a .nemo
            file, or random:esm2-8m; unless named aminoglot-5m, the small one that comes with aminoglot.
        task: Which tasks; all five when none is named.
        split: Which of FLIP's splits; when none is named those of the ProtT5nv card, both test sets of secondary
            structure, and both readings of GB1.
        data: A folder with FLIP's files, a folder for each task. Without it they are fetched from their published
            address.
        layer: Layer number, several, or all; the best on validation is taken. 0 is the embedding, -1 the last layer.
        seeds: Copies of each head, fitted side by side; mean and spread are reported.
        long: What becomes of proteins over the model's limit, in embeddings and for the baselines; window covers all
            residues.
        bionemo_protocol: Drop proteins over BioNeMo 1's max_seq_length less two (ESM-2: 1,022 residues, ProtT5nv: 510)
            from all sets, as the shipped harness did. Every row made so is marked.
        device: For embedding: auto, cpu, cuda, cuda:N or mps.
        precision: Of embedding, as in `aminoglot embed`.
    """

    model: str | None = None
    task: tuple[TaskName, ...] = ()
    split: tuple[str, ...] = ()
    data: Path | None = None
    layer: Layer = -1
    seeds: int = 3
    long: Long = "window"
    bionemo_protocol: bool = False
    device: str = "auto"
    precision: PrecisionChoice = "auto"

    def __post_init__(self) -> None:
        known("long", self.long, Long)
        for name in self.task:
            known("task", name, TaskName)
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"seeds={self.seeds}: choose 1 to {MOST_SEEDS}")
