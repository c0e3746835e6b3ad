"""A permutation of any number of things that is computed, not stored: the order of an epoch."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_ROUNDS = 4


class Order:
    """A pseudo-random order of ``range(count)``, the same for the same key.

    A Feistel network over the next even number of bits, walked until it lands below ``count`` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): two steps on average, at most a few.

    Args:
        count: how many things.
        key: two numbers, such as seed and epoch.
    """

    def __init__(self, count: int, key: tuple[int, int]) -> None:
        self._count = count
        self._half = max(1, -(-max(1, count - 1).bit_length() // 2))
        self._low = (1 << self._half) - 1
        first = _mixed(_mixed(key[0] & _MASK) ^ (key[1] & _MASK))
        self._keys = tuple(_mixed(first + number) for number in range(_ROUNDS))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"{index:,} of {self._count:,}")
        while True:
            left, right = index >> self._half, index & self._low
            for key in self._keys:
                left, right = right, left ^ (_mixed(right ^ key) & self._low)
            index = left << self._half | right
            if index < self._count:
                return index


def _mixed(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
