"""ProtT5nv's decoder as users meet it: infilling, distributions, teacher forcing, generation, and the probe."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aminoglot.checkpoints import Checkpoint
from aminoglot.engine import Model, choose, openvino
from aminoglot.errors import AminoglotWarning, InputError, ModelError
from aminoglot.models.prott5nv import Decoding, ProtT5nv
from aminoglot.packing import Packed
from aminoglot.tokens import PROTT5NV_ALPHABET
from tests.reference import randomised

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be told")
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
COLUMNS = [PROTT5NV_ALPHABET.tokens.index(letter) for letter in AMINO_ACIDS]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return randomised("prott5nv-tiny")


@pytest.fixture(scope="module", params=["torch", "openvino"])
def model(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Model:
    return Model(checkpoint, choose("cpu", "fp32", request.param))


def network(checkpoint: Checkpoint) -> ProtT5nv:
    found = checkpoint.network()
    assert isinstance(found, ProtT5nv)
    found.decoder = checkpoint.part("decoder")  # type: ignore[assignment]
    return found


def probabilities(whole: ProtT5nv, source: list[int], target: list[int]) -> np.ndarray:
    """Of the 20 amino acids after a target, by the network itself."""
    batch = [Packed(torch.tensor(row), (len(row),)) for row in (source, target)]
    with torch.inference_mode():
        found: np.ndarray = whole(*batch)[-1][COLUMNS].softmax(0).numpy()
    return found


def test_masks_are_written_one_after_the_other(model: Model, checkpoint: Checkpoint) -> None:
    """MKT<mask>YI<mask>K: sentinels 32 and 33; the second residue is written knowing the first."""
    found = model.infill("MKT<mask>YI<mask>K")
    whole, source = network(checkpoint), [22, 16, 12, 32, 20, 14, 33, 16]
    first = probabilities(whole, source, [1, 32])
    np.testing.assert_allclose(found.probabilities[0], first, rtol=1e-4)
    letter = AMINO_ACIDS[int(first.argmax())]
    second = probabilities(whole, source, [1, 32, COLUMNS[int(first.argmax())], 33])
    np.testing.assert_allclose(found.probabilities[1], second, rtol=1e-4)
    assert found.sequence == f"MKT{letter}YI{AMINO_ACIDS[int(second.argmax())]}K"
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)


def test_distributions_hide_one_residue_at_a_time(model: Model, checkpoint: Checkpoint) -> None:
    whole = network(checkpoint)
    short, single = model.distributions(["mkta", "W"])
    assert (short.shape, single.shape) == ((4, 20), (1, 20))
    for place in range(4):
        source = [22, 16, 12, 6]
        source[place] = 32
        np.testing.assert_allclose(short[place], probabilities(whole, source, [1, 32]), rtol=1e-4)


def test_distributions_do_not_depend_on_how_they_are_cut(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    protein = "MKTAYIAKQRQISFVKSHFSRQ"
    together = model.distributions([protein])[0]
    monkeypatch.setattr(model._writer(), "_budget", 50)
    np.testing.assert_allclose(model.distributions([protein])[0], together, rtol=1e-4, atol=1e-6)


def test_teacher_forcing_is_the_network(model: Model, checkpoint: Checkpoint) -> None:
    found = model.forced_logits(["MK<mask>A", "AC"], ["<extra_id_0>T</s>", ""])
    assert [logits.shape for logits in found] == [(4, 128), (1, 128)]
    sources, targets = [[22, 16, 32, 6], [6, 23]], [[1, 32, 12, 2], [1]]
    whole = network(checkpoint)
    for logits, source, target in zip(found, sources, targets, strict=True):
        batch = [Packed(torch.tensor(row), (len(row),)) for row in (source, target)]
        with torch.inference_mode():
            np.testing.assert_allclose(logits, whole(*batch).numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_drawn_depends_on_seed_and_sequence_only(model: Model) -> None:
    proteins = ["MKT<mask>YIAK", "ACDEFGHIK", "W"]
    options: dict[str, Any] = {"most": 20, "top_p": 0.95, "temperature": 1.5}
    found = model.generate(proteins, seed=1, **options)
    assert model.generate(proteins[::-1], seed=1, **options)[::-1] == found
    assert [model.generate([one], seed=1, **options)[0] for one in proteins] == found
    assert model.generate(proteins, seed=2, **options) != found
    several = model.generate(["MKT"] * 5, seed=1, **options)
    assert len(set(several)) > 1
    assert several[:1] == model.generate(["MKT"], seed=1, **options)


def test_greedy_writing_is_the_networks(model: Model, checkpoint: Checkpoint) -> None:
    """Token by token, each told all before it, for proteins of several lengths of which some end early."""
    tensors = dict(checkpoint.tensors)
    tensors["decoder.bias"] = tensors["decoder.bias"].clone()
    tensors["decoder.bias"][2] += 1.0
    changed = replace(checkpoint, tensors=tensors)
    proteins, whole, ends = ["MKT<mask>YIAK", "ACDEFGHIK", "W", "M" * 40, "YYY"], network(changed), set()
    for protein, written in zip(proteins, Model(changed, model.hardware).generate(proteins, most=12), strict=True):
        source, told = ids(protein), [1]
        while len(told) <= 12:
            batch = [Packed(torch.tensor(row), (len(row),)) for row in (source, told)]
            with torch.inference_mode():
                told.append(int(whole(*batch)[-1].argmax()))
            if told[-1] == 2:
                break
        ends.add(told[-1] == 2)
        assert written == "".join(PROTT5NV_ALPHABET.tokens[token] for token in told[1:] if token != 2)
    assert ends == {True, False}, "the weights were chosen so that some end early"


def ids(protein: str) -> list[int]:
    """The first mask as the first sentinel; there is no second."""
    return [PROTT5NV_ALPHABET.tokens.index(t) for t in re.findall("<.*?>|.", protein.replace("mask", "extra_id_0"))]


def test_many_at_once_are_as_each_alone(model: Model) -> None:
    """More than fits in a batch or a lane, of mixed lengths, teacher-forced and drawn."""
    rng = np.random.default_rng(1)
    proteins = ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in rng.integers(1, 200, 30)]
    targets = ["A" * int(n) for n in rng.integers(0, 9, 30)]
    together = model.forced_logits(proteins, targets)
    for protein, target, found in zip(proteins, targets, together, strict=True):
        (alone,) = model.forced_logits([protein], [target])
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)


def test_as_many_masks_and_residues_as_the_card_allows(model: Model) -> None:
    found = model.infill("M" * (512 - 76) + "<mask>" * 76)
    assert len(found.sequence) == 512
    assert found.probabilities.shape == (76, 20)
    assert set(found.sequence[-76:]) <= set(AMINO_ACIDS)
    assert model.forced_logits(["M"], ["A" * 511])[0].shape == (512, 128)


@pytest.mark.parametrize("sentinels", ["proper", "collapsed"])
@pytest.mark.filterwarnings("ignore:.*<unk>")
def test_targets_have_the_sentinels_of_training(sentinels: str, checkpoint: Checkpoint) -> None:
    model = biased(checkpoint, 32 if sentinels == "proper" else 0)
    told, hidden = ([1, 32, 6, 33], [32, 33]) if sentinels == "proper" else ([1, 0, 6, 0], [0, 0])
    (found,) = model.forced_logits(["M<mask>K<mask>"], ["<extra_id_0>A<extra_id_1>"])
    whole = network(model._checkpoint)
    batch = [Packed(torch.tensor(row), (4,)) for row in ([22, hidden[0], 16, hidden[1]], told)]
    with torch.inference_mode():
        np.testing.assert_allclose(found[:, 3:30], whole(*batch)[:, 3:30].numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_is_no_answer(checkpoint: Checkpoint) -> None:
    tensors = dict(checkpoint.tensors)
    tensors["decoder.final_norm.bias"] = torch.full((32,), torch.nan)
    model = Model(replace(checkpoint, tensors=tensors), choose("cpu", "fp32", "torch"))
    with pytest.raises(ModelError, match="not finite"):
        model.infill("M<mask>")


def test_memory_that_does_not_suffice_is_said(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are halved; a protein that does not fit alone is named."""
    model = Model(checkpoint, choose("cpu", "fp32", "torch"))
    expected = model.forced_logits(["MKT", "AAAA", "CC"], ["A", "C", "G"])
    extend = Decoding.extend

    def short(decoding: Decoding, target: Packed) -> torch.Tensor:
        if len(target.lengths) > most:
            raise MemoryError
        return extend(decoding, target)

    monkeypatch.setattr(Decoding, "extend", short)
    most = 1
    for mine, other in zip(model.forced_logits(["MKT", "AAAA", "CC"], ["A", "C", "G"]), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5)
    most = 0
    with pytest.raises(ModelError, match="sequence 0: not enough memory to write, 3 residues"):
        model.forced_logits(["MKT", "AAAA", "CC"], ["A", "C", "G"])


def test_half_precision_writes_nearly_the_same(checkpoint: Checkpoint) -> None:
    exact, narrow = (Model(checkpoint, choose("cpu", one, "torch")) for one in ("fp32", "bf16"))  # type: ignore[arg-type]
    protein = "MKTAYIAKQRQISFVKSHFSRQ"
    wide, found = exact.distributions([protein])[0], narrow.distributions([protein])[0]
    assert 0 < np.abs(wide - found).max() < 0.05


def test_a_users_autocast_changes_nothing(checkpoint: Checkpoint) -> None:
    model = Model(checkpoint, choose("cpu", "fp32", "torch"))
    expected = model.infill("MKT<mask>YIAK").probabilities
    with torch.autocast("cpu", torch.bfloat16):
        found = Model(checkpoint, choose("cpu", "fp32", "torch")).infill("MKT<mask>YIAK").probabilities
    np.testing.assert_array_equal(found, expected)


def test_letters_are_those_of_embedding(model: Model) -> None:
    """J becomes X and is counted; a trailing stop goes."""
    with pytest.warns(AminoglotWarning, match="1 letter"):
        found = model.infill("mjT<mask>YI*")
    assert found.sequence[:3] == "MXT"
    assert len(found.sequence) == 6


def test_the_decoder_can_be_trained_afterwards(checkpoint: Checkpoint) -> None:
    """What was loaded for writing is made of ordinary tensors."""
    model = Model(checkpoint, choose("cpu", "bf16", "torch"))
    model.infill("M<mask>")
    assert isinstance(model.network, ProtT5nv)
    assert model.network.decoder is not None
    assert not any(parameter.is_inference() for parameter in model.network.decoder.parameters())


def test_a_narrow_nucleus_is_the_likeliest(model: Model) -> None:
    proteins = ["MKT<mask>YIAK", "ACDEFGHIK"]
    assert model.generate(proteins, most=10, top_p=1e-6) == model.generate(proteins, most=10)


def test_writing_stops_at_the_end(checkpoint: Checkpoint) -> None:
    """A decoder that prefers ``</s>`` writes nothing; one that never does stops where it is told."""
    for bias, length in ((1e6, 0), (-1e6, 7)):
        tensors = dict(checkpoint.tensors)
        tensors["decoder.bias"] = tensors["decoder.bias"].clone()
        tensors["decoder.bias"][2] = bias
        model = Model(replace(checkpoint, tensors=tensors), choose("cpu", "fp32", "torch"))
        (written,) = model.generate(["MKT"], most=7)
        assert len(re.findall("<.*?>|.", written)) == length


def biased(checkpoint: Checkpoint, token: int) -> Model:
    """A decoder that always begins with one token."""
    tensors = dict(checkpoint.tensors)
    tensors["decoder.bias"] = tensors["decoder.bias"].clone()
    tensors["decoder.bias"][token] = 1e6
    return Model(replace(checkpoint, tensors=tensors), choose("cpu", "fp32", "torch"))


@pytest.mark.parametrize(("token", "found"), [(32, "proper"), (0, "collapsed"), (7, "unknown")])
def test_the_probe_tells_how_residues_were_hidden(token: int, found: str, checkpoint: Checkpoint) -> None:
    model = biased(checkpoint, token)
    if found == "proper":
        assert model.sentinels == found
        return
    with pytest.warns(AminoglotWarning, match="<unk>"):
        assert model.sentinels == found


@pytest.mark.filterwarnings("ignore:.*<unk>")
def test_collapsed_sentinels_are_used_as_they_were(checkpoint: Checkpoint) -> None:
    model = biased(checkpoint, 0)
    found = model.infill("MK<mask>A<mask>")
    tensors = {**checkpoint.tensors}
    whole = network(replace(checkpoint, tensors=tensors))
    np.testing.assert_allclose(found.probabilities[0], probabilities(whole, [22, 16, 0, 6, 0], [1, 0]), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.infill("MKT"), "<mask>"),
        (lambda model: model.infill("<mask>" * 77), "76 at most"),
        (lambda model: model.infill("M" * 512 + "<mask>"), "512 at most"),
        (lambda model: model.infill(["MKT<mask>"]), "one sequence"),
        (lambda model: model.distributions(["M" * 513]), "512 at most"),
        (lambda model: model.forced_logits(["MK"], ["<nothing>"]), "no token"),
        (lambda model: model.forced_logits(["MK"], ["A\nG"]), "no token"),
        (lambda model: model.forced_logits(["MK"], ["<s>A"]), "<s> is put before"),
        (lambda model: model.forced_logits(["MK"], ["A" * 512]), "more than 511"),
        (lambda model: model.forced_logits(["MK", "A"], "AG"), "list of targets"),
        (lambda model: model.forced_logits(["MK"], []), "each sequence has one"),
        (lambda model: model.generate(["MK"], temperature=1.5), "give top_p too"),
        (lambda model: model.generate(["MK"], seed=1), "give top_p too"),
        (lambda model: model.generate(["MK"], top_p=0.5, seed=-1), "seed=-1"),
        (lambda model: model.embed(["M<mask>"]), "<mask>, in small letters, where logits, infill, generate take it"),
        (lambda model: model.generate(["MK"], most=0), "most=0"),
        (lambda model: model.generate(["MK"], top_p=0.0), "top_p"),
        (lambda model: model.generate(["MK"], temperature=0.0), "temperature"),
        (lambda model: model.embed(["MK"], pool="cls"), "no token before"),
        (lambda model: model.embed(["MK"], long="full"), "512 residues"),
        (lambda model: model.logits(["MK"]), "ESM-2's"),
        (lambda model: model.contacts(["MK"]), "ESM-2's"),
    ],
)
def test_what_cannot_be_is_said(call: Any, said: str, model: Model) -> None:
    with pytest.raises(InputError, match=said):
        call(model)


def test_an_encoder_alone_embeds_and_does_not_write(checkpoint: Checkpoint) -> None:
    tensors = {key: tensor for key, tensor in checkpoint.tensors.items() if not key.startswith("decoder.")}
    model = Model(replace(checkpoint, tensors=tensors), choose("cpu", "fp32", "torch"))
    whole = Model(checkpoint, choose("cpu", "fp32", "torch"))
    assert np.array_equal(model.embed(["MKTAYIAK"]), whole.embed(["MKTAYIAK"]))
    assert model.digest == whole.digest
    with pytest.raises(ModelError, match="no decoder in this checkpoint"):
        model.infill("M<mask>")


def test_esm2_does_not_write() -> None:
    with pytest.raises(InputError, match="no decoder"):
        Model(randomised("esm2-tiny"), choose("cpu", "fp32", "torch")).infill("M<mask>")


def test_embedding_loads_no_decoder(checkpoint: Checkpoint) -> None:
    model = Model(checkpoint, choose("cpu", "fp32", "torch"))
    model.embed(["MKT"])
    assert isinstance(model.network, ProtT5nv)
    assert model.network.decoder is None


def test_the_decoder_comes_after_the_digest_too(checkpoint: Checkpoint) -> None:
    """Taking the digest lets go of what was read; the decoder is still there to be loaded."""
    model = Model(checkpoint, choose("cpu", "fp32", "torch"))
    assert len(model.digest) == 64
    assert len(model.infill("M<mask>K").sequence) == 3


LENGTHS = [1, 2, 1, 7, 30, 30, 512, 600]


@pytest.fixture(scope="module")
def proteins() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(AMINO_ACIDS), length)) for length in LENGTHS]


@pytest.mark.filterwarnings("ignore:.*truncated")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("filled", [0, 10**6])
def test_backends_agree(
    checkpoint: Checkpoint, proteins: list[str], precision: Any, filled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without fillers, when proteins of one residue are one token, which OpenVINO is not given."""
    monkeypatch.setattr(openvino, "_FILLED", filled)
    ours, theirs = (Model(checkpoint, choose("cpu", precision, one)) for one in ("torch", "openvino"))  # type: ignore[arg-type]
    found = zip(ours.embed(proteins, per="residue"), theirs.embed(proteins, per="residue"), strict=True)
    for length, (mine, other) in zip(LENGTHS, found, strict=True):
        assert mine.shape == other.shape == (min(length, 512), 32)
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5 if precision == "fp32" else 0.1)


@pytest.mark.filterwarnings("ignore:.*truncated")
def test_a_protein_does_not_depend_on_its_neighbours(model: Model, proteins: list[str]) -> None:
    together = model.embed(proteins)
    alone = np.concatenate([model.embed([protein]) for protein in proteins])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_windows_cover_a_long_protein(model: Model, proteins: list[str]) -> None:
    (found,) = model.embed([proteins[-1]], per="residue", long="window")
    assert found.shape == (600, 32)
    (first,) = model.embed([proteins[-1][:512]], per="residue")
    np.testing.assert_allclose(found[:88], first[:88], rtol=0, atol=1e-5)
    (last,) = model.embed([proteins[-1][88:]], per="residue")
    np.testing.assert_allclose(found[512:], last[424:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[88:512], (first[88:] + last[:424]) / 2, rtol=0, atol=1e-5)
