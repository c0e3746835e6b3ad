"""Which proteins belong to which UniRef50 cluster, from the three kinds of file that say so.

A ready mapping (``cluster<TAB>member,member,...``), UniProt's ``idmapping_selected.tab``, or UniRef's XML, told apart
by content. Each becomes one table of pairs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Literal
from xml.parsers import expat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from aminoglot.errors import InputError
from aminoglot.sequences import Source

Level = Literal["uniref90-representatives", "members"]
"""What is drawn from a cluster: a representative of one of its UniRef90 clusters, or any member."""
Kind = Literal["mapping", "idmapping", "xml"]

PAIRS = pa.schema([("cluster", pa.string()), ("member", pa.string()), ("alias", pa.string())])
"""``alias`` is another name of the member, where the file has two (an entry's name and its accession)."""
_HEADERS = ("ur50_cluster_name", "cluster_id", "cluster", "uniref50")
_IDMAPPING_COLUMNS = 22
_ACCESSION, _UNIREF90, _UNIREF50 = "f0", "f8", "f9"
_BLOCK = 1 << 24
_ROWS = 1 << 16


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


def pairs(source: Source, level: Level) -> Iterator[pa.RecordBatch]:
    """Clusters and their members as :data:`PAIRS`, in the file's order; a pair may come more than once.

    Raises:
        InputError: when the file cannot be read to its end.
    """
    kind = kind_of(source)
    read: dict[Kind, Callable[[Source, io.BufferedReader, Level], Iterator[pa.RecordBatch]]] = {
        "mapping": _mapping,
        "idmapping": _idmapping,
        "xml": _xml,
    }
    with source.open() as stream:
        try:
            yield from read[kind](source, stream, level)
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


def _mapping(source: Source, stream: io.BufferedReader, _: Level) -> Iterator[pa.RecordBatch]:
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


def _idmapping(_: Source, stream: io.BufferedReader, level: Level) -> Iterator[pa.RecordBatch]:
    member = _UNIREF90 if level == "uniref90-representatives" else _ACCESSION
    for batch in _table(stream, _IDMAPPING_COLUMNS, [member, _UNIREF50]):
        yield _batch(batch[_UNIREF50], batch[member], None)


def _batch(clusters: pa.Array, members: pa.Array, aliases: pa.Array | None) -> pa.RecordBatch:
    """Pairs, without those that lack one of the two."""
    aliases = pa.nulls(len(members), pa.string()) if aliases is None else aliases
    batch = pa.RecordBatch.from_arrays([clusters, members, aliases], schema=PAIRS)
    return batch.filter(pc.and_(pc.not_equal(clusters, ""), pc.not_equal(members, "")))


def _xml(source: Source, stream: io.BufferedReader, level: Level) -> Iterator[pa.RecordBatch]:
    """UniRef50's XML or UniRef90's: what an entry does not say of itself, its members say of it."""
    entries = _Entries(level)
    parser = expat.ParserCreate(namespace_separator=" ")
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

    def __init__(self, level: Level) -> None:
        self._level = level
        self._entry = self._id = ""
        self._properties: dict[str, str] = {}
        self.found: list[tuple[str, str, str | None]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        if tag == "entry":
            self._entry = attributes.get("id", "")
        elif tag == "dbReference":
            self._id, self._properties = attributes.get("id", ""), {}
        elif tag == "property" and self._id:
            self._properties.setdefault(attributes.get("type", ""), attributes.get("value", ""))

    def end(self, name: str) -> None:
        if name.rpartition(" ")[2] != "dbReference":
            return
        known = self._properties
        own = "UniRef50 ID" if self._entry.startswith("UniRef50_") else "UniRef90 ID"
        known[own] = self._entry
        cluster = known.get("UniRef50 ID", "")
        if self._level == "uniref90-representatives":
            pair = (cluster, known.get("UniRef90 ID", ""), None)
        else:
            pair = (cluster, self._id, known.get("UniProtKB accession"))
        if cluster and pair[1]:
            self.found.append(pair)
        self._id = ""

    def taken(self) -> pa.RecordBatch:
        """Pairs since the last time; the same one after the other is one."""
        found = list(dict.fromkeys(self.found))
        self.found = []
        return pa.RecordBatch.from_pylist([dict(zip(PAIRS.names, pair, strict=True)) for pair in found], PAIRS)
