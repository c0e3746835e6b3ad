"""Disks that are full, read-only or too small: a sentence, nothing lost, nothing half-written under its final name."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminoglot import JobError, OutputError
from tests.embedding.helpers import MODEL, SMALL, Answer, Driver, embed, files, proteins, write_fasta

NAMES = ["x.h5", "x.parquet", "x.npz", "x.safetensors", "folder"]
PAGE = 4096

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs (root, outside of most containers)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def check_sentence(answer: Answer, expected: str) -> None:
    """One sentence for a person, exit 1, and nothing that looks like our own mistake."""
    assert answer.status == 1, answer.screen
    assert "Traceback" not in answer.screen
    assert "Exception ignored" not in answer.screen
    assert re.search(rf"^error: .*{expected}", answer.screen, re.MULTILINE), answer.screen


def visible(out: Path) -> dict[str, bytes]:
    """What lies beside the job's folder, hidden files too."""
    return {name: data for name, data in files(out).items() if ".aminoglot/" not in name and name != "ballast"}


# With a limit on the size of a file ------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["make_plan", "run", "export"])
@pytest.mark.parametrize("limit", [0, 900, 2500])
def test_full_in_any_phase(driver: Driver, out: Path, tmp_path: Path, phase: str, limit: int) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(40))
    (tmp_path / "whole").mkdir()
    flags, sizes = ("--per", "residue"), {"shard": 4 * SMALL}
    assert driver.embed(source, tmp_path / "whole" / "x.h5", *flags, **sizes).status == 0
    answer = driver.embed(source, out / "x.h5", *flags, limit={"phase": phase, "bytes": limit}, **sizes)
    check_sentence(answer, "the disk is full")
    assert visible(out) == {}
    again = driver.embed(source, out / "x.h5", *flags, **sizes)
    assert again.status == 0, again.screen
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("per", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("protein", "residue")), "both"])
@pytest.mark.parametrize("name", NAMES)
def test_full_while_writing_each_format(driver: Driver, out: Path, tmp_path: Path, name: str, per: str) -> None:
    """At the first byte, in the middle, and while closing; what was computed is not computed again."""
    source = write_fasta(tmp_path / "a.fasta", proteins(40))
    (tmp_path / "whole").mkdir()
    assert driver.embed(source, tmp_path / "whole" / name, "--per", per).status == 0
    whole = files(tmp_path / "whole")
    largest = max(len(data) for name, data in whole.items() if not name.endswith(".tsv"))
    for limit in (0, largest // 3, largest - 1):
        full = driver.embed(source, out / name, "--per", per, limit={"phase": "export", "bytes": limit})
        check_sentence(full, "the disk is full")
        assert visible(out) == {}
    again = driver.embed(source, out / name, "--per", per, log=str(tmp_path / "log"))
    assert again.status == 0, again.screen
    assert not (tmp_path / "log").exists(), "computed again"
    assert files(out) == whole


def test_full_while_keeping_standard_input(driver: Driver, out: Path) -> None:
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in proteins(40).items())
    command = ["embed", "-o", str(out / "x.h5"), "-m", MODEL, "--", "-"]
    check_sentence(driver.run(command, stdin=text, limit={"phase": "sources", "bytes": 500}), "the disk is full")
    assert visible(out) == {}
    assert driver.run(command, stdin=text).status == 0


# With a disk that is really full ---------------------------------------------------------------------------------


def fill_and_finish(driver: Driver, disk: Path, source: Path, name: str, phase: str, leave: int) -> bool:
    """Run with so many bytes left, then with room; say whether the first run had failed."""
    flags = ("--per", "both")
    ballast = disk / "ballast"
    fill = {"phase": phase, "ballast": str(ballast), "leave": leave}
    full = driver.embed(source, disk / name, *flags, shard=4 * SMALL, fill=fill)
    ballast.unlink()
    if full.status == 0:
        return False
    check_sentence(full, "the disk (is full|has .* free)")  # met, or seen before computing
    assert visible(disk) == {}
    again = driver.embed(source, disk / name, *flags, shard=4 * SMALL)
    assert again.status == 0, again.screen
    return True


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("phase", "name"), [("make_plan", "x.h5"), ("run", "x.h5"), *(("export", name) for name in NAMES)]
)
def test_full_disk(driver: Driver, small_disk: Path, tmp_path: Path, phase: str, name: str) -> None:
    """Every few pages of room, from none to enough: each place that writes is the one to meet the full disk."""
    source = write_fasta(tmp_path / "a.fasta", proteins(40))
    (tmp_path / "whole").mkdir()
    assert driver.embed(source, tmp_path / "whole" / name, "--per", "both", shard=4 * SMALL).status == 0
    failed = 0
    step = {"make_plan": 1, "run": 7, "export": 13}[phase]
    for pages in range(0, 6 * step, step):
        failed += fill_and_finish(driver, small_disk, source, name, phase, pages * PAGE)
        assert files(small_disk) == files(tmp_path / "whole")
        empty(small_disk)
    assert failed >= 3


def test_read_only_disk(driver: Driver, small_disk: Path, tmp_path: Path) -> None:
    """A new job, one to go on with, and one that only has its output left to write."""
    source = write_fasta(tmp_path / "a.fasta", proteins(20))
    for number, phase in enumerate((None, "run", "export")):
        output = small_disk / f"x{number}.h5"
        if phase is not None:
            assert driver.embed(source, output, limit={"phase": phase, "bytes": 0}).status == 1
        before = files(small_disk)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        check_sentence(driver.embed(source, output), "read-only")
        assert files(small_disk) == before
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        assert driver.embed(source, output).status == 0


@pytest.mark.parametrize("flags", [(), ("--per", "both")], ids=["one file", "two files"])
@pytest.mark.parametrize("name", NAMES)
def test_finished_on_a_read_only_disk(
    driver: Driver, small_disk: Path, tmp_path: Path, name: str, flags: tuple[str, ...]
) -> None:
    """A mounted archive: what is there is verified, what is not there cannot be made."""
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    assert driver.embed(source, small_disk / name, *flags).status == 0
    before = files(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    answer = driver.embed(source, small_disk / name, *flags)
    assert answer.status == 0, answer.screen
    assert "complete already: 5 proteins, verified" in answer.screen
    another = driver.embed(source, small_disk / name, "--pool", "max", *flags)
    check_sentence(another, ".* is the result of something else")
    check_sentence(driver.embed(source, small_disk / name, "--pool", "max", "--overwrite", *flags), "read-only")
    assert files(small_disk) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_finished_where_nothing_can_be_written(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As above, where the tests cannot mount a disk: the job's folder cannot be made."""
    source = write_fasta(tmp_path / "a.fasta", proteins(5))
    embed(source, out / "x.h5")
    before = files(out)
    original = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **named: Any) -> None:
        if self.name.endswith(".aminoglot"):
            raise OSError(number, os.strerror(number))
        original(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert embed(source, out / "x.h5").complete
    for output, options in ((out / "y.h5", {}), (out / "x.h5", {"pool": "max", "overwrite": True})):
        with pytest.raises(OutputError, match="read-only"):
            embed(source, output, **options)
    (out / "x.h5.proteins.tsv").unlink()
    with pytest.raises(JobError, match="is gone"):
        embed(source, out / "x.h5")
    assert files(out) == {"x.h5": before["x.h5"]}


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_forbidden_folder(driver: Driver, out: Path, tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(3))
    out.chmod(0o555)
    check_sentence(driver.embed(source, out / "x.h5"), "read-only")
    out.chmod(0o755)
    assert list(out.iterdir()) == []


# Refused beforehand ----------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_said_before_computing(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind, so that its advice can be followed: the next run may have other options."""
    source = write_fasta(tmp_path / "a.fasta", proteins(30))
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    monkeypatch.setattr("aminoglot.embedding.computing.run", lambda *_: pytest.fail("it computed"))
    with pytest.raises(OutputError, match=r"needs about .* kB .* has 10\.0 kB free.*float16"):
        embed(source, out / "x.h5", per="residue")
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    assert embed(source, out / "x.h5", per="residue", dtype="float16").complete
    assert set(files(out)) == {"x.h5", "x.h5.proteins.tsv"}


def test_the_estimate_is_near_the_truth(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that fits by its own estimate must not find the disk full at its end, nor refuse a disk with ample room."""
    from aminoglot.embedding import report

    source = write_fasta(tmp_path / "a.fasta", proteins(100, longest=300))
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(report, "check_room", lambda _, need, shards: said.append((need, shards)))
    for name in NAMES[:4]:
        for per in ("protein", "residue", "both"):
            for path in out.iterdir():
                path.unlink()
            made = embed(source, out / name, per=per, layer=[0, 1, 2])
            need, shards = said.pop()
            written = sum(path.stat().st_size for path in made.files)
            assert 0.8 * written <= need <= 2 * written + 150_000, (name, per)
            assert shards >= (0.95 if per != "protein" else 0.9) * written - 700 * 100 * 2


@pytest.mark.parametrize("name", ["missing/x.h5", "a.fasta/x.h5"])
def test_no_folder_to_write_in(tmp_path: Path, name: str) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(3))
    with pytest.raises(OutputError, match="there is no folder"):
        embed(source, tmp_path / name)
    assert set(files(tmp_path)) == {"a.fasta"}
