"""Whole runs: the same whatever happens to them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aminoglot
from aminoglot.checkpoints import resolve
from aminoglot.corpus import Corpus
from aminoglot.errors import AminoglotError, InputError, JobError, OutputError
from aminoglot.pretrain import loop
from aminoglot.pretrain.run import pretrain
from aminoglot.pretrain.state import Progress
from tests.corpus.helpers import QUIET
from tests.pretrain.helpers import TINY, config, held_out, losses, ran, same, state

KILLED = """
import aminoglot.pretrain as room
lines, count = int(os.environ["KILLED_AT"]), 0
WATCHED = {str(Path(room.__path__[0]) / name) for name in ("loop.py", "run.py", "state.py", "record.py", "results.py")}
def line(frame, event, _):
    global count
    count += event == "line"
    if count == lines:
        os.kill(os.getpid(), signal.SIGKILL)
    return line
sys.settrace(lambda frame, *_: line if frame.f_code.co_filename in WATCHED else None)
"""


def tensors_of(folder: Path) -> Mapping[str, torch.Tensor]:
    """The weights of the model that a run left."""
    return resolve(folder / "model").tensors


def stopped_after(count: int) -> str:
    """A program's beginning that makes its run end after so many updates."""
    return (
        "from itertools import islice\nfrom aminoglot.pretrain import loop\n"
        f"loop.islice = lambda stream, _: islice(stream, {count})"
    )


def test_it_learns(whole: Path) -> None:
    found = held_out(whole)
    assert list(found) == [0, 5, 10, 12]
    assert found[12] < found[0] - 0.25
    assert list(losses(whole)) == list(range(1, 13))


def test_what_it_leaves(whole: Path, corpus: Corpus) -> None:
    """The last states and the best, a picture, a model that embeds, a card."""
    assert sorted(path.name for path in (whole / "states").iterdir()) == ["000000010", "000000012"]
    assert (whole / "loss.png").read_bytes()[:4] == b"\x89PNG"
    model = aminoglot.load(whole / "model", precision="fp32")
    assert model.embed(["MKTAYIAK"]).shape == (1, 32)
    weights = state(whole, 12)
    (logits,) = model.logits(["MKTAYIAK"])
    assert logits.shape == (8, 33)
    assert torch.equal(tensors_of(whole)["layers.1.up.weight"], weights["model.layers.1.up.weight"])
    card = (whole / "model" / "README.md").read_text()
    assert f"| this model | {held_out(whole)[12]:.4f} |" in card
    assert f"| the same, untrained | {held_out(whole)[0]:.4f} |" in card
    assert "letter frequencies alone" in card
    assert str(corpus.folder.parent) not in card, "no paths"


@pytest.mark.parametrize("update", range(0, 12, 3))
def test_interrupted_it_goes_on_to_the_bit(update: int, whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an update: it ends, a state is written."""
    stop = f"""
from aminoglot.pretrain import loop
step = loop.Trainer._step
def stopping(self, *given):
    stopping.count += 1
    if stopping.count == {update + 1}:
        signal.raise_signal(signal.SIGTERM)
    step(self, *given)
stopping.count = 0
loop.Trainer._step = stopping
"""
    done = ran(config(corpus), tmp_path / "run", stop)
    assert "KeyboardInterrupt" in done.stderr
    assert (tmp_path / "run" / "states" / f"{update + 1:09}").exists()
    again = ran(config(corpus), tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert same(state(tmp_path / "run", 12), state(whole, 12))
    assert losses(tmp_path / "run") == losses(whole)
    assert held_out(tmp_path / "run") == held_out(whole)


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_bit(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    """SIGKILL at lines drawn from all that run, those that write states among them."""
    done = ran(config(corpus), tmp_path / "counted", KILLED, "print(count)", KILLED_AT="-1")
    assert done.returncode == 0, done.stderr
    total = int(done.stdout.split()[-1])
    for line in np.random.default_rng(0).choice(total, 10, replace=False).tolist():
        folder = tmp_path / f"killed-{line}"
        assert ran(config(corpus), folder, KILLED, KILLED_AT=str(line + 1)).returncode == -signal.SIGKILL
        again = ran(config(corpus), folder)
        assert again.returncode == 0, again.stderr
        assert same(state(folder, 12), state(whole, 12))
        assert losses(folder) == losses(whole)
        assert held_out(folder) == held_out(whole)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(parallel: str, whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    """And a run that two began is ended by one, and the other way round."""
    asked = config(corpus, compute={"parallel": parallel})
    done = ran(asked, tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(whole), abs=1e-5)
    assert held_out(tmp_path / "two") == pytest.approx(held_out(whole), abs=1e-5)
    mine = tensors_of(tmp_path / "two")
    for key, tensor in tensors_of(whole).items():
        assert torch.allclose(mine[key], tensor, atol=1e-5), key
    for first, second in ((2, 0), (0, 2)):
        folder = tmp_path / f"mixed-{first}"
        short = replace(asked, save=replace(asked.save, every=6))
        done = ran(short, folder, stopped_after(6), processes=first)
        assert (folder / "states" / "000000006").exists(), done.stderr
        again = ran(short, folder, processes=second)
        assert again.returncode == 0, again.stderr
        assert losses(folder) == pytest.approx(losses(whole), abs=1e-5)


def test_accumulation_equals_the_large_batch(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, batch={"at_once": 100_000})
    pretrain(asked, tmp_path / "run", QUIET)
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-5)


def test_recomputing_changes_nothing(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    done = ran(config(corpus, compute={"recompute": True}), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == losses(whole)
    assert same(state(tmp_path / "run", 12), state(whole, 12))


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_other_precisions(precision: str, whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    pretrain(config(corpus, compute={"precision": precision}), tmp_path / "run", QUIET)
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=0.02)
    assert state(tmp_path / "run", 12)["model.layers.0.up.weight"].dtype == torch.float32


def test_muon(corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, optimizer={"rate": 3e-3, "name": "muon"})
    pretrain(asked, tmp_path / "run", QUIET)
    assert held_out(tmp_path / "run")[12] < held_out(tmp_path / "run")[0] - 0.25
    assert "optimizer.layers.0.up.weight.momentum_buffer" in state(tmp_path / "run", 12)


def test_prott5nv(t5_corpus: Corpus, tmp_path: Path) -> None:
    """With dropout: stopped or not, the same."""
    asked = config(t5_corpus, model={"family": "prott5nv", "layers": 1, "hidden": 32, "heads": 2, "dropout": 0.1})
    done = ran(asked, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    first, last = held_out(tmp_path / "run")[0], held_out(tmp_path / "run")[12]
    assert last < first
    ran(asked, tmp_path / "other", stopped_after(4))
    again = ran(asked, tmp_path / "other")
    assert again.returncode == 0, again.stderr
    assert same(state(tmp_path / "other", 12), state(tmp_path / "run", 12))
    model = aminoglot.load(tmp_path / "run" / "model", precision="fp32")
    assert model.infill("MKT<mask>YIAK").sequence
    plain = ran(replace(asked, model=replace(asked.model, dropout=0.0)), tmp_path / "plain")
    assert plain.returncode == 0
    assert losses(tmp_path / "plain")[1] != losses(tmp_path / "run")[1]


@pytest.mark.parametrize("changed", [{"recompute": True}, {"parallel": "ddp"}, {"parallel": "fsdp"}])
def test_prott5nv_another_way(changed: dict[str, Any], t5_corpus: Corpus, tmp_path: Path) -> None:
    """Recomputed, or on two processes: the same losses."""
    short = {"schedule": {"updates": 4, "warmup": 1}}
    pretrain(config(t5_corpus, **short), tmp_path / "plain", QUIET)
    asked = config(t5_corpus, compute=changed, **short)
    done = ran(asked, tmp_path / "other", processes=2 if "parallel" in changed else 0)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    assert held_out(tmp_path / "other") == pytest.approx(held_out(tmp_path / "plain"), abs=1e-5)


def test_trouble_of_one_ends_all(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    """The process that leads finds another run here; the other does not wait for it."""
    folder = copied(whole, tmp_path / "run")
    done = ran(config(corpus, seed=3), folder, processes=2)
    assert "a run begun otherwise (seed)" in done.stdout
    assert "another process of this run could not go on" in done.stdout


def test_a_whole_run_is_left_alone(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "run")
    (folder / "model" / "README.md").write_text("mine")
    pretrain(config(corpus), folder, QUIET)
    assert (folder / "model" / "README.md").read_text() == "mine"


def test_from_a_checkpoint(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, model={"start": str(whole / "model")})
    pretrain(asked, tmp_path / "run", QUIET)
    assert held_out(tmp_path / "run")[0] == pytest.approx(held_out(whole)[12], abs=1e-5)
    assert held_out(tmp_path / "run")[12] < held_out(whole)[12]


def test_from_random_weights_of_a_known_size(corpus: Corpus, tmp_path: Path) -> None:
    """One with a contact head, which is left out."""
    asked = config(corpus, model={"start": "random:esm2-tiny"}, schedule={"updates": 3, "warmup": 0})
    pretrain(asked, tmp_path / "run", QUIET)
    assert not any(key.startswith("contact_head") for key in tensors_of(tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number(what: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of such an update is kept, and the state before it is whole."""
    gradients = loop.Trainer._gradients

    def spoilt(self: loop.Trainer, pieces: Any, number: int, scale: float) -> Any:
        sums, flops = gradients(self, pieces, number, scale)
        if number == 7 and what == "loss":
            sums[0] = torch.nan
        if number == 7 and what == "gradient":
            self._parameters[0].grad[0] = torch.inf  # type: ignore[index]
        return sums, flops

    monkeypatch.setattr(loop.Trainer, "_gradients", spoilt)
    with pytest.raises(JobError, match=r"update 7: the loss is .* Nothing of this update was"):
        pretrain(config(corpus), tmp_path / "run", QUIET)
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "run" / "states").iterdir()} == {"000000004", "000000005"}
    pretrain(config(corpus), tmp_path / "run", QUIET)
    assert max(losses(tmp_path / "run")) == 12


def test_fp16_skips_what_overflows() -> None:
    """The scale is halved, nothing else changes; after a long time without it is doubled."""
    trainer = loop.Trainer.__new__(loop.Trainer)
    trainer._half = True
    assert trainer._next_scale(Progress(loss_scale=1024.0, good=7), False, 1, 2.0) == (512.0, 0)
    assert trainer._next_scale(Progress(loss_scale=512.0, good=7), True, 1, 2.0) == (512.0, 8)
    assert trainer._next_scale(Progress(loss_scale=512.0, good=loop._GROW_AFTER - 1), True, 1, 2.0) == (1024.0, 0)
    with pytest.raises(JobError, match="the gradients are no numbers"):
        trainer._next_scale(Progress(loss_scale=loop._LEAST_SCALE), False, 1, 2.0)


def test_a_scale_leaves_gradients_as_they_are(whole: Path, corpus: Corpus, tmp_path: Path, monkeypatch: Any) -> None:
    """fp16's way in float32: powers of two cancel exactly."""
    run = loop.Trainer.run

    def half(self: loop.Trainer, progress: Any) -> Any:
        self._half = True
        return run(self, progress)

    monkeypatch.setattr(loop.Trainer, "run", half)
    pretrain(config(corpus), tmp_path / "run", QUIET)
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-6)
    assert (
        json.loads((tmp_path / "run" / "states" / "000000012" / "state.json").read_text())["progress"]["loss_scale"]
        == 65536
    )


FULL = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("most", [0, 1_400, 100_000])
def test_a_full_disk(most: int, whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    """It strikes the record, the log, the states; then it goes on."""
    full = ran(config(corpus), tmp_path / "run", FULL.format(most=most))
    assert full.returncode == 3, full.stderr
    assert "disk is full" in full.stdout, full.stdout
    again = ran(config(corpus), tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert same(state(tmp_path / "run", 12), state(whole, 12))


def copied(whole: Path, to: Path) -> Path:
    shutil.copytree(whole, to)
    return to


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"optimizer": {"rate": 1e-3}}, "optimizer.rate"),
        ({"schedule": {"updates": 20}}, "schedule.updates"),
        ({"batch": {"tokens": 3_000}}, "batch.tokens"),
        ({"seed": 3}, "seed"),
        ({"model": {**TINY, "layers": 3}}, "model, model.layers"),
        ({"compute": {"precision": "bf16"}}, "precision"),
        ({"validation": {"proteins": 7}}, "validation.proteins"),
    ],
)
def test_another_run_in_its_folder(
    changed: dict[str, Any], said: str, whole: Path, corpus: Corpus, tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path / "run")
    with pytest.raises(JobError, match=f"a run begun otherwise \\({said}\\)"):
        pretrain(config(corpus, **changed), folder, QUIET)


def test_what_may_change(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "run")
    shutil.rmtree(folder / "states" / "000000012")
    shutil.rmtree(folder / "model")
    pretrain(config(corpus, save={"every": 7}, batch={"at_once": 1_500}), folder, QUIET)
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-5)
    assert (folder / "states" / "000000012").exists()


def test_another_corpus(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    other = copied(corpus.folder, tmp_path / "corpus")
    card = json.loads((other / "card.json").read_text())
    card["stages"]["split"]["train"] += 1
    (other / "card.json").write_text(json.dumps(card))
    with pytest.raises(JobError, match=r"a run begun otherwise \(corpus\)"):
        pretrain(replace(config(corpus), corpus=str(other)), copied(whole, tmp_path / "run"), QUIET)


def test_a_damaged_state_is_named(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "run")
    (path,) = (folder / "states" / "000000012").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OutputError, match="000000012: this state cannot be read"):
        pretrain(config(corpus), folder, QUIET)
    (folder / "states" / "000000012" / "state.json").write_text("{")
    with pytest.raises(OutputError, match=r"state\.json: damaged"):
        pretrain(config(corpus), folder, QUIET)


def test_the_wrong_family(t5_corpus: Corpus, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a training set for prott5nv, and the model is ESM-2"):
        pretrain(replace(config(corpus), corpus=str(t5_corpus.folder)), tmp_path / "run", QUIET)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": {"tokens": 2_000, "at_once": 50}}, "less than the longest sample of this corpus, 100"),
        ({"batch": {"tokens": 99, "at_once": 1_000}}, "tokens = 99: less than the longest sample of this corpus, 100"),
        ({"model": {**TINY, "dropout": 0.1}}, "ESM-2 has none"),
        ({"compute": {"precision": "fp16"}}, "precision fp16 is not for cpu"),
        ({"compute": {"device": "tpu"}}, "device 'tpu'"),
        ({"model": {"start": "nowhere"}}, "no such model"),
    ],
)
def test_contradictions(changed: dict[str, Any], said: str, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(AminoglotError, match=said):
        pretrain(config(corpus, **changed), tmp_path / "run", QUIET)


def test_a_folder_of_something_else(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"a folder of something else \(thesis\.tex\)"):
        pretrain(config(corpus), tmp_path, QUIET)
