"""``aminoglot.embed``: the job from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aminoglot.embedding.job import Outcome
from aminoglot.embedding.job import embed as run
from aminoglot.embedding.options import Options
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
)


def embed(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | None = None,
    per: Per = "protein",
    layer: Layer = -1,
    pool: Pool = "mean",
    long: Long = "truncate",
    precision: PrecisionChoice = "auto",
    device: str = "auto",
    backend: BackendChoice = "auto",
    dtype: DType = "float32",
    bad_records: BadRecords = "error",
    duplicates: Duplicates = "error",
    id_column: str | None = None,
    sequence_column: str | None = None,
    reuse: str | Path | None = None,
    workers: Workers | None = None,
    ray: str | None = None,
    scratch: str | Path | None = None,
    plan_only: bool = False,
    shard: str | None = None,
    finish: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Embed files of proteins into one file; an interrupted run of the same job goes on.

    Args:
        inputs: a file, a folder, or several: what ``aminoglot embed`` takes; ``s3://bucket/name`` too.
        output: the file to write; its suffix is its format; it may be an object, ``s3://bucket/name.h5``.
        model: ``esm2-8m`` ... ``esm2-15b``, a Hugging Face id, a folder, a fair-esm ``.pt``, a ``.nemo`` file, or
            ``random:esm2-8m``; unless named the small one that comes with aminoglot.
        per: ``protein``, ``residue``, or ``both`` (then two files).
        layer: a number (0 is the embedding, -1 the last layer), several, or ``all``.
        pool: how residues become one vector: ``mean``, ``max``, or ``cls``; special tokens are in neither mean nor max.
        long: what becomes of proteins over the model's limit: ``truncate``, ``window``, ``full``, ``skip``, ``error``.
        precision: ``auto`` (bf16 where the device multiplies it natively, else fp32), ``fp32`` or ``bf16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        backend: who computes on a CPU: ``auto`` (OpenVINO where it is installed), ``torch`` or ``openvino``.
        dtype: type of the numbers written, ``float32`` or ``float16``.
        bad_records: records that are no protein stop the job (``error``) or are left out and listed (``skip``).
        duplicates: one id with two sequences stops the job (``error``), or both are kept, as P1 and P1_2 (``number``).
        id_column: name of a table's id column, where it is not a usual one.
        sequence_column: name of a table's sequence column, where it is not a usual one.
        reuse: an older output, made the same way: proteins it holds are taken from it.
        workers: so many processes compute, each on GPUs or cores of its own; ``auto`` is one a GPU, or one for eight
            cores. A script that asks for workers needs ``if __name__ == "__main__":``.
        ray: workers are actors of the Ray cluster with this address, or of one on this machine (``local``).
        scratch: where files lie on this machine while the output is an object of a store.
        plan_only: plan the job and stop; its shards are computed by ``shard``, here or on machines that see the folder.
        shard: compute one slice of a planned job, ``"3/16"`` the third of sixteen; the input is not read.
        finish: check that all slices were computed, and write the output.
        overwrite: replace an output, or drop an unfinished job, that is not this one.
        dry_run: read and check everything, say what would be done, and stop.

    Returns:
        The files written, the audit, and whether everything was written.

    Raises:
        AminoglotError: with a sentence that says what to do; what was computed is kept.
    """
    options = Options(
        model=model,
        per=per,
        layer=layer,
        pool=pool,
        long=long,
        precision=precision,
        device=device,
        backend=backend,
        dtype=dtype,
        bad_records=bad_records,
        duplicates=duplicates,
        id_column=id_column,
        sequence_column=sequence_column,
        reuse=reuse,
        workers=workers,
        ray=ray,
        scratch=scratch,
        plan_only=plan_only,
        shard=shard,
        finish=finish,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return run([inputs] if isinstance(inputs, str | Path) else list(inputs), output, options)
