"""Residues to token ids and back, by table. One residue is always one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aminoglot.errors import InputError

# Inside encoded text, three control characters stand for the tokens that no letter can mean.
_CLS, _EOS, MASK = b"\x01", b"\x02", b"\x03"
_UNKNOWN = 255


@dataclass(frozen=True)
class Alphabet:
    """A model family's vocabulary.

    Attributes:
        tokens: the vocabulary, position = id.
        cls: id of the token before the first residue, or None where the family has none.
        eos: id of the token after the last residue, or None where the family has none.
        mask: id of ``<mask>``, or None.
        unknown: id of the token for a letter that has none of its own.
    """

    tokens: tuple[str, ...]
    cls: int | None
    eos: int | None
    mask: int | None
    unknown: int

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        table = np.full(256, _UNKNOWN, dtype=np.uint8)
        table[ord("A") : ord("Z") + 1] = self.unknown
        for index, token in enumerate(self.tokens):
            if len(token) == 1 and token.isalpha():
                table[ord(token)] = index
        for control, special in ((_CLS, self.cls), (_EOS, self.eos), (MASK, self.mask)):
            if special is not None:
                table[control[0]] = special
        return table

    @property
    def prefix_length(self) -> int:
        """How many tokens stand before the first residue of a whole protein."""
        return 0 if self.cls is None else 1

    @property
    def special_length(self) -> int:
        """How many tokens a whole protein has beside its residues."""
        return self.prefix_length + (0 if self.eos is None else 1)

    def framed(self, residues: bytes, *, start: bool = True, end: bool = True) -> bytes:
        """Text of one piece of a protein with its special tokens.

        Args:
            residues: letters of the piece; :data:`MASK` stands for a hidden residue.
            start: the piece begins at the protein's true start: cls before it.
            end: the piece ends at the protein's true end: eos after it.
        """
        before = _CLS if start and self.cls is not None else b""
        return before + residues + (_EOS if end and self.eos is not None else b"")

    def encode(self, framed: Sequence[bytes]) -> NDArray[np.uint8]:
        """Ids of framed pieces, end to end.

        Returns:
            uint8 [T], T the sum of the pieces' lengths.

        Raises:
            InputError: on a character that is neither a capital letter nor a special token.
        """
        ids: NDArray[np.uint8] = self._table[np.frombuffer(b"".join(framed), dtype=np.uint8)]
        if ids.size and ids.max() == _UNKNOWN:
            raise InputError("a sequence holds a character without a token; clean it first (aminoglot.sequences.clean)")
        return ids


ESM2_ALPHABET = Alphabet(
    tokens=(
        *("<cls>", "<pad>", "<eos>", "<unk>"),
        *"LAGVSERTIDPKQNFYMHWCXBUZO",
        *(".", "-", "<null_1>", "<mask>"),
    ),
    cls=0,
    eos=2,
    mask=32,
    unknown=24,
)
"""fair-esm's "ESM-1b" alphabet, which all ESM-2 models share. J has no token; X (24) stands in."""

PROTT5NV_ALPHABET = Alphabet(
    tokens=(
        *("<unk>", "<s>", "</s>", "<pad>", "<mask>"),
        *"LASGVERTDIPKNFQYHMCWXBZUO",
        *("<cls>", "<sep>"),
        *(f"<extra_id_{number}>" for number in range(96)),
    ),
    cls=None,
    eos=None,
    mask=4,
    unknown=25,
)
"""BioNeMo's SentencePiece model of 30 pieces, and what NeMo adds to it. The encoder sees residues only. J has no token;
X (25) stands in."""
