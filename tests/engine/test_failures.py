"""Memory that does not suffice and numbers that are none: halved, named, and never anybody else's trouble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine import Model, choose
from aminoglot.engine.embed import NOT_FINITE, OUT_OF_MEMORY
from aminoglot.errors import ModelError
from aminoglot.packing import Packed
from tests.engine.proteins import MIXED, RESIDUES, protein


def allocator_fails() -> Tensor:
    """torch's own error for an allocation that no machine can serve."""
    return torch.empty(1 << 50, dtype=torch.uint8)


def python_fails() -> Tensor:
    raise MemoryError


def gpu_fails() -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class Narrow:
    """A network on a machine that has room for so many tokens; it remembers the batches it was given."""

    def __init__(self, model: Model, room: int, fail: Callable[[], Tensor] = allocator_fails) -> None:
        self.room, self.fail = room, fail
        self.sizes: list[int] = []
        self.real = model._encoder.representations

    def __call__(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        self.sizes.append(len(batch.tokens_T))
        return self.fail() if len(batch.tokens_T) > self.room else self.real(batch, layers)


def narrow(
    model: Model, monkeypatch: pytest.MonkeyPatch, room: int, fail: Callable[[], Tensor] = allocator_fails
) -> Narrow:
    found = Narrow(model, room, fail)
    monkeypatch.setattr(model._encoder, "representations", found)
    return found


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("fail", [allocator_fails, python_fails, gpu_fails])
def test_a_batch_that_does_not_fit_is_halved(
    fail: Callable[[], Tensor], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [protein(10, seed) for seed in range(8)]
    expected = model.embed(texts, per="both")
    small = narrow(model, monkeypatch, 30, fail)
    found = model.embed(texts, per="both")
    assert small.sizes == [96, 48, 24, 24, 48, 24, 24]
    np.testing.assert_allclose(found.protein, expected.protein, rtol=0, atol=1e-5)
    for mine, whole in zip(found.residue, expected.residue, strict=True):
        np.testing.assert_allclose(mine, whole, rtol=0, atol=1e-5)


def test_a_protein_that_does_not_fit_alone_is_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(model, monkeypatch, 100)
    with pytest.raises(ModelError, match=f"sequence 4: {OUT_OF_MEMORY}"):
        model.embed(MIXED)


def test_a_protein_that_does_not_fit_alone_fails_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job goes on with the others; the place of the one that failed stays empty."""
    texts = [text.encode() for text in MIXED]
    request = model.request("both", -1, "mean", "truncate")
    expected = model.embed_cleaned(texts, request)
    narrow(model, monkeypatch, 100)
    found = model.embed_cleaned(texts, request)
    assert found.failed == {4: OUT_OF_MEMORY}
    assert found.protein is not None
    assert expected.protein is not None
    for index in range(len(MIXED)):
        if index == 4:
            assert not found.protein[4].any()
            assert not found.residues_of(4).any()
            assert found.residues_of(4).shape == (1, 140, 32)
        else:
            np.testing.assert_allclose(found.protein[index], expected.protein[index], rtol=0, atol=1e-5)
            np.testing.assert_allclose(found.residues_of(index), expected.residues_of(index), rtol=0, atol=1e-5)


def test_windows_are_halved_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.limit = 20
    texts = [protein(95), protein(7)]
    expected = model.embed(texts, per="residue", long="window")
    small = narrow(model, monkeypatch, 50)
    found = model.embed(texts, per="residue", long="window")
    assert max(small.sizes) > 50, "nothing had to be halved"
    assert sum(size for size in small.sizes if size <= 50) == 95 // 10 * 20 + 2 + 7 + 2
    for mine, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, whole, rtol=0, atol=1e-5)


def test_a_protein_whose_window_does_not_fit_is_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.limit = 20
    narrow(model, monkeypatch, 15)
    request = model.request("both", -1, "mean", "window")
    found = model.embed_cleaned([protein(95).encode(), protein(7).encode()], request)
    assert found.failed == {0: OUT_OF_MEMORY}
    with pytest.raises(ModelError, match=f"sequence 1: {OUT_OF_MEMORY}"):
        model.embed([protein(7), protein(95)], long="window")


def test_a_long_protein_that_fails_leaves_others_whole(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of several proteins share batches."""
    model.limit = 20
    texts = [protein(31, 1), protein(33, 2), protein(41, 3), protein(7)]
    expected = [model.embed([text], per="residue", long="window")[0] for text in texts]
    real = model._encoder.representations
    batches: list[int] = []

    def without(batch: Packed, layers: Sequence[int]) -> Tensor:
        """No batch with the last window of the second protein fits."""
        batches.append(len(batch.lengths))
        ids = model.alphabet.encode([texts[1].encode()[-20:]])
        if any(np.array_equal(part[1:21], ids) or np.array_equal(part[:20], ids) for part in parts(batch)):
            return allocator_fails()
        return real(batch, layers)

    def parts(batch: Packed) -> list[np.ndarray]:
        return [part.numpy() for part in batch.tokens_T.split(batch.lengths)]

    monkeypatch.setattr(model._encoder, "representations", without)
    told: list[int] = []
    request = model.request("residue", -1, "mean", "window")
    found = model.embed_cleaned([text.encode() for text in texts], request, told.append)
    assert max(batches) > 4, "windows of more than one protein together"
    assert found.failed == {1: OUT_OF_MEMORY}
    assert sum(told) == sum(map(len, texts))
    for index in (0, 2, 3):
        np.testing.assert_allclose(found.residues_of(index)[0], expected[index], rtol=0, atol=1e-5)
    assert not found.residues_of(1).any()


def test_no_memory_to_pack_a_batch_halves_it_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.embed(MIXED)
    real = Packed.of

    def narrow_of(ids: np.ndarray, lengths: Sequence[int], device: Any = None) -> Packed:
        return real(ids, lengths, device) if len(lengths) < 3 else gpu_fails()  # type: ignore[return-value]

    monkeypatch.setattr(Packed, "of", narrow_of)
    np.testing.assert_allclose(model.embed(MIXED), expected, rtol=0, atol=1e-5)


def test_contacts_name_the_protein_that_does_not_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def maps(batch: Packed) -> list[Tensor]:
        return [allocator_fails()] if len(batch.tokens_T) > 100 else real(batch)

    real = model._network.contacts
    monkeypatch.setattr(model._network, "contacts", maps)
    assert len(model.contacts(MIXED[:4])) == 4
    with pytest.raises(ModelError, match="sequence 4: not enough memory for its contact map"):
        model.contacts(MIXED)


def test_other_errors_are_not_taken_for_a_lack_of_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving a batch over a mistake of ours would hide it."""

    def mistaken() -> Tensor:
        return torch.ones(2) @ torch.ones(3)

    small = narrow(model, monkeypatch, 30, mistaken)
    with pytest.raises(RuntimeError, match="size"):
        model.embed(MIXED[:4])
    assert len(small.sizes) == 1


def test_memory_of_a_failed_pass_is_free_before_the_next(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback keeps the failed pass's tensors alive, which is what must make room for the halves."""
    import weakref

    held: list[weakref.ref[Tensor]] = []

    def greedy(batch: Packed, layers: Sequence[int]) -> Tensor:
        assert all(ref() is None for ref in held)
        if len(batch.lengths) == 1:
            return real(batch, layers)
        activations = torch.zeros(1_000)
        held.append(weakref.ref(activations))
        return allocator_fails()

    real = model._encoder.representations
    monkeypatch.setattr(model._encoder, "representations", greedy)
    assert model.embed([protein(9, seed) for seed in range(4)]).shape == (4, 32)
    assert len(held) == 3


# ---------------------------------------------------------------------------------------------------------- not finite


POISONED = f"{NOT_FINITE}, for embedding.weight in poisoned is not"


@pytest.fixture
def poisoned(checkpoint: Checkpoint) -> Model:
    """Tryptophan has no finite embedding, so that proteins with one fail and others do not."""
    embedding = checkpoint.tensors["embedding.weight"].clone()
    embedding[22] = float("nan")
    tensors = {**checkpoint.tensors, "embedding.weight": embedding}
    return Model(Checkpoint("poisoned", "untrained", checkpoint.config, tensors), choose("cpu", "fp32"))


def without_tryptophan(length: int, seed: int = 0) -> str:
    return protein(length, seed).replace("W", "C")


def test_a_protein_that_is_not_finite_is_named(poisoned: Model) -> None:
    texts = [without_tryptophan(30), without_tryptophan(8), "MKWK", without_tryptophan(12)]
    with pytest.raises(ModelError, match=f"sequence 2: {NOT_FINITE}"):
        poisoned.embed(texts)
    assert np.isfinite(poisoned.embed(texts[:2])).all()


def test_logits_that_are_not_finite_are_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's last matrix is the embedding, so here the damage comes later than from a weight."""

    def damaged(batch: Packed, layers: Sequence[int]) -> Tensor:
        return real(batch, layers).masked_fill(batch.tokens_T.eq(22)[:, None], float("inf"))

    real = model._encoder.representations
    monkeypatch.setattr(model._encoder, "representations", damaged)
    with pytest.raises(ModelError, match=f"sequence 2: {NOT_FINITE}"):
        model.logits([without_tryptophan(30), without_tryptophan(8), "MKWK", without_tryptophan(12)])


def test_contacts_that_are_not_finite_are_named(poisoned: Model) -> None:
    """A probability that is no number would go into a figure unseen."""
    with pytest.raises(ModelError, match="sequence 1"):
        poisoned.contacts([without_tryptophan(8), "MKWK"])


@pytest.mark.parametrize("per", ["protein", "residue", "both"])
def test_a_protein_that_is_not_finite_fails_alone(per: str, poisoned: Model, model: Model) -> None:
    """Its neighbours of the same length, computed in the same rectangle, are untouched."""
    texts = [without_tryptophan(30, seed) for seed in range(5)]
    texts[1] = texts[1][:10] + "W" + texts[1][11:]
    texts[3] = "W" * 30
    cleaned = [text.encode() for text in texts]
    request = poisoned.request(per, "all", "mean", "truncate")  # type: ignore[arg-type]
    found, expected = poisoned.embed_cleaned(cleaned, request), model.embed_cleaned(cleaned, request)
    assert found.failed == dict.fromkeys((1, 3), POISONED)
    for index in range(5):
        if found.protein is not None:
            assert expected.protein is not None
            wanted = np.zeros_like(expected.protein[index]) if index in (1, 3) else expected.protein[index]
            np.testing.assert_allclose(found.protein[index], wanted, rtol=0, atol=1e-5)
        if found.residue is not None:
            rows = expected.residues_of(index)
            wanted = np.zeros_like(rows) if index in (1, 3) else rows
            np.testing.assert_allclose(found.residues_of(index), wanted, rtol=0, atol=1e-5)
    assert (found.protein is None, found.residue is None) == (per == "residue", per == "protein")


@pytest.mark.parametrize("pool", ["mean", "max", "cls"])
def test_windows_that_are_not_finite_are_named(pool: str, poisoned: Model) -> None:
    poisoned.limit = 20
    request = poisoned.request("both", -1, pool, "window")  # type: ignore[arg-type]
    good, bad = without_tryptophan(45), without_tryptophan(44) + "W"
    found = poisoned.embed_cleaned([good.encode(), bad.encode()], request)
    assert found.failed == {1: POISONED}
    assert found.protein is not None
    assert not found.protein[1].any()
    assert not found.residues_of(1).any()


def test_the_test_data_is_what_it_says() -> None:
    assert RESIDUES[22 - 4] == "W", "ids 4 to 23 are the twenty residues, in this order"
