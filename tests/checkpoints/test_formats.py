"""The same weights in every format, there and back; and transformers and fair-esm read what we write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, EsmForMaskedLM, EsmModel

from aminoglot.checkpoints import Checkpoint, convert, fair_esm, huggingface, resolve
from aminoglot.errors import ModelError, OutputError
from aminoglot.models.esm2 import ESM2
from aminoglot.tokens import ESM2_ALPHABET
from tests.checkpoints.foreign import copied, state, transformers_config, weights, with_weights
from tests.reference import fair_esm_model, packed, randomised

EVERY_LETTER = "LAGVSERTIDPKQNFYMHWCXBUZO"


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    """Every tensor to the bit, heads too: the digest leaves those out."""
    assert found.config == expected.config
    assert found.digest == expected.digest
    assert found.tensors.keys() == expected.tensors.keys()
    for key, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[key], tensor), key


@pytest.mark.parametrize("name", ["esm2-tiny", "esm2-8m"])
def test_round_trips_keep_every_bit(name: str, tmp_path: Path) -> None:
    start = randomised(name)
    (tmp_path / "hf").mkdir()
    huggingface.write(start, tmp_path / "hf")
    convert(str(tmp_path / "hf"), tmp_path / "esm2_there.pt", "fair-esm")
    convert(str(tmp_path / "esm2_there.pt"), tmp_path / "back", "huggingface")
    for path, kind in (("hf", "huggingface"), ("esm2_there.pt", "fair-esm"), ("back", "huggingface")):
        found = resolve(str(tmp_path / path))
        assert_same(found, start)
        assert found.format == kind
        assert found.notes == ()
    # safetensors hold no time and no order of their own, so equal weights are equal files
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "hf/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["esm2-tiny", "esm2-8m"])
def test_transformers_loads_what_we_write(name: str, tmp_path: Path) -> None:
    start = randomised(name)
    huggingface.write(start, tmp_path)
    model, loading = EsmForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    theirs = model.state_dict()
    assert torch.equal(theirs["esm.rotary_embeddings.inv_freq"], start.tensors["frequencies"])
    assert torch.equal(theirs["esm.embeddings.word_embeddings.weight"], start.tensors["embedding.weight"])
    assert torch.equal(theirs["lm_head.decoder.weight"], start.tensors["embedding.weight"])
    assert model.config.token_dropout
    assert model.config.position_embedding_type == "rotary"


def test_transformers_tokenizer_of_what_we_write_agrees_with_our_alphabet(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    theirs = tokenizer(EVERY_LETTER + "<mask>" + EVERY_LETTER)["input_ids"]
    assert theirs == packed([EVERY_LETTER + "<mask>" + EVERY_LETTER]).tokens_T.tolist()
    assert len(tokenizer) == len(ESM2_ALPHABET.tokens)
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, ESM2_ALPHABET.mask)


@pytest.mark.parametrize("name", ["esm2-tiny", "esm2-8m"])
def test_fair_esm_loads_what_we_write(name: str, tmp_path: Path) -> None:
    start = randomised(name)
    model = fair_esm_model(start, tmp_path / "fair")
    theirs = model.state_dict()
    assert torch.equal(theirs["embed_tokens.weight"], start.tensors["embedding.weight"])
    assert torch.equal(theirs["lm_head.weight"], start.tensors["embedding.weight"])
    for layer in range(start.config.layers):
        found = theirs[f"layers.{layer}.self_attn.rot_emb.inv_freq"]
        assert torch.equal(found.float(), start.tensors["frequencies"])
    regression = theirs["contact_head.regression.weight"]
    assert torch.equal(regression.view(start.config.layers, -1), start.tensors["contact_head.weight"])


def test_a_model_that_transformers_loaded_and_saved_again_is_the_same(
    tiny: Checkpoint, tiny_folder: Path, tmp_path: Path
) -> None:
    """New transformers keep one key of frequencies for the model where old ones had one a layer."""
    EsmForMaskedLM.from_pretrained(tiny_folder).save_pretrained(tmp_path / "again")
    assert_same(resolve(str(tmp_path / "again")), tiny)


def test_a_model_that_transformers_made_is_read(tmp_path: Path) -> None:
    """transformers 5 saves norms of models that it did not load as ``LayerNorm.gamma`` and ``LayerNorm.beta``."""
    torch.manual_seed(0)
    theirs = EsmForMaskedLM(transformers_config()).eval()
    for name, parameter in theirs.named_parameters():
        if "LayerNorm" in name:
            torch.nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path / "made")
    ours = resolve(str(tmp_path / "made")).network()
    batch = packed([EVERY_LETTER])
    with torch.inference_mode():
        expected = theirs(batch.tokens_T[None]).logits[0]
        torch.testing.assert_close(ours(batch), expected, rtol=0, atol=1e-5)


def test_a_model_saved_without_its_heads_prefix(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    """EsmModel has no prefix ``esm.`` and no language-model head; embeddings need neither."""
    EsmModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path / "encoder")
    assert not any(key.startswith("esm.") for key in weights(tmp_path / "encoder"))
    found = resolve(str(tmp_path / "encoder"))
    assert found.digest == tiny.digest
    assert not found.has("lm_head")
    assert found.has("contact_head")
    assert found.notes == ("no language-model head in this checkpoint: logits are not available",)
    with pytest.raises(ModelError, match="language-model head"):
        convert(str(tmp_path / "encoder"), tmp_path / "esm2_encoder.pt", "fair-esm")
    convert(str(tmp_path / "encoder"), tmp_path / "encoder again", "huggingface")
    assert resolve(str(tmp_path / "encoder again")).tensors.keys() == found.tensors.keys()


def test_a_model_saved_with_a_pooler_or_a_classifier(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    """A fine-tuned model is its encoder and a head that we do not know: said, not used."""
    tensors = {key: value for key, value in weights(tiny_folder).items() if not key.startswith("lm_head.")}
    tensors |= {"esm.pooler.dense.weight": torch.ones(32, 32), "classifier.out_proj.weight": torch.ones(2, 32)}
    found = resolve(str(with_weights(tiny_folder, tmp_path / "tuned", tensors)))
    assert found.digest == tiny.digest
    assert any("classifier.out_proj.weight" in note for note in found.notes)
    assert not any("pooler" in note for note in found.notes)


def test_frequencies_that_fp16_cannot_hold_survive_every_format(tiny: Checkpoint, tmp_path: Path) -> None:
    """A model trained from scratch has exact frequencies; rounding them on the way makes another model of it."""
    exact = ESM2(tiny.config).frequencies
    assert not torch.equal(exact, exact.half().float())
    start = Checkpoint("exact", "untrained", tiny.config, {**tiny.tensors, "frequencies": exact})
    (tmp_path / "hf").mkdir()
    huggingface.write(start, tmp_path / "hf")
    fair_esm.write(start, tmp_path / "esm2_exact.pt")
    assert_same(resolve(str(tmp_path / "hf")), start)
    assert_same(resolve(str(tmp_path / "esm2_exact.pt")), start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_digest_in_every_format(tiny: Checkpoint, dtype: torch.dtype, tmp_path: Path) -> None:
    """The digest is over widened values, which are the same whether a file holds two bytes or four."""
    half = {key: t if key == "frequencies" else t.to(dtype) for key, t in tiny.tensors.items()}
    start = Checkpoint("half", "untrained", tiny.config, half)
    wide = Checkpoint("wide", "untrained", tiny.config, {key: t.float() for key, t in half.items()})
    (tmp_path / "hf").mkdir()
    huggingface.write(start, tmp_path / "hf")
    fair_esm.write(start, tmp_path / "esm2_half.pt")
    found = resolve(str(tmp_path / "hf"))
    assert found.tensors["embedding.weight"].dtype == dtype
    assert found.tensors["frequencies"].dtype == torch.float32
    assert found.digest == resolve(str(tmp_path / "esm2_half.pt")).digest == wide.digest
    assert wide.digest != tiny.digest


def test_the_digest_is_over_what_makes_an_embedding(tiny: Checkpoint) -> None:
    def digest(**changed: torch.Tensor) -> str:
        return Checkpoint("other", "untrained", tiny.config, {**tiny.tensors, **changed}).digest

    for key, tensor in tiny.tensors.items():
        other = tensor.clone()
        other.view(-1)[-1] += 0.5
        is_head = key.startswith(("lm_head.", "contact_head."))
        assert (digest(**{key: other}) == tiny.digest) == is_head, key
    swapped = digest(**{"layers.0.up.bias": tiny.tensors["layers.1.up.bias"]})
    assert swapped != tiny.digest
    reshaped = digest(**{"layers.0.up.weight": tiny.tensors["layers.0.up.weight"].reshape(32, 128)})
    assert reshaped != tiny.digest


def test_fair_esm_tells_models_apart_by_file_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="esm2_something") as raised:
        convert("random:esm2-tiny", tmp_path / "tiny.pt", "fair-esm")
    assert str(tmp_path / "tiny.pt") in str(raised.value)  # what the user typed, no temporary name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "name"), [("huggingface", "hf"), ("fair-esm", "esm2_tiny.pt")])
def test_converting_replaces_nothing(to: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        convert("random:esm2-tiny", tmp_path / name, to)  # type: ignore[arg-type]
    assert (tmp_path / name).read_text() == "precious"


def test_converting_replaces_no_contact_regression(tmp_path: Path) -> None:
    """The second file of a fair-esm model is somebody's, too."""
    regression = tmp_path / "esm2_tiny-contact-regression.pt"
    regression.write_text("precious")
    with pytest.raises(OutputError, match="contact-regression"):
        convert("random:esm2-tiny", tmp_path / "esm2_tiny.pt", "fair-esm")
    assert regression.read_text() == "precious"
    assert not (tmp_path / "esm2_tiny.pt").exists()


@pytest.mark.parametrize(("to", "name"), [("huggingface", "hf"), ("fair-esm", "esm2_tiny.pt")])
def test_converting_is_whole_or_not_at_all(to: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that stops at any of its renames leaves nothing that could be taken for the model."""
    renamed: list[Path] = []
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if renamed or to == "huggingface":
            raise OSError(28, "No space left on device")
        renamed.append(Path(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="the disk is full"):
        convert("random:esm2-tiny", tmp_path / name, to)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_converting_into_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        convert("random:esm2-tiny", tmp_path / "file" / "hf", "huggingface")


def test_files_written_are_as_readable_as_any_other(tmp_path: Path) -> None:
    """On a cluster a model is written by one person and read by others; safetensors' own writer gives 0600."""
    convert("random:esm2-tiny", tmp_path / "hf", "huggingface")
    convert("random:esm2-tiny", tmp_path / "esm2_tiny.pt", "fair-esm")
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    files = [*(tmp_path / "hf").iterdir(), *tmp_path.glob("*.pt")]
    assert {path.name: oct(path.stat().st_mode) for path in files} == {
        path.name: oct(ordinary.stat().st_mode) for path in files
    }


def test_fair_esm_files_may_carry_the_longer_prefix(tiny: Checkpoint, tiny_pt: Path, tmp_path: Path) -> None:
    longer = {key.replace("encoder.", "encoder.sentence_encoder."): value for key, value in state(tiny_pt).items()}
    path = tmp_path / "esm2_long.pt"
    torch.save({"cfg": torch.load(tiny_pt, weights_only=False)["cfg"], "model": longer}, path)
    assert resolve(str(path)).digest == tiny.digest


def test_a_safetensors_file_is_read_with_the_folder_around_it(tiny: Checkpoint, tiny_folder: Path) -> None:
    assert_same(resolve(str(tiny_folder / "model.safetensors")), tiny)


def test_a_safetensors_file_alone_says_what_it_needs(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_folder, tmp_path / "hf")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json must lie beside it"):
        resolve(str(folder / "model.safetensors"))
