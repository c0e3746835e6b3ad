"""Samples: the stated rates, drawn uniformly, the same wherever and whenever they are made."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aminoglot.corpus import ESM2, IGNORED, PROTT5NV, Choices, Corpus, ESM2Samples, Inputs, ProtT5nvSamples, build
from aminoglot.corpus.draws import draws, mixed
from aminoglot.corpus.recipes import CANONICAL
from aminoglot.corpus.samples import hide, spans
from aminoglot.errors import InputError
from aminoglot.tokens import ESM2_ALPHABET, PROTT5NV_ALPHABET
from tests.corpus.conftest import source
from tests.corpus.helpers import QUIET, fasta, protein

MASK = ESM2_ALPHABET.mask


def with_recipe(corpus: Corpus, **choices: Any) -> Corpus:
    """The same corpus read another way."""
    return Corpus(corpus.folder, replace(corpus.recipe, **choices))


def singles(folder: Path, texts: list[str], **choices: Any) -> Corpus:
    """A corpus of single proteins, one of them for validation."""
    path = fasta(folder / "a.fasta", [(f"p{number}", text) for number, text in enumerate(texts)])
    recipe = replace(PROTT5NV, validation=1, test=0, **choices)
    return build(Inputs(source(path)), recipe, folder / "corpus", Choices(), QUIET)


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------------ ESM-2


def test_an_epoch_has_every_cluster_once(built: Corpus) -> None:
    samples = ESM2Samples(built)
    first = [samples[n].cluster for n in range(len(samples))]
    second = [samples[n].cluster for n in range(len(samples), 2 * len(samples))]
    assert sorted(first) == sorted(second) == built.split("train").tolist()
    assert first != second
    assert first != sorted(first)


def test_a_sample_is_the_protein_but_for_what_is_asked(built: Corpus) -> None:
    samples = ESM2Samples(built)
    for number in range(100):
        sample = samples[number]
        where, row = built.member_at(sample.member)
        whole = ESM2_ALPHABET.encode([ESM2_ALPHABET.framed(where[row])])
        asked = sample.labels != IGNORED
        assert np.array_equal(np.where(asked, sample.labels, sample.tokens), whole)
        assert not asked[[0, -1]].any()
        assert sample.member in range(*built.member_range(sample.cluster))


def test_members_are_drawn_uniformly(built: Corpus) -> None:
    """Of all clusters of four, over many epochs; chi-square with 3 degrees, 99.9 % below 16.3."""
    samples = ESM2Samples(built)
    counts = np.zeros(4)
    for number in range(40 * len(samples)):
        cluster, member, _ = samples._address(number)
        first, last = built.member_range(cluster)
        if last - first == 4:
            counts[member - first] += 1
    expected = counts.sum() / 4
    assert expected > 300
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_masks_have_the_stated_rates(built: Corpus) -> None:
    """15 % asked, of which 80 % masked, 10 % replaced by another draw, 10 % left; five standard deviations."""
    samples = ESM2Samples(built)
    asked = masked = left = total = 0
    replaced: list[int] = []
    for number in range(3_000):
        sample = samples[number]
        scored = sample.labels != IGNORED
        total += len(scored) - 2
        asked += scored.sum()
        masked += (sample.tokens[scored] == MASK).sum()
        left += (sample.tokens[scored] == sample.labels[scored]).sum()
        changed = scored & (sample.tokens != MASK) & (sample.tokens != sample.labels)
        replaced += sample.tokens[changed].tolist()
    assert abs(asked / total - 0.15) < 5 * np.sqrt(0.15 * 0.85 / total)
    assert abs(masked / asked - 0.8) < 5 * np.sqrt(0.16 / asked)
    assert abs(left / asked - 0.105) < 5 * np.sqrt(0.094 / asked), "10 %, and a twentieth of those drawn again"
    letters = {ESM2_ALPHABET.tokens[token] for token in replaced}
    assert letters == set(CANONICAL)
    counts = np.bincount(replaced, minlength=33)[4:24]
    assert ((counts - len(replaced) / 20) ** 2 / (len(replaced) / 20)).sum() < 60, "any of the 20 alike"


def test_all_tokens_may_replace(built: Corpus) -> None:
    samples = ESM2Samples(with_recipe(built, letters="all"))
    seen: set[int] = set()
    for number in range(3_000):
        sample = samples[number]
        changed = (sample.labels != IGNORED) & (sample.tokens != sample.labels)
        seen |= set(sample.tokens[changed].tolist())
    assert seen == set(range(33))


def test_crops_are_of_the_list_of_tokens(built: Corpus) -> None:
    """Special tokens only at true ends, every start as likely, the last one too."""
    length = 30
    samples = ESM2Samples(with_recipe(built, tokens=length))
    starts: list[float] = []
    for number in range(4_000):
        sample = samples[number]
        where, row = built.member_at(sample.member)
        whole = ESM2_ALPHABET.encode([ESM2_ALPHABET.framed(where[row])])
        part = whole[sample.start : sample.start + length]
        asked = sample.labels != IGNORED
        assert np.array_equal(np.where(asked, sample.labels, sample.tokens), part)
        if len(whole) > length:
            assert len(part) == length
            starts.append(sample.start / (len(whole) - length))
    assert min(starts) == 0
    assert max(starts) == 1
    assert abs(np.mean(starts) - 0.5) < 5 * np.sqrt(1 / 12 / len(starts)) + 0.01


def test_crops_from_the_start(built: Corpus) -> None:
    samples = ESM2Samples(with_recipe(built, tokens=30, crop="start"))
    assert {samples[number].start for number in range(500)} == {0}


def test_validation_is_the_same_every_time(built: Corpus) -> None:
    samples = ESM2Samples(built, "validation")
    assert len(samples) == 40
    for number in range(40):
        first, again = samples[number], samples[number + 40]
        assert same(first, again)
        assert (
            built.representatives[first.cluster] == built.member_at(first.member)[0][built.member_at(first.member)[1]]
        )
    assert [samples[n].cluster for n in range(40)] == built.split("validation").tolist()


def test_epochs_and_seeds_differ(built: Corpus) -> None:
    samples, other = ESM2Samples(built), ESM2Samples(built, seed=1)
    of_cluster = {samples[n].cluster: samples[n] for n in range(len(samples))}
    later = {samples[n].cluster: samples[n] for n in range(len(samples), 2 * len(samples))}
    differing = sum(not np.array_equal(of_cluster[c].labels, later[c].labels) for c in of_cluster)
    assert differing > 0.95 * len(samples)
    assert [other[n].cluster for n in range(20)] != [samples[n].cluster for n in range(20)]


def in_process(arguments: tuple[str, int, int]) -> list[str]:
    folder, first, step = arguments
    samples = ESM2Samples(Corpus(folder))
    return [json.dumps([samples[n].tokens.tolist(), samples[n].labels.tolist()]) for n in range(first, 800, step)]


def test_one_process_and_eight_make_the_same(built: Corpus) -> None:
    whole = in_process((str(built.folder), 0, 1))
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(in_process, [(str(built.folder), rank, 8) for rank in range(8)]))
    assert [parts[n % 8][n // 8] for n in range(800)] == whole


def test_a_run_goes_on_by_one_integer(built: Corpus) -> None:
    before = ESM2Samples(built)
    for n in range(500):
        before[n]
    assert same(ESM2Samples(Corpus(built.folder))[500], before[500])


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64, torch.tensor])
def test_any_kind_of_whole_number(kind: Any, built: Corpus) -> None:
    samples = ESM2Samples(built, seed=np.int64(3))  # type: ignore[arg-type]
    for number in (0, 5, 400, 10**6):
        mine, theirs = ESM2Samples(built, seed=3)[number], samples[kind(number)]
        assert mine.tokens.tolist() == theirs.tokens.tolist()
        assert samples.tokens_of(kind(number)) == len(mine.tokens)


def test_a_loop_ends_with_the_epoch(built: Corpus) -> None:
    samples = ESM2Samples(built)
    assert [sample.cluster for sample in samples] == [samples[n].cluster for n in range(len(samples))]


def test_a_loader_goes_on_through_epochs(built: Corpus) -> None:
    """As docs/corpus.md has it."""
    samples = ESM2Samples(built)
    loader = torch.utils.data.DataLoader(samples, sampler=range(350, 370), batch_size=None, num_workers=2)
    for number, sample in zip(range(350, 370), loader, strict=True):
        assert sample.tokens.tolist() == samples[number].tokens.tolist()


def test_threads_in_different_epochs(built: Corpus) -> None:
    samples = ESM2Samples(built)
    numbers = [len(samples) * (n % 7) + n for n in range(2_000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: samples[number].cluster, numbers))
    assert found == [ESM2Samples(built)[number].cluster for number in numbers]


def test_nothing_to_sample(built: Corpus) -> None:
    with pytest.raises(InputError, match="no protein for test"):
        ESM2Samples(built, "test")
    with pytest.raises(IndexError):
        ESM2Samples(built)[-1]


def test_validation_does_not_know_the_runs_seed(built: Corpus) -> None:
    """Else the perplexities of two runs could not be compared; nor does it share draws with training."""
    one, other = ESM2Samples(built, "validation", seed=0), ESM2Samples(built, "validation", seed=9)
    assert all(same(one[n], other[n]) for n in range(40))
    assert one._address(0)[2] != ESM2Samples(built)._address(0)[2]


def test_a_sampler_is_sent_by_its_address(built: Corpus) -> None:
    samples = ESM2Samples(with_recipe(built, tokens=30), seed=4)
    sent = pickle.dumps(samples)
    assert len(sent) < 1_000, "not the split with it"
    assert same(pickle.loads(sent)[7], samples[7])


def test_lengths_without_making_samples(built: Corpus) -> None:
    samples = ESM2Samples(with_recipe(built, tokens=60))
    assert [samples.tokens_of(n) for n in range(200)] == [len(samples[n].tokens) for n in range(200)]


# --------------------------------------------------------------------------------------------------------- ProtT5nv


def test_the_worked_example() -> None:
    """MKTAYIAK with T and I hidden, ids as in NVIDIA's vocabulary."""
    tokens = PROTT5NV_ALPHABET.encode([b"MKTAYIAK"])
    seen, told, labels = spans(tokens, np.array([2, 5]))
    assert seen.tolist() == [22, 16, 32, 6, 20, 33, 6, 16]
    assert told.tolist() == [1, 32, 12, 33, 14]
    assert labels.tolist() == [32, 12, 33, 14, 2]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 1), (7, 1), (10, 2), (100, 15), (509, 76), (510, 76)])
def test_how_many_are_hidden(length: int, count: int) -> None:
    tokens = PROTT5NV_ALPHABET.encode([protein(length, 0).encode()])
    seen, told, labels = hide(tokens, 0.15, draws(0, length))
    hidden = np.flatnonzero(seen >= 32)
    assert len(hidden) == count
    assert seen[hidden].tolist() == list(range(32, 32 + count)), "numbered from left to right"
    assert told.tolist() == [1, *(x for k, at in enumerate(hidden) for x in (32 + k, int(tokens[at])))]
    assert labels.tolist() == [*told[1:].tolist(), 2]
    assert np.array_equal(np.delete(seen, hidden), np.delete(tokens, hidden))


def test_prott5nv_samples(tmp_path: Path) -> None:
    texts = [protein(length, number) for number, length in enumerate([20, 100, 510, 511, 600] * 10)]
    corpus = singles(tmp_path, texts, longest=0)
    samples = ProtT5nvSamples(corpus)
    size = len(samples)
    assert size == 49
    for n in range(size):
        sample = samples[n]
        text = texts[sample.cluster][:510]
        told = dict(zip(sample.decoder[1::2].tolist(), sample.decoder[2::2].tolist(), strict=True))
        assert [told.get(token, token) for token in sample.tokens.tolist()] == list(
            PROTT5NV_ALPHABET.encode([text.encode()])
        )
    assert sorted(samples[n].cluster for n in range(size)) == sorted(corpus.split("train").tolist())
    assert not same(samples[0], samples[size])
    fixed = ProtT5nvSamples(corpus, "validation")
    assert same(fixed[0], fixed[1]), "one protein, and its second time is its first"


def test_every_place_is_hidden_alike() -> None:
    tokens = PROTT5NV_ALPHABET.encode([protein(40, 0).encode()])
    counts = np.zeros(40)
    for number in range(4_000):
        counts += hide(tokens, 0.15, draws(mixed(1, number), 40))[0] >= 32
    expected = 4_000 * 6 / 40
    assert ((counts - expected) ** 2 / expected).sum() < 73, "chi-square with 39 degrees, 99.9 %"
    assert ESM2.masked == PROTT5NV.masked == 0.15
