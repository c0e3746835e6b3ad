"""Training data: UniRef or anybody's proteins, split, filtered, clustered; and samples as a model sees them."""

from aminoglot.corpus.building import Choices, Inputs, build
from aminoglot.corpus.reader import Corpus
from aminoglot.corpus.recipes import ESM2, PROTT5NV, RECIPES, Recipe
from aminoglot.corpus.samples import IGNORED, ESM2Samples, Hidden, Masked, ProtT5nvSamples, Samples

__all__ = [
    "ESM2",
    "IGNORED",
    "PROTT5NV",
    "RECIPES",
    "Choices",
    "Corpus",
    "ESM2Samples",
    "Hidden",
    "Inputs",
    "Masked",
    "ProtT5nvSamples",
    "Recipe",
    "Samples",
    "build",
]
