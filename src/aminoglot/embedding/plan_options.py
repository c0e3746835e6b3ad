"""What a user may choose for a plan, from Python and on the command line. Imports no torch."""

# No postponed annotations here: the command line's subclass would look their names up in its own module.
import math
from dataclasses import dataclass
from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.settings import BackendChoice, DType, Layer, Long, Per, PrecisionChoice, known

MOST_PROTEINS = 10**15
"""Below the whole numbers that a float64 holds exactly."""


@dataclass(frozen=True)
class PlanOptions:
    """What decides how much embedding takes, in the words of `embed`; and what only a plan knows.

    Attributes:
        model: As for `embed`; of a model known by name no weights are needed (see `aminoglot models`). Unless named
            aminoglot-5m, the small one that comes with aminoglot.
        per: One vector a protein, one a residue, or both (then two files).
        layer: Layer number, several, or all. 0 is the embedding, -1 the last layer.
        long: What becomes of proteins over the model's limit (ESM-2: 1,022 residues, ProtT5nv: 512).
        precision: auto is what `embed` would take on the device.
        device: auto, cpu, cuda, cuda:N or mps are measured here. For a GPU that is not here a rate is assumed: v100,
            a100, l4, l40s, h100, h200, b200.
        backend: Who computes on a CPU.
        dtype: Type of the numbers written.
        id_column: Name of a table's id column.
        sequence_column: Name of a table's sequence column.
        proteins: Plan for so many proteins, of the lengths found: a sample says what a billion take.
        rate: Tokens a second of one worker, where you know it; nothing is measured or assumed then.
        workers: Say how long so many take. A worker is a process with a device of its own.
        deadline: Say how many workers are done within so many hours.
        lengths: Instead of proteins a table of lengths and counts, a tab between, as --write-lengths writes it.
        write_lengths: Write the lengths found to a new file; next time they need not be counted.
    """

    model: str | None = None
    per: Per = "protein"
    layer: Layer = -1
    long: Long = "truncate"
    precision: PrecisionChoice = "auto"
    device: str = "auto"
    backend: BackendChoice = "auto"
    dtype: DType = "float32"
    id_column: str | None = None
    sequence_column: str | None = None
    proteins: int | None = None
    rate: float | None = None
    workers: int | None = None
    deadline: float | None = None
    lengths: Path | None = None
    write_lengths: Path | None = None

    def __post_init__(self) -> None:
        known("dtype", self.dtype, DType)
        for name, value in (("rate", self.rate), ("deadline", self.deadline)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value:g}: it must be more than 0")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers {self.workers}: there must be one at least")
        if self.proteins is not None and not 1 <= self.proteins <= MOST_PROTEINS:
            raise InputError(f"proteins {self.proteins}: from 1 to {MOST_PROTEINS:,} can be planned for")
