"""What goes wrong beside a run: disks, memory, kills while a state is written. The states that were whole stay so."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from aminoglot.checkpoints import resolve
from aminoglot.corpus import Corpus
from aminoglot.errors import JobError, OutputError
from aminoglot.models import products
from aminoglot.models.linear import train_in
from aminoglot.pretrain import loop, run
from aminoglot.pretrain.config import ComputePart
from aminoglot.pretrain.objective import objective_for, samples_for
from aminoglot.pretrain.parallel import World, wrapped
from aminoglot.pretrain.run import pretrain
from aminoglot.pretrain.start import start
from tests.corpus.helpers import QUIET
from tests.pretrain.helpers import config, losses, ran, same, state

LOG_FAILS = """
import time
from aminoglot.errors import OutputError
from aminoglot.pretrain import record
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter as Writer
line, write = record.Log._line, Writer.write_data
def full(self, **content):
    if content["update"] == 5:
        raise OutputError("log.jsonl: the disk is full")
    line(self, **content)
def slow(self, *rest):
    time.sleep(2)
    return write(self, *rest)
record.Log._line, Writer.write_data = full, slow
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_the_disk_is_full_while_a_state_is_written(processes: int, corpus: Corpus, tmp_path: Path) -> None:
    """The log cannot be written; the state that another thread is writing meanwhile becomes whole."""
    done = ran(config(corpus), tmp_path / "run", LOG_FAILS, processes=processes)
    assert "log.jsonl: the disk is full" in done.stdout
    assert "Traceback" not in done.stdout
    assert [path.name for path in (tmp_path / "run" / "states").iterdir()] == ["000000004"]


KILLS = {
    "with half of its bytes": """
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter as Writer
write = Writer.write_data
def half(self, *rest):
    write(self, *rest).wait()
    for file in Path(self.path).rglob("*.safetensors"):
        os.truncate(file, file.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
Writer.write_data = half
""",
    "before it has its name": """
rename = Path.rename
def killed(self, target):
    if self.name == "000000008.partial":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
""",
    "while an old one is removed": """
import shutil
remove = shutil.rmtree
def killed(path, *rest, **others):
    if Path(path).name == "000000004.partial":
        os.kill(os.getpid(), signal.SIGKILL)
    remove(path, *rest, **others)
shutil.rmtree = killed
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("when", KILLS)
def test_killed_while_a_state_is_written(when: str, corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, save={"every": 4, "keep": 1}, validation={"every": 100})
    never = ran(asked, tmp_path / "never")
    assert never.returncode == 0, never.stderr
    folder = tmp_path / "run"
    assert ran(asked, folder, KILLS[when]).returncode == -signal.SIGKILL
    assert list((folder / "states").glob("*.partial"))
    again = ran(asked, folder)
    assert again.returncode == 0, again.stderr
    assert same(state(folder, 12), state(tmp_path / "never", 12))
    assert losses(folder) == losses(tmp_path / "never")
    assert not list((folder / "states").glob("*.partial"))


def test_memory_runs_out(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.Trainer._gradients

    def short(self: Any, batches: list[Any], number: int, scale: float) -> Any:
        if number == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB")
        return original(self, batches, number, scale)

    monkeypatch.setattr(loop.Trainer, "_gradients", short)
    with pytest.raises(JobError, match="update 6: there is not enough memory for 1,000 tokens at once; a smaller"):
        pretrain(config(corpus), tmp_path / "run", QUIET)
    states = sorted(path.name for path in (tmp_path / "run" / "states").iterdir())
    assert states == ["000000004", "000000005"], "the last, and the best, which was being written"


def test_the_disk_is_full_at_the_card(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(self: Path, *rest: Any, **others: Any) -> int:
        if self.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(self, *rest, **others)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="the disk is full"):
        pretrain(config(corpus), tmp_path / "run", QUIET)
    monkeypatch.undo()
    pretrain(config(corpus), tmp_path / "run", QUIET)
    assert (tmp_path / "run" / "model" / "README.md").is_file()


def test_the_best_state_becomes_a_model_too(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the end is not the best: here what is held out is made to be told worse after update 5."""
    worse = iter([3.5, 2.0, 2.5, 2.6])
    original = run.validate

    def told(*given: Any) -> Any:
        loss = next(worse)
        return replace(original(*given), loss=loss, residue_loss=loss)

    monkeypatch.setattr(run, "validate", told)
    pretrain(config(corpus, save={"every": 2, "keep": 1}), tmp_path / "run", QUIET)
    best, last = (dict(resolve(tmp_path / "run" / name).tensors) for name in ("best", "model"))
    kept = {key.removeprefix("model."): value for key, value in state(tmp_path / "run", 5).items() if "model." in key}
    assert all(torch.equal(value, kept[key]) for key, value in best.items())
    assert not same(best, last)
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "in 5 of 12 updates" in card
    assert "| this model | 2.0000 |" in card
    assert "| this model | 2.6000 |" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize("recompute", [False, True])
def test_exponentials_are_dropped(recompute: bool, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that attention keeps on CPUs: all until the backward pass, or none where blocks are computed again."""
    asked = config(corpus, compute={"recompute": recompute})
    network, _ = start(asked.model, 0)
    train_in(network, "bf16")
    objective = objective_for(network)
    made: list[StorageWeakRef] = []
    original = products._exponentials

    def noted(*given: Any) -> torch.Tensor:
        made.append(StorageWeakRef((found := original(*given)).untyped_storage()))
        return found

    monkeypatch.setattr(products, "_exponentials", noted)
    samples = samples_for(network, corpus, "train", 0)
    module = wrapped(objective, ComputePart(device="cpu", recompute=recompute), World(0, 1, torch.device("cpu"), None))
    sums = module(objective.batch([samples[n] for n in range(8)], torch.device("cpu")))
    assert made
    assert [one.expired() for one in made] == [recompute] * len(made)
    sums[0].backward()
    assert all(one.expired() for one in made), "though the sums are still here"
