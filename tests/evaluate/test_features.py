"""What heads are fitted to: exact where it can be said by hand, and the main job's numbers where it is its."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aminoglot
from aminoglot.checkpoints import resolve, write
from aminoglot.checkpoints.untrained import shaped, untrained
from aminoglot.engine import Model, load
from aminoglot.errors import OutputError
from aminoglot.evaluate.blocks import Block, Coverage, Reach, block, covered
from aminoglot.evaluate.embed import Embedder
from aminoglot.evaluate.features import Composition, OneHot, mapped_tensor, of_sequences
from aminoglot.evaluate.options import Options
from aminoglot.evaluate.split import Example
from aminoglot.evaluate.tasks import TASKS, bionemo_limit
from aminoglot.finetune.letters import LETTERS
from aminoglot.models.family import SIZES
from tests.evaluate.helpers import MODEL, Said

STRUCTURE, GB1, SCL = TASKS["secondary_structure"], TASKS["gb1"], TASKS["scl"]


def residues(*sequences: str) -> Block:
    examples = [Example(f"p{n}", s.encode(), "H" * len(s), "1" * len(s)) for n, s in enumerate(sequences)]
    return block(examples, STRUCTURE)


def proteins(*sequences: str) -> Block:
    return block([Example(f"p{n}", s.encode(), "1.5") for n, s in enumerate(sequences)], GB1)


def test_labels_as_arrays() -> None:
    made = block([Example("a", b"MK", "HC", "10"), Example("b", b"TAY", "EEC", "111")], STRUCTURE)
    assert made.labels.tolist() == [2, 0, 1, 1, 0]
    assert made.starts is not None
    assert made.starts.tolist() == [0, 2, 5]
    assert made.counted is not None
    assert made.counted.tolist() == [True, False, True, True, True]
    classes = block([Example("a", b"MK", "Nucleus"), Example("b", b"MK", "Lysosome/Vacuole")], SCL)
    assert classes.labels.tolist() == [7, 5]
    assert proteins("MK").labels.tolist() == [1.5]


def test_one_hot_of_residues() -> None:
    made = residues("AC", "YXA")
    found = OneHot("residue", [made]).of(made)
    assert found.shape == (5, 21)
    assert found.sum(axis=1).tolist() == [1] * 5
    assert found.argmax(axis=1).tolist() == [0, 1, 19, 20, 0], "all letters but the 20 share the last column"
    assert LETTERS[1] == "C"


def test_one_hot_of_proteins_has_the_places_that_vary() -> None:
    train, test = proteins("MAKT", "MCKT"), proteins("MAKW")
    hot = OneHot("protein", [train, test])
    assert hot.says == "the letters of the 2 places that vary, of 4"
    found = hot.of(test)
    assert found.shape == (1, 42)
    assert np.flatnonzero(found[0]).tolist() == [0, 21 + LETTERS.index("W")]
    assert hot.of(train).sum(axis=1).tolist() == [2, 2]


def test_composition() -> None:
    made = proteins("AAAC", "XY")
    found = Composition("protein").of(made)
    assert found[0, :2].tolist() == [0.75, 0.25]
    assert found[1, [19, 20]].tolist() == [0.5, 0.5]
    of_residues = Composition("residue").of(residues("AAAC", "XY"))
    assert of_residues.shape == (6, 21)
    assert (of_residues[0] == of_residues[3]).all()
    assert np.allclose(of_residues[[0, 4]], found, atol=1e-3)


def test_one_hot_only_where_it_can_be() -> None:
    assert [f.name for f in of_sequences("protein", [proteins("MK", "MA")])] == ["one-hot", "composition"]
    assert [f.name for f in of_sequences("protein", [proteins("MK", "MKT")])] == ["composition"]
    assert [f.name for f in of_sequences("protein", [proteins("MK", "MK")])] == ["composition"]
    assert [f.name for f in of_sequences("residue", [residues("MK", "MKT")])] == ["one-hot", "composition"]


LONG = [Example("short", b"M" * 10, "H" * 10, "1" * 10), Example("long", b"K" * 30, "E" * 30, "1" * 30)]


@pytest.mark.parametrize(
    ("reach", "expected", "said"),
    [
        (Reach("window", 20), (2, 2, 40, 40), "all 2 proteins, all 40 residues"),
        (Reach("full", 20), (2, 2, 40, 40), "all 2 proteins, all 40 residues"),
        (Reach("truncate", 20), (2, 2, 30, 40), "2 of 2 proteins (100.0%), 30 of 40 residues (75.0%)"),
        (Reach("skip", 20), (1, 2, 10, 40), "1 of 2 proteins (50.0%), 10 of 40 residues (25.0%)"),
        (Reach("window", 20, keep=18), (1, 2, 10, 40), "1 of 2 proteins (50.0%), 10 of 40 residues (25.0%)"),
        (Reach("window", 20, keep=30), (2, 2, 40, 40), "all 2 proteins, all 40 residues"),
    ],
)
def test_coverage(reach: Reach, expected: tuple[int, int, int, int], said: str) -> None:
    kept, coverage = covered(LONG, STRUCTURE, reach)
    assert coverage == Coverage(*expected)
    assert str(coverage) == said
    made = block(kept, STRUCTURE)
    assert made.rows == expected[2], "residues without an embedding have no label either"


def test_a_truncated_protein_keeps_its_one_label() -> None:
    kept, coverage = covered([Example("a", b"M" * 30, "1.0")], GB1, Reach("truncate", 20))
    assert len(kept[0].sequence) == 20, "cut for the model, cut for composition too"
    assert kept[0].label == "1.0"
    assert (coverage.residues, coverage.all_residues) == (20, 30)


def test_the_shipped_harness_s_limits() -> None:
    assert bionemo_limit("ESM-2") == 1022
    assert bionemo_limit("ProtT5nv") == 510


def embedder(folder: Path, model: str = MODEL, **options: object) -> Embedder:
    folder.mkdir(exist_ok=True)
    chosen = Options(model=model, precision="fp32", device="cpu", **options)  # type: ignore[arg-type]
    return Embedder(folder / "embeddings", resolve(model), chosen, Said())


def tiny() -> Model:
    with pytest.warns(aminoglot.AminoglotWarning, match="never trained"):
        return load(MODEL, precision="fp32", device="cpu")


def test_embeddings_are_the_main_job_s(tmp_path: Path) -> None:
    train, test = residues("MKTAYIAK", "GAV"), residues("MKTAYIAK")
    made = embedder(tmp_path, layer="all")
    blocks = [train, test, train]
    found = [one for one in made.features(STRUCTURE, blocks) if one.name == "model"]
    assert [one.layer for one in found] == [0, 1, 2]
    made.ready(STRUCTURE, blocks, "model")
    expected = tiny().embed(["MKTAYIAK", "GAV"], per="residue", layer="all")
    for layer, features in enumerate(found):
        rows = features.of(train)
        assert rows.dtype == np.float16
        assert np.allclose(rows, np.concatenate([one[layer] for one in expected]), atol=2e-3)
        assert (features.of(test) == rows[:8]).all()
    assert made.seconds(STRUCTURE, blocks) > 0
    before = made.seconds(STRUCTURE, blocks)
    made.ready(STRUCTURE, blocks, "model")
    assert made.seconds(STRUCTURE, blocks) == before, "verifying is no embedding"


def test_proteins_in_float32(tmp_path: Path) -> None:
    made, variants = embedder(tmp_path), proteins("MKTAYIAK", "MKTCYIAK")
    (features,) = (one for one in made.features(GB1, [variants]) if one.name == "model")
    made.ready(GB1, [variants], "model")
    expected = tiny().embed(["MKTAYIAK", "MKTCYIAK"])
    assert features.of(variants).dtype == np.float32
    assert np.allclose(features.of(variants), expected, atol=1e-5)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    made, variants = embedder(tmp_path), proteins("MKTAYIAK", "MKTCYIAK")
    made.ready(GB1, [variants], "model")
    (features,) = (one for one in made.features(GB1, [variants]) if one.name == "model")
    expected = np.array(features.of(variants))
    (path,) = (tmp_path / "embeddings").glob("*.model.*.safetensors")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(OutputError, match="damaged, or cut short"):
        mapped_tensor(path, "embeddings")
    made.ready(GB1, [variants], "model")
    (features,) = (one for one in made.features(GB1, [variants]) if one.name == "model")
    assert (features.of(variants) == expected).all()


def test_the_same_network_untrained(tmp_path: Path) -> None:
    """A random model's untrained twin has other weights; one with a name is taken by it; any other is written."""
    twin = embedder(tmp_path / "a").networks[1]
    assert twin.digest not in (resolve(MODEL).digest, untrained("esm2-tiny").digest)
    assert resolve(twin.model).config == SIZES["esm2-tiny"]
    assert resolve(twin.model).digest == twin.digest
    trained = tmp_path / "trained"
    write(shaped(SIZES["esm2-tiny"], "trained", 7), trained, "huggingface")
    named = embedder(tmp_path / "b", str(trained)).networks[1]
    assert named.model == MODEL
    assert named.digest == resolve(MODEL).digest
    t5 = embedder(tmp_path / "c", "random:prott5nv-tiny").networks[1]
    assert resolve(t5.model).config == SIZES["prott5nv-tiny"]


def test_drawn_weights_are_the_same_everywhere() -> None:
    assert shaped(SIZES["esm2-tiny"], "x").digest == untrained("esm2-tiny").digest
    assert shaped(SIZES["esm2-tiny"], "x", 1).digest != untrained("esm2-tiny").digest
