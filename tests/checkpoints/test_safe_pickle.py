"""Nothing in a file is ever executed, and no damage shows as anything but a sentence."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aminoglot.checkpoints import archive, resolve, safe_pickle
from aminoglot.checkpoints.torch_file import STORAGES
from aminoglot.errors import ModelError
from tests.checkpoints.foreign import settings, state, with_bin


class Evil:
    """Runs a command when an ordinary unpickler builds it."""

    def __init__(self, mark: Path, call: Callable[..., Any] = os.system) -> None:
        self.mark, self.call = mark, call

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        quoted = str(self.mark)
        return self.call, (f"touch {quoted}" if self.call is os.system else f"open({quoted!r}, 'w')",)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


Writer = Callable[[object, Path], None]
WRITERS = pytest.mark.parametrize("write", [plain, zipped, legacy])


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        resolve(str(path))
    return str(raised.value)


@WRITERS
def test_these_files_are_dangerous(write: Writer, tmp_path: Path) -> None:
    """An ordinary unpickler runs what is inside; without this the tests below would prove nothing."""
    write(Evil(tmp_path / "mark"), tmp_path / "evil.pt")
    if write is plain:
        pickle.loads((tmp_path / "evil.pt").read_bytes())
    else:
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@WRITERS
@pytest.mark.parametrize(("call", "named"), [(os.system, "posix.system"), (builtins.eval, "eval")])
def test_a_malicious_pt_runs_nothing(write: Writer, call: Callable[..., Any], named: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write({"cfg": {"model": settings()}, "model": {"weight": Evil(mark, call)}}, tmp_path / "esm2_evil.pt")
    said = refusal(tmp_path / "esm2_evil.pt")
    assert "refused" in said
    assert named in said
    assert not mark.exists()


@WRITERS
def test_a_malicious_pytorch_model_runs_nothing(write: Writer, tiny_folder: Path, tmp_path: Path) -> None:
    folder = with_bin(tiny_folder, tmp_path / "hf", {})
    write({"esm.embeddings.word_embeddings.weight": Evil(tmp_path / "mark")}, folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "refused" in said
    assert "posix.system" in said
    assert not (tmp_path / "mark").exists()


def test_a_modern_pickle_is_refused_without_torchs_own_warning(tmp_path: Path) -> None:
    """Warnings are errors here: torch's lines about pickle protocols would only hide our sentence."""
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark"), protocol=pickle.HIGHEST_PROTOCOL))
    assert str(path) in refusal(path)
    assert not (tmp_path / "mark").exists()


def test_a_malicious_contact_regression_runs_nothing(tiny_pt: Path, tmp_path: Path) -> None:
    """It is read without being named by the user."""
    shutil.copy(tiny_pt, tmp_path / "esm2_tiny.pt")
    torch.save({"model": Evil(tmp_path / "mark")}, tmp_path / "esm2_tiny-contact-regression.pt")
    assert "posix.system" in refusal(tmp_path / "esm2_tiny.pt")
    assert not (tmp_path / "mark").exists()


@WRITERS
def test_truncated_files(write: Writer, tiny_pt: Path, tmp_path: Path) -> None:
    """The commonest damage there is: a download that broke off, wherever it did."""
    path = tmp_path / "esm2_cut.pt"
    write({"cfg": {"model": settings()}, "model": state(tiny_pt)}, path)
    whole = path.read_bytes()
    if write is plain:  # a pickle of tensors that torch did not write is refused whole already
        assert "refused" in refusal(path)
        return
    for kept in [0, 1, 2, 4, 100, 1_000, *range(5_000, len(whole), 9_999), len(whole) - 1]:
        path.write_bytes(whole[:kept])
        assert str(path) in refusal(path), kept


def test_a_text_file_called_pt(tmp_path: Path) -> None:
    path = tmp_path / "readme.pt"
    path.write_text("These are not the weights that you are looking for.\n")
    assert f"{path}: not a torch checkpoint" in refusal(path)


def test_text_may_begin_with_any_letter(tmp_path: Path) -> None:
    """Some letters are instructions to an unpickler, and each fails in its own way."""
    path = tmp_path / "text.pt"
    escaped: dict[bytes, str] = {}
    for first in range(256):
        path.write_bytes(bytes([first]) + b"ext of some lines\nand no weights\n")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                resolve(str(path))
        except ModelError:
            continue
        except Exception as error:
            escaped[bytes([first])] = repr(error)
    assert escaped == {}


@pytest.mark.parametrize("write", [zipped, legacy])
def test_damage_is_always_a_sentence(write: Writer, tiny_pt: Path, tmp_path: Path) -> None:
    """Bits that fell over in the part of the file that says what is where: read or refused, never a traceback."""
    path = tmp_path / "esm2_damaged.pt"
    torch.serialization.set_crc32_options(False)  # else damage is found before anything is read
    try:
        write({"cfg": {"model": settings()}, "model": state(tiny_pt)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    whole = path.read_bytes()
    generator = random.Random(0)
    escaped: set[str] = set()
    refused = 0
    for _ in range(150):
        harmed = bytearray(whole)
        for _ in range(3):
            harmed[generator.randrange(3_000)] ^= 1 << generator.randrange(8)
        path.write_bytes(harmed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                resolve(str(path))
        except ModelError:
            refused += 1
        except Exception as error:
            escaped.add(type(error).__name__)
    assert escaped == set()
    assert refused > 50


# ------------------------------------------------------------------------------------- what torch reads, and so do we

SHARED = torch.arange(24.0)
TENSORS = {
    **{str(dtype): torch.arange(6).to(dtype).reshape(2, 3) for dtype in STORAGES.values()},
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "a part": SHARED[5:11].view(2, 3),
    "every second": SHARED[::2],
    "the whole": SHARED,
    "a scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "a parameter": torch.nn.Parameter(torch.ones(3)),
    "narrow": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_every_tensor_is_the_one_that_torch_reads(zipped: bool, offset: int, tmp_path: Path) -> None:
    """In a file of its own, and within another at any place."""
    content = OrderedDict(TENSORS)
    content._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as modules' states have it
    stream = io.BytesIO()
    torch.save(
        {"model": content, "some": [torch.ones(2), "text", 3, None]}, stream, _use_new_zipfile_serialization=zipped
    )
    path = tmp_path / "within"
    path.write_bytes(bytes(offset) + stream.getvalue() + bytes(5))
    expected = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    with archive.opened(tmp_path) as files:
        found = safe_pickle.load_part("within", *files.part("within", offset, len(stream.getvalue())))
    if offset == 0:
        path.write_bytes(stream.getvalue())
        alone = safe_pickle.load(path)
        assert torch.equal(alone["model"]["a part"], expected["model"]["a part"])
    assert found["some"][1:] == ["text", 3, None]
    assert torch.equal(found["some"][0], torch.ones(2))
    assert list(found["model"]) == list(TENSORS)
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name
        assert (found["model"][name].dtype, found["model"][name].stride()) == (tensor.dtype, tensor.stride()), name


def test_a_state_with_tensors_that_have_attributes(tmp_path: Path) -> None:
    """Megatron's have; TransformerEngine's extra state is a stream of bytes."""
    tensor = torch.ones(3)
    tensor.partition_dim = 1  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.partition_dim = 1  # type: ignore[attr-defined]
    torch.save({"a": tensor, "b": parameter, "c": io.BytesIO(b"x")}, tmp_path / "m.pt")
    found = safe_pickle.load(tmp_path / "m.pt")
    assert torch.equal(found["a"], torch.ones(3))
    assert torch.equal(found["b"], torch.ones(2))
