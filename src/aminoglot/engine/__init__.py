"""What ``load()`` returns, and everything between sequences and arrays: one interface for every family.

    hardware    which device and precision, and why
    pieces      the long-sequence policy
    forward     batches through the network; a batch that does not fit is halved
    openvino    the layers computed by OpenVINO instead of torch
    embed       pooling, windows put together, arrays in the caller's order
    writing     what ProtT5nv's decoder writes
    model       Model
    verify      a model's self-check

A caller never asks which family it runs.
"""

from aminoglot.engine.embed import Embedded
from aminoglot.engine.hardware import Hardware, choose
from aminoglot.engine.model import Embeddings, Model, load

__all__ = [
    "Embedded",
    "Embeddings",
    "Hardware",
    "Model",
    "choose",
    "load",
]
