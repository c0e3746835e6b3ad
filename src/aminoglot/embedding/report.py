"""What the user sees of a job: the line before, the bar, the summary after. All on standard error."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aminoglot.embedding.task import EmbeddingTask
from aminoglot.errors import LISTED, OutputError, listing, plural
from aminoglot.jobs import Audit, Plan, Status
from aminoglot.jobs.task import Done

BYTES_A_PROTEIN = 600
"""Names and layout of one dataset of an h5, and its row in the table."""
_LINE_EVERY = 20.0


class Report:
    """Prints to one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, emoji=False, highlight=False)
        self.console.soft_wrap = not self.console.is_terminal  # logs keep their lines whole

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", style="yellow", markup=False)

    def error(self, text: str) -> None:
        self.console.print(f"error: {text}", style="bold red", markup=False)

    def plan(self, plan: Plan, task: EmbeddingTask, need: int) -> None:
        """The line before starting, and what else the plan decided."""
        for text in plan.notes:
            self.note(text)
        lengths = plan.lengths[plan.status == Status.WRITTEN]
        long = int((lengths > task.request.limit).sum())
        hardware = task.model.hardware
        by = {"openvino": "OpenVINO", "torch": "torch"}[hardware.backend]
        verb = {"truncate": "truncated to", "window": "windowed at", "full": "embedded whole, over"}
        over = f"; {plural(long, 'protein')} {verb[task.request.long]} {task.request.limit:,} residues" if long else ""
        self.say(
            f"{plural(len(lengths), 'protein')}, {plural(int(lengths.sum()), 'residue')}{over}; {task.model.name} in "
            f"{hardware.precision} on {hardware.device} ({hardware.reason}) by {by}; about {size(need)} on disk"
        )
        if hardware.advice:
            self.note(hardware.advice)
        self._counts(plan, task)

    def estimate(self, seconds: float | None) -> None:
        """How long it will take, where that is known."""
        if seconds is not None:
            self.say(f"computing will take about {roughly(seconds)} on this machine (an estimate: a sample was timed)")

    def _counts(self, plan: Plan, task: EmbeddingTask) -> None:
        counts = plan.counts
        if counts["bad"]:
            more = f", {counts['bad'] - LISTED:,} more than are named above" if counts["bad"] > LISTED else ""
            self.note(f"{plural(counts['bad'], 'bad record')} left out (--bad-records skip), all in the table{more}")
        if skipped := counts["skipped"] - counts["bad"]:
            self.note(f"{plural(skipped, 'protein')} over {task.request.limit:,} residues left out (--long skip)")
        if counts["merged"]:
            self.note(f"{plural(counts['merged'], 'record')} merged: same id and same sequence as an earlier one")
        if counts["renamed"]:
            self.note(f"{plural(counts['renamed'], 'protein')} renamed (--duplicates number), marked in the table")
        if counts["shared"]:
            self.note(f"{plural(counts['shared'], 'protein')} with the sequence of another, computed once")
        if counts["replaced_letters"]:
            self.note(
                f"{plural(counts['replaced_letters'], 'letter')} (J or *) became X in "
                f"{plural(counts['replaced_proteins'], 'protein')}, marked in the output"
            )

    @contextmanager
    def progress(self, what: str, total: int, unit: str) -> Iterator[Done]:
        """A bar with time left on a terminal, a line now and then elsewhere."""
        started = time.monotonic()
        if not self.console.is_terminal:
            yield _Lines(self, what, total, unit).done
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}, {task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        with bar:
            handle = bar.add_task(what, total=total, unit=unit, rate="...")
            made = 0

            def done(count: int) -> None:
                nonlocal made
                made += count
                rate = f"{made / max(1e-9, time.monotonic() - started):,.0f}"
                bar.update(handle, advance=count, rate=rate)

            yield done

    def summary(self, audit: Audit, files: Sequence[Path], residues: int, seconds: float) -> None:
        """The audit and the speed."""
        if audit.reasons:
            self.error(f"{plural(audit.failed, 'protein')} failed, marked in {files[-1]}; the rest is written")
        self.say(f"{audit}")
        speed = residues / max(seconds, 1e-9)
        rate = f", {plural(residues, 'residue')} computed in {seconds:.1f} s ({speed:,.0f} a second)"
        self.say(f"wrote {names_of(files)}{rate if residues else ''}")

    def failures(self, plan: Plan, audit: Audit) -> None:
        """The first failed proteins, by name."""
        failed = np.flatnonzero(audit.status == Status.FAILED)[:LISTED]
        named = [f"{name}: {audit.reasons[int(plan.position[i])]}" for name, i in plan.named(failed)]
        self.error(f"failed proteins:\n{listing(named, audit.failed)}")


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, report: Report, what: str, total: int, unit: str) -> None:
        self._report, self._what, self._total, self._unit = report, what, total, unit
        self._made, self._started = 0, time.monotonic()
        self._last = self._started

    def done(self, count: int) -> None:
        self._made += count
        now = time.monotonic()
        if now - self._last > _LINE_EVERY:
            self._last = now
            rate = self._made / (now - self._started)
            left = (self._total - self._made) / max(rate, 1e-9)
            self._report.say(
                f"{self._what}: {self._made:,} of {self._total:,} {self._unit}, {rate:,.0f}/s, {duration(left)} left"
            )


def expected_bytes(plan: Plan, task: EmbeddingTask) -> int:
    """What the output will take on disk, to a few percent."""
    lengths = plan.lengths[plan.status == Status.WRITTEN]
    files = 2 if task.request.per == "both" else 1
    return int(task.output(lengths).sum()) * task.dtype.itemsize // 4 + len(lengths) * BYTES_A_PROTEIN * files


def check_room(output: Path, need: int, shards: int) -> None:
    """Refuse a job whose shards and output cannot fit on the disk.

    Raises:
        OutputError: saying what is needed and what is free.
    """
    free = shutil.disk_usage(output.parent).free
    if need + shards > free:
        raise OutputError(
            f"{output}: the job needs about {size(need)} for its output and {size(shards)} on the way, and the disk "
            f"has {size(free)} free. Choose another disk, --per protein, fewer layers or --dtype float16"
        )


def names_of(files: Sequence[Path]) -> str:
    """Files with their sizes."""
    return ", ".join(f"{path} ({size(_bytes_in(path))})" for path in files)


def _bytes_in(path: Path) -> int:
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size


def duration(seconds: float) -> str:
    """``duration(90)`` is "1:30"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def roughly(seconds: float) -> str:
    """``roughly(7000)`` is "2 h": an estimate with no more digits than it deserves."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 9.5:
        return f"{max(1, round(minutes))} min"
    if minutes < 57.5:
        return f"{5 * round(minutes / 5)} min"
    if hours < 9.75:
        return f"{round(2 * hours) / 2:g} h"
    if hours < 36:
        return f"{round(hours)} h"
    return f"{round(2 * days) / 2:g} days" if days < 9.75 else f"{round(days):,} days"


def size(count: float) -> str:
    """``size(5_800_000)`` is "5.8 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
