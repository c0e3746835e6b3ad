"""Random numbers that are computed from their address, not drawn one after the other.

The same in every process, thread and version of numpy. SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"): the k-th number of a stream is a mixture of its key and k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ROUNDS = 4

Draws = NDArray[np.uint64]


def mixed(*numbers: int) -> int:
    """A key, 64 bits, of some numbers in this order."""
    value = 0
    for number in numbers:
        value = (value ^ (number & _MASK)) + _GAMMA & _MASK
        value = ((value ^ (value >> 30)) * _FIRST) & _MASK
        value = ((value ^ (value >> 27)) * _SECOND) & _MASK
        value ^= value >> 31
    return value


def draws(key: int, count: int) -> Draws:
    """The first ``count`` numbers of a stream, uint64, each value as likely."""
    found = np.arange(1, count + 1, dtype=np.uint64)
    found *= np.uint64(_GAMMA)
    found += np.uint64(key)
    found ^= found >> np.uint64(30)
    found *= np.uint64(_FIRST)
    found ^= found >> np.uint64(27)
    found *= np.uint64(_SECOND)
    found ^= found >> np.uint64(31)
    return found


def below(draw: int, count: int) -> int:
    """One of ``range(count)``: a draw of 64 bits as a fraction of it."""
    return (draw * count) >> 64


def threshold(share: float) -> np.uint64:
    """So large a share of all draws is below this."""
    return np.uint64(min(_MASK, round(share * 2**64)))


class Order:
    """A pseudo-random order of ``range(count)``, computed and not stored: that of an epoch.

    A Feistel network over the next even number of bits, walked until it lands below ``count`` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): four steps at most on average.

    Args:
        count: how many things.
        key: from :func:`mixed`.
    """

    def __init__(self, count: int, key: int) -> None:
        self._count = count
        self._half = max(1, -(-max(1, count - 1).bit_length() // 2))
        self._low = (1 << self._half) - 1
        self._keys = tuple(mixed(key, number) for number in range(_ROUNDS))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"{index:,} of {self._count:,}")
        while True:
            left, right = index >> self._half, index & self._low
            for key in self._keys:
                left, right = right, left ^ (mixed(right ^ key) & self._low)
            index = left << self._half | right
            if index < self._count:
                return index
