"""Runs `aminoglot` many times in forked children, and does to them what the world does: kills, full disks.

One interpreter pays for importing torch once; every request is a fresh child of it. Requests come as JSON lines on
standard input, answers leave as JSON lines on standard output. Started by :class:`tests.embedding.helpers.Driver`.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import h5py  # noqa: F401  imported before the fork, so that children need not
import matplotlib.figure  # noqa: F401
import pyarrow.parquet  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
from rich.console import Console

import aminoglot
from aminoglot import cli
from aminoglot.embedding import computing, job, task
from aminoglot.embedding.formats import h5, npz, parquet, pt, safetensors  # noqa: F401
from aminoglot.embedding.report import Report
from aminoglot.engine import hardware
from aminoglot.finetune import metrics, pictures, prediction, run, state  # noqa: F401
from aminoglot.jobs import ShardLimits
from aminoglot.jobs.plan import Plan
from aminoglot.models.esm2 import ESM2

_PACKAGE = Path(aminoglot.__file__).parent
_COUNTED = {
    str(path)
    for room in ("jobs", "embedding", "finetune")
    for path in (_PACKAGE / room).rglob("*.py")
    if path.name != "report.py"
} | {str(Path(shutil.__file__))}


def _lines(strike: int, sent: int, marks: Path | None) -> None:
    """Count the lines that the job's own code runs; at number ``strike`` send this process a signal."""
    count = 0

    def line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == strike:
                os.kill(os.getpid(), sent)
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename in _COUNTED else None

    if marks is not None:
        found: dict[str, int] = {}

        def note(name: str) -> None:
            found[name] = count
            marks.write_text(json.dumps(found))

        for phase in ("make_plan", "run", "audit", "export"):
            _before(phase, lambda phase=phase: note(phase))  # type: ignore[misc]
        _after("export", lambda: note("exported"))
        whole = job.embed

        def embed(*arguments: Any, **named: Any) -> Any:
            outcome = whole(*arguments, **named)
            note("end")
            return outcome

        job.embed = embed
    threading.settrace(call)
    sys.settrace(call)


def _before(phase: str, act: Callable[[], None]) -> None:
    """Do something just before the job enters a phase."""
    where = _module(phase)
    original = getattr(where, phase)

    def changed(*arguments: Any, **named: Any) -> Any:
        act()
        return original(*arguments, **named)

    setattr(where, phase, changed)


def _module(phase: str) -> Any:
    """Where the job's function of that name is looked up."""
    return computing if phase == "run" else job


def _after(phase: str, act: Callable[[], None]) -> None:
    original = getattr(job, phase)

    def changed(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        act()
        return result

    setattr(job, phase, changed)


def _die_removing(strike: int, hooked: Callable[[str, Callable[[], None]], None], phase: str) -> None:
    """SIGKILL just before removal number ``strike`` after a moment: in the middle of emptying the folder."""
    count = 0

    def hook(event: str, _: tuple[Any, ...]) -> None:
        nonlocal count
        if event in ("os.remove", "os.rmdir"):
            count += 1
            if count == strike:
                os.kill(os.getpid(), signal.SIGKILL)

    hooked(phase, lambda: sys.addaudithook(hook))


def _die_writing(state_number: int) -> None:
    """SIGKILL when half of a fit's state of this number is on the disk."""
    original, count = state._write, 0

    def write(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        original(path, data if count < state_number else data[: len(data) // 2])
        if count == state_number:
            os.kill(os.getpid(), signal.SIGKILL)

    state._write = write


def _hurry() -> None:
    """Draw no pictures, and bootstrap with few draws: what kills do to a run does not depend on them."""
    pictures.png = lambda _: b"a picture"
    metrics.DRAWS, metrics.FEWER_DRAWS = 20, 10


def _log_shards(path: str) -> None:
    original = Plan.sequences

    def sequences(self: Plan, shard: int) -> list[bytes]:
        with Path(path).open("a") as log:
            log.write(f"{shard}\n")
        return original(self, shard)

    Plan.sequences = sequences  # type: ignore[method-assign]


def _starve(tokens: int) -> None:
    """Let every batch with a sequence of this many tokens run out of memory."""
    original = ESM2.representations

    def representations(self: ESM2, batch: Any, layers: Any) -> Any:
        if tokens in batch.lengths:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return original(self, batch, layers)

    ESM2.representations = representations  # type: ignore[method-assign]


def _fill(ballast: str, leave: int) -> None:
    """Fill the disk that ``ballast`` lies on, but for some bytes."""
    path = Path(ballast)
    path.write_bytes(bytes(max(0, shutil.disk_usage(path.parent).free - leave)))


def _slow(seconds: float) -> None:
    """Make every shard take a while, so that something can happen meanwhile."""
    original = task.EmbeddingTask.__call__

    def call(self: Any, sequences: Any, done: Any) -> Any:
        time.sleep(seconds)
        return original(self, sequences, done)

    task.EmbeddingTask.__call__ = call  # type: ignore[method-assign]


def _child(request: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start tests with it ignored
    signal.alarm(request.get("alarm", 0))
    if request.get("shard"):
        task.ShardLimits = partial(ShardLimits, proteins=request["shard"])  # type: ignore[attr-defined,assignment]
    if request.get("log"):
        _log_shards(request["log"])
    if request.get("starve"):
        _starve(request["starve"])
    if request.get("slow"):
        _slow(request["slow"])
    if limit := request.get("limit"):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        _before(limit["phase"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit["bytes"], hard)))
    if fill := request.get("fill"):
        _before(fill["phase"], lambda: _fill(fill["ballast"], fill["leave"]))
    if request.get("die_cleaning"):
        _die_removing(request["die_cleaning"], _after, "export")
    if request.get("die_exporting"):
        _die_removing(request["die_exporting"], _before, "export")
    if request.get("die_clearing"):
        _die_removing(request["die_clearing"], _before, "make_plan")
    if request.get("hurry"):
        _hurry()
    if request.get("die_writing"):
        _die_writing(request["die_writing"])
    marks = request.get("marks")
    if request.get("strike") or marks:
        _lines(request.get("strike") or -1, request.get("signal") or signal.SIGKILL, Path(marks) if marks else None)


def _run(request: dict[str, Any]) -> dict[str, Any] | None:
    """Fork; the parent returns the answer, the child returns None and must run the command."""
    with tempfile.TemporaryFile() as fed:
        fed.write(request.get("stdin", "").encode())
        fed.seek(0)
        screen, into = os.pipe()  # a file would fall under the limits that a child is given
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            for number, handle in enumerate((fed.fileno(), into, into)):
                os.dup2(handle, number)
            sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
            _child(request)
            return None
        os.close(into)
        if request.get("kill_after") is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        with os.fdopen(screen, "rb") as shown:
            text = shown.read().decode(errors="replace")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"status": status, "screen": text, "seconds": time.monotonic() - started}


def _warm_up() -> None:
    """Run a whole job once, so that no child pays for what torch imports when first used."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "a.fasta"
        source.write_text(">a\nMKTV\n")
        options = job.Options(model="random:esm2-tiny", precision="fp32", backend="torch")
        job.embed([source], Path(folder) / "a.h5", options, Report(Console(quiet=True)))


def _leave(arguments: list[str]) -> NoReturn:
    """Run the command and end as Python would, but for freeing the memory of torch, which takes a second."""
    status = 1
    try:
        cli.main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    gc.collect()  # what was left open complains now
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve() -> None:
    torch.set_num_threads(1)  # a forked child has no thread pool
    hardware._lanes = lambda *_: (2, 1)  # but batches in work in two threads
    _warm_up()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        answer = _run(request)
        if answer is None:
            _leave(request["args"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
