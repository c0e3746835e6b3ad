"""Runs that are killed, anywhere, go on and end as if nothing had happened, to the byte."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.embedding.helpers import Answer, Driver
from tests.finetune.helpers import MODEL, contents, rows, write_table

FLAGS = (
    "--target",
    "label",
    "-m",
    MODEL,
    "--precision",
    "fp32",
    "--epochs",
    "4",
    "--batch",
    "8",
    "--test-share",
    "0.3",
)


def arguments(data: Path, folder: Path, *flags: str) -> list[str]:
    return ["finetune", str(data), "-o", str(folder), *FLAGS, *flags]


def run(driver: Driver, command: list[str], **request: Any) -> Answer:
    return driver.run(command, hurry=True, **request)


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_killed_while_a_state_is_written(tmp_path: Path, driver: Driver, method: str) -> None:
    """Half a state on the disk is none: the one before counts, or the beginning."""
    data = write_table(tmp_path / "a.csv", rows(24))
    assert run(driver, arguments(data, tmp_path / "whole", "--method", method)).status == 0
    for number in (1, 3):
        folder = tmp_path / f"run{number}"
        assert run(driver, arguments(data, folder, "--method", method), die_writing=number).status == -9
        assert (folder / ".state.safetensors").exists() == (number > 1)
        assert not (folder / "predictor.json").exists()
        answer = run(driver, arguments(data, folder, "--method", method))
        assert answer.status == 0, answer.screen
        assert ("going on after epoch 2" in answer.screen) == (number == 3)
        assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_killed_again_and_again(tmp_path: Path, driver: Driver, method: str) -> None:
    """At any line of ours, each time after a few more: while reading, embedding, learning, testing, writing."""
    data = write_table(tmp_path / "a.csv", rows(24))
    assert run(driver, arguments(data, tmp_path / "whole", "--method", method)).status == 0
    strike, killed = 300, 0
    while True:
        answer = run(driver, arguments(data, tmp_path / "run", "--method", method), strike=strike)
        if answer.status == 0:
            break
        assert answer.status == -9, answer.screen
        killed, strike = killed + 1, int(strike * 1.6)
    assert killed > 5
    left = {name: one for name, one in contents(tmp_path / "run").items() if not name.endswith(".partial")}
    assert left == contents(tmp_path / "whole")


def test_ctrl_c_keeps_the_epochs(tmp_path: Path, driver: Driver) -> None:
    data = write_table(tmp_path / "a.csv", rows(24))
    answer = run(driver, arguments(data, tmp_path / "run", "--method", "lora"), strike=3500, signal=int(signal.SIGINT))
    assert answer.status == 130, answer.screen
    assert "interrupted; what is done is kept" in answer.screen
    assert run(driver, arguments(data, tmp_path / "run", "--method", "lora")).status == 0


def test_a_file_that_may_not_grow(tmp_path: Path, driver: Driver) -> None:
    """The system's own refusal, not one that a test makes up."""
    data = write_table(tmp_path / "a.csv", rows(24))
    answer = run(driver, arguments(data, tmp_path / "run"), limit={"phase": "make_plan", "bytes": 60_000})
    assert answer.status == 1
    assert "the disk is full (or a quota is reached)" in answer.screen
    assert "Traceback" not in answer.screen
    assert run(driver, arguments(data, tmp_path / "run")).status == 0
