"""From a name, a Hugging Face id or a path to tensors under our own names; and back into other people's formats.

    checkpoint          Checkpoint: a config and canonical tensors, checked against the network
    registry            the names we know
    hub                 getting files to this machine
    folder              folders with config.json, as Hugging Face lays them out
    huggingface         ESM-2 in such a folder
    pegasus             ProtT5nv in such a folder
    transformer_engine  NVIDIA's recipes in such a folder
    peft                LoRA adapters, merged into their base
    fair_esm            .pt files
    nemo1, nemo2        NVIDIA's .nemo files and NeMo 2 folders
    untrained           random:NAME
    describe            what a checkpoint is, in words
    archive             folders and tar files: their files by name, mapped
    fused               queries, keys and values in one matrix
    safe_pickle         the only reader of pickles
    torch_file          where in a torch file its numbers lie
    keys                key templates, used in both directions

No format's key or file name is known outside this room.
"""

from aminoglot.checkpoints.checkpoint import Checkpoint, missing, worth_saying
from aminoglot.checkpoints.describe import describe
from aminoglot.checkpoints.registry import BUNDLED, KNOWN, Known, named
from aminoglot.checkpoints.resolve import convert, language_t5, lost, resolve, write

__all__ = [
    "BUNDLED",
    "KNOWN",
    "Checkpoint",
    "Known",
    "convert",
    "describe",
    "language_t5",
    "lost",
    "missing",
    "named",
    "resolve",
    "worth_saying",
    "write",
]
