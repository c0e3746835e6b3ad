"""Archives and indices that mean harm, or were harmed: a sentence, no code run, no disk or memory filled."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aminoglot.checkpoints import Checkpoint, archive, resolve
from aminoglot.engine import Model, choose
from aminoglot.errors import ModelError
from tests.checkpoints import nvidia
from tests.checkpoints.test_safe_pickle import Evil


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
        (b"!!python/object/apply:os.system ['touch mark']", "YAML"),
        (b"a: " + b"x" * (5 << 20), "too long"),
    ],
)
def test_settings_that_are_none(said: bytes, found: str, tiny: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.nemo"
    stream = io.BytesIO()
    torch.save(nvidia.esm2_nemo1(tiny), stream)
    with tarfile.open(path, "w") as file:
        for name, data in (("model_config.yaml", said), ("model_weights.ckpt", stream.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    assert found in refusal(path)
    assert not Path("mark").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_nemo_runs_nothing(zipped: bool, tiny: Checkpoint, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stream = io.BytesIO()
    torch.save({**nvidia.esm2_nemo1(tiny), "evil": Evil(mark)}, stream, _use_new_zipfile_serialization=zipped)
    with tarfile.open(tmp_path / "m.nemo", "w") as file:
        info = tarfile.TarInfo("model_weights.ckpt")
        info.size = len(stream.getvalue())
        file.addfile(tarfile.TarInfo("model_config.yaml"), io.BytesIO())
        file.addfile(info, io.BytesIO(stream.getvalue()))
    path = nvidia.nemo(tmp_path / "n.nemo", nvidia.settings(tiny), {**nvidia.esm2_nemo1(tiny), "evil": Evil(mark)})
    for one in (tmp_path / "m.nemo", path):
        said = refusal(one)
        assert "refused" in said or "no settings" in said
    assert not mark.exists()


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
    torch.save(Evil(mark), evil)
    assert len(evil.getvalue()) <= place.length
    with (folder / "weights" / place.relative_path).open("r+b") as piece:
        piece.seek(place.offset)
        piece.write(evil.getvalue().ljust(place.length, b"\0"))
    assert "refused: the file asks Python for" in refusal(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "damaged"), (b"\x80\x04N.", "not the index"), (pickle.dumps({}), "not the index")]
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
    with pytest.raises(ModelError, match="not finite"):
        Model(resolve(str(path)), choose("cpu", "fp32", "torch")).embed(["MKTAYIAK"])


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.nemo", "m.nemo.gz", "p.nemo", "weights/.metadata", "weights/__0_0.distcp"])
def test_a_thousand_mutations_of_every_file(
    name: str, tiny: Checkpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mutated file is refused with a sentence, or read; never anything else, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    if name.startswith("weights"):
        victim, read = folder / name, folder
    else:
        victim = read = tmp_path / name
        nvidia.nemo(victim, nvidia.settings(tiny), nvidia.esm2_nemo1(tiny))
    data, rng = victim.read_bytes(), random.Random(name)
    refused: list[str] = []
    before = sorted(tmp_path.iterdir())
    for _ in range(1000):
        victim.write_bytes(_mutated(data, rng))
        try:
            resolve(str(read))
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(read) in said for said in refused)
    assert sorted(tmp_path.iterdir()) == before
