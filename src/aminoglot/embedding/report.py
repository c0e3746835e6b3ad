"""What the user sees of a job: the line before, the bar, the summary after. All on standard error."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aminoglot.embedding.task import EmbeddingTask
from aminoglot.errors import LISTED, OutputError, listing, plural
from aminoglot.jobs import Audit, Plan, Status
from aminoglot.screen import Screen

BYTES_A_PROTEIN = 600
"""Names and layout of one dataset of an h5, and its row in the table."""


class Report(Screen):
    """The lines of a job."""

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
    there = next(place for place in (output.absolute(), *output.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
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
