"""Files of members: three kinds, told apart by content, and what is wrong with one is said."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from aminoglot.corpus.members import Level, Tally, kind_of, pairs
from aminoglot.errors import InputError
from aminoglot.sequences import Source
from tests.corpus.helpers import Cluster, clusters, idmapping, mapping, xml50, xml90

SOME = clusters(40)
Writer = Callable[[Path, list[Cluster]], Path]


def read(path: Path, level: Level = "members") -> list[tuple[str, str]]:
    found = [row for batch in pairs(Source(path.name, path), level, Tally()) for row in batch.to_pylist()]
    return [(row["cluster"], row["member"]) for row in found]


def test_a_mapping_in_its_order(tmp_path: Path) -> None:
    path = mapping(tmp_path / "a", SOME)
    assert kind_of(Source("a", path)) == "mapping"
    assert read(path) == [(c.id, name) for c in SOME for name, _, _ in c.members]


def test_a_mapping_without_a_header(tmp_path: Path) -> None:
    path = mapping(tmp_path / "a", SOME)
    path.write_text(path.read_text().split("\n", 1)[1])
    assert read(path) == [(c.id, name) for c in SOME for name, _, _ in c.members]


@pytest.mark.parametrize("level", ["members", "uniref90-representatives"])
def test_idmapping(level: Level, tmp_path: Path) -> None:
    path = idmapping(tmp_path / "a.gz", SOME)
    assert kind_of(Source("a", path)) == "idmapping"
    at = 0 if level == "members" else 1
    assert read(path, level) == [(c.id, member[at]) for c in SOME for member in c.members]


def test_idmapping_of_proteins_without_clusters(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(
        "\t".join(["P1", *[""] * 21]) + "\n" + "\t".join(["P2", *[""] * 7, "U90", "U50", *[""] * 12]) + "\n"
    )
    tally = Tally()
    found = [row for batch in pairs(Source("a", path), "members", tally) for row in batch.to_pylist()]
    assert found == [{"cluster": "U50", "member": "P2", "alias": None}]
    assert (tally.kind, tally.lines, tally.without_cluster) == ("idmapping", 2, 1)


@pytest.mark.parametrize("write", [xml50, xml90])
def test_xml_of_members(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path / "a", SOME)
    assert kind_of(Source("a", path)) == "xml"
    found = [row for batch in pairs(Source("a", path), "members", Tally()) for row in batch.to_pylist()]
    wanted = sorted((c.id, f"{name}_X", name) for c in SOME for name, _, _ in c.members)
    assert sorted((row["cluster"], row["member"], row["alias"]) for row in found) == wanted


@pytest.mark.parametrize("write", [xml50, xml90])
def test_xml_of_uniref90_clusters(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path / "a", SOME)
    assert set(read(path, "uniref90-representatives")) == {(c.id, ur90) for c in SOME for _, ur90, _ in c.members}


def test_xml_cut_short(tmp_path: Path) -> None:
    path = xml50(tmp_path / "a", SOME)
    path.write_text(path.read_text()[:-300])
    with pytest.raises(InputError, match=r"a: not whole UniRef XML .*was it cut short"):
        read(path)


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('<!DOCTYPE x [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><x>&c;</x>')
    with pytest.raises(InputError, match="XML that defines entities"):
        read(path)


def test_gzip_cut_short(tmp_path: Path) -> None:
    path = idmapping(tmp_path / "a.gz", clusters(3000))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="the gzip data ends early"):
        read(path)


def test_something_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b">P1 some protein\nMKT\n"))
    with pytest.raises(InputError, match=r"a: neither UniRef XML, nor idmapping_selected.tab \(22 columns\), nor"):
        kind_of(Source("a", tmp_path / "a"))


def test_a_line_with_too_many_columns(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("U1\ta,b\nU2\tc\td\n")
    with pytest.raises(InputError, match="a: not a readable table of members"):
        read(path)


def test_the_release_that_xml_states(tmp_path: Path) -> None:
    tally = Tally()
    list(pairs(Source("a", xml50(tmp_path / "a", SOME)), "members", tally))
    assert tally.release == "2021_04"


def test_uniref100s_xml_is_refused(tmp_path: Path) -> None:
    path = xml90(tmp_path / "a", SOME)
    path.write_text(path.read_text().replace("UniRef90_", "UniRef100_"))
    with pytest.raises(InputError, match=r"an entry 'UniRef100_.*UniRef50's XML or UniRef90's is wanted"):
        read(path)
