"""aminoglot speaks protein: embeddings you can trust from protein language models.

    model = aminoglot.load("esm2-650m")
    mean = model.embed(["MKTAYIAK", "GAVLIM"])
    aminoglot.embed("proteins.fasta", "proteins.h5", model="esm2-650m")
    store = aminoglot.open("proteins.h5")
    aminoglot.fine_tune("labelled.csv", "run", target="stability", model="esm2-8m")
    aminoglot.Predictor("run").predict(["MKTAYIAK"])

Names are imported when first used, so that ``import aminoglot`` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aminoglot.errors import (
    AminoglotError,
    AminoglotWarning,
    DependencyError,
    InputError,
    JobError,
    ModelError,
    OutputError,
)
from aminoglot.version import __version__

if TYPE_CHECKING:
    from aminoglot.embedding.api import embed
    from aminoglot.embedding.formats import Store
    from aminoglot.embedding.store import open
    from aminoglot.engine import Embeddings, Model, load
    from aminoglot.finetune.api import fine_tune, predict
    from aminoglot.finetune.predictor import Predictor

_HOMES = {
    "Embeddings": "aminoglot.engine",
    "Model": "aminoglot.engine",
    "Predictor": "aminoglot.finetune.predictor",
    "Store": "aminoglot.embedding.formats",
    "embed": "aminoglot.embedding.api",
    "fine_tune": "aminoglot.finetune.api",
    "load": "aminoglot.engine",
    "open": "aminoglot.embedding.store",
    "predict": "aminoglot.finetune.api",
}

__all__ = [
    "AminoglotError",
    "AminoglotWarning",
    "DependencyError",
    "Embeddings",
    "InputError",
    "JobError",
    "Model",
    "ModelError",
    "OutputError",
    "Predictor",
    "Store",
    "__version__",
    "embed",
    "fine_tune",
    "load",
    "open",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aminoglot' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
