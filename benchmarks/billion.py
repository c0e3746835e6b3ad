"""A billion proteins, simulated: the job's own dispatch in virtual time, workers that die at stated rates, a picture.

    pip install -c constraints.txt -e '.[plot]'
    python benchmarks/billion.py [--fasta FILE] [--model esm2-8m] [--rate RESIDUES_A_SECOND] [--gpu]
        [--json FILE] [--picture FILE.png]

Lengths are drawn from a FASTA and cut into shards by the job's own planner; which worker computes which shard, what is
tried again and what is set aside is decided by the job's own dispatch. A worker's rate is measured here, by one
process, or given; --gpu cuts shards as for a GPU. A worker that dies loses what it had computed of its shard, and its
place computes nothing until another worker has loaded the model; after three deaths in a row while no worker became
ready the place stays empty, as in the job. The driver is one queue: it answers one worker at a time.

Printed, for each number of workers and each mean time between failures of one worker: deaths, hours, hours of as many
workers that never fail, load or wait, worker-hours lost in percent of all worked (progress thrown away, and loading
again), shards set aside, their number by arithmetic, and places empty at the end. Shards are set aside by bad luck
only: no protein here is to blame. Then the last of these runs where deaths do not count as tries of a shard.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aminoglot import drawing
from aminoglot.embedding.options import Options
from aminoglot.embedding.setup import processor, task_of
from aminoglot.embedding.task import _COST_ON_A_GPU, EmbeddingTask
from aminoglot.errors import plural
from aminoglot.jobs import ShardLimits
from aminoglot.jobs.dispatch import TRIES, Dispatch
from aminoglot.jobs.plan import cut_shards
from aminoglot.jobs.seats import STARTS
from aminoglot.jobs.storage import file_digest
from aminoglot.sequences import Protein, Reader, Source

HERE = Path(__file__).resolve().parent
SAMPLE = 1_000_000
"""Proteins that are cut into shards; each shard of theirs stands for as many as it takes."""
HOURS = (None, 100.0, 24.0, 6.0, 1.0, 0.25)
"""Mean time between failures of one worker; None for workers that never fail."""
JITTER = 0.1
"""Standard deviation of a shard's seconds, as a share of them; without it all workers would be done at once."""


@dataclass(frozen=True)
class Run:
    """Places, hours between failures of one worker, whether a death counts as a try, seconds to load and to answer."""

    workers: int
    hours: float | None
    counts: bool
    load: float
    driver: float
    seed: int


class Simulation:
    """One run, in virtual seconds; at any time each worker that is not idle has one event to come."""

    def __init__(self, run: Run, seconds: list[float]) -> None:
        self.run, self.seconds, self.dispatch = run, seconds, Dispatch[int](range(len(seconds)))
        rng = np.random.default_rng(run.seed)
        mean = np.inf if run.hours is None else 3600 * run.hours
        self._lives = _drawn(lambda n: rng.exponential(size=n) * mean)
        self._speeds = _drawn(lambda n: rng.normal(1, JITTER, n).clip(0.5, 1.5))
        self._events: list[tuple[float, int, int, Callable[[int, int, float], None], float]] = []
        self._starts = np.zeros(run.workers, np.int64)
        self._idle: dict[int, int] = {}
        self._born = self._done = self.deaths = self.empty = 0
        self._free = self.now = self.useful = self.lost = self.reloading = 0.0

    def go(self) -> dict[str, Any]:
        """Until nothing is left, or nobody; what became of it."""
        for seat in range(self.run.workers):
            self._start(0.0, seat)
        events, shards = self._events, len(self.seconds)
        while self._done + len(self.dispatch.aside) < shards and events:
            self.now, worker, seat, what, spent = heapq.heappop(events)
            what(worker, seat, spent)
        worked = self.useful + self.lost + self.reloading
        ideal = sum(self.seconds) / self.run.workers
        return {
            **asdict(self.run),
            "finished": self.dispatch.finished,
            "deaths": self.deaths,
            "elapsed_hours": self.now / 3600,
            "ideal_hours": ideal / 3600,
            "longer_percent": 100 * (self.now / ideal - 1) if self.dispatch.finished else None,
            "progress_lost_percent": 100 * self.lost / worked,
            "loading_again_percent": 100 * self.reloading / worked,
            "set_aside": len(self.dispatch.aside),
            "places_empty": self.empty,
        }

    def _start(self, at: float, seat: int) -> None:
        """A new worker; to the dispatch it is the one that sat there before."""
        self._born += 1
        life, load = next(self._lives), self.run.load
        what, spent = (self._joined, load) if life > load else (self._died_loading, life)
        heapq.heappush(self._events, (at + spent, self._born, seat, what, spent))

    def _joined(self, worker: int, seat: int, spent: float) -> None:
        self.reloading += spent * (worker > self.run.workers)  # the first of each place had to load in any case
        self._starts[:] = 0
        self.dispatch.joined(seat)
        self._give(worker, seat)

    def _finished(self, worker: int, seat: int, spent: float) -> None:
        self.dispatch.done(seat)
        self._done += 1
        self.useful += spent
        self._give(worker, seat)

    def _died_loading(self, worker: int, seat: int, spent: float) -> None:
        self.reloading += spent * (worker > self.run.workers)
        self._died(worker, seat, 0.0)

    def _died(self, _: int, seat: int, spent: float) -> None:
        """Its shard goes elsewhere, perhaps to a worker that has none, and its place to a new one, as in the crews."""
        self.deaths += 1
        self.lost += spent
        self.dispatch.left(seat, "it died" if self.run.counts else None)
        self._starts[seat] += 1
        if self._starts[seat] < STARTS:
            self._start(self.now, seat)
        else:
            self.empty += 1
        for idle in list(self._idle):
            if not self._give(idle, self._idle.pop(idle)):
                break

    def _give(self, worker: int, seat: int) -> bool:
        """Deal it a shard when the driver has the time; whether there was one.

        How long a worker has lived does not matter to how long it will: its life is drawn anew.
        """
        shard = self.dispatch.take(seat)
        if shard is None:
            self._idle[worker] = seat
            return False
        self._free = max(self._free, self.now) + self.run.driver
        takes, life = self.seconds[shard] * next(self._speeds), next(self._lives)
        what, spent = (self._finished, takes) if life > takes else (self._died, life)
        heapq.heappush(self._events, (self._free + spent, worker, seat, what, spent))
        return True


def _drawn(draw: Callable[[int], NDArray[np.float64]]) -> Iterator[float]:
    """Random numbers one by one, drawn in blocks."""
    while True:
        yield from draw(1 << 14).tolist()


def shard_seconds(
    task: EmbeddingTask, lengths: NDArray[np.int64], proteins: int, rate: float, seed: int
) -> NDArray[np.float64]:
    """How long each shard of so many proteins takes, in the order in which they are begun."""
    sample = min(proteins, SAMPLE)
    drawn = np.sort(np.random.default_rng(seed).choice(lengths, sample))[::-1]
    each = np.add.reduceat(task.cost(drawn), cut_shards(drawn, task)[:-1])
    each *= task.request.embedded(lengths).sum() / task.cost(lengths).sum() / rate
    return np.repeat(each, round(proteins / sample))


def measured(task: EmbeddingTask, sequences: list[bytes], seconds: float = 60.0) -> float:
    """Residues a second of this process, over batches drawn at random for so many seconds."""
    rng = np.random.default_rng(0)
    task(sequences[:16], lambda _: None)  # loads the model
    residues, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        batch = [sequences[i] for i in rng.choice(len(sequences), 128)]
        residues += int(task(sorted(batch, key=len, reverse=True), lambda _: None).arrays["rows"].sum())
    return residues / took


def named(hours: float | None) -> str:
    """A mean time between failures, in words."""
    return "never" if hours is None else f"{hours:g} h" if hours >= 1 else f"{60 * hours:g} min"


def table(seconds: NDArray[np.float64], plain: Run, workers: list[int]) -> list[dict[str, Any]]:
    """A row for each number of workers and rate of failures."""
    print(f"{'':9}{'one fails':>11}{'':31}{'of all worked, %':>26}{'set':>11}{'by arith-':>12}{'places':>8}")
    print(f"{'workers':>9}{'every':>11}{'deaths':>13}{'hours':>9}{'ideal':>9}{'longer':>9}", end="")
    print(f"{'lost':>8}{'loading':>9}{'aside':>11}{'metic':>12}{'empty':>8}")
    rows, listed = [], seconds.tolist()
    for run in [replace(plain, workers=count, hours=hours) for count in workers for hours in HOURS]:
        row = Simulation(run, listed).go()
        row["set_aside_expected"] = float(((1 - np.exp(-seconds / 3600 / (run.hours or np.inf))) ** TRIES).sum())
        rows.append(row)
        longer = f"{row['longer_percent']:.1f} %" if row["finished"] else "no end"
        print(
            f"{run.workers:9,}{named(run.hours):>11}{row['deaths']:13,}{row['elapsed_hours']:9.2f}"
            f"{row['ideal_hours']:9.2f}{longer:>9}{row['progress_lost_percent']:8.2f}"
            f"{row['loading_again_percent']:9.2f}{row['set_aside']:11,}{row['set_aside_expected']:12.3f}"
            f"{row['places_empty']:8,}",
            flush=True,
        )
    run = replace(plain, workers=workers[-1], hours=HOURS[-1], counts=False)
    rows.append(Simulation(run, listed).go())
    print(f"the last where deaths count for nothing: {rows[-1]['set_aside']} shards set aside")
    return rows


def picture(rows: list[dict[str, Any]], said: str, path: Path) -> None:
    """Time beyond the ideal for each number of workers, and what was worked in vain."""
    drawn = drawing.figure(11, 5.2)
    left, right = drawn.subplots(1, 2)
    places, counts = range(len(HOURS)), list(dict.fromkeys(row["workers"] for row in rows))
    for count, colour in zip(counts, drawing.PALETTE, strict=False):
        longer = [row["longer_percent"] or np.nan for row in rows if row["workers"] == count]
        end = " (at the last rate every place is empty before the end)" if np.isnan(longer[-1]) else ""
        left.plot(places, longer, "o-", color=colour, label=f"{count:,} workers{end}")
    left.legend(edgecolor="none", framealpha=1, fontsize=9, loc="upper left")
    left.set_yscale("log")
    left.set_ylim(top=8 * np.nanmax([row["longer_percent"] or np.nan for row in rows]))  # room for the words
    left.grid(axis="y", color="#e5e5e5")
    shown = [row for row in rows if row["workers"] == counts[len(counts) // 2]]
    lost, again = (np.array([row[key] for row in shown]) for key in ("progress_lost_percent", "loading_again_percent"))
    right.bar(places, again, color=drawing.GREY, label="loading the model again")
    right.bar(places, lost, bottom=again, color=drawing.RED, label="progress of a shard thrown away")
    for place, row, top in zip(places, shown, lost + again, strict=True):
        aside = f"\n{plural(row['set_aside'], 'shard')} aside" if row["set_aside"] else ""
        right.text(place, top, f"{top:.2f} %{aside}", ha="center", va="bottom", fontsize=9)
    right.set_ylim(0, 1.15 * float((lost + again).max()))
    right.legend(frameon=False, fontsize=9, loc="upper left")
    titles = "Longer than if no worker failed, loaded or waited", f"Worker-hours lost, {shown[0]['workers']:,} workers"
    for axes, title, beside in zip(
        (left, right), titles, ("hours beyond the ideal", "of all worker-hours"), strict=True
    ):
        drawing.plain(axes, title, "mean time between failures of one worker", f"{beside}, percent")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xticks(places, [named(hours) for hours in HOURS])
    drawn.supxlabel(said, fontsize=8, x=0.01, ha="left", color="#555555")
    drawing.write(drawn, path)


def said(options: argparse.Namespace, lengths: NDArray[np.int64], seconds: NDArray[np.float64], where: str) -> str:
    """All that is measured and assumed, in words."""
    return (
        f"{options.proteins:,} proteins with the lengths of {options.fasta.name} (mean {lengths.mean():.0f}), one job, "
        f"{options.model}. A worker: {options.rate:,.0f} residues/s ({where}); its life is exponential,\na new one "
        f"needs {options.load:g} s until it is ready (both assumed). {len(seconds):,} shards as the job cuts them, "
        f"{seconds.mean():.1f} s each (standard deviation {JITTER:.0%}, assumed). The driver answers one worker at a "
        f"time,\nin {options.driver_ms:.2f} ms whatever their number (measured with 32). A shard over which {TRIES} "
        f"workers died is set aside; a place with {STARTS} deaths in a row while no worker became ready stays empty.\n"
        "Reading the input, writing the output and waiting for machines are left out."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fasta", type=Path, default=HERE.parent / "examples" / "ecoli_proteome.fasta.gz")
    parser.add_argument("--proteins", type=int, default=1_000_000_000)
    parser.add_argument("--model", default="esm2-8m", help="the shape; weights do not matter here")
    parser.add_argument("--rate", type=float, help="residues a second of one worker; measured here unless given")
    parser.add_argument("--gpu", action="store_true", help="cut shards as for a GPU; needs --rate")
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--load", type=float, default=60.0, help="seconds until a new worker is ready")
    parser.add_argument("--driver-ms", type=float, help="of the driver a shard; what dispatch.py measured unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    assert options.rate or not options.gpu, "--gpu needs --rate"
    if options.driver_ms is None:
        kinds = json.loads((HERE / "results" / "dispatch.json").read_text())["rows"]
        options.driver_ms = next(kind["driver_ms"] for kind in kinds if kind["crew"] == "ray")
    task = task_of(Options(model=f"random:{options.model}", device="cpu"), lambda _: None, lazily=True)
    sequences = [r.sequence for r in Reader([Source(options.fasta.name, options.fasta)]) if isinstance(r, Protein)]
    lengths, where = np.array([len(sequence) for sequence in sequences]), "given"
    if options.rate is None:
        options.rate = measured(task, sequences)
        cores = plural(task.model.hardware.lanes * task.model.hardware.threads, "core")
        where = f"measured: {cores} of {processor(task.model.hardware.device)}, {task.model.hardware.precision}"
    task.limits = ShardLimits(cost=_COST_ON_A_GPU) if options.gpu else task.limits
    seconds = shard_seconds(task, lengths, options.proteins, options.rate, options.seed)
    words = said(options, lengths, seconds, where)
    print(words + "\n")
    rows = table(seconds, Run(0, None, True, options.load, options.driver_ms / 1e3, options.seed), options.workers)
    if options.json:
        found = {"said": words, "fasta": {options.fasta.name: file_digest(options.fasta)}, "model": options.model}
        found |= {"residues_per_second": options.rate, "shards": len(seconds), "shard_seconds": float(seconds.mean())}
        options.json.write_text(json.dumps({**found, "rows": rows}, indent=1) + "\n")
    if options.picture:
        picture(rows[:-1], words, options.picture)


if __name__ == "__main__":
    main()
