"""DNA or RNA among the proteins: A, C, G, T, U and N are residues too, so that only a tally can tell.

In real proteomes a quarter of the letters are among these six, and hardly any protein is made of them alone. Those
that come near (poly-alanine, repeats) lack some of the four bases, which every gene has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aminoglot.errors import plural

_LETTERS = b"ACGTUN"
_OTHERS = 20
"""One letter in so many may be none of the six: ambiguity codes such as R and Y."""
_RAREST = 100
"""One letter in so many must be each of A, C, G, and T or U."""
ENOUGH = 200
"""Letters below which nothing is said: a peptide may look like anything."""
_ADVICE = "is this DNA or RNA? The models read proteins: translate it first"


@dataclass(slots=True)
class Nucleotides:
    """Tallies sequences, one after the other, and says at the end whether they look like DNA or RNA.

    Attributes:
        records: sequences seen.
        letters: their residues.
        others: how many of these are none of A, C, G, T, U and N.
        suspects: sequences that look like DNA or RNA each by itself.
        first: where the first suspect is.
    """

    records: int = 0
    letters: int = 0
    others: int = 0
    suspects: int = 0
    first: str = ""
    _bases: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, sequence: bytes) -> bool:
        """Count one clean sequence; whether it is a suspect."""
        others = len(sequence.translate(None, _LETTERS))
        self.records += 1
        self.letters += len(sequence)
        self.others += others
        if others * _OTHERS > len(sequence):
            return False
        bases = _count_bases(sequence)
        self._bases = [a + b for a, b in zip(self._bases, bases, strict=True)]
        suspect = len(sequence) >= ENOUGH and min(bases) * _RAREST >= len(sequence)
        self.suspects += suspect
        return suspect

    def note(self) -> str | None:
        """What the user should be told, or None."""
        if self._whole():
            percent = 100 * (self.letters - self.others) // self.letters
            return f"{percent} % of all letters are A, C, G, T, U or N: {_ADVICE}"
        if self.suspects:
            verb, first = ("is", "") if self.suspects == 1 else ("are", "the first is ")
            return (
                f"{plural(self.suspects, 'sequence')} of {self.records:,} {verb} nearly all A, C, G, T, U or N "
                f"({first}{self.first}): {_ADVICE}"
            )
        return None

    def _whole(self) -> bool:
        return (
            self.letters >= ENOUGH
            and self.others * _OTHERS <= self.letters
            and min(self._bases) * _RAREST >= self.letters
        )


def _count_bases(sequence: bytes) -> list[int]:
    """How often A, C, G, and T or U occur."""
    a, c, g, t, u = (sequence.count(base) for base in (b"A", b"C", b"G", b"T", b"U"))
    return [a, c, g, t + u]
