"""The job's folder: one holder at a time, gone when nothing in it is worth keeping."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aminoglot import JobError, OutputError
from aminoglot.jobs import JobFolder
from tests.jobs.helpers import plan

HOLD = """
import sys
from pathlib import Path
from aminoglot.jobs import JobFolder
with JobFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_held_once(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "x.h5")
    with folder.locked():
        assert folder.path == tmp_path / "x.h5.aminoglot"
        with pytest.raises(JobError, match=r"x\.h5: another run is writing"), JobFolder(tmp_path / "x.h5").locked():
            pytest.fail("held twice")
        with JobFolder(tmp_path / "y.h5").locked():
            assert (tmp_path / "y.h5.aminoglot").is_dir()
    with folder.locked():
        assert folder.path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    """However it dies; no lock file has to be removed by hand."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "x.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(JobError, match="another run"), JobFolder(tmp_path / "x.h5").locked():
            pytest.fail("held twice")
        other.kill()
        other.wait()
    with JobFolder(tmp_path / "x.h5").locked():
        pass


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_an_unplanned_folder_goes_a_planned_one_stays(tmp_path: Path, error: type[BaseException] | None) -> None:
    """However the run ended."""
    for output, planned in (("a.h5", False), ("x.h5", True)):
        folder = JobFolder(tmp_path / output)
        try:
            with folder.locked():
                (folder.path / "records.arrow").write_text("something")
                if planned:
                    plan(tmp_path, {"a": "MKTV"})
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            assert error is not None
        assert folder.path.exists() is planned


def test_a_finished_folder_can_be_taken_away(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "x.h5")
    with folder.locked():
        plan(tmp_path, {"a": "MKTV"})
        folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.h5.aminoglot").write_text("a file")
    with (
        pytest.raises(OutputError, match=r"x\.h5\.aminoglot: cannot be written"),
        JobFolder(tmp_path / "x.h5").locked(),
    ):
        pytest.fail("locked a file")
    assert (tmp_path / "x.h5.aminoglot").read_text() == "a file"


def test_a_folder_that_goes_while_we_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mkdir finds it there, and then it is gone, because the other run just finished: try again."""
    original = Path.mkdir
    calls: list[Path] = []

    def mkdir(self: Path, *arguments: Any, **named: Any) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists")  # what pathlib lets through in that moment
        original(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with JobFolder(tmp_path / "x.h5").locked():
        assert (tmp_path / "x.h5.aminoglot").is_dir()
    assert len(calls) > 1


def test_many_at_once(tmp_path: Path) -> None:
    """Threads that come and go: never two inside, and nobody sees anything but the sentence."""
    inside: list[int] = []
    most: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        folder = JobFolder(tmp_path / "x.h5")
        for _ in range(150):
            try:
                with folder.locked():
                    inside.append(1)
                    most.append(len(inside))
                    (folder.path / "records.arrow").write_text("mine")
                    inside.pop()
            except JobError:
                continue
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert max(most) == 1
