"""Archives and indices that mean harm, or were harmed: a sentence, no code run, no disk or memory filled."""

from __future__ import annotations

import copyreg
import gzip
import io
import os
import pickle
import random
import shutil
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint import metadata

from aminoglot.checkpoints import Checkpoint, archive, fair_esm, huggingface, pegasus, resolve
from aminoglot.engine import Model, choose
from aminoglot.errors import ModelError
from tests.checkpoints import nvidia
from tests.checkpoints.foreign import copied, with_bin
from tests.checkpoints.test_safe_pickle import Evil
from tests.reference import randomised


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        resolve(str(path))
    return str(raised.value)


def tar(path: Path, *members: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w") as file:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            file.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def packed(path: Path, checkpoint: Checkpoint, weights: bytes, said: bytes | None = None) -> Path:
    """A .nemo of these bytes, under proper settings unless others are given."""
    settings = yaml.safe_dump(nvidia.settings(checkpoint)).encode() if said is None else said
    with tarfile.open(path, "w") as file:
        for name, data in (("model_config.yaml", settings), ("model_weights.ckpt", weights)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("evil", "said"),
    [
        (member("../model_weights.ckpt"), "leads out"),
        (member("a/../../model_weights.ckpt"), "leads out"),
        (member("/tmp/model_weights.ckpt"), "leads out"),
        (member("model_weights.ckpt", tarfile.SYMTYPE, "/etc/passwd"), "neither a file"),
        (member("model_weights.ckpt", tarfile.LNKTYPE, "model_config.yaml"), "neither a file"),
        (member("model_weights.ckpt", tarfile.CHRTYPE), "neither a file"),
        (member("model_weights.ckpt", tarfile.FIFOTYPE), "neither a file"),
    ],
)
def test_members_that_are_not_plain_files_are_refused(evil: tarfile.TarInfo, said: str, tmp_path: Path) -> None:
    found = refusal(tar(tmp_path / "m.nemo", member("model_config.yaml"), evil))
    assert said in found
    assert evil.name in found


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    twice = tar(tmp_path / "m.nemo", member("./model_weights.ckpt"), member("model_weights.ckpt"))
    assert "twice" in refusal(twice)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte of gzip: refused after some twenty megabytes."""
    path = tmp_path / "m.nemo"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(bytes(16 << 20))
    assert path.stat().st_size < 2 << 20
    assert "more than 20 times" in refusal(path)


def test_a_full_disk_is_said_before_it_is_full(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nvidia.nemo(tmp_path / "m.nemo.gz", nvidia.settings(tiny), nvidia.esm2_nemo1(tiny))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 0, (1 << 30) + 1000))
    assert "TMPDIR" in refusal(path)


def test_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 100)
    assert "members" in refusal(tar(tmp_path / "m.nemo", *[member(f"m{n}") for n in range(101)]))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"a: [", "YAML"),
        (b"- 1", "no settings"),
        (b"\xff\xfe", "not text"),
        (b"a: " + b"x" * (5 << 20), "too long"),
    ],
)
def test_settings_that_are_none(said: bytes, found: str, tiny: Checkpoint, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(nvidia.esm2_nemo1(tiny), stream)
    assert found in refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue(), said))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_nemo_runs_nothing(zipped: bool, tiny: Checkpoint, tmp_path: Path) -> None:
    mark, stream = tmp_path / "mark", io.BytesIO()
    torch.save({**nvidia.esm2_nemo1(tiny), "evil": Evil(mark)}, stream, _use_new_zipfile_serialization=zipped)
    assert "refused: the file asks Python for" in refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue()))
    assert not mark.exists()


def test_a_bomb_within_the_weights_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    """torch never compresses; what is compressed may be anything, and is not the numbers that it is mapped as."""
    stream, squeezed = io.BytesIO(), io.BytesIO()
    torch.save(nvidia.esm2_nemo1(tiny), stream)
    with zipfile.ZipFile(stream) as before, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as after:
        for entry in before.infolist():
            after.writestr(entry.filename, before.read(entry))
    assert "compressed" in refusal(packed(tmp_path / "m.nemo", tiny, squeezed.getvalue()))
    (tmp_path / "esm2_m.pt").write_bytes(squeezed.getvalue())
    assert "compressed" in refusal(tmp_path / "esm2_m.pt")


@pytest.mark.parametrize(
    "said",
    [
        b"a: 2001-13-01",
        b"a: !!int x",
        b"a: !!timestamp x",
        b"[" * 10_000,
        b"!!python/object/apply:os.system ['touch mark']",
        b"a: &a [x, x]\nb: &b {<<: *c}\nc: &c {<<: *a}",
        b"a: &a {k: v}\nb: {<<: *a}",
        b"num_layers: &a [&b [x, x, x], *b, *b]\nhidden_size: 32\nffn_hidden_size: 128\nposition_embedding_type: rope",
    ],
)
def test_settings_that_mean_harm(
    said: bytes, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save(nvidia.esm2_nemo1(tiny), stream)
    assert len(refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue(), said))) < 1000
    assert not Path("mark").exists()


@pytest.mark.parametrize("layers", [2_000_000_000, -1, True, 1.5])
def test_no_number_of_layers_fills_memory(layers: Any, tiny: Checkpoint, tmp_path: Path) -> None:
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(tiny, num_layers=layers), nvidia.esm2_nemo1(tiny))
    assert "as its layers" in refusal(path)


@pytest.mark.parametrize("state", [{"model": torch.ones(3)}, {"module.model": torch.ones(3)}, {"language_model.x": 3}])
def test_weights_with_odd_names(state: dict[str, Any], tiny: Checkpoint, tmp_path: Path) -> None:
    assert str(tmp_path / "m.nemo") in refusal(nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(tiny), state))


def test_a_flipped_bit_in_a_packed_archive(tiny: Checkpoint, tmp_path: Path) -> None:
    path = nvidia.nemo(tmp_path / "m.nemo.gz", nvidia.settings(tiny), nvidia.esm2_nemo1(tiny))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_that_would_fill_memory(kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 40
    (tmp_path / "m.nemo").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    assert "far too long" in refusal(tmp_path / "m.nemo")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.nemo")
    assert "not a format" in refusal(tmp_path / "m.nemo")


@pytest.fixture
def folder(tiny: Checkpoint, tmp_path: Path) -> Path:
    return nvidia.nemo2(tmp_path / "m", tiny)


def test_a_malicious_index_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for content in (Evil(mark), {"a": Evil(mark)}, [Evil(mark, exec)]):
        (folder / "weights/.metadata").write_bytes(pickle.dumps(content))
        said = refusal(folder)
        assert "refused: the file asks Python for" in said
    assert not mark.exists()


def test_a_malicious_piece_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    index = pickle.loads((folder / "weights/.metadata").read_bytes())
    place = next(place for key, place in index.storage_data.items() if key.fqn.endswith("word_embeddings.weight"))
    evil = io.BytesIO()
    torch.save(Evil(mark), evil, _use_new_zipfile_serialization=False)  # what follows it does not matter
    assert len(evil.getvalue()) <= place.length
    with (folder / "weights" / place.relative_path).open("r+b") as piece:
        piece.seek(place.offset)
        piece.write(evil.getvalue().ljust(place.length, b"\0"))
    assert "refused: the file asks Python for" in refusal(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"\x80\x04N.", "not the index"),
        (pickle.dumps({}), "not the index"),
        (b"}r\xff\xff\xff\xff.", "not the index"),  # room for four thousand million objects, to the unpickler in C
        (b"(" * 100_000 + b".", "m: weights/.metadata"),
    ],
)
def test_an_index_that_is_none(content: bytes, said: str, folder: Path) -> None:
    (folder / "weights/.metadata").write_bytes(content)
    assert said in refusal(folder)


def test_a_piece_that_is_missing_or_short(folder: Path) -> None:
    piece = next((folder / "weights").glob("*.distcp"))
    data = piece.read_bytes()
    piece.write_bytes(data[: len(data) // 2])
    assert "cut short" in refusal(folder)
    piece.unlink()
    assert f"no weights/{piece.name}" in refusal(folder)


def test_links_in_a_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    piece = next((folder / "weights").glob("*.distcp"))
    piece.rename(tmp_path / "elsewhere")
    piece.symlink_to(tmp_path / "elsewhere")
    assert f"no weights/{piece.name}" in refusal(folder)


def _values(checkpoint: Checkpoint, change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    state = dict(nvidia.esm2_nemo1(checkpoint))
    change(state)
    return nvidia.nemo(path, nvidia.settings(checkpoint), state)


KEY = "model.language_model.encoder.layers.1.self_attention.query_key_value.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop(KEY), "layers.1.attention.query.weight: missing"),
        (lambda state: state.update({KEY: state[KEY][:-1]}), "query_key_value.weight"),
        (lambda state: state.update({KEY: state[KEY][:, :-1]}), "shape"),
        (lambda state: state.update({KEY: state[KEY].int()}), "int32"),
        (lambda state: state.update({KEY: "no tensor"}), "missing"),
        (lambda state: state.clear(), "no weights"),
    ],
)
def test_a_wrong_tensor_is_named(change: Any, said: str, tiny: Checkpoint, tmp_path: Path) -> None:
    assert said in refusal(_values(tiny, change, tmp_path / "m.nemo"))


def test_weights_that_are_no_numbers_are_found_when_used(tiny: Checkpoint, tmp_path: Path) -> None:
    path = _values(tiny, lambda state: state.update({KEY: state[KEY] * torch.nan}), tmp_path / "m.nemo")
    with pytest.raises(ModelError, match=r"not finite, for layers\.1\.attention\.query\.weight in .*m\.nemo is not"):
        Model(resolve(str(path)), choose("cpu", "fp32", "torch")).embed(["MKTAYIAK"])


def test_a_flipped_bit_in_a_weight_is_noticed(tiny: Checkpoint, tmp_path: Path) -> None:
    """By the check sums that torch writes; the message names the storage."""
    path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(tiny), nvidia.esm2_nemo1(tiny))
    data = bytearray(path.read_bytes())
    weights = tiny.tensors["layers.1.up.weight"].numpy().tobytes()
    at = bytes(data).index(weights)
    data[at + len(weights) // 2] ^= 1
    path.write_bytes(data)
    said = refusal(path)
    assert "model_weights.ckpt" in said
    assert "check sum differs" in said


def test_a_file_without_check_sums_is_read(tiny: Checkpoint, tmp_path: Path) -> None:
    """torch can be told to write none."""
    torch.serialization.set_crc32_options(False)
    try:
        path = nvidia.nemo(tmp_path / "m.nemo", nvidia.settings(tiny), nvidia.esm2_nemo1(tiny))
    finally:
        torch.serialization.set_crc32_options(True)
    assert resolve(str(path)).digest == tiny.digest


@pytest.mark.parametrize("zipped", [True, False])
def test_no_tensor_is_larger_than_its_storage(zipped: bool, tiny: Checkpoint, tmp_path: Path) -> None:
    """A stride of zero would make a terabyte of four bytes, as soon as anything is computed with it."""
    state = {**nvidia.esm2_nemo1(tiny), "model.lm_head.dense.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    assert "fewer than a tensor in it" in refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue()))


class Call:
    """Asks an unpickler for a call that no tensor needs."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call(torch.from_dlpack, 1), "asks Python for"),
        (Call(OrderedDict, [("a", 1)]), "an OrderedDict that is made of something"),
        (Call(list, (1,) * 9), "asks Python for"),
        (Call(bytearray, 1 << 40), None),
        (Call(set, [1, 2]), None),
        (Call(torch.Tensor, 1 << 40), None),
    ],
)
def test_calls_that_would_fill_memory(call: Any, said: str | None, tiny: Checkpoint, tmp_path: Path) -> None:
    """torch's own restricted reader makes some of these; here they are refused, or nothing comes of them."""
    stream = io.BytesIO()
    torch.save({**nvidia.esm2_nemo1(tiny), "model._extra_state": call}, stream)
    path = packed(tmp_path / "m.nemo", tiny, stream.getvalue())
    if said:
        assert said in refusal(path)
    else:
        assert resolve(str(path)).digest == tiny.digest


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"\x96" + (1 << 40).to_bytes(8, "little") + b".", "damaged"),  # room for a terabyte of bytes
        (b"\x82\x01.", "damaged (KeyError)"),  # whatever Python has registered as its first extension
        (b"(" * (5 << 20) + b".", "far too large"),
        (b"ccollections\nOrderedDict\nN}\x8c\x08__init__Ns\x86b.", "fields for a"),  # would change a function of ours
        (b"c" + b"a" * (5 << 20), "far too large"),  # a name without an end
        (b"})" + b"\x85" * 1_000_000 + b"Ns.", "neither text nor numbers"),  # hashing it would exhaust the stack
        (b"})" + b"2\x86" * 40 + b"Ns.", "damaged (KeyError)"),  # a text of it would fill all memory
        (b"h\x00.", "damaged"),
        (b"X\x07\x00\x00\x00storageQ.", "not a torch checkpoint"),
    ],
)
def test_instructions_that_mean_harm(
    code: bytes, said: str, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(copyreg._extension_cache, 1, os.system)  # type: ignore[attr-defined]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + code)
    assert said in refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue()))


def test_a_headline_for_every_member_is_refused(tmp_path: Path) -> None:
    """tarfile would give each of ten thousand members a copy."""
    with tarfile.open(tmp_path / "m.nemo", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 9000}) as tar:
        tar.addfile(member("model_config.yaml"))
    assert "of all its members" in refusal(tmp_path / "m.nemo")


def test_pieces_that_are_the_same_bytes(folder: Path) -> None:
    """An index that reads one region as every tensor makes much of little."""
    path = folder / "weights/.metadata"
    index = pickle.loads(path.read_bytes())
    key, one = next((k, v) for k, v in index.state_dict_metadata.items() if k.endswith("word_embeddings.weight"))
    (first,) = one.chunks
    place = next(place for where, place in index.storage_data.items() if where.fqn == key)
    chunks = [metadata.ChunkStorageMetadata(torch.Size([128 * n, 32]), first.sizes) for n in range(2000)]
    index.state_dict_metadata[key] = replace(one, size=torch.Size([128 * 2000, 32]), chunks=chunks)
    index.storage_data |= {metadata.MetadataIndex(key, chunk.offsets): place for chunk in chunks}
    path.write_bytes(pickle.dumps(index))
    assert "do not fit into" in refusal(folder)


def test_an_index_of_endless_places(folder: Path) -> None:
    """One long list as the place of every chunk is copied nowhere."""
    path = folder / "weights/.metadata"
    index = pickle.loads(path.read_bytes())
    long = [0] * 1000
    for one in index.state_dict_metadata.values():
        for chunk in getattr(one, "chunks", ()):
            object.__setattr__(chunk, "offsets", long)
    path.write_bytes(pickle.dumps(index))
    assert "not the index" in refusal(folder)


def test_settings_of_settings_of_settings(tiny: Checkpoint, tmp_path: Path) -> None:
    """The text of what YAML's references make would fill all memory."""
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    said = "\n".join([*lines, "layernorm_epsilon: *a11", "hidden_size: 32"]).encode()
    stream = io.BytesIO()
    torch.save(nvidia.esm2_nemo1(tiny), stream)
    assert "layernorm_epsilon is a list" in refusal(packed(tmp_path / "m.nemo", tiny, stream.getvalue(), said))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1, 2]", '{"model_type": "esm", "vocab_list": 3}'])
def test_settings_of_a_folder_that_are_none(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    hf = copied(tiny_folder, tmp_path / "hf")
    (hf / "config.json").write_text(text)
    assert str(hf) in refusal(hf)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or the end lost."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 8] = rng.randbytes(8)
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 600)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 600)]
        else:
            del changed[at:]
        if not changed:
            return b"x"
    return bytes(changed)


def _every_format(folder: Path) -> None:
    """A model in each format that is read, under the names of the test below.

    Without check sums, before which every change in a torch file would be noticed, and nothing behind them tried.
    """
    torch.serialization.set_crc32_options(False)
    try:
        _written(folder)
    finally:
        torch.serialization.set_crc32_options(True)


def _written(folder: Path) -> None:
    esm2, prott5nv = randomised("esm2-tiny"), randomised("prott5nv-tiny")
    for name in ("esm2.nemo", "esm2.nemo.gz"):
        nvidia.nemo(folder / name, nvidia.settings(esm2), nvidia.esm2_nemo1(esm2))
    nvidia.nemo(folder / "prott5nv.nemo", nvidia.settings(prott5nv), nvidia.prott5nv_nemo1(prott5nv))
    nvidia.nemo2(folder / "nemo2", esm2)
    with tarfile.open(folder / "nemo2.tar", "w") as tar:
        tar.add(folder / "nemo2", "esm2")
    nvidia.transformer_engine(folder / "te", esm2)
    fair_esm.write(esm2, folder / "esm2_m.pt")
    content = torch.load(folder / "esm2_m.pt", weights_only=False)
    torch.save(content, folder / "esm2_old.pt", _use_new_zipfile_serialization=False)
    for name, checkpoint in (("hf", esm2), ("pegasus", prott5nv)):
        (folder / name).mkdir()
        (huggingface if name == "hf" else pegasus).write(checkpoint, folder / name)
    with_bin(folder / "hf", folder / "bin", load_file(folder / "hf/model.safetensors"))


FUZZED = [
    *("esm2.nemo", "esm2.nemo.gz", "prott5nv.nemo", "nemo2.tar", "esm2_m.pt", "esm2_old.pt"),
    *("nemo2/weights/.metadata", "nemo2/weights/__0_0.distcp", "nemo2/context/model.yaml"),
    *("te/config.json", "te/model.safetensors", "hf/config.json", "hf/model.safetensors"),
    *("bin/pytorch_model.bin", "pegasus/config.json", "pegasus/model.safetensors"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_a_thousand_mutations_of_every_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mutated file is refused with a sentence, or read; never anything else, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    _every_format(tmp_path)
    victim, read = tmp_path / name, tmp_path / name.split("/")[0]
    data, rng = victim.read_bytes(), random.Random(name)
    refused: list[str] = []
    before = sorted(tmp_path.iterdir())
    for _ in range(1000):
        victim.write_bytes(_mutated(data, rng))
        try:
            resolve(str(read))
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > (100 if "model.yaml" not in name else 10)
    assert all(str(read) in said for said in refused)
    assert sorted(tmp_path.iterdir()) == before
