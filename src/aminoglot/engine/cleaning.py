"""Sequences given from Python, cleaned as those of files are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from aminoglot.errors import AminoglotWarning, InputError, plural
from aminoglot.sequences import LetterError, clean
from aminoglot.tokens import MASK


def cleaned(sequences: Iterable[str], masks: bool = False) -> list[bytes]:
    """Sequences as the network takes them, by the policy of letters.

    Args:
        sequences: residues as letters.
        masks: whether ``<mask>`` hides a residue.

    Raises:
        InputError: for what is no list of sequences, or has anything but residues, by its position.
    """
    if isinstance(sequences, str | bytes):
        raise InputError("one string was given where a list of sequences is expected; write [sequence]")
    if isinstance(sequences, Mapping):
        raise InputError("a dictionary was given where a list of sequences is expected; write list(it.values())")
    texts: list[bytes] = []
    replaced = 0
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise InputError(f"sequence {index}: a {type(sequence).__name__}, not a string")
        parts = sequence.split("<mask>") if masks else [sequence]
        try:
            text, changed = clean("X".join(parts).encode(errors="surrogatepass"))
        except LetterError as error:
            raise InputError(f"sequence {index}: {error}") from None
        texts.append(_masked(text, parts))
        replaced += changed
    if not texts:
        raise InputError("the list of sequences is empty")
    if replaced:
        warnings.warn(f"{plural(replaced, 'letter')} (J or *) became X", AminoglotWarning, stacklevel=3)
    return texts


def _masked(text: bytes, parts: Sequence[str]) -> bytes:
    """Hide the residues that stand between ``parts``."""
    hidden, at = bytearray(text), -1
    for part in parts[:-1]:
        at += len(part) + 1
        hidden[at] = MASK[0]
    return bytes(hidden)
