"""Which files are read, and their bytes, whatever the compression."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aminoglot.errors import InputError
from aminoglot.sequences import Reader, Source, input_digest, sources
from tests.sequences.files import COMPRESSIONS, pairs, read, write, zstd

FASTA = b">a\nMKV\n>b\nGAVLIM\n"
EXPECTED = [("a", "MKV"), ("b", "GAVLIM")]

every_compression = pytest.mark.parametrize("suffix", COMPRESSIONS)


def many(count: int = 2000) -> bytes:
    """A FASTA file that fills more than one buffer and compresses badly."""
    rng = random.Random(0)
    return b"".join(b">p%d\n%s\n" % (i, bytes(rng.choices(b"ACDEFGHIKLMNPQRSTVWY", k=300))) for i in range(count))


# Compression


@every_compression
def test_reads_compressed(suffix: str, tmp_path: Path) -> None:
    """Each compression gives the records of the plain file."""
    assert pairs(write(tmp_path, f"a.fasta{suffix}", COMPRESSIONS[suffix](FASTA))) == EXPECTED


@every_compression
def test_compression_is_told_by_content(suffix: str, tmp_path: Path) -> None:
    """Downloads lose and gain suffixes; the bytes decide, both ways."""
    assert pairs(write(tmp_path, "a.fasta", COMPRESSIONS[suffix](FASTA))) == EXPECTED
    assert pairs(write(tmp_path, f"b.fasta{suffix}", FASTA)) == EXPECTED


@every_compression
def test_reads_all_members(suffix: str, tmp_path: Path) -> None:
    """`cat a.gz b.gz`, bgzip, pbzip2 and the like write many members; stopping at the first loses proteins.

    The members are cut inside a record and inside a line, and some are empty, as bgzip's last is.
    """
    compress = COMPRESSIONS[suffix]
    parts = [b"", b">a\nM", b"K", b"", b"V\n>", b"b\nGAV", b"LIM\n", b""]
    assert pairs(write(tmp_path, f"a.fasta{suffix}", b"".join(map(compress, parts)))) == EXPECTED


@every_compression
@pytest.mark.parametrize("left", [0.002, 0.5, 0.999, -1])
def test_refuses_a_truncated_file(suffix: str, left: float, tmp_path: Path) -> None:
    """A download that stopped, early or one byte before the end, must not pass for a smaller data set."""
    data = COMPRESSIONS[suffix](many())
    path = write(tmp_path, f"a.fasta{suffix}", data[: int(left * len(data)) if left > 0 else -1])
    with pytest.raises(InputError, match=r"a\.fasta.*cut short"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_refuses_damaged_data(suffix: str, tmp_path: Path) -> None:
    """A flipped byte in the middle is found by each format's checksum (zstd's is optional)."""
    data = bytearray(COMPRESSIONS[suffix](many()))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(InputError, match=rf"a\.fasta{suffix}: the \w+ data is damaged"):
        read(write(tmp_path, f"a.fasta{suffix}", bytes(data)))


@every_compression
def test_refuses_a_damaged_second_member(suffix: str, tmp_path: Path) -> None:
    """What follows a whole member and is none itself may be proteins lost: it must not be dropped in silence."""
    second = COMPRESSIONS[suffix](b">c\nWWW\n")
    data = COMPRESSIONS[suffix](FASTA) + b"\0" + second[1:]
    with pytest.raises(InputError, match=rf"a\.fasta{suffix}"):
        read(write(tmp_path, f"a.fasta{suffix}", data))


def test_reads_padded_xz(tmp_path: Path) -> None:
    """The xz format allows zeros between streams, in fours; the stream after them counts."""
    data = lzma.compress(b">a\nMKV\n") + bytes(8) + lzma.compress(b">b\nGAVLIM\n")
    assert pairs(write(tmp_path, "a.fasta.xz", data)) == EXPECTED


def test_reads_padded_gzip(tmp_path: Path) -> None:
    """Tapes and block devices leave zeros after gzip data; gzip itself ignores them."""
    data = gzip.compress(b">a\nMKV\n") + bytes(50) + gzip.compress(b">b\nGAVLIM\n")
    assert pairs(write(tmp_path, "a.fasta.gz", data)) == EXPECTED


def test_reads_zstd_with_skippable_frames(tmp_path: Path) -> None:
    """pzstd puts a skippable frame before each of its frames, so its files do not start with zstd's usual magic."""
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"\x20\0\0\0"
    assert pairs(write(tmp_path, "a.fasta.zst", skippable + zstd(FASTA))) == EXPECTED


# Files, folders, standard input


def test_files_keep_their_order(tmp_path: Path) -> None:
    """Records come in the order in which the files were named."""
    second = write(tmp_path, "b.fasta", b">b\nGAVLIM\n")
    first = write(tmp_path, "z.csv", b"id,sequence\na,MKV\n")
    assert pairs([first, second]) == EXPECTED
    assert pairs([second, first]) == EXPECTED[::-1]


def test_a_folder_is_its_sequence_files(tmp_path: Path) -> None:
    """By name, in order, compressed or not; what is left out is said by name."""
    folder = tmp_path / "proteome"
    folder.mkdir()
    write(folder, "b.faa", b">b\nGG\n")
    write(folder, "a.FASTA.gz", gzip.compress(b">a\nMK\n"))
    write(folder, "c.tsv.xz", lzma.compress(b"id\tsequence\nc\tVV\n"))
    write(folder, "d.txt.bz2", bz2.compress(b">d\nLL\n"))
    write(folder, "README.md", b"not a protein")
    write(folder, "run.log.gz", b"nor this")
    write(folder, "noend", b">e\nMK\n")
    records, notes = sources([folder], tmp_path / "stdin")
    assert [source.path.name for source in records] == ["a.FASTA.gz", "b.faa", "c.tsv.xz"]
    (note,) = notes
    assert str(folder) in note
    assert all(name in note for name in ("README.md", "run.log.gz", "noend", "d.txt.bz2"))
    assert not any(source.path.name in note for source in records)


def test_a_folder_of_nothing_else_needs_no_note(tmp_path: Path) -> None:
    """Hidden files, such as a Mac's ._a.fasta, are neither read nor worth a word."""
    write(tmp_path, "a.fasta", FASTA)
    write(tmp_path, "._a.fasta", b"\0\5\x16\7")
    found, notes = sources([tmp_path], tmp_path / "stdin")
    assert [source.path.name for source in found] == ["a.fasta"]
    assert notes == []


def test_a_subfolder_is_said(tmp_path: Path) -> None:
    """Folders are not searched; proteins that lie deeper must not be missed without a word."""
    write(tmp_path, "a.fasta", FASTA)
    (tmp_path / "plasmids").mkdir()
    write(tmp_path / "plasmids", "b.fasta", FASTA)
    _, notes = sources([tmp_path], tmp_path / "stdin")
    assert "plasmids" in " ".join(notes)


def test_a_dead_link_in_a_folder_is_said(tmp_path: Path) -> None:
    """A sequence file whose link leads nowhere is a missing file, not one to leave out in silence."""
    write(tmp_path, "a.fasta", FASTA)
    try:
        (tmp_path / "b.fasta").symlink_to(tmp_path / "gone.fasta")
    except OSError:
        pytest.skip("links cannot be made here")
    try:
        _, notes = sources([tmp_path], tmp_path / "stdin")
    except InputError as error:
        notes = [str(error)]
    assert "b.fasta" in " ".join(notes)


def test_an_empty_folder(tmp_path: Path) -> None:
    """The message says what was looked for."""
    write(tmp_path, "README.md", b"")
    with pytest.raises(InputError, match=r"no sequence file.*\.fasta .*\.parquet"):
        sources([tmp_path], tmp_path / "stdin")


def test_no_input(tmp_path: Path) -> None:
    """Nothing named is nothing to do."""
    with pytest.raises(InputError, match="name a file, a folder, or -"):
        sources([], tmp_path / "stdin")


def test_a_missing_file_among_others(tmp_path: Path) -> None:
    """It is found before anything is read."""
    here = write(tmp_path, "a.fasta", FASTA)
    with pytest.raises(InputError, match=r"b\.fasta: no such file"):
        sources([here, tmp_path / "b.fasta"], tmp_path / "stdin")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("named", ["locked/a.fasta", "locked", "a.fasta"])
def test_what_one_may_not_read(named: str, tmp_path: Path) -> None:
    """A forbidden file, a forbidden folder, a file in one: what the system says, with the name."""
    (tmp_path / "locked").mkdir()
    write(tmp_path / "locked", "a.fasta", FASTA)
    write(tmp_path, "a.fasta", FASTA).chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(InputError, match=rf"{named}: cannot be read"):
            sources([tmp_path / named], tmp_path / "stdin")
    finally:
        (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize("compress", [bytes, *COMPRESSIONS.values()])
def test_standard_input_is_copied(
    compress: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read only once and planning reads twice; compressed it is a file like any other."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(compress(FASTA))))
    (found,), notes = sources(["-"], tmp_path / "copy")
    assert found == Source("standard input", tmp_path / "copy")
    assert notes == []
    assert pairs(tmp_path / "copy") == EXPECTED


def test_standard_input_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages must not name the copy, of which the user knows nothing."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b">a\nMK-V\n")))
    (bad,) = Reader(sources(["-"], tmp_path / "copy")[0])
    assert str(bad).startswith("standard input, line 1, id 'a'")


def test_a_terminal_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aminoglot embed -` without a pipe would hang; it says how to pipe instead."""
    terminal = io.TextIOWrapper(io.BytesIO(FASTA))
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(InputError, match="pipe"):
        sources(["-"], tmp_path / "copy")


# The digest by which a rerun knows its input


def test_digest_is_of_the_bytes_alone(tmp_path: Path) -> None:
    """A renamed or moved input is the same job."""
    first = write(tmp_path, "a.fasta", FASTA)
    second = write(tmp_path, "other name.txt", FASTA)
    assert input_digest([Source("x", first)]) == input_digest([Source("y", second)])


def test_digest_tells_inputs_apart(tmp_path: Path) -> None:
    """One letter, the order of files, and where one file ends and the next begins all count."""
    a, b = write(tmp_path, "a", b">a\nMK\n"), write(tmp_path, "b", b">b\nGG\n")
    both, changed = write(tmp_path, "both", b">a\nMK\n>b\nGG\n"), write(tmp_path, "changed", b">a\nMR\n")
    inputs = [[a], [b], [changed], [a, b], [b, a], [both], [a, a]]
    digests = {input_digest([Source("", path) for path in paths]) for paths in inputs}
    assert len(digests) == len(inputs)
