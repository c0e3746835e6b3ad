"""What a user sees of long work: lines, notes, errors and bars, all on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Done(Protocol):
    """Told how much more was done, and what is being done now."""

    def __call__(self, count: int, what: str | None = None) -> None: ...


_LINE_EVERY = 20.0


class Screen:
    """Prints to one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, emoji=False, highlight=False)
        self.console.soft_wrap = not self.console.is_terminal  # logs keep their lines whole
        self.worded: Callable[[str], str] = str
        """The last word on every line's words."""

    def say(self, text: str) -> None:
        self.console.print(self.worded(text), markup=False)

    def note(self, text: str) -> None:
        self.console.print(self.worded(f"note: {text}"), style="yellow", markup=False)

    def error(self, text: str) -> None:
        self.console.print(self.worded(f"error: {text}"), style="bold red", markup=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Something that cannot say how far it is: how long it has run on a terminal, a line elsewhere."""
        if not self.console.is_terminal:
            self.say(what)
            yield
            return
        bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=self.console, transient=True
        )
        with bar:
            bar.add_task(escape(what), total=None)
            yield

    @contextmanager
    def progress(self, what: str, total: int, unit: str, start: int = 0) -> Iterator[Done]:
        """A bar with time left on a terminal, a line now and then elsewhere; ``start`` was done before."""
        started = time.monotonic()
        if not self.console.is_terminal:
            yield _Lines(self, what, total, unit, start).done
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
            handle = bar.add_task(what, total=total, unit=unit, rate="...", completed=start)
            made = 0

            def done(count: int, what: str | None = None) -> None:
                nonlocal made
                made += count
                bar.update(handle, advance=count, rate=_rate(made / max(1e-9, time.monotonic() - started)))
                if what is not None:
                    bar.update(handle, description=what)

            yield done


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, screen: Screen, what: str, total: int, unit: str, start: int) -> None:
        self._screen, self._what, self._total, self._unit = screen, what, total, unit
        self._made, self._last = start, time.monotonic()
        self._first: tuple[float, int] | None = None

    def done(self, count: int, what: str | None = None) -> None:
        self._made += count
        self._what = what or self._what
        now = time.monotonic()
        if self._first is None:  # loading and the like, until now, are no part of the rate
            self._first = now, self._made
        elif now - self._last > _LINE_EVERY and now > self._first[0]:
            self._last = now
            rate = (self._made - self._first[1]) / (now - self._first[0])
            # there is none where as much was undone, for a worker died, as was done since
            left = f", {_rate(rate)}/s, {duration((self._total - self._made) / rate)} left" if rate > 0 else ""
            self._screen.say(f"{self._what}: {self._made:,} of {self._total:,} {self._unit}{left}")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def duration(seconds: float) -> str:
    """``duration(90)`` is "1:30"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
