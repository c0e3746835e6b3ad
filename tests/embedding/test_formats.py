"""Every format against the numbers it should hold, read by aminoglot.open and by the libraries that others use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

import aminoglot
from aminoglot import AminoglotError, InputError, OutputError
from aminoglot.embedding.formats.h5 import escape, unescape
from tests.embedding.helpers import MODEL, embed, files, protein, table, write_fasta

NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]
RECORDS = {
    "sp|P99999|CYC_HUMAN": protein(60),
    "a/b%c": protein(33),
    "long": protein(1100),
    "J": "MJTVJ*",
    "short": "W",
    "again": protein(60),
}
"""Not in the order of their names, nor of their lengths."""
IDS = ["P99999", "a/b%c", "long", "J", "short", "again"]
LIMIT = 1022


@pytest.fixture(scope="module")
def truth() -> dict[tuple[str, bool], dict[str, np.ndarray]]:
    """The model's own numbers, for each kind and for one or several layers, one protein at a time."""
    with pytest.warns(aminoglot.AminoglotWarning, match="never trained"):
        model = aminoglot.load(MODEL, precision="fp32", backend="torch")
    sequences = [sequence.strip("*").replace("J", "X")[:LIMIT] for sequence in RECORDS.values()]
    found: dict[tuple[str, bool], dict[str, np.ndarray]] = {}
    for several, layer in ((False, -1), (True, [2, 0])):
        residue = {
            name: model.embed([s], per="residue", layer=layer)[0] for name, s in zip(IDS, sequences, strict=True)
        }
        found["residue", several] = residue
        found["protein", several] = {name: array.mean(-2) for name, array in residue.items()}
    assert found["protein", True]["short"].shape == (2, 32)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Outputs, each made once."""
    folder = tmp_path_factory.mktemp("made")
    source = write_fasta(folder / "a.fasta", RECORDS)
    done: dict[tuple[Any, ...], Path] = {}

    def make(name: str, per: str, several: bool, dtype: str = "float32") -> Path:
        key = (per, several, dtype)
        if (name, *key) not in done:
            place = folder / "-".join(map(str, key))
            place.mkdir(exist_ok=True)
            done[name, *key] = embed(source, place / name, per=per, layer=[2, 0] if several else -1, dtype=dtype).files[
                0
            ]
        return done[name, *key]

    return make


def check(found: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> None:
    assert found.dtype == np.dtype(dtype)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 2e-2)


# Read back by aminoglot.open -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back(truth: Any, made: Any, name: str, per: str, several: bool, dtype: str) -> None:
    """The same ids and arrays from every format, in the order of the input ."""
    expected = truth[per, several]
    path = made(name, per, several, dtype)
    with aminoglot.open(path) as store:
        assert list(store.ids) == IDS
        assert len(store) == len(IDS)
        for word in IDS:
            assert word in store
            check(store[word], expected[word], dtype)
        pairs = list(store)
        assert [word for word, _ in pairs] == list(store.ids)
        for word, array in pairs:
            np.testing.assert_array_equal(array, store[word])
        for absent in ("nobody", "", "P9999", 7, "a%2Fb%25c"):
            assert absent not in store
        with pytest.raises(KeyError) as missing:
            store["nobody"]
        assert missing.value.args == (f"nobody: not in {path.name}, which holds 6 proteins",)
        assert repr(store) == "<aminoglot.Store of 6 proteins>"
        assert store.provenance["layers"] == ([2, 0] if several else [2])
        assert store.provenance["dtype"] == dtype


@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("name", NAMES)
def test_matrix(truth: Any, made: Any, name: str, several: bool) -> None:
    """All proteins at once, rows as in ``ids``; one row a residue has no such matrix."""
    with aminoglot.open(made(name, "protein", several)) as store:
        matrix = store.matrix()
        assert matrix.shape == ((6, 2, 32) if several else (6, 32))
        for row, word in zip(matrix, store.ids, strict=True):
            check(row, truth["protein", several][word])
    with aminoglot.open(made(name, "residue", several)) as store, pytest.raises(InputError, match="one row a residue"):
        store.matrix()


@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("name", NAMES[:4])
def test_both_are_two_files_and_one_table(truth: Any, made: Any, name: str, several: bool) -> None:
    first = made(name, "both", several)
    stem, suffix = name.split(".")
    assert first.name == f"{stem}.per-protein.{suffix}"
    assert not first.with_name(name).exists()
    assert len(table(first.with_name(name))) == len(RECORDS)
    for per in ("protein", "residue"):
        with aminoglot.open(first.with_name(f"{stem}.per-{per}.{suffix}")) as store:
            assert sorted(store.ids) == sorted(IDS)
            for word, array in store:
                check(array, truth[per, several][word])


@pytest.mark.parametrize("name", NAMES)
def test_closing_twice_is_no_crime(made: Any, name: str) -> None:
    """``with`` around a store that was closed by hand."""
    with aminoglot.open(made(name, "protein", False)) as store:
        held = len(store.ids)
        store.close()
    assert held == len(IDS)


def test_a_path_may_be_a_string_or_start_at_home(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made("x.npz", "protein", False)
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("USERPROFILE", str(path.parent))
    for spelling in (str(path), "~/x.npz"):
        with aminoglot.open(spelling) as store:
            assert list(store.ids) == IDS


def test_no_such_file_and_no_such_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        aminoglot.open(tmp_path / "x.h5")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(InputError, match=r"\.txt names no format"):
        aminoglot.open(tmp_path / "x.txt")
    (tmp_path / "x").write_text("text")
    with pytest.raises(AminoglotError):
        aminoglot.open(tmp_path / "x")


@pytest.mark.parametrize("output", ["x.txt", "x.csv", "x.h5.gz", "x.pt"])
def test_a_suffix_that_names_no_format_is_refused_at_once(tmp_path: Path, output: str) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV"})
    with pytest.raises(InputError, match=r"names no format; use \.h5"):
        embed(source, tmp_path / output)
    assert set(files(tmp_path)) == {"a.fasta"}


@pytest.mark.parametrize("output", ["x.H5", "x.hdf5", "x.Parquet", "x.NPZ"])
def test_suffixes_in_other_spellings(tmp_path: Path, output: str) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV"})
    embed(source, tmp_path / output)
    with aminoglot.open(tmp_path / output) as store:
        assert list(store.ids) == ["a"]


# h5, as the field reads it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("per", ["protein", "residue"])
def test_h5_with_plain_h5py(truth: Any, made: Any, per: str, several: bool, dtype: str) -> None:
    """One dataset a protein at the root, key = id with / and % escaped, what happened to it in attributes."""
    with h5py.File(made("x.h5", per, several, dtype)) as file:
        assert set(file) == {"P99999", "a%2Fb%25c", "long", "J", "short", "again"}
        for key, dataset in file.items():
            assert isinstance(dataset, h5py.Dataset)
            assert dataset.dtype == np.dtype(dtype)
            check(dataset[()], truth[per, several][unescape(key)], dtype)
        marks = {key: {name for name in dataset.attrs if name != "original_id"} for key, dataset in file.items()}
        assert marks == {
            "P99999": set(),
            "a%2Fb%25c": set(),
            "long": {"length", "residues_embedded"},
            "J": {"replaced_letters"},
            "short": set(),
            "again": set(),
        }
        assert (file["long"].attrs["length"], file["long"].attrs["residues_embedded"]) == (1100, LIMIT)
        assert file["J"].attrs["replaced_letters"] == 2
        assert file.attrs["model_name"] == MODEL
        assert file.attrs["dtype"] == dtype
        assert file.attrs["layer"].tolist() == ([2, 0] if several else [2])
        assert file.attrs["version"] == aminoglot.__version__
        assert file.attrs.get("pooling") == ("mean" if per == "protein" else None)


def test_h5_original_ids_are_strings(made: Any) -> None:
    """As in the field's files, where h5py wrote a Python string: bytes would equal no id and be no key of a dict."""
    with h5py.File(made("x.h5", "protein", False)) as file:
        found = {unescape(key): dataset.attrs["original_id"] for key, dataset in file.items()}
    assert found == dict(zip(IDS, RECORDS, strict=True))


def test_h5_provenance_is_off_the_heap(made: Any, tmp_path: Path) -> None:
    """libhdf5 can hang over a damaged heap, where it keeps strings of any length. Strings are still read."""
    path = made("x.h5", "protein", False)
    with h5py.File(path) as file:
        written = h5py.h5a.open(file.id, b"aminoglot")
        assert not written.get_type().is_variable_str()
        said = json.loads(file.attrs["aminoglot"])
    assert said["model"] == MODEL
    other = tmp_path / "x.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(other, "a") as file:
        file.attrs["aminoglot"] = json.dumps(said)
    with aminoglot.open(path) as mine, aminoglot.open(other) as theirs:
        assert mine.provenance == theirs.provenance == said


def test_the_provenance_says_each_thing_once(made: Any) -> None:
    """What was asked and what was found, flat."""
    with aminoglot.open(made("x.h5", "protein", False)) as store:
        assert not [key for key, value in store.provenance.items() if isinstance(value, dict)]
        assert (store.provenance["bad_records"], store.provenance["bad"]) == ("error", 0)
        assert store.provenance["id_column"] is None


def test_h5_keys_survive_the_escape() -> None:
    """No two ids may share a key."""
    words = ["a/b", "a%2Fb", "%", "%%", "%2", "%2F", "%252F", ".", "..", "%2E", "/", "//", "a", "...", ".a", "%2E%2E"]
    keys = [escape(word) for word in words]
    assert len(set(keys)) == len(words)
    assert [unescape(key) for key in keys] == words
    assert not [key for key in keys if "/" in key or key in (".", "..")]


@pytest.fixture
def uniprot(tmp_path: Path) -> Path:
    """A file as UniProt publishes it: float16 datasets by accession, made by plain h5py."""
    path = tmp_path / "per-protein.h5"
    with h5py.File(path, "w") as file:
        for number, name in enumerate(["Q9Y2", "A0A024", "P%2F1", "P12345"]):
            file.create_dataset(name, data=np.full(1024, number, np.float16))
    return path


def test_a_file_of_uniprot_opens_like_ours(uniprot: Path) -> None:
    with aminoglot.open(uniprot) as store:
        assert list(store.ids) == ["A0A024", "P%2F1", "P12345", "Q9Y2"], "keys as they are: nobody escaped them"
        assert store["P%2F1"].tolist() == [2] * 1024
        assert store["Q9Y2"].dtype == np.float16
        assert store.matrix().shape == (4, 1024)
        assert store.provenance == {}
        assert "P12345" in store
        assert "P" not in store
        with pytest.raises(KeyError):
            store["P/1"]


def test_h5_of_another_kind_is_a_sentence(tmp_path: Path) -> None:
    """Datasets in groups, as some tools write them: said, not a crash."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("P1").create_dataset("embedding", data=np.ones(3))
    with aminoglot.open(tmp_path / "x.h5") as store, pytest.raises(OutputError, match="is a group"):
        store["P1"]


# parquet, npz, safetensors, pt, with the libraries that others use -----------------------------------------------


@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("per", ["protein", "residue"])
def test_parquet_with_plain_pyarrow(truth: Any, made: Any, per: str, several: bool) -> None:
    found = pq.read_table(made("x.parquet", per, several))
    rows = found.to_pylist()
    assert found.column_names == [
        "id", "original_id", "length", "residues_embedded", "replaced_letters", "sequence_sha256", "embedding",
    ]  # fmt: skip
    depth, kind = 0, found.schema.field("embedding").type
    while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        depth, innermost, kind = depth + 1, kind, kind.value_type
    assert depth == 1 + (per == "residue") + several
    assert kind == pa.float32()
    assert innermost.list_size == 32
    assert [row["id"] for row in rows] == IDS
    assert [row["original_id"] for row in rows] == list(RECORDS)
    assert [row["length"] for row in rows] == [60, 33, 1100, 5, 1, 60]
    assert [row["residues_embedded"] for row in rows] == [60, 33, LIMIT, 5, 1, 60]
    assert [row["replaced_letters"] for row in rows] == [0, 0, 0, 2, 0, 0]
    assert rows[4]["sequence_sha256"] == hashlib.sha256(b"W").hexdigest()
    for row in rows:
        check(np.array(row["embedding"], np.float32), truth[per, several][row["id"]])


@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_stacked_files_with_plain_libraries(truth: Any, made: Any, name: str, per: str, several: bool) -> None:
    """numpy.load without pickle and safetensors.numpy: stacked rows, with ids and offsets beside them."""
    path = made(name, per, several)
    if name == "x.npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file}
        ids, originals = arrays["ids"].tolist(), arrays["original_ids"].tolist()
        said = json.loads(str(arrays["aminoglot"]))
    else:
        arrays = safetensors.numpy.load_file(path)
        ids, originals = (bytes(arrays[key]).decode().split("\n") for key in ("ids", "original_ids"))
        with safetensors.safe_open(path, framework="numpy") as file:
            said = json.loads(file.metadata()["aminoglot"])
    assert said["model"] == MODEL
    assert ids == IDS
    assert originals == list(RECORDS)
    rows = [60, 33, LIMIT, 5, 1, 60]
    assert arrays["length"].tolist() == [60, 33, 1100, 5, 1, 60]
    assert arrays["residues_embedded"].tolist() == rows
    assert arrays["replaced_letters"].tolist() == [0, 0, 0, 2, 0, 0]
    stacked = arrays["embeddings"]
    if per == "protein":
        assert "offsets" not in arrays
        parts = list(stacked)
    else:
        assert arrays["offsets"].tolist() == np.cumsum([0, *rows]).tolist()
        parts = [stacked[a:b] for a, b in zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True)]
        parts = [part.swapaxes(0, 1) if several else part for part in parts]
    for word, part in zip(ids, parts, strict=True):
        check(part, truth[per, several][word])


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
@pytest.mark.parametrize("per", ["protein", "residue", "both"])
def test_pt_files_as_fair_esm_writes_them(truth: Any, tmp_path: Path, per: str, pool: str) -> None:
    """What ``esm-extract --include per_tok mean bos`` leaves, readable with weights_only."""
    source = write_fasta(tmp_path / "a.fasta", RECORDS)
    embed(source, tmp_path / "folder", per=per, pool=pool, layer=[2, 0])
    assert sorted(path.name for path in (tmp_path / "folder").glob("*.pt")) == sorted(f"{escape(i)}.pt" for i in IDS)
    pooled = {"mean": "mean_representations", "cls": "bos_representations", "max": "max_representations"}[pool]
    for word in IDS:
        content = torch.load(tmp_path / "folder" / f"{escape(word)}.pt", weights_only=True)
        expected = (
            {"label"} | ({"representations"} if per != "protein" else set()) | ({pooled} if per != "residue" else set())
        )
        assert set(content) == expected
        assert content["label"] == word
        if per != "protein":
            assert list(content["representations"]) == [2, 0]
            for number, layer in enumerate((2, 0)):
                check(content["representations"][layer].numpy(), truth["residue", True][word][number])
        if per != "residue":
            residues = truth["residue", True][word]
            for number, layer in enumerate((2, 0)):
                value = content[pooled][layer]
                assert value.shape == (32,)
                if pool != "cls":
                    check(value.numpy(), residues[number].mean(0) if pool == "mean" else residues[number].max(0))


def test_both_kinds_of_a_pt_folder_are_verified(tmp_path: Path) -> None:
    """A damaged mean is as bad as a damaged residue."""
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV"})
    embed(source, tmp_path / "folder", per="both")
    path = tmp_path / "folder" / "a.pt"
    content = torch.load(path, weights_only=True)
    content["mean_representations"][2] += 1
    torch.save(content, path)
    with pytest.raises(OutputError):
        embed(source, tmp_path / "folder", per="both")


# Cut short -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 8, 100, 0.5, 0.99, -1])
@pytest.mark.parametrize("name", NAMES[:4])
def test_a_file_cut_short_is_a_sentence(made: Any, tmp_path: Path, name: str, kept: float) -> None:
    """However little of it is left."""
    data = made(name, "residue", False).read_bytes()
    size = int(len(data) * kept) if isinstance(kept, float) else kept
    (tmp_path / name).write_bytes(data[:size])
    with pytest.raises(OutputError, match=r"cut short|damaged|not a readable"):
        aminoglot.open(tmp_path / name)


@pytest.mark.parametrize("name", ["P99999.pt", "aminoglot.json"])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_pt_folder_cut_short_is_a_sentence(made: Any, tmp_path: Path, name: str, kept: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in made("folder", "residue", False).iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: kept if path.name == name else None])
    with pytest.raises(AminoglotError), aminoglot.open(folder) as store:
        store["P99999"]


@pytest.mark.parametrize("name", NAMES[:4])
def test_other_peoples_files_are_a_sentence(tmp_path: Path, name: str) -> None:
    """The right format with the wrong content."""
    path = tmp_path / name
    if name == "x.parquet":
        pq.write_table(pa.table({"id": ["a"], "embedding": [[1.0]]}), path)
    elif name == "x.npz":
        np.savez(path, embeddings=np.ones((1, 3)))
    elif name == "x.safetensors":
        safetensors.numpy.save_file({"embeddings": np.ones((1, 3), np.float32)}, path)
    else:
        path.write_text("this is no HDF5")
    with pytest.raises(OutputError, match=name):
        aminoglot.open(path)


def test_an_npy_under_the_name_of_an_npz(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(OutputError, match="npz"):
        aminoglot.open(tmp_path / "x.npz")
