"""What a user may choose for a job, from Python and on the command line. Imports no torch."""

# No postponed annotations here: the command line's subclass would look their names up in its own module.
from dataclasses import dataclass
from pathlib import Path

from aminoglot.errors import InputError
from aminoglot.object_store import is_stored
from aminoglot.settings import (
    BackendChoice,
    BadRecords,
    DType,
    Duplicates,
    Layer,
    Long,
    Per,
    Pool,
    PrecisionChoice,
    Workers,
    check_workers,
    known,
)


@dataclass(frozen=True)
class Options:
    """Everything a user may choose; the command line makes its flags of this class.

    Attributes:
        model: esm2-8m ... esm2-15b, a Hugging Face id, a folder, a fair-esm .pt, a .nemo file (prott5nv.nemo), or
            random:esm2-8m (see `aminoglot models`); unless named aminoglot-5m, the small one that comes with aminoglot.
        per: One vector a protein, one a residue, or both (then two files).
        layer: Layer number, several, or all. 0 is the embedding, -1 the last layer.
        pool: How residues become one vector; special tokens count in neither mean nor max.
        long: What becomes of proteins over the model's limit (ESM-2: 1,022 residues, ProtT5nv: 512).
        precision: auto is bf16 where the device multiplies it natively, fp16 on NVIDIA GPUs that have only that, else
            fp32; fp32 is exact everywhere; fp8 is for Hopper and newer.
        device: auto, cpu, cuda, cuda:N or mps.
        backend: Who computes on a CPU: auto is OpenVINO where it is installed (but for the smallest test model), else
            torch.
        dtype: Type of the numbers written.
        bad_records: Records that are no protein stop the job before it computes; skip lists them, goes on, and exits
            with 1.
        duplicates: One id with two sequences stops the job; number keeps both, as P1 and P1_2.
        id_column: Name of a table's id column.
        sequence_column: Name of a table's sequence column.
        reuse: An older output, made the same way: proteins it holds are taken from it.
        workers: So many processes compute, each on GPUs or cores of its own; auto is one a GPU, or one for eight cores.
        ray: Workers are actors of the Ray cluster with this address, or of one on this machine that ends with the job
            (local).
        scratch: Where files lie on this machine while the output is an object (s3://...); unless named
            ~/.cache/aminoglot/jobs.
        plan_only: Plan the job and stop; its shards are computed by --shard, here or on machines that see the folder.
        shard: Compute one slice of a planned job, 3/16 the third of sixteen; the input is not read.
        finish: Check that all slices were computed, and write the output.
        overwrite: Replace an output, or drop an unfinished job, that is not this one.
        dry_run: Read and check everything, say what would be done, and stop.
    """

    model: str | None = None
    per: Per = "protein"
    layer: Layer = -1
    pool: Pool = "mean"
    long: Long = "truncate"
    precision: PrecisionChoice = "auto"
    device: str = "auto"
    backend: BackendChoice = "auto"
    dtype: DType = "float32"
    bad_records: BadRecords = "error"
    duplicates: Duplicates = "error"
    id_column: str | None = None
    sequence_column: str | None = None
    reuse: str | Path | None = None
    workers: Workers | None = None
    ray: str | None = None
    scratch: str | Path | None = None
    plan_only: bool = False
    shard: str | None = None
    finish: bool = False
    overwrite: bool = False
    dry_run: bool = False

    @property
    def by_workers(self) -> bool:
        """Whether others than this process compute."""
        return self.workers is not None or self.ray is not None

    def __post_init__(self) -> None:
        known("dtype", self.dtype, DType)
        known("bad_records", self.bad_records, BadRecords)
        known("duplicates", self.duplicates, Duplicates)
        check_workers(self.workers)
        if self.reuse is not None and is_stored(self.reuse):
            raise InputError("reuse: an older output is read from this machine's disk; fetch it first")
        if self.ray == "":
            raise InputError("ray: name the address of a cluster, or local")
        steps = {"plan_only": self.plan_only, "shard": self.shard, "finish": self.finish, "dry_run": self.dry_run}
        if len(named := [name for name, asked in steps.items() if asked]) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in named)
            raise InputError(f"{flags}: one step at a time")
