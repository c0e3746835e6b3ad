"""The long-sequence policy: which stretches of a protein go through the network, and where they belong."""

from __future__ import annotations

from typing import NamedTuple

from aminoglot.settings import Request


class Piece(NamedTuple):
    """Residues ``start`` to ``stop`` of protein ``owner``, and which of its ends are framed by cls and eos."""

    owner: int
    start: int
    stop: int
    cls: bool = True
    eos: bool = True

    @property
    def length(self) -> int:
        return self.stop - self.start


def pieces(owner: int, residues: int, request: Request) -> list[Piece]:
    """Cut one protein, of which so many residues get an embedding.

    A truncated protein is embedded as if it ended at the limit, with cls and eos, exactly as fair-esm and
    transformers do. In windows, cls and eos stand only at the protein's true ends, as in training on crops.
    """
    if residues > request.limit and request.long == "window":
        last = residues - request.limit
        starts = [*range(0, last, max(1, request.limit // 2)), last]
        return [Piece(owner, s, s + request.limit, cls=s == 0, eos=s == last) for s in starts]
    return [Piece(owner, 0, residues)]
