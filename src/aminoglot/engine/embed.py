"""From packed results to arrays: special tokens stripped, residues pooled, windows put together.

Shapes: N proteins, R embedded residues of all of them end to end, C layers, D hidden, S tokens of one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aminoglot.engine.forward import Forward
from aminoglot.engine.pieces import Piece, pieces
from aminoglot.errors import is_allocation_failure
from aminoglot.packing import Packed
from aminoglot.settings import Pool, Request

OUT_OF_MEMORY = "not enough memory for this protein, even alone in a batch"
_AHEAD = 3
"""Batches that a lane may do while the longest protein is in work; they are filed already."""
Compute = Callable[[Packed], Tensor]
"""From a packed batch to float32 [C, T, D]."""
NOT_FINITE = "the network's output is not finite"


def not_finite(network: nn.Module) -> str | None:
    """The first of the weights that has values which are no numbers; those in fp8 have a scale beside them."""
    wide = ((name, tensor) for name, tensor in network.state_dict().items() if tensor.dtype.itemsize > 1)
    return next((name for name, tensor in wide if not tensor.isfinite().all()), None)


@dataclass
class Embedded:
    """Embeddings of N proteins, in the order given.

    Attributes:
        protein: float32 [N, C, D], or None where only residues were asked for.
        residue: float32 [R, C, D], or None where only proteins were.
        rows: how many residues of each protein were embedded, int64 [N].
        failed: why a protein has no result; its rows are zeros.
    """

    protein: NDArray[np.float32] | None
    residue: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    failed: dict[int, str] = field(default_factory=dict)

    def residues_of(self, index: int) -> NDArray[np.float32]:
        """One protein's residues, [C, rows, D]."""
        assert self.residue is not None
        return self.residue[self._ends[index] : self._ends[index + 1]].swapaxes(0, 1)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(self.rows)))


def embed(
    forward: Forward,
    texts: Sequence[bytes],
    request: Request,
    shape: tuple[int, int],
    compute: Compute,
    done: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """Embed proteins.

    Args:
        forward: the network's runner.
        texts: residues of each protein; sorted by length they compute fastest.
        request: what is wanted; its layers are what ``compute`` returns.
        shape: C and D.
        compute: the network's function of a batch, float32 [C, T, D].
        done: told after each batch how many residues it held.
    """
    return _Collector(forward, texts, request, shape, compute, done).run()


class _Collector:
    def __init__(
        self,
        forward: Forward,
        texts: Sequence[bytes],
        request: Request,
        shape: tuple[int, int],
        compute: Compute,
        done: Callable[[int], None],
    ) -> None:
        self.forward, self.texts, self.request, self.compute, self.done = forward, texts, request, compute, done
        rows = request.embedded(np.array([len(text) for text in texts], dtype=np.int64))
        self.offsets = np.concatenate(([0], np.cumsum(rows)))
        self.out = Embedded(
            np.zeros((len(texts), *shape), np.float32) if request.wants_protein else None,
            np.zeros((int(rows.sum()), *shape), np.float32) if request.wants_residue else None,
            rows,
        )

    def run(self) -> Embedded:
        whole: list[Piece] = []
        windows: list[Piece] = []
        for owner, residues in enumerate(self.out.rows.tolist()):
            cut = pieces(owner, residues, self.request)
            (whole if len(cut) == 1 else windows).extend(cut)
        if windows:
            self._windows(windows)
        for outcome in self.forward(whole, self.texts, self._whole, _AHEAD):
            if outcome.values is None:
                self.out.failed.update({piece.owner: OUT_OF_MEMORY for piece in outcome.pieces})
            self.done(sum(piece.length for piece in outcome.pieces))
        return self.out

    def _whole(self, pieces: Sequence[Piece], batch: Packed) -> Tensor:
        """Compute and file a batch of proteins that are one piece each. Results leave the device once a batch."""
        values_CTD = self.compute(batch)
        pooled: list[Tensor] = []
        filed: list[int] = []
        for owners, values_CNSD in self._rectangles(pieces, batch, values_CTD):
            before, special = self.forward.alphabet.prefix_length, self.forward.alphabet.special_length
            residues_CNSD = values_CNSD[:, :, before : before + values_CNSD.shape[2] - special]
            if self.out.protein is not None:
                filed += owners
                pooled.append(_pool(values_CNSD, residues_CNSD, self.request.pool))
            if self.out.residue is not None:
                for owner, residues_SCD in zip(owners, residues_CNSD.permute(1, 2, 0, 3).numpy(), strict=True):
                    self.out.residue[self.offsets[owner] : self.offsets[owner + 1]] = residues_SCD
        if self.out.protein is not None and pooled:
            self.out.protein[filed] = torch.cat(pooled, dim=1).transpose(0, 1).cpu().numpy()
        return values_CTD.new_empty(0)  # what is filed need not be kept

    def _rectangles(
        self, pieces: Sequence[Piece], batch: Packed, values_CTD: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        """The batch as rectangles of equal length, without what failed: owners, and values [C, N, S, D]."""
        if self.out.residue is not None:
            values_CTD = _to_host(values_CTD)
        finite = bool(values_CTD.sum().isfinite())  # one such value makes the sum one; seldom, many large ones do too
        at = 0
        for run in batch.runs:
            owners = [piece.owner for piece in pieces[at : at + run.count]]
            at += run.count
            values_CNSD = values_CTD[:, run.start : run.stop].unflatten(1, (run.count, run.length))
            if not finite:
                good_N = values_CNSD.isfinite().all(-1).all(-1).all(0)
                bad = [owner for owner, good in zip(owners, good_N.tolist(), strict=True) if not good]
                self.out.failed.update(dict.fromkeys(bad, NOT_FINITE))
                owners = [owner for owner in owners if owner not in self.out.failed]
                values_CNSD = values_CNSD[:, good_N]
            if owners:
                yield owners, values_CNSD

    def _windows(self, windows: Sequence[Piece]) -> None:
        """Compute the windows of long proteins, which come in order, and put each protein together."""
        joined: _Joined | None = None
        for outcome in self.forward(windows, self.texts, lambda _, batch: self.compute(batch)):
            if outcome.values is None:
                self.out.failed.update({piece.owner: OUT_OF_MEMORY for piece in outcome.pieces})
            parts = [] if outcome.values is None else outcome.values.split(list(outcome.lengths), dim=1)
            for piece, window_CSD in zip_longest(outcome.pieces, parts):
                if piece.owner not in self.out.failed:
                    joined = self._joined(joined, piece, window_CSD)
                if piece.eos:
                    joined = None
                    self.done(self.out.rows[piece.owner])

    def _joined(self, joined: _Joined | None, piece: Piece, window_CSD: Tensor) -> _Joined | None:
        """One window more; a protein whose last it is is filed, one that memory does not suffice for has failed."""
        try:
            if joined is None:
                joined = _Joined(window_CSD, len(self.texts[piece.owner]))
            joined.add(piece, window_CSD, self.forward.alphabet.prefix_length)
            if piece.eos:
                self._file(piece.owner, joined.mean(), joined.cls_CD)
            return joined
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
        self.out.failed[piece.owner] = OUT_OF_MEMORY
        return None

    def _file(self, owner: int, residues_CRD: Tensor, cls_CD: Tensor | None) -> None:
        if not residues_CRD.isfinite().all():
            self.out.failed[owner] = NOT_FINITE
            return
        if self.out.protein is not None:
            first_CSD = residues_CRD[:, :1] if cls_CD is None else cls_CD[:, None]
            pooled_CND = _pool(first_CSD[:, None], residues_CRD[:, None], self.request.pool)
            self.out.protein[owner] = pooled_CND[:, 0].cpu().numpy()
        if self.out.residue is not None:
            rows = self.out.residue[self.offsets[owner] : self.offsets[owner + 1]]
            rows[:] = residues_CRD.transpose(0, 1).cpu().numpy()


class _Joined:
    """One protein's windows put together: where they overlap, the mean counts each window alike.

    Attributes:
        cls_CD: of the first window, where the model has such a token.
    """

    def __init__(self, like: Tensor, residues: int) -> None:
        self._total_CRD = like.new_zeros((like.shape[0], residues, like.shape[2]))
        self._count_R = like.new_zeros(residues)
        self.cls_CD: Tensor | None = None

    def add(self, piece: Piece, window_CSD: Tensor, prefix: int) -> None:
        before = prefix if piece.cls else 0
        if before:
            self.cls_CD = window_CSD[:, 0].clone()
        self._total_CRD[:, piece.start : piece.stop] += window_CSD[:, before : before + piece.length]
        self._count_R[piece.start : piece.stop] += 1

    def mean(self) -> Tensor:
        """Once all windows are in, [C, R, D]; it takes the place of their sum."""
        return self._total_CRD.div_(self._count_R[:, None])


def _to_host(values: Tensor) -> Tensor:
    """Off the device: from a GPU into pinned memory, several times as fast, while other lanes go on computing."""
    if not values.is_cuda:
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host


def _pool(values_CNSD: Tensor, residues_CNSD: Tensor, pool: Pool) -> Tensor:
    """One vector a protein, [C, N, D]; only ``cls`` looks at a special token."""
    if pool == "cls":
        return values_CNSD[:, :, 0]
    return residues_CNSD.mean(2) if pool == "mean" else residues_CNSD.amax(2)
