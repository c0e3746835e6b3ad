"""Real files, with the numbers that their sources give."""

from __future__ import annotations

from tests.sequences.files import proteins, read, shared


def test_e_coli_proteome() -> None:
    """UniProt's reference proteome: every protein, every residue, accessions as ids."""
    found = proteins(shared("proteomes/UP000000625_83333.ecoli.fasta.gz"))
    assert len(found) == 4402
    assert sum(len(protein.sequence) for protein in found) == 1_354_438
    assert len({protein.id for protein in found}) == 4402
    assert (found[0].id, found[0].original_id) == ("A5A612", "sp|A5A612|YMGJ_ECOLI")
    assert found[0].sequence == b"MSRRYSSATITLVILFCRRPHCRKISVRQYYQKRVIFYPTTLQRTACKKCLFLMRDIIISS"
    assert sum(protein.replaced for protein in found) == 0


def test_fasta_and_parquet_of_uniref90_agree() -> None:
    """Two formats of the same 10,000 proteins, written by different hands."""
    fasta = proteins(shared("uniref/uniref90_10k.fasta.gz"))
    parquet = proteins(shared("uniref/uniref90_10k.parquet"))
    assert len(fasta) == 10_000
    assert [(p.id, p.sequence, p.replaced) for p in fasta] == [(p.id, p.sequence, p.replaced) for p in parquet]


def test_an_alignment_is_refused() -> None:
    """An a3m file looks like FASTA; its gaps must not be dropped, nor its rows pass for proteins."""
    records, _ = read(shared("uniref/7dnu_A_uniref90_hits.a3m.gz"))
    bad = [str(record) for record in records if hasattr(record, "why")]
    assert len(records) == 433
    assert len(bad) == 431
    assert all("alignment" in sentence for sentence in bad)
