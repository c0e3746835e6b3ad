"""Features that do not change: computed once by the main job, kept in the run's folder, read where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from aminoglot.embedding.job import embed
from aminoglot.embedding.options import Options as EmbeddingOptions
from aminoglot.embedding.report import Report
from aminoglot.errors import JobError
from aminoglot.finetune.examples import Dataset, Example
from aminoglot.finetune.letters import WIDTH, columns, shares
from aminoglot.finetune.metrics import Kind
from aminoglot.finetune.options import Options
from aminoglot.finetune.problems import Labelled
from aminoglot.jobs import ShardReader
from aminoglot.jobs.storage import explained, write_whole

FEATURES, _FASTA = "features.safetensors", "features.fasta"


class Features:
    """Embeddings of a dataset's examples, in their order.

    Attributes:
        rows: [N, D], or of residues [R, D], mapped.
        starts: [N + 1], where each protein's residues begin; None where a row is a protein.
    """

    def __init__(self, path: Path, per_residue: bool) -> None:
        reader = ShardReader(path)
        self.rows: NDArray[Any] = reader.mapped("embeddings")
        self.starts: NDArray[np.int64] | None = reader.all("offsets") if per_residue else None
        reader.close()

    def labelled(self, dataset: Dataset, rows: NDArray[np.int64]) -> Labelled:
        """Some examples with their features, which are read from the file when they are looked at."""
        examples = [dataset.examples[row] for row in rows.tolist()]
        if self.starts is None:
            return Labelled(
                cast("NDArray[Any]", _Chosen(self.rows, rows)), np.array([one.label[0] for one in examples])
            )
        spans = [(int(self.starts[row]), int(self.starts[row + 1])) for row in rows.tolist()]
        places = np.concatenate([np.arange(*span) for span in spans] or [np.zeros(0, np.int64)])
        return residues(_Chosen(self.rows, places), examples, [stop - start for start, stop in spans])


class _Chosen:
    """Rows of an array, as an array that looks them up when it is asked: a mapped file is never held whole."""

    def __init__(self, rows: NDArray[Any], places: NDArray[np.int64]) -> None:
        self._rows, self._places = rows, places
        self.shape = (len(places), *rows.shape[1:])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._rows[self._places[key]])


def residues(features: Any, examples: Sequence[Example], lengths: Sequence[int]) -> Labelled:
    """Labelled residues, those alone that are embedded: a truncated protein's first."""
    pairs = list(zip(examples, lengths, strict=True))
    return Labelled(
        features,
        np.concatenate([one.label[:length] for one, length in pairs] or [np.zeros(0)]),
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        np.concatenate([one.counted[:length] for one, length in pairs] or [np.zeros(0, bool)]),
    )


def features(dataset: Dataset, options: Options, folder: Path, console: Console) -> Features:
    """Embed a dataset through the main job, or go on where a run that was killed had come to.

    Args:
        dataset: whose examples.
        options: model, layer, pool, precision and so on.
        folder: of the run; its ``features.safetensors`` may be deleted afterwards.
        console: for the job's own lines.

    Raises:
        JobError: when a protein could not be embedded, naming it.
        OutputError: when the disk is full; what was computed is kept.
    """
    fasta, output = folder / _FASTA, folder / FEATURES
    text = b"".join(b">%d\n%s\n" % (number, one.sequence) for number, one in enumerate(dataset.examples))
    with explained(fasta):
        if not fasta.exists() or fasta.read_bytes() != text:
            write_whole(fasta, lambda path: _write(path, text))
    asked = EmbeddingOptions(
        model=options.model,
        per=options.per,
        layer=options.layer,
        pool=options.pool,
        long=options.long,
        precision=options.precision,
        device=options.device,
        dtype=options.dtype,
        overwrite=True,
    )
    outcome = embed([fasta], output, asked, Report(console))
    if not outcome.complete:
        raise JobError(
            f"{output}: not all proteins could be embedded (see {output.name}.proteins.tsv, where ids are their "
            "numbers, from 0 on): try --long truncate, or --device cpu"
        )
    return Features(output, dataset.per_residue)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def composition(dataset: Dataset, rows: NDArray[np.int64], embedded: NDArray[np.int64]) -> Labelled:
    """What the letters alone say, as features: of a protein the share of each of the 20 and of all others, [N, 21]; of
    a residue its letter, one-hot, [R, 21].

    Args:
        dataset: whose examples.
        rows: which of them.
        embedded: residues of each that are embedded.
    """
    examples = [dataset.examples[row] for row in rows.tolist()]
    texts = [one.sequence[:length] for one, length in zip(examples, embedded.tolist(), strict=True)]
    if dataset.per_residue:
        return residues(np.eye(WIDTH, dtype=np.float32)[columns(b"".join(texts))], examples, embedded.tolist())
    found = np.array([shares(text) for text in texts], np.float32).reshape(-1, WIDTH)
    return Labelled(found, np.array([one.label[0] for one in examples]))


def constant(train: NDArray[Any], kind: Kind) -> float:
    """What is told without looking: the mean of numbers, the most frequent class."""
    return float(train.mean()) if kind == "number" else float(np.bincount(train.astype(np.int64)).argmax())
