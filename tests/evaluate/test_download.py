"""Fetching FLIP's files: a server of our own that behaves, and one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from aminoglot.errors import InputError
from aminoglot.evaluate import download
from aminoglot.evaluate.download import cache, fetch, offered
from aminoglot.evaluate.flip import read
from aminoglot.evaluate.tasks import TASKS
from tests.evaluate.helpers import Said, evaluate, write_gb1, write_residues

GB1, STRUCTURE = TASKS["gb1"], TASKS["secondary_structure"]


class Server:
    """Serves a folder under /FLIP/; can be told to misbehave.

    Attributes:
        asked: paths, in order.
        trouble: by path, what to do instead.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.trouble: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.close_connection = True
                outer.answer(self, folder / self.path.removeprefix("/FLIP/"))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.base = f"http://127.0.0.1:{self._http.server_port}/FLIP/"

    def answer(self, handler: BaseHTTPRequestHandler, path: Path) -> None:
        trouble = self.trouble.get(path.name, "")
        if trouble == "elsewhere":
            handler.send_response(302)
            handler.send_header("Location", "http://127.0.0.1:9/other.fasta")
            handler.end_headers()
            return
        if trouble == "refused" or not path.is_file():
            handler.send_error(503 if trouble else 404)
            return
        content = b"<html>log in</html>" if trouble == "page" else path.read_bytes()
        handler.send_response(200)
        if trouble != "unannounced":
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if trouble == "cut" else content)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    write_residues(folder, mask="resolved")
    write_gb1(folder, "sampled", "two_vs_rest")
    made = Server(folder)
    yield made
    made.close()


def test_a_split_is_fetched_once(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    fetch(GB1, "sampled", tmp_path / "cache", server.base, said.append)
    assert said == [f"fetching {server.base}gb1/sampled.fasta"]
    assert read(tmp_path / "cache", GB1, "sampled").sets == read(tmp_path / "server", GB1, "sampled").sets
    fetch(GB1, "sampled", tmp_path / "cache", server.base)
    assert server.asked == ["/FLIP/gb1/sampled.fasta"]


def test_files_of_residues_and_the_mask_s_old_name(server: Server, tmp_path: Path) -> None:
    fetch(STRUCTURE, "sampled", tmp_path / "cache", server.base)
    names = [path.rpartition("/")[2] for path in server.asked]
    assert names == ["sequences.fasta", "mask.fasta", "resolved.fasta", "sampled.fasta"]
    assert read(tmp_path / "cache", STRUCTURE, "sampled").counts.train == 40


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("cut", "bytes came; run the same command again"),
        ("page", "what came is no FASTA"),
        ("refused", r"the server refused \(503 .*--data DIR"),
        ("elsewhere", "sends us elsewhere .* not followed"),
    ],
)
def test_what_is_not_whole_is_not_kept(server: Server, tmp_path: Path, trouble: str, sentence: str) -> None:
    server.trouble["sampled.fasta"] = trouble
    with pytest.raises(InputError, match=sentence):
        fetch(GB1, "sampled", tmp_path / "cache", server.base)
    assert list((tmp_path / "cache" / "gb1").iterdir()) == []
    server.trouble.clear()
    fetch(GB1, "sampled", tmp_path / "cache", server.base)
    assert read(tmp_path / "cache", GB1, "sampled").counts.train == 40


@pytest.mark.parametrize("announced", [True, False])
def test_what_is_too_large_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(download, "LARGEST", 100)
    server.trouble["sampled.fasta"] = "" if announced else "unannounced"
    with pytest.raises(InputError, match="more than any of FLIP's files"):
        fetch(GB1, "sampled", tmp_path / "cache", server.base)
    assert list((tmp_path / "cache" / "gb1").iterdir()) == []


def test_a_length_that_is_not_announced(server: Server, tmp_path: Path) -> None:
    server.trouble["sampled.fasta"] = "unannounced"
    fetch(GB1, "sampled", tmp_path / "cache", server.base)
    assert read(tmp_path / "cache", GB1, "sampled").counts.train == 40


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be reached .*J-SNACKKB/FLIP.*--data DIR"):
        fetch(GB1, "sampled", tmp_path / "cache", "http://127.0.0.1:9/FLIP/")


def test_files_that_the_server_does_not_have(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the server has no low_vs_high.fasta; get FLIP's files"):
        fetch(GB1, "low_vs_high", tmp_path / "cache", server.base)
    with pytest.raises(InputError, match="secondary_structure sampled_648: not among the files of FLIP's server"):
        fetch(STRUCTURE, "sampled_648", tmp_path / "cache", server.base)
    with pytest.raises(InputError, match="mixed_vs_human_2: cannot be evaluated"):
        fetch(TASKS["scl"], "mixed_vs_human_2", tmp_path / "cache", server.base)
    assert server.asked == ["/FLIP/gb1/low_vs_high.fasta"]


def test_what_the_server_offers() -> None:
    assert offered(STRUCTURE) == ["sampled"]
    assert "mixed_vs_human_2" not in offered(TASKS["scl"])


@pytest.mark.usefixtures("quick")
def test_a_run_without_data_fetches_into_the_cache(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original = download.fetch
    monkeypatch.setattr(
        download, "fetch", lambda task, split, folder, said: original(task, split, folder, server.base, said)
    )
    screen = Said()
    outcome = evaluate(None, tmp_path / "out", screen, task=("gb1",), split=("sampled",), seeds=1)  # type: ignore[arg-type]
    assert outcome.complete
    assert cache() == tmp_path / "cache" / "aminoglot" / "flip"
    assert (cache() / "gb1" / "sampled.fasta").is_file()
    assert f"fetching {server.base}gb1/sampled.fasta" in screen.text
