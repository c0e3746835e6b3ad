"""The letter policy: what a protein sequence may contain, and what becomes of the rest.

ASCII letters only, upper-cased. One trailing ``*`` (the stop of a translated gene) is removed. ``J`` and an inner
``*``, for which no model has a token, become ``X`` and are counted. Everything else is refused with its position:
dropping a gap or a digit would shift every later residue in silence.
"""

from __future__ import annotations

import string

_UPPER = string.ascii_uppercase.encode()
_ACCEPTED = _UPPER + b"*"
_TO_X = bytes.maketrans(b"J*", b"XX")

_HINTS = {
    **dict.fromkeys("-.~", "a gap: this looks like an alignment; remove its gaps first"),
    **dict.fromkeys("0123456789", "a digit: this looks like a numbered listing, not plain FASTA"),
    **dict.fromkeys(" \t", "a space inside the sequence: join the blocks first"),
    **dict.fromkeys(
        "<>[](){}", "no residue; a hidden one is <mask>, in small letters, where logits, infill, generate take it"
    ),
    "?": "no residue; write X for an unknown one",
    "_": "no residue; write X for an unknown one",
}


class LetterError(ValueError):
    """A character that is no residue; the message gives its position, counted from 1."""


def clean(text: bytes) -> tuple[bytes, int]:
    """Apply the letter policy to one sequence.

    Args:
        text: the residues as written, without line ends.

    Returns:
        The sequence in capital letters, and how many letters became ``X``.

    Raises:
        LetterError: on anything but ASCII letters and ``*``, or if nothing is left.
    """
    sequence = text.upper()
    if sequence[-1:] == b"*":
        sequence = sequence[:-1]
    if not sequence:
        raise LetterError("the sequence is empty")
    if sequence.translate(None, _ACCEPTED):
        raise LetterError(_first_offence(sequence))
    replaced = sequence.count(b"J") + sequence.count(b"*")
    if replaced:
        sequence = sequence.translate(_TO_X)
    return sequence, replaced


def _first_offence(sequence: bytes) -> str:
    position = next(i for i, byte in enumerate(sequence) if byte not in _ACCEPTED)
    character = sequence[position:].decode("utf-8", errors="replace")[0]
    hint = _HINTS.get(character, "no residue; sequences are made of the letters A to Z")
    return f"{character!r} at position {position + 1} is {hint}"
