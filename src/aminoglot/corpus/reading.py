"""Files of proteins into a corpus: every record is there, or is counted and listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aminoglot.corpus.store import SequenceWriter, header_of
from aminoglot.errors import LISTED, InputError, OutputError, listing, plural, reason
from aminoglot.screen import Screen
from aminoglot.sequences import BadRecord, Protein, Reader, Source

BAD_RECORDS = "bad-records.txt"
_SAID_EVERY = 4096


def read(source: Source, writer: SequenceWriter, bad_records: str, screen: Screen, listed: Path) -> dict[str, Any]:
    """Append a file's proteins, and say how many records were none.

    Args:
        source: the file.
        writer: where they go.
        bad_records: ``stop`` at records that are no proteins, or ``skip`` them.
        screen: is told.
        listed: a file that gets the records that were skipped, one a line.

    Raises:
        InputError: for bad records, unless they are skipped, or when there is no protein.
        OutputError: when the disk is full.
    """
    before, residues = writer.count, writer.residues
    bad: list[str] = []
    replaced = skipped = 0
    reader = Reader([source])
    with screen.progress(f"reading {source.path.name}", source.path.stat().st_size, "bytes") as done:
        for record, step in _with_progress(reader):
            if step:
                done(step)
            if isinstance(record, Protein):
                writer.add(record.id, header_of(record.original_id, record.description), record.sequence)
                replaced += record.replaced
                continue
            skipped += 1
            bad.append(str(record))
            if bad_records == "skip" and len(bad) == _SAID_EVERY:
                _append(listed, bad)
            if bad_records == "stop" and skipped == LISTED:
                break
    for note in reader.notes:
        screen.note(f"{source.name}: {note}")
    if bad and bad_records == "stop":
        raise InputError(
            f"{source.name}: {plural(skipped, 'record')}{' or more' if skipped >= LISTED else ''} that are no proteins "
            f"(--bad-records skip leaves them out):\n{listing(bad)}"
        )
    _append(listed, bad)
    if writer.count == before:
        raise InputError(f"{source.name}: no protein in this file")
    return {
        "sequences": writer.count - before,
        "residues": writer.residues - residues,
        "replaced letters": replaced,
        "bad records": skipped,
    }


def _append(path: Path, lines: list[str]) -> None:
    if not lines:
        return
    try:
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from error
    lines.clear()


def _with_progress(reader: Reader) -> Iterator[tuple[Protein | BadRecord, int]]:
    """Records, and how many bytes of the file were read for each; told now and then."""
    said = 0
    for count, record in enumerate(reader, 1):
        position = reader.position if count % _SAID_EVERY == 0 else said
        yield record, position - said
        said = position
