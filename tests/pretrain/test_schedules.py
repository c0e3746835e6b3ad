"""Rates at the dates that papers and code give."""

from __future__ import annotations

from typing import Any

import pytest

from aminoglot.errors import InputError
from aminoglot.pretrain.schedules import Schedule

ESM2 = Schedule(4e-4, 500_000, 2_000)
PROTT5NV = Schedule(1e-4, 1_000_000, 10_000, "inverse-square-root", floor=0.0)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (1, 2e-7),
        (1_000, 2e-4),
        (2_000, 4e-4),
        (226_000, 2.2e-4),  # half way down
        (449_999, 4e-5 + 3.6e-4 / 448_000),
        (450_000, 4e-5),
        (499_999, 4e-5),
        (500_000, 4e-5),
    ],
)
def test_esm2(update: int, rate: float) -> None:
    """2,000 updates up, a tenth of the peak at 450,000, held to 500,000."""
    assert ESM2.rate(update) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "rate", "digits"),
    [(0, 1e-4 / 10_001, 1e-9), (10_000, 1e-4, 1e-9), (100_000, 3.16e-5, 1e-3), (970_189, 1.015e-5, 1e-3)],
)
def test_prott5nv(step: int, rate: float, digits: float) -> None:
    """NeMo counts steps from 0."""
    assert PROTT5NV.rate(step + 1) == pytest.approx(rate, rel=digits)


def test_a_log_of_bionemos() -> None:
    """1.28388e-5 at scheduler step 181 after a warm-up of 2, at a peak of 1e-4."""
    schedule = Schedule(1e-4, 1_000, 2, "inverse-square-root", floor=0.0)
    assert schedule.rate(182) == pytest.approx(1.28388e-5, rel=1e-5)
    assert schedule.rate(1_001) == 0.0


def test_cosine() -> None:
    schedule = Schedule(1.0, 1_000, 100, "cosine", floor=0.1, decayed=1.0)
    assert [schedule.rate(update) for update in (50, 100, 550, 1_000)] == pytest.approx([0.5, 1.0, 0.55, 0.1])


def test_a_line_that_ends_at_nothing() -> None:
    schedule = Schedule(1.0, 100, 0, floor=0.0, decayed=1.0)
    assert [schedule.rate(update) for update in (1, 50, 100)] == pytest.approx([0.99, 0.5, 0.0])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peak": 0.0}, "rate 0.0"),
        ({"updates": 0}, "updates = 0: at least 1"),
        ({"warmup": -1}, "warmup = -1: 0 or more"),
        ({"floor": 1.5}, "floor 1.5"),
        ({"decayed": 0.0}, "decayed 0.0"),
        ({"warmup": 95}, "warm-up of 95 updates leaves no time"),
        ({"shape": "square"}, "shape='square': choose linear"),
    ],
)
def test_what_cannot_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Schedule(**{"peak": 1.0, "updates": 100, "warmup": 10, **changed})
