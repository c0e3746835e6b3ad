"""The driver of a crew: deals shards, notes what is done, sets aside what fails; it alone writes the manifest."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from aminoglot.jobs.crew import Computed, Crew, Event, Failed, Finished, Joined, Left
from aminoglot.jobs.dispatch import Dispatch
from aminoglot.jobs.manifest import Entry, Manifest
from aminoglot.jobs.plan import Plan
from aminoglot.jobs.run import left
from aminoglot.jobs.task import Done

WITHIN_THE_PRECISION = "results agree within the precision, not to the byte"
_SLOW = 0.5
"""A worker that computes fewer residues a second than this share of the median is named."""


def drive(
    plan: Plan,
    manifest: Manifest,
    crew: Crew,
    done: Done,
    note: Callable[[str], None],
    shards: Iterable[int] | None = None,
) -> None:
    """Compute every shard that is left by workers; what was done is safe, whatever stops this.

    The proteins of a shard that failed as often as it is tried have failed; all others are computed.

    Args:
        plan: the job, longest proteins first.
        manifest: of its shards.
        crew: the workers; they are started here, and ended.
        done: told how many residues were computed; fewer than none where a shard must be computed again.
        note: told what a user should know.
        shards: which; all unless said.

    Raises:
        JobError: when no worker is left.
    """
    driver = _Driver(plan, manifest, crew, done, note, left(plan, manifest, shards))
    if driver.dispatch.finished:
        return
    with crew:
        driver.run()
    driver.name_slow_ones()


class _Driver:
    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        crew: Crew,
        done: Done,
        note: Callable[[str], None],
        shards: Sequence[int],
    ) -> None:
        self.plan, self.manifest, self.crew, self.done, self.note = plan, manifest, crew, done, note
        self.dispatch: Dispatch[str] = Dispatch(shards)
        self._devices: dict[str, str] = {}
        self._told: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}
        self._residues: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)

    def run(self) -> None:
        while not self.dispatch.finished:
            for event in self.crew.events():
                self._heard(event)
            for worker in self.dispatch.idle:
                shard = self.dispatch.take(worker)
                if shard is not None:
                    self._since[worker] = time.monotonic()
                    self.crew.give(worker, shard)

    def name_slow_ones(self) -> None:
        """Workers that computed far less a second than others did."""
        rates = {worker: self._residues[worker] / seconds for worker, seconds in self._seconds.items() if seconds}
        usual = statistics.median(rates.values()) if rates else 0.0
        for worker, rate in sorted(rates.items(), key=lambda pair: pair[1]):
            if rate < _SLOW * usual:
                self.note(f"{worker} was slow: {rate:,.0f} residues a second, where {usual:,.0f} were usual")

    def _heard(self, event: Event) -> None:
        worker = event.worker
        if isinstance(event, Joined):
            if event.device not in self._devices.values() and self._devices:
                self.note(
                    f"{worker} computes on {event.device}, others on {', '.join(sorted(set(self._devices.values())))}: "
                    f"{WITHIN_THE_PRECISION}; the job's manifest says which shard is whose"
                )
            self._devices[worker] = event.device
            self.dispatch.joined(worker)
        elif isinstance(event, Computed):
            self._told[worker] += event.residues
            self.done(event.residues)
        elif isinstance(event, Finished):
            self.manifest.add(replace(event.entry, device=self._devices[worker]))
            self.dispatch.done(worker)
            self._residues[worker] += self._told.pop(worker, 0)
            self._seconds[worker] += time.monotonic() - self._since[worker]
        else:
            self._trouble(event)

    def _trouble(self, event: Failed | Left) -> None:
        """A shard that was not computed: tried again, or set aside."""
        worker = event.worker
        self.done(-self._told.pop(worker, 0))
        if isinstance(event, Failed):
            aside = self.dispatch.failed(worker, event.why)
            self.note(f"{worker}: {event.why}")
        else:
            aside = self.dispatch.left(worker, event.why if event.blames else None)
            self.note(f"{worker} is gone: {event.why}")
        if aside is not None:
            count = int(self.plan.starts[aside + 1] - self.plan.starts[aside])
            self.note(f"shard {aside} failed wherever it was tried, with its {count:,} proteins; the others go on")
            why = f"shard {aside} failed wherever it was tried: {event.why}"
            self.manifest.add(Entry(aside, "", 0, dict.fromkeys(range(count), why)))
