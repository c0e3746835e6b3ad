"""Protein records from files, streams and tables, under one policy for letters and ids.

    inputs      which files, and their bytes, whatever the compression
    letters     what a sequence may contain
    records     Protein and BadRecord; the id policy
    nucleotides whether all this looks like DNA or RNA
    reading     FASTA, CSV, TSV and Parquet into records

Nothing here knows a model.
"""

from aminoglot.sequences.inputs import Source, input_digest, sources
from aminoglot.sequences.letters import LetterError, clean
from aminoglot.sequences.reading import Columns, Reader
from aminoglot.sequences.records import BadRecord, Protein, protein_id, record

__all__ = [
    "BadRecord",
    "Columns",
    "LetterError",
    "Protein",
    "Reader",
    "Source",
    "clean",
    "input_digest",
    "protein_id",
    "record",
    "sources",
]
