"""Files of runs: read strictly; those that are shipped, all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aminoglot.corpus import Corpus
from aminoglot.errors import InputError
from aminoglot.pretrain.config import of_dict, read
from aminoglot.pretrain.estimate import lines

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
GOOD = """
[model]
size = "esm2-8m"
[batch]
tokens = 4096
[optimizer]
rate = 1e-3
[schedule]
updates = 100
warmup = 10
"""


def test_there_are_some() -> None:
    assert {path.stem for path in SHIPPED} == {
        *("esm2-8m", "esm2-650m", "esm2-3b", "prott5nv", "prott5nv-from-language", "continue", "smoke", "bundled"),
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_ones_are_dry_run(path: Path, corpus: Corpus, t5_corpus: Corpus) -> None:
    """Those that begin from a model nobody can have here begin from its untrained shape."""
    asked = read(path)
    t5 = "prott5nv" in path.stem
    asked = replace(asked, corpus=str((t5_corpus if t5 else corpus).folder))
    if asked.model.start is not None:
        start = "random:prott5nv" if t5 else f"random:{asked.model.start}"
        asked = replace(asked, model=replace(asked.model, start=start, language=False))
    found = dict(lines(asked))
    parameters = {
        "esm2-8m": 7_512_353,
        "esm2-650m": 651_042_593,
        "esm2-3b": 2_839_004_193,
        "prott5nv": 198_970_496,
        "prott5nv-from-language": 198_970_496,
        "bundled": 4_813_857,
    }
    assert found["parameters"] == f"{parameters.get(path.stem, int(found['parameters'].replace(',', ''))):,}"
    assert found["updates"] == f"{asked.schedule.updates:,}"
    assert "GiB" in found["memory, activations"]


def test_the_papers_numbers() -> None:
    """Batch, rate, warm-up and decay of the papers and cards."""
    by_name = {path.stem: read(path) for path in SHIPPED}
    for name, warmup in (("esm2-8m", 2_000), ("esm2-650m", 2_000), ("esm2-3b", 20_000)):
        found = by_name[name]
        assert (found.batch.proteins, found.schedule.updates, found.schedule.warmup) == (2048, 500_000, warmup)
        assert found.rates().rate(450_000) == pytest.approx(4e-5)
        assert (found.optimizer.betas, found.optimizer.decay) == ((0.9, 0.98), 0.01)
    card = by_name["prott5nv"]
    assert (card.batch.proteins, card.schedule.warmup, card.optimizer.betas) == (2688, 10_000, (0.9, 0.999))
    assert card.model.dropout == 0.1
    assert card.rates().rate(970_190) == pytest.approx(1.015e-5, rel=1e-3)


def written(folder: Path, text: str) -> Path:
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    found = read(written(tmp_path, GOOD))
    assert found.corpus == str(tmp_path / "corpus"), "relative to the file"
    assert (found.optimizer.clip, found.save.keep, found.seed) == (1.0, 2, 0)
    assert of_dict(found.as_dict()) == found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tokens = 4096", "tokns = 4096", "batch.tokns: no such key; did you mean tokens"),
        ("tokens = 4096", 'tokens = "many"', "batch.tokens = 'many': a whole number"),
        ("tokens = 4096", "tokens = 4096\nproteins = 3", "give either proteins or tokens"),
        ("tokens = 4096", "", "give either proteins or tokens"),
        ("tokens = 4096", "tokens = 0", "tokens = 0: at least 1"),
        ("tokens = 4096", "tokens = true", "batch.tokens = True: a whole number"),
        ("rate = 1e-3", "", "optimizer.rate: missing"),
        ("rate = 1e-3", "rate = -1.0", r"\[optimizer\] rate = -1: above 0"),
        ("rate = 1e-3", "rate = inf", "rate = inf: above 0"),
        ("rate = 1e-3", "rate = 1e-3\nclip = nan", "clip = nan: 0 or above"),
        ("rate = 1e-3", 'rate = 1e-3\nname = "muon"\n[compute]\nparallel = "fsdp"', "works on whole matrices"),
        ("rate = 1e-3", "rate = 1e-3\nbetas = [0.9]", "optimizer.betas: a list of 2 numbers"),
        ("rate = 1e-3", "rate = 1e-3\nbetas = [0.9, 1.0]", "from 0 to below 1"),
        ("rate = 1e-3", 'rate = 1e-3\nname = "sgd"', "optimizer.name = 'sgd': choose adamw, muon"),
        ('size = "esm2-8m"', 'size = "esm2-9m"', "choose esm2-tiny"),
        ('size = "esm2-8m"', 'size = "esm2-8m"\nlayers = 3', "One of the three"),
        ('size = "esm2-8m"', 'family = "esm2"\nlayers = 3', "belong together"),
        ('size = "esm2-8m"', 'family = "bert"\nlayers = 3\nhidden = 4\nheads = 2', "choose esm2, prott5nv"),
        ('size = "esm2-8m"', 'size = "esm2-8m"\nlanguage = true', "start names the T5"),
        ('size = "esm2-8m"', 'size = "esm2-8m"\ndropout = 1.0', "dropout = 1.0"),
        ("warmup = 10", "warmup = 95", "leaves no time to decay"),
        ("warmup = 10", 'warmup = 10\nshape = "step"', "choose linear, inverse-square-root, cosine"),
        ('size = "esm2-8m"', 'family = "esm2"\nlayers = 0\nhidden = 4\nheads = 2', "layers = 0: at least 1"),
        ('size = "esm2-8m"', 'family = "esm2"\nlayers = 1\nhidden = -4\nheads = 2', "hidden = -4: at least 1"),
        ('size = "esm2-8m"', 'family = "esm2"\nlayers = 1\nhidden = 4\nheads = 0', "heads = 0: at least 1"),
        ('size = "esm2-8m"', 'family = "esm2"\nlayers = 3\nhidden = 10\nheads = 4', "an even multiple of heads"),
        ('size = "esm2-8m"', 'start = ""', "start is empty"),
        ("[model]", "trainer = 3\n[model]", "trainer: no such key; there are model, batch, optimizer"),
        ("[schedule]", "[schedules]", "schedules: no such key; did you mean schedule"),
        ("[schedule]\nupdates = 100\nwarmup = 10", "schedule = 3", "batch|schedule"),
        ("[model]", "log_every = 0\n[model]", "log_every = 0: at least 1"),
        ("[model]", "seed = -1\n[model]", "seed: a number from 0 on"),
        ("[model]", "[model", "no TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=f"{path}: .*{said}"):
        read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.toml")
