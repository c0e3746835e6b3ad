"""The same command again: an unfinished job goes on or says what is wrong with it, and another job is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aminoglot import AminoglotError, InputError, JobError
from aminoglot.embedding import computing
from aminoglot.jobs import JobFolder
from tests.embedding.conftest import Computed, interrupted
from tests.embedding.helpers import MODEL, SMALL, Driver, embed, files, flip, proteins, write_fasta

CHANGES: dict[str, Any] = {
    "per": "residue",
    "layer": [0, 1],
    "pool": "max",
    "long": "window",
    "dtype": "float16",
    "bad_records": "skip",
    "duplicates": "number",
    "precision": "bf16",
}
"""One other value for each option that decides the result; the message calls some of them otherwise."""
CALLED = {"layer": "layers"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fasta", proteins(30))


@pytest.fixture
def whole(source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """What the job writes when nothing happens to it, in small shards from here on."""
    request.getfixturevalue("small_shards")
    (tmp_path / "whole").mkdir()
    embed(source, tmp_path / "whole" / "x.h5")
    return files(tmp_path / "whole")


# Damage to an unfinished job -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 40, -1], ids=["header size", "header", "data"])
def test_a_damaged_shard_is_set_aside_and_computed_anew(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], at: int
) -> None:
    folder = interrupted(source, out / "x.h5", computed)
    flip(folder.shard(4), at)
    damaged = folder.shard(4).read_bytes()
    with pytest.raises(JobError, match=r"1 shard of .*shard-000004.*set aside; run the same command again"):
        embed(source, out / "x.h5")
    assert len(computed.shards) == 1, "only the shard that was left"
    assert set(files(out)).isdisjoint(whole)
    assert folder.shard(4).with_suffix(".damaged").read_bytes() == damaged
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2, "only the shard that was damaged"
    assert files(out) == whole


def test_a_damaged_shard_is_one_sentence_and_exit_1(driver: Driver, source: Path, out: Path) -> None:
    assert driver.embed(source, out / "x.h5", shard=SMALL, limit={"phase": "export", "bytes": 100}).status == 1
    folder = JobFolder(out / "x.h5")
    flip(folder.shard(0), 200)
    flip(folder.shard(3), 200)
    answer = driver.embed(source, out / "x.h5", shard=SMALL)
    assert answer.status == 1
    assert "error: 2 shards of" in answer.screen
    assert "Traceback" not in answer.screen
    assert driver.embed(source, out / "x.h5", shard=SMALL).status == 0


@pytest.mark.parametrize("damage", ["deleted", "cut short", "emptied"])
def test_a_lost_shard_is_computed_anew(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], damage: str
) -> None:
    folder = interrupted(source, out / "x.h5", computed)
    if damage == "deleted":
        folder.shard(2).unlink()
    else:
        data = folder.shard(2).read_bytes()
        folder.shard(2).write_bytes(data[: len(data) // 2 if damage == "cut short" else 0])
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2
    assert files(out) == whole


@pytest.mark.parametrize("kept", [0, 1, 60, -1])
def test_a_torn_manifest_line_counts_for_nothing(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], kept: int
) -> None:
    """A crash may leave any part of the last line; its shard is computed again, all others count."""
    folder = interrupted(source, out / "x.h5", computed)
    *lines, last = folder.manifest.read_bytes().splitlines(keepends=True)
    folder.manifest.write_bytes(b"".join(lines) + last[:kept])
    embed(source, out / "x.h5")
    assert len(computed.shards) == 2
    assert files(out) == whole


@pytest.mark.parametrize(
    "line",
    [b"\0" * 80 + b"\n", b'{"shard": 1}\n', b"null\n", b'{"shard": 1, "sha2\n'],
    ids=["zeros", "part of an entry", "no entry", "torn"],
)
def test_a_manifest_line_that_makes_no_sense(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], line: bytes
) -> None:
    """After a power cut a file system may hand back zeros. A sentence or a new start, never a traceback."""
    folder = interrupted(source, out / "x.h5", computed)
    lines = folder.manifest.read_bytes().splitlines(keepends=True)
    folder.manifest.write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        embed(source, out / "x.h5", overwrite=True)
    assert files(out) == whole


@pytest.mark.parametrize("name", ["plan.json", "decisions.safetensors", "records.arrow", "proteins.arrow"])
@pytest.mark.parametrize("damage", ["cut short", "deleted"])
def test_a_damaged_plan_is_said(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes], name: str, damage: str
) -> None:
    """Whatever of the job's folder is lost, a sentence says so and --overwrite starts anew."""
    folder = interrupted(source, out / "x.h5", computed)
    path = folder.path / name
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        embed(source, out / "x.h5", overwrite=True)
    assert files(out) == whole


def test_a_changed_letter_in_the_job_folder_never_becomes_an_embedding(
    source: Path, out: Path, computed: Computed, whole: dict[str, bytes]
) -> None:
    """Workers read cleaned sequences from the job's folder; the plan knows their digests."""
    folder = interrupted(source, out / "x.h5", computed)
    data = folder.proteins.read_bytes()
    sequence = next(iter(proteins(30).values())).encode()
    assert data.count(sequence) == 1
    folder.proteins.write_bytes(data.replace(sequence, b"W" + sequence[1:]))
    for path in folder.path.glob("shard-*"):
        path.unlink()
    try:
        embed(source, out / "x.h5")
    except AminoglotError:
        return
    assert files(out) == whole


# Another run at the same time ------------------------------------------------------------------------------------


def test_a_second_run_on_one_output_is_refused(driver: Driver, source: Path, out: Path, tmp_path: Path) -> None:
    with JobFolder(out / "x.h5").locked():
        answer = driver.embed(source, out / "x.h5")
        with pytest.raises(JobError, match="another run is writing this output now"):
            embed(source, out / "x.h5", overwrite=True)
        assert driver.embed(source, tmp_path / "y.h5").status == 0, "another output is free"
    assert answer.status == 1
    assert "error:" in answer.screen
    assert "another run is writing this output now" in answer.screen
    assert driver.embed(source, out / "x.h5").status == 0


@pytest.mark.parametrize("name", ["x.per-protein.h5", "x.per-residue.h5"])
def test_a_run_on_one_of_two_outputs_is_refused(driver: Driver, source: Path, out: Path, name: str) -> None:
    """`--per both` writes two files, and another run may be named after one of them; whichever comes first."""
    with JobFolder(out / name).locked():
        answer = driver.embed(source, out / "x.h5", "--per", "both")
        assert answer.status == 1
        assert f"{name}: another run is writing this output now" in answer.screen
        assert driver.embed(source, out / "x.h5").status == 0, "another output is free"
    both = driver.embed(source, out / "y.h5", "--per", "both", limit={"phase": "export", "bytes": 100})
    assert both.status == 1
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"y.h5.aminoglot"}


def test_two_outputs_are_held_while_they_are_made(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    """The other way round: while both are computed, neither name is free for another run."""
    original = computing.run

    def run(*arguments: Any) -> None:
        for name in ("x.h5", "x.per-protein.h5", "x.per-residue.h5"):
            with pytest.raises(JobError, match=rf"{name}: another run is writing this output now"):
                embed(source, out / name)
        original(*arguments)

    monkeypatch.setattr(computing, "run", run)
    assert embed(source, out / "x.h5", per="both").complete
    assert len(computed.shards) == 1
    assert set(files(out)) == {"x.per-protein.h5", "x.per-residue.h5", "x.h5.proteins.tsv"}
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_a_lock_left_by_a_killed_run_holds_nobody_up(driver: Driver, source: Path, out: Path) -> None:
    folder = JobFolder(out / "x.h5")
    folder.path.mkdir()
    (folder.path / "lock").touch()
    assert driver.embed(source, out / "x.h5").status == 0
    assert set(files(out)) == {"x.h5", "x.h5.proteins.tsv"}


# Another job -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("option", CHANGES)
def test_an_unfinished_job_with_another_option_is_refused(
    source: Path, out: Path, tmp_path: Path, computed: Computed, option: str
) -> None:
    interrupted(source, out / "x.h5", computed, 3)
    before = files(out)
    changed = {option: CHANGES[option]}
    with pytest.raises(JobError, match=rf"unfinished job that is not this one:\n  {CALLED.get(option, option)}: "):
        embed(source, out / "x.h5", **changed)
    assert files(out) == before
    (tmp_path / "fresh").mkdir()
    embed(source, tmp_path / "fresh" / "x.h5", **changed)
    embed(source, out / "x.h5", **changed, overwrite=True)
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize("option", CHANGES)
def test_a_finished_output_of_another_option_is_refused(source: Path, out: Path, tmp_path: Path, option: str) -> None:
    embed(source, out / "x.h5")
    before = files(out)
    changed = {option: CHANGES[option]}
    with pytest.raises(JobError, match=rf"result of something else:\n  {CALLED.get(option, option)}: .*before.*now"):
        embed(source, out / "x.h5", **changed)
    assert files(out) == before
    (tmp_path / "fresh").mkdir()
    embed(source, tmp_path / "fresh" / "x.h5", **changed)
    embed(source, out / "x.h5", **changed, overwrite=True)
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.usefixtures("small_shards")
def test_another_input_or_model_is_refused(source: Path, out: Path, computed: Computed) -> None:
    """By content: a renamed or moved input is the same input, an edited one is not."""
    interrupted(source, out / "x.h5", computed, 3)
    text = source.read_text()
    source.write_text(text.replace("A", "C", 1))
    with pytest.raises(JobError, match="input_sha256: "):
        embed(source, out / "x.h5")
    source.write_text(text)
    with pytest.raises(JobError, match="model_digest: "):
        embed(source, out / "x.h5", model="random:esm2-8m")
    moved = source.rename(source.with_name("moved.fa"))
    assert embed(moved, out / "x.h5").complete
    with pytest.raises(JobError, match="model_digest: "):
        embed(moved, out / "x.h5", model="random:esm2-8m")
    moved.write_text(text.replace("A", "C", 1))
    with pytest.raises(JobError, match="input_sha256: "):
        embed(moved, out / "x.h5")


def test_another_version_is_another_job(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(source, out / "x.h5")
    monkeypatch.setattr("aminoglot.embedding.setup.__version__", "99.0")
    with pytest.raises(JobError, match=r"aminoglot: .* before, 99\.0 now"):
        embed(source, out / "x.h5")


# Nothing left behind ---------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(
    driver: Driver, source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the folder of the output, and not in the system's place for temporary files once it is over."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    outcome = embed(source, out / "x.h5", dry_run=True)
    assert (outcome.files, outcome.audit) == ((), None)
    assert list(out.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    answer = driver.embed(source, out / "x.h5", "--dry-run")
    assert answer.status == 0
    assert "30 proteins, " in answer.screen
    assert "on disk" in answer.screen
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("small_shards")
def test_a_dry_run_leaves_an_unfinished_job_alone(source: Path, out: Path, computed: Computed) -> None:
    interrupted(source, out / "x.h5", computed, 3)
    before = files(out)
    embed(source, out / "x.h5", dry_run=True)
    assert files(out) == before
    assert computed.shards == []


def test_a_dry_run_checks_the_input(driver: Driver, out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "bad.fasta", {"a": "MKTV", "b": "MK-V"})
    answer = driver.embed(source, out / "x.h5", "--dry-run")
    assert answer.status == 1
    assert "line 3, id 'b'" in answer.screen
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("records", "options"),
    [
        ({"a": "MKTV", "b": "MK-V"}, {}),
        ([("a", "MKTV"), ("a", "MKTVV")], {}),
        ({"a": "M" * 1023}, {"long": "error"}),
        ({"a": "MKTV"}, {"layer": 7}),
    ],
    ids=["bad record", "clashing ids", "long protein", "no such layer"],
)
def test_a_refused_input_leaves_nothing_behind(out: Path, tmp_path: Path, records: Any, options: Any) -> None:
    """A copy of all sequences beside an output that was never made helps nobody."""
    source = write_fasta(tmp_path / "a.fasta", records)
    with pytest.raises(InputError):
        embed(source, out / "x.h5", **options)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(driver: Driver, source: Path, output: str) -> None:
    answer = driver.run(["embed", str(source), "-o", output, "-m", MODEL])
    assert answer.status == 1
    assert "error:" in answer.screen
    assert "Traceback" not in answer.screen
