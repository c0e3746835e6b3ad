"""From a name, a Hugging Face id or a path to tensors under our own names; and back into other people's formats.

    checkpoint          Checkpoint: a config and canonical tensors, checked against the network
    registry            the names we know
    hub                 getting files to this machine
    huggingface         folders with config.json
    fair_esm            .pt files
    untrained           random:NAME
    safe_pickle         the only reader of pickles
    keys                key templates, used in both directions

No format's key or file name is known outside this room.
"""

from aminoglot.checkpoints.checkpoint import Checkpoint
from aminoglot.checkpoints.registry import KNOWN, Known
from aminoglot.checkpoints.resolve import convert, resolve

__all__ = ["KNOWN", "Checkpoint", "Known", "convert", "resolve"]
