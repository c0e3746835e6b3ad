"""model.embed: what comes back is what a plain computation from transformers' hidden states gives, in input order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

import aminoglot
from aminoglot.checkpoints import Checkpoint
from aminoglot.engine import Embeddings, Model, choose
from aminoglot.errors import AminoglotWarning, InputError, ModelError
from aminoglot.settings import Pool
from tests.engine.conftest import Array, Reference
from tests.engine.proteins import MIXED, protein


def pooled(layers_LSD: Array, pool: str) -> Array:
    """One vector a layer, [L + 1, D], as the documentation says it."""
    by_hand: dict[str, Callable[[Array], Array]] = {
        "mean": lambda x: x[:, 1:-1].astype(np.float64).mean(1).astype(np.float32),
        "max": lambda x: x[:, 1:-1].max(1),
        "cls": lambda x: x[:, 0],
    }
    return by_hand[pool](layers_LSD)


# ------------------------------------------------------------------------------------------------ against transformers


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
def test_proteins_equal_transformers(pool: Pool, model: Model, reference: Reference) -> None:
    found = model.embed(MIXED, layer="all", pool=pool)
    assert found.shape == (len(MIXED), 3, 32)
    assert found.dtype == np.float32
    for text, mine in zip(MIXED, found, strict=True):
        np.testing.assert_allclose(mine, pooled(reference.layers(text), pool), rtol=0, atol=2e-5)


def test_residues_equal_transformers(model: Model, reference: Reference) -> None:
    found = model.embed(MIXED, per="residue", layer="all")
    for text, mine in zip(MIXED, found, strict=True):
        assert mine.shape == (3, len(text), 32)
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, reference.layers(text)[:, 1:-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
def test_both_is_the_two_of_them(pool: Pool, model: Model) -> None:
    both = model.embed(MIXED, per="both", pool=pool)
    assert isinstance(both, Embeddings)
    assert both.protein.tobytes() == model.embed(MIXED, pool=pool).tobytes()
    residue = model.embed(MIXED, per="residue", pool=pool)
    assert [rows.tobytes() for rows in both.residue] == [rows.tobytes() for rows in residue]


def test_one_layer_has_no_axis_and_several_have(model: Model) -> None:
    everything = model.embed(MIXED, layer="all")
    residues = model.embed(MIXED, per="residue", layer="all")
    assert np.array_equal(model.embed(MIXED), everything[:, 2])
    assert np.array_equal(model.embed(MIXED, layer=-1), everything[:, 2])
    assert np.array_equal(model.embed(MIXED, layer="1"), everything[:, 1])
    np.testing.assert_allclose(model.embed(MIXED, layer=[2, 0]), everything[:, [2, 0]], rtol=0, atol=1e-6)
    assert model.embed(MIXED, layer=[1]).shape == (len(MIXED), 1, 32)
    assert np.array_equal(model.embed(MIXED, per="residue", layer=0)[0], residues[0][0])
    assert model.embed(MIXED, per="residue", layer=[-1])[1].shape == (1, 5, 32)


def test_the_mean_counts_residues_only(model: Model) -> None:
    """Not cls, not eos: the mean of the rows that are returned, for one residue that row itself."""
    both = model.embed(MIXED, per="both")
    for mean, rows in zip(both.protein, both.residue, strict=True):
        np.testing.assert_allclose(mean, rows.mean(0), rtol=0, atol=1e-6)
    assert np.array_equal(both.protein[2], both.residue[2][0])


def test_pools_differ(model: Model) -> None:
    mean, largest, cls = (model.embed(MIXED, pool=cast(Pool, pool)) for pool in ("mean", "max", "cls"))
    assert np.abs(mean - largest).max() > 0.1
    assert np.abs(mean - cls).max() > 0.1
    assert (largest >= mean - 1e-6).all()


# ------------------------------------------------------------------------------------------------------ order, batches


def test_results_are_in_input_order(model: Model) -> None:
    """Sequences are sorted for speed; who looks at the results must never know."""
    found = model.embed(MIXED, per="both")
    assert [len(rows) for rows in found.residue] == [len(text) for text in MIXED]
    for index, text in enumerate(MIXED):
        np.testing.assert_allclose(found.protein[index], model.embed([text])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 70, 200, 10_000])
def test_neither_order_nor_neighbours_nor_budget_matter(budget: int, checkpoint: Checkpoint) -> None:
    model = Model(checkpoint, choose("cpu", "fp32"))
    expected = model.embed(MIXED, per="both", layer="all")
    model.budget = budget
    order = np.random.default_rng(budget).permutation(len(MIXED))
    shuffled = model.embed([MIXED[i] for i in order], per="both", layer="all")
    for place, index in enumerate(order):
        np.testing.assert_allclose(shuffled.protein[place], expected.protein[index], rtol=0, atol=1e-5)
        np.testing.assert_allclose(shuffled.residue[place], expected.residue[index], rtol=0, atol=1e-5)


def test_the_same_call_gives_the_same_bytes(model: Model, checkpoint: Checkpoint) -> None:
    first = model.embed(MIXED, per="both", layer="all")
    for other in (model, Model(checkpoint, model.hardware)):
        again = other.embed(MIXED, per="both", layer="all")
        assert again.protein.tobytes() == first.protein.tobytes()
        assert [rows.tobytes() for rows in again.residue] == [rows.tobytes() for rows in first.residue]


def test_equal_sequences_are_equal(model: Model) -> None:
    found = model.embed([MIXED[0], MIXED[4], MIXED[0]])
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-6)


def test_any_iterable_of_strings_will_do(model: Model) -> None:
    expected = model.embed(MIXED).tobytes()
    iterables: list[Any] = [tuple(MIXED), iter(MIXED), np.array(MIXED), dict.fromkeys(MIXED).keys()]
    for sequences in iterables:
        assert model.embed(sequences).tobytes() == expected


def test_a_dictionary_is_refused(model: Model) -> None:
    """Its keys may well be legal residues: {"MA": ...} would be embedded without a word."""
    with pytest.raises(InputError, match=r"a dictionary was given .* list\(it.values\(\)\)"):
        model.embed({"MA": "MKTAYIAK"})


def test_progress_counts_every_residue_once(model: Model) -> None:
    """Windows overlap; a residue is done once all the same."""
    model.limit, model.budget = 20, 50
    texts = [text.encode() for text in MIXED]
    for long, total in (("truncate", sum(min(len(t), 20) for t in MIXED)), ("window", sum(map(len, MIXED)))):
        told: list[int] = []
        model.embed_cleaned(texts, model.request("protein", -1, "mean", cast(Any, long)), told.append)
        assert sum(told) == total
        assert len(told) > 2


# ------------------------------------------------------------------------------------------------ what is not a protein


def test_one_string_is_not_a_list_of_sequences(model: Model) -> None:
    """It would be one protein for each of its letters."""
    for call in (model.embed, model.logits, model.contacts):
        with pytest.raises(InputError, match=r"write \[sequence\]"):
            call("MKTAYIAK")


@pytest.mark.parametrize("sequences", [b"MKT", [b"MKT"], [None], [float("nan")], ["MKT", 3], [["MKT"]]], ids=repr)
def test_what_is_no_string_is_an_input_error(sequences: Any, model: Model) -> None:
    """A missing value in a table's column is the commonest of them."""
    with pytest.raises(InputError):
        model.embed(sequences)


def test_what_is_no_string_is_named_by_its_position(model: Model) -> None:
    with pytest.raises(InputError, match="sequence 1"):
        model.embed(cast(Any, ["MKT", None]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("*", "empty"),
        ("MK-T", "'-' at position 3 is a gap"),
        ("MK T", "space"),
        ("MKT\n", "position 4"),
        ("MK1", "digit"),
        ("MKé", "'é' at position 3"),
        ("MK\x01", "position 3"),
        ("M<mask>K", "where logits, infill, generate take it"),
        ("MK\ud800", "position 3"),
    ],
)
def test_what_is_no_residue_is_named_by_its_position(text: str, said: str, model: Model) -> None:
    with pytest.raises(InputError, match=said) as raised:
        model.embed(["MKT", text])
    assert "sequence 1" in str(raised.value)


def test_no_sequences_at_all(model: Model) -> None:
    with pytest.raises(InputError, match="empty"):
        model.embed([])


def test_small_letters_and_a_final_stop_change_nothing(model: Model) -> None:
    assert model.embed(["mktayiak*"]).tobytes() == model.embed(["MKTAYIAK"]).tobytes()


def test_letters_without_a_token_become_x_and_say_so(model: Model) -> None:
    with pytest.warns(AminoglotWarning, match=r"3 letters \(J or \*\) became X") as caught:
        found = model.embed(["MJK", "M*KJ*"])
    assert caught[0].filename == __file__, "the warning points at the caller"
    np.testing.assert_allclose(found, model.embed(["MXK", "MXKX"]), rtol=0, atol=1e-6)
    with pytest.warns(AminoglotWarning, match=r"1 letter \(J"):
        model.embed(["MJK"])


def test_letters_with_a_token_of_their_own_keep_it(model: Model) -> None:
    """X, B, U, Z and O are five tokens; warnings are errors here, so none is given."""
    found = model.embed(["MXK", "MBK", "MUK", "MZK", "MOK"])
    assert len(np.unique(found.round(4), axis=0)) == 5


# ----------------------------------------------------------------------------------------------------- unknown words


@pytest.mark.parametrize(
    "words",
    [
        {"per": "residues"},
        {"per": None},
        {"pool": "average"},
        {"pool": "eos"},
        {"long": "windows"},
        {"long": "truncated"},
        {"long": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [8, 30])
def test_a_word_nobody_knows_is_refused(words: dict[str, Any], length: int, model: Model) -> None:
    """Python checks no Literal: a slip of the pen must not give None, another pooling, or rows of nothing."""
    model.limit = 20
    with pytest.raises(InputError, match=str(next(iter(words.values())))):
        model.embed([protein(length)], **words)


def test_logits_refuse_unknown_words_too(model: Model) -> None:
    model.limit = 20
    with pytest.raises(InputError, match="windows"):
        model.logits([protein(30)], long=cast(Any, "windows"))


# ---------------------------------------------------------------------------------------------------------- the model


def test_a_model_says_what_it_is(model: Model, checkpoint: Checkpoint, backend: str) -> None:
    assert repr(model) == f"<aminoglot.Model random:esm2-tiny: fp32 on cpu by {backend}>"
    assert model.digest == checkpoint.digest
    assert model.limit == 1022
    assert model.config == checkpoint.config


def test_load_gives_notes_as_warnings() -> None:
    with pytest.warns(AminoglotWarning, match="never trained"):
        model = aminoglot.load("random:esm2-tiny", device="cpu", precision="fp32")
    assert isinstance(model, Model)
    assert model.embed(["MKT"]).shape == (1, 32)


def test_a_device_that_is_not_there_is_told_before_weights_are_read() -> None:
    with pytest.raises(InputError, match="device 'gpu'"):
        aminoglot.load("no such model", device="gpu")


def test_a_checkpoint_without_heads_embeds(checkpoint: Checkpoint) -> None:
    """and says which weights are missing for what it cannot do."""
    encoder = {key: value for key, value in checkpoint.tensors.items() if "head" not in key}
    model = Model(Checkpoint("headless", "untrained", checkpoint.config, encoder), choose("cpu", "fp32"))
    whole = Model(checkpoint, choose("cpu", "fp32"))
    assert model.embed(MIXED).tobytes() == whole.embed(MIXED).tobytes()
    assert model.digest == whole.digest
    with pytest.raises(
        ModelError, match="headless: no language-model head in this checkpoint: logits are not available"
    ):
        model.logits(MIXED)
    with pytest.raises(ModelError, match="headless: no contact head in this checkpoint: contacts are not available"):
        model.contacts(MIXED)


def test_models_of_one_checkpoint_do_not_touch_each_other(checkpoint: Checkpoint) -> None:
    """Weights are shared, precisions are not."""
    exact = Model(checkpoint, choose("cpu", "fp32"))
    before = exact.embed(MIXED).tobytes()
    Model(checkpoint, choose("cpu", "bf16")).embed(MIXED)
    assert exact.embed(MIXED).tobytes() == before
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.tensors.values())
