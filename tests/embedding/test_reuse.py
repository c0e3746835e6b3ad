"""--reuse: what an older output holds is taken from there, and nothing that does not fit is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import aminoglot
from aminoglot import AminoglotError, InputError
from tests.embedding.conftest import Computed
from tests.embedding.helpers import Driver, embed, flip, protein, proteins, table, write_fasta

NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]
OLD = proteins(20)
NEW = {"new1": protein(70), "renamed": OLD["P0003"], "P0005": OLD["P0005"], "P0007": protein(71), "new2": protein(9)}
"""Two proteins that the old file holds (one under another name), and three that it does not (one of a known id)."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    return write_fasta(tmp_path / "old.fasta", OLD)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "new.fasta", NEW)


def arrays(path: Path) -> dict[str, Any]:
    with aminoglot.open(path) as store:
        return {name: array.copy() for name, array in store}


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("per", ["protein", "residue"])
@pytest.mark.parametrize("name", NAMES)
def test_only_new_proteins_are_computed(
    old: Path, new: Path, out: Path, computed: Computed, name: str, per: str, several: bool
) -> None:
    """What is taken is taken to the bit; the rest is as if nothing had been taken."""
    options = {"per": per, "layer": [0, 2] if several else -1}
    before = old.parent / "old" / name
    embed(old, before, **options)
    embed(new, out / name, **options)
    truth, held = arrays(out / name), arrays(before)
    computed.clear()
    made = embed(new, out / name, **options, reuse=before, overwrite=True)
    assert made.audit is None, "it was there already"
    embed(new, out / f"other{Path(name).suffix}", **options, reuse=before)
    assert computed.sequences == 3
    found = arrays(out / f"other{Path(name).suffix}")
    assert found.keys() == truth.keys()
    for word in NEW:
        np.testing.assert_allclose(found[word], truth[word], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["renamed"], held["P0003"])
    np.testing.assert_array_equal(found["P0005"], held["P0005"])
    assert not np.array_equal(found["P0007"], held["P0007"])


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("several", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("name", ["x.h5", "x.npz", "folder"])
def test_both_are_reused(old: Path, new: Path, out: Path, computed: Computed, name: str, several: bool) -> None:
    """By the name that was asked for, which is that of the table; a folder of .pt files holds both at once."""
    options: dict[str, Any] = {"per": "both", "layer": [0, 2] if several else -1}
    before = old.parent / "old" / name
    held = embed(old, before, **options).files[:-1]
    truth = embed(new, out / f"truth{Path(name).suffix}", **options).files[:-1]
    computed.clear()
    made = embed(new, out / f"other{Path(name).suffix}", **options, reuse=before).files[:-1]
    assert computed.sequences == 3
    for older, mine, theirs in zip(held, made, truth, strict=True):
        with aminoglot.open(older) as a, aminoglot.open(mine) as b, aminoglot.open(theirs) as c:
            assert list(b.ids) == list(c.ids)
            for word in NEW:
                for found, expected in zip(b.contents(word), c.contents(word), strict=True):
                    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            for found, expected in zip(b.contents("renamed"), a.contents("P0003"), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_half_of_both_is_refused(old: Path, new: Path, out: Path) -> None:
    """One of the two files is gone, or was made in another way."""
    before = old.parent / "old" / "x.h5"
    embed(old, before, per="both")
    half = before.with_name("x.per-residue.h5")
    half.unlink()
    with pytest.raises(InputError, match=r"x\.per-residue\.h5: no such file"):
        embed(new, out / "x.h5", per="both", reuse=before)
    embed(old, half, per="residue")
    with pytest.raises(InputError, match=r"(?s)x\.per-residue\.h5: made in another.* per: residue before, both now"):
        embed(new, out / "x.h5", per="both", reuse=before)
    assert list(out.iterdir()) == []


def test_nothing_new_computes_nothing(old: Path, out: Path, tmp_path: Path, computed: Computed) -> None:
    embed(old, tmp_path / "old" / "x.h5")
    part = write_fasta(tmp_path / "part.fasta", dict(list(OLD.items())[5:9]))
    computed.clear()
    assert embed(part, out / "x.h5", reuse=tmp_path / "old" / "x.h5").complete
    assert computed.sequences == 0
    held = arrays(tmp_path / "old" / "x.h5")
    for word, array in arrays(out / "x.h5").items():
        np.testing.assert_array_equal(array, held[word])


def test_another_format_can_be_reused(old: Path, new: Path, out: Path, tmp_path: Path, computed: Computed) -> None:
    embed(old, tmp_path / "old" / "x.npz", dtype="float16")
    computed.clear()
    embed(new, out / "x.parquet", dtype="float16", reuse=tmp_path / "old" / "x.npz")
    assert computed.sequences == 3


def test_the_output_itself_can_be_reused(out: Path, tmp_path: Path, computed: Computed) -> None:
    """A file that grows with its input: one command, again and again."""
    source = write_fasta(tmp_path / "a.fasta", OLD)
    embed(source, out / "x.h5")
    held = arrays(out / "x.h5")
    write_fasta(source, {**OLD, "new": protein(80)})
    computed.clear()
    assert embed(source, out / "x.h5", reuse=out / "x.h5", overwrite=True).complete
    assert computed.sequences == 1
    found = arrays(out / "x.h5")
    assert len(found) == 21
    for word in OLD:
        np.testing.assert_array_equal(found[word], held[word])


def test_numbered_ids_and_duplicates_are_found(out: Path, tmp_path: Path, computed: Computed) -> None:
    """The table knows under which name a sequence was written, not under which it came."""
    records = [("P1", "MKTV"), ("P1", "GAVL"), ("P1", "GAVL"), ("a/b", "WWWW"), ("twin", "MKTV")]
    embed(write_fasta(tmp_path / "a.fasta", records), out / "old.h5", duplicates="number")
    held = arrays(out / "old.h5")
    computed.clear()
    wanted = write_fasta(tmp_path / "b.fasta", {"x": "GAVL", "y": "WWWW", "z": "MKTV"})
    embed(wanted, out / "new.h5", reuse=out / "old.h5")
    assert computed.sequences == 0
    found = arrays(out / "new.h5")
    for mine, theirs in (("x", "P1_2"), ("y", "a/b"), ("z", "P1")):
        np.testing.assert_array_equal(found[mine], held[theirs])


@pytest.mark.parametrize("long", ["truncate", "window"])
def test_long_proteins_are_reused(out: Path, tmp_path: Path, computed: Computed, long: Any) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"long": protein(1500), "short": protein(5)})
    embed(source, out / "old.h5", per="residue", long=long)
    other = write_fasta(tmp_path / "b.fasta", {"new": protein(1100), "long": protein(1500)})
    computed.clear()
    embed(other, out / "new.h5", per="residue", long=long, reuse=out / "old.h5")
    assert computed.sequences == 1
    np.testing.assert_array_equal(arrays(out / "new.h5")["long"], arrays(out / "old.h5")["long"])


def test_what_had_failed_is_computed(out: Path, tmp_path: Path, computed: Computed) -> None:
    """A protein that is in the old table but not in the old file."""
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKTV", "long": protein(1100)})
    embed(source, out / "old.h5", long="skip")
    other = write_fasta(tmp_path / "b.fasta", {"a": "MKTV"})
    computed.clear()
    embed(other, out / "new.h5", long="skip", reuse=out / "old.h5")
    assert computed.sequences == 0


CHANGES: dict[str, Any] = {
    "per": "residue",
    "layer": [2],
    "pool": "max",
    "long": "window",
    "dtype": "float16",
    "precision": "bf16",
    "model": "random:esm2-8m",
}


@pytest.mark.parametrize("option", CHANGES)
def test_a_file_made_in_another_way_is_refused(
    old: Path, new: Path, out: Path, tmp_path: Path, computed: Computed, option: str
) -> None:
    embed(old, tmp_path / "old" / "x.h5")
    computed.clear()
    called = {"layer": "several_layers", "model": "model_digest"}.get(option, option)
    with pytest.raises(InputError, match=rf"(?s)--reuse .*made in another way.*  {called}: "):
        embed(new, out / "x.h5", reuse=tmp_path / "old" / "x.h5", **{option: CHANGES[option]})
    assert computed.shards == []
    assert list(out.iterdir()) == []


def test_what_does_not_change_a_result_is_no_hindrance(
    old: Path, new: Path, out: Path, tmp_path: Path, computed: Computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies for bad records and duplicates, and the version, do not change an embedding."""
    embed(old, tmp_path / "old" / "x.h5", bad_records="skip", duplicates="number")
    monkeypatch.setattr("aminoglot.embedding.setup.__version__", "99.0")
    computed.clear()
    embed(new, out / "x.h5", reuse=tmp_path / "old" / "x.h5")
    assert computed.sequences == 3


def test_a_missing_table_is_said(old: Path, new: Path, out: Path, tmp_path: Path) -> None:
    embed(old, tmp_path / "old" / "x.h5")
    (tmp_path / "old" / "x.h5.proteins.tsv").unlink()
    with pytest.raises(InputError, match=r"needs the table x\.h5\.proteins\.tsv"):
        embed(new, out / "x.h5", reuse=tmp_path / "old" / "x.h5")


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-90], lambda text: text.replace("\t", " "), lambda _: "", lambda _: "\0\n"],
    ids=["cut short", "no tabs", "empty", "zeros"],
)
def test_a_damaged_table_is_no_traceback(old: Path, new: Path, out: Path, tmp_path: Path, damage: Any) -> None:
    """A sentence, or the results that are right."""
    embed(old, tmp_path / "old" / "x.h5")
    embed(new, tmp_path / "old" / "truth.h5")
    path = tmp_path / "old" / "x.h5.proteins.tsv"
    path.write_text(damage(path.read_text()))
    try:
        embed(new, out / "x.h5", reuse=tmp_path / "old" / "x.h5")
    except AminoglotError:
        return
    truth = arrays(tmp_path / "old" / "truth.h5")
    for word, array in arrays(out / "x.h5").items():
        np.testing.assert_allclose(array, truth[word], rtol=0, atol=1e-5)


def test_a_table_of_another_file_is_noticed(out: Path, tmp_path: Path) -> None:
    """The same ids with other sequences: by a copied file, or by a kill between the table and its file.

    The table says which sequence an id has, the file which embedding; put together wrongly they give one protein
    the embedding of another, and nothing would ever show it.
    """
    first = write_fasta(tmp_path / "a.fasta", {"P1": "MKTVWWW", "P2": "GAVLGAV"})
    second = write_fasta(tmp_path / "b.fasta", {"P1": "GAVLGAV", "P2": "MKTVWWW"})
    embed(first, out / "a.h5")
    embed(second, out / "b.h5")
    truth = arrays(out / "a.h5")
    shutil.copy(out / "b.h5.proteins.tsv", out / "a.h5.proteins.tsv")
    wanted = write_fasta(tmp_path / "c.fasta", {"x": "MKTVWWW"})
    try:
        embed(wanted, out / "c.h5", reuse=out / "a.h5")
    except AminoglotError:
        return
    np.testing.assert_allclose(arrays(out / "c.h5")["x"], truth["P1"], rtol=0, atol=1e-5)


def test_an_output_named_like_half_of_another_keeps_its_own_table(out: Path, tmp_path: Path) -> None:
    """x.h5 and x.per-protein.h5 are two outputs when each was asked for; neither may take the other's table."""
    first = write_fasta(tmp_path / "a.fasta", {"P1": "MKTVWWW"})
    second = write_fasta(tmp_path / "b.fasta", {"P1": "GAVLGAV", "P2": "WW"})
    embed(first, out / "x.h5")
    before = table(out / "x.h5")
    embed(second, out / "x.per-protein.h5")
    assert table(out / "x.h5") == before


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_value_is_never_taken_over(driver: Driver, out: Path, tmp_path: Path, name: str) -> None:
    """A flipped byte in the old file would be copied from output to output for ever."""
    source = write_fasta(tmp_path / "a.fasta", {"P1": "MKTV"})
    embed(source, out / name)
    truth = arrays(out / name)["P1"]
    path = out / name / "P1.pt" if name == "folder" else out / name
    flip(path, path.read_bytes().index(truth.tobytes()) + 2)
    wanted = write_fasta(tmp_path / "b.fasta", {"x": "MKTV", "y": "WW"})
    answer = driver.embed(wanted, tmp_path / "new.h5", "--reuse", str(out / name))
    assert "Traceback" not in answer.screen
    if answer.status == 0:
        np.testing.assert_allclose(arrays(tmp_path / "new.h5")["x"], truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_file_cut_short_is_a_sentence(old: Path, new: Path, out: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "old" / name
    embed(old, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AminoglotError, match=name):
        embed(new, out / "x.h5", reuse=path)


def test_an_id_that_the_file_lacks_is_no_traceback(old: Path, new: Path, out: Path, tmp_path: Path) -> None:
    """Somebody took a dataset out of the old file by hand."""
    path = tmp_path / "old" / "x.h5"
    embed(old, path)
    with h5py.File(path, "a") as file:
        del file["P0003"]
    try:
        embed(new, out / "x.h5", reuse=path)
    except AminoglotError:
        return
    assert "renamed" in arrays(out / "x.h5")


def test_other_peoples_files_are_refused(new: Path, out: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "uniprot.h5", "w") as file:
        file["P0003"] = np.ones(1024, np.float16)
    with pytest.raises(InputError, match="made in another way"):
        embed(new, out / "x.h5", reuse=tmp_path / "uniprot.h5")
    with pytest.raises(InputError, match="no such file"):
        embed(new, out / "x.h5", reuse=tmp_path / "nothing.h5")
    with pytest.raises(InputError, match=r"uniprot\.per-protein\.h5: no such file"):
        embed(new, out / "x.h5", per="both", reuse=tmp_path / "uniprot.h5")


def test_the_path_may_be_a_string(old: Path, new: Path, out: Path, computed: Computed) -> None:
    """``aminoglot.embed`` takes strings wherever it takes paths."""
    embed(old, old.parent / "old" / "x.h5")
    computed.clear()
    embed(new, out / "x.h5", reuse=str(old.parent / "old" / "x.h5"))
    assert computed.sequences == 3


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_run_goes_on_with_or_without(
    old: Path, new: Path, out: Path, tmp_path: Path, computed: Computed
) -> None:
    """--reuse saves work, it is no part of what the job is."""
    embed(old, tmp_path / "old" / "x.h5")
    embed(new, tmp_path / "old" / "truth.h5")
    computed.clear()
    computed.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        embed(new, out / "x.h5", reuse=tmp_path / "old" / "x.h5")
    computed.clear()
    assert embed(new, out / "x.h5").complete
    truth = arrays(tmp_path / "old" / "truth.h5")
    for word, array in arrays(out / "x.h5").items():
        np.testing.assert_allclose(array, truth[word], rtol=0, atol=1e-5)


def test_on_the_command_line(driver: Driver, old: Path, new: Path, out: Path, tmp_path: Path) -> None:
    assert driver.embed(old, tmp_path / "old" / "x.h5").status == 0
    answer = driver.embed(new, out / "x.h5", "--reuse", str(tmp_path / "old" / "x.h5"))
    assert answer.status == 0, answer.screen
    refused = driver.embed(new, out / "y.h5", "--reuse", str(tmp_path / "old" / "x.h5"), "--pool", "max")
    assert refused.status == 1
    assert "pool: mean before, max now" in refused.screen
