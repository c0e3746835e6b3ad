"""Which proteins belong to which UniRef50 cluster, from the three kinds of file that say so.

A ready mapping (``cluster<TAB>member,member,...``), UniProt's ``idmapping_selected.tab``, or UniRef's XML, told apart
by content. Each becomes one table of pairs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal
from xml.parsers import expat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from aminoglot.errors import InputError
from aminoglot.sequences import Source


@dataclass
class Tally:
    """What a file of members held.

    Attributes:
        kind: which of the three it is.
        lines: pairs, lines or members, as the kind has them.
        without_cluster: of those that name no cluster, or no member.
        release: as XML states it.
    """

    kind: str = ""
    lines: int = 0
    without_cluster: int = 0
    release: str | None = None


Level = Literal["uniref90-representatives", "members"]
"""What is drawn from a cluster: a representative of one of its UniRef90 clusters, or any member."""
OWN_LEVEL = "representatives at 90 %"
"""What is drawn from clusters of somebody's own proteins."""
Kind = Literal["mapping", "idmapping", "xml"]

PAIRS = pa.schema([("cluster", pa.string()), ("member", pa.string()), ("alias", pa.string())])
"""``alias`` is another name of the member, where the file has two (an entry's name and its accession)."""
_HEADERS = ("ur50_cluster_name", "cluster_id", "cluster", "uniref50")
_IDMAPPING_COLUMNS = 22
_ACCESSION, _UNIREF90, _UNIREF50 = "f0", "f8", "f9"
_BLOCK = 1 << 24
_ROWS = 1 << 16


def level_of(name: str) -> Level:
    """What the members are, by the name of one."""
    return "uniref90-representatives" if name.startswith("UniRef90_") else "members"


def kind_of(source: Source) -> Kind:
    """What a file of members is, by its first bytes.

    Raises:
        InputError: when it is none of the three.
    """
    with source.open() as stream:
        start = stream.peek(1 << 16)[: 1 << 16]
    line = start.lstrip(b"\xef\xbb\xbf").split(b"\n")[0].rstrip(b"\r")
    if line.lstrip().startswith(b"<"):
        return "xml"
    tabs = line.count(b"\t")
    if tabs == 1:
        return "mapping"
    if tabs == _IDMAPPING_COLUMNS - 1:
        return "idmapping"
    raise InputError(
        f"{source.name}: neither UniRef XML, nor idmapping_selected.tab ({_IDMAPPING_COLUMNS} columns), nor a mapping "
        f"(cluster, tab, members with commas between); its first line has {tabs + 1} columns"
    )


def pairs(source: Source, level: Level, tally: Tally) -> Iterator[pa.RecordBatch]:
    """Clusters and their members as :data:`PAIRS`, in the file's order; a pair may come more than once.

    Args:
        source: one of the three.
        level: which members are wanted.
        tally: is filled meanwhile.

    Raises:
        InputError: when the file cannot be read to its end.
    """
    kind = tally.kind = kind_of(source)
    read: dict[Kind, Callable[[Source, io.BufferedReader, Level, Tally], Iterator[pa.RecordBatch]]] = {
        "mapping": _mapping,
        "idmapping": _idmapping,
        "xml": _xml,
    }
    with source.open() as stream:
        try:
            for batch in read[kind](source, stream, level, tally):
                whole = batch.filter(pc.and_(pc.not_equal(batch["cluster"], ""), pc.not_equal(batch["member"], "")))
                tally.lines += len(batch)
                tally.without_cluster += len(batch) - len(whole)
                yield whole
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"{source.name}: not a readable table of members ({error})") from error


def _table(stream: io.BufferedReader, columns: int, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    names = [f"f{number}" for number in range(columns)]
    yield from pcsv.open_csv(
        stream,
        pcsv.ReadOptions(column_names=names, block_size=_BLOCK),
        pcsv.ParseOptions(delimiter="\t", quote_char=False, newlines_in_values=False),
        pcsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
        ),
    )


def _mapping(source: Source, stream: io.BufferedReader, *_: object) -> Iterator[pa.RecordBatch]:
    batches = _table(stream, 2, ["f0", "f1"])
    first = next(batches, None)
    if first is None:
        raise InputError(f"{source.name}: the file is empty")
    if first["f0"][0].as_py().lower() in _HEADERS:
        first = first.slice(1)
    for batch in chain([first], batches):
        lists = pc.split_pattern(batch["f1"], ",")
        members = pc.utf8_trim_whitespace(pc.list_flatten(lists))
        clusters = batch["f0"].take(pc.list_parent_indices(lists))
        yield _batch(clusters, members, None)


def _idmapping(_: Source, stream: io.BufferedReader, level: Level, __: Tally) -> Iterator[pa.RecordBatch]:
    member = _UNIREF90 if level == "uniref90-representatives" else _ACCESSION
    for batch in _table(stream, _IDMAPPING_COLUMNS, [member, _UNIREF50]):
        yield _batch(batch[_UNIREF50], batch[member], None)


def _batch(clusters: pa.Array, members: pa.Array, aliases: pa.Array | None) -> pa.RecordBatch:
    aliases = pa.nulls(len(members), pa.string()) if aliases is None else aliases
    return pa.RecordBatch.from_arrays([clusters, members, aliases], schema=PAIRS)


def _xml(source: Source, stream: io.BufferedReader, level: Level, tally: Tally) -> Iterator[pa.RecordBatch]:
    """UniRef50's XML or UniRef90's: what an entry does not say of itself, its members say of it."""
    entries = _Entries(source, level, tally)
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = entries.start, entries.end
    parser.EntityDeclHandler = lambda *_: _refuse_entities(source)
    try:
        while block := stream.read(_BLOCK):
            parser.Parse(block)
            if len(entries.found) >= _ROWS:
                yield entries.taken()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise InputError(f"{source.name}: not whole UniRef XML ({error}); was it cut short?") from error
    yield entries.taken()


def _refuse_entities(source: Source) -> None:
    raise InputError(f"{source.name}: XML that defines entities, which UniRef's does not")


class _Entries:
    """What expat meets, as pairs."""

    def __init__(self, source: Source, level: Level, tally: Tally) -> None:
        self._source, self._level, self._tally = source, level, tally
        self._entry = self._id = ""
        self._properties: dict[str, str] = {}
        self.found: list[tuple[str, str, str | None]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "property":
            if self._id:
                self._properties.setdefault(attributes.get("type", ""), attributes.get("value", ""))
        elif tag == "dbReference":
            self._id, self._properties = attributes.get("id", ""), {}
        elif tag == "entry":
            self._entry = attributes.get("id", "")
            if not self._entry.startswith(("UniRef50_", "UniRef90_")):
                raise InputError(
                    f"{self._source.name}: an entry {self._entry!r}; UniRef50's XML or UniRef90's is wanted"
                )
        elif tag in ("UniRef50", "UniRef90"):
            self._tally.release = attributes.get("version")

    def end(self, tag: str) -> None:
        if tag != "dbReference":
            return
        known = self._properties
        own = "UniRef50 ID" if self._entry.startswith("UniRef50_") else "UniRef90 ID"
        known[own] = self._entry
        cluster = known.get("UniRef50 ID", "")
        if self._level == "uniref90-representatives":
            self.found.append((cluster, known.get("UniRef90 ID", ""), None))
        else:
            self.found.append((cluster, self._id, known.get("UniProtKB accession")))
        self._id = ""

    def taken(self) -> pa.RecordBatch:
        """Pairs since the last time; the same one after the other is one."""
        found = list(dict.fromkeys(self.found))
        self.found = []
        return pa.RecordBatch.from_pylist([dict(zip(PAIRS.names, pair, strict=True)) for pair in found], PAIRS)
