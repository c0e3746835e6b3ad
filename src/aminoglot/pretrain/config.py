"""What a run is: a TOML file, read strictly, whose parts are the classes below.

A key that nobody knows, a value of another kind, and parts that contradict each other are refused before anything is
computed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from aminoglot.errors import InputError
from aminoglot.models.esm2 import ESM2Config
from aminoglot.models.family import SIZES, Config
from aminoglot.models.prott5nv import ProtT5nvConfig
from aminoglot.pretrain.schedules import Schedule, Shape
from aminoglot.settings import known

FamilyName = Literal["esm2", "prott5nv"]
OptimizerName = Literal["adamw", "muon"]
RunPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Parallel = Literal["auto", "ddp", "fsdp"]


def _positive(where: str, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{where} {name} = {number}: at least 1")


@dataclass(frozen=True)
class ModelPart:
    """Which network, and where its weights come from.

    Attributes:
        size: a known shape (``esm2-8m``, ``prott5nv`` ...), or none, and the next four.
        family: ``esm2`` or ``prott5nv``.
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: attention heads a block.
        start: a model to go on from, by any name or path that ``aminoglot embed --model`` takes; none for random
            weights.
        language: ``start`` is a T5 trained on language: its vocabulary is cut to ours.
        dropout: of the residual stream and of attention; ESM-2 was trained with none, ProtT5nv with 0.1.
    """

    size: str | None = None
    family: str | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    start: str | None = None
    language: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.family, self.layers, self.hidden, self.heads)
        ways = (self.size is not None) + any(number is not None for number in numbers) + (self.start is not None)
        if ways != 1:
            raise InputError("[model]: give a size; or family, layers, hidden and heads; or start. One of the three")
        if any(number is not None for number in numbers) and None in numbers:
            raise InputError("[model]: family, layers, hidden and heads belong together")
        if self.size is not None and self.size not in SIZES:
            raise InputError(f"[model] size = {self.size!r}: choose {', '.join(SIZES)}")
        if self.family is not None:
            known("[model] family", self.family, FamilyName)
        _positive("[model]", layers=self.layers, hidden=self.hidden, heads=self.heads)
        if self.start is not None and not self.start.strip():
            raise InputError("[model] start is empty: name a model, or leave it out for random weights")
        if self.language and self.start is None:
            raise InputError("[model] language = true: start names the T5")
        if not 0 <= self.dropout < 1:
            raise InputError(f"[model] dropout = {self.dropout}: from 0 to below 1")
        self.shape()

    def shape(self) -> Config | None:
        """The network's shape, or None where ``start`` has it.

        Raises:
            InputError: when its numbers do not go together.
        """
        if self.size is not None:
            return SIZES[self.size]
        if self.layers is None or self.hidden is None or self.heads is None:
            return None
        try:
            build = ESM2Config if self.family == "esm2" else ProtT5nvConfig
            return build(self.layers, self.hidden, self.heads)
        except ValueError as error:
            raise InputError(f"[model]: {error}") from error


@dataclass(frozen=True)
class BatchPart:
    """How much an update sees. Either ``proteins`` or ``tokens`` is given.

    Attributes:
        proteins: proteins an update.
        tokens: tokens an update, at most.
        at_once: tokens in memory at once, on each process; larger batches are added up from several of these.
    """

    proteins: int | None = None
    tokens: int | None = None
    at_once: int = 16_384

    def __post_init__(self) -> None:
        if (self.proteins is None) == (self.tokens is None):
            raise InputError("[batch]: give either proteins or tokens")
        _positive("[batch]", proteins=self.proteins, tokens=self.tokens, at_once=self.at_once)


@dataclass(frozen=True)
class OptimizerPart:
    """How weights are changed.

    Attributes:
        name: ``adamw``, or ``muon`` for the blocks' matrices with AdamW for all else (one process, or ddp).
        rate: the largest learning rate.
        betas: AdamW's.
        epsilon: AdamW's.
        decay: weight decay, decoupled; of matrices, not of biases and norms.
        clip: the largest norm of all gradients together; 0 for no limit.
    """

    rate: float
    name: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        known("[optimizer] name", self.name, OptimizerName)
        for name, number in (("rate", self.rate), ("epsilon", self.epsilon)):
            if not 0 < number < inf:
                raise InputError(f"[optimizer] {name} = {number:g}: above 0")
        for name, number in (("decay", self.decay), ("clip", self.clip)):
            if not 0 <= number < inf:
                raise InputError(f"[optimizer] {name} = {number:g}: 0 or above")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"[optimizer] betas = {list(self.betas)}: from 0 to below 1")


@dataclass(frozen=True)
class SchedulePart:
    """How long, and at which rates; see :class:`aminoglot.pretrain.schedules.Schedule`."""

    updates: int
    warmup: int
    shape: Shape = "linear"
    floor: float = 0.1
    decayed: float = 0.9


@dataclass(frozen=True)
class ComputePart:
    """Where and how.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``bf16`` and ``fp16`` compute products in them, with float32 weights; ``auto`` takes the device's.
        parallel: for several processes: ``ddp`` holds all on each, ``fsdp`` shares weights, gradients and optimizer
            out; ``auto`` takes ddp where these fit into half of a GPU's memory.
        recompute: keep only the blocks' inputs and compute the rest again in the backward pass: less memory.
        compile: let torch.compile fuse what lies between products; needs a C++ compiler on a CPU.
    """

    device: str = "auto"
    precision: RunPrecision = "auto"
    parallel: Parallel = "auto"
    recompute: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        known("[compute] precision", self.precision, RunPrecision)
        known("[compute] parallel", self.parallel, Parallel)


@dataclass(frozen=True)
class ValidationPart:
    """How often to look at proteins that are held out.

    Attributes:
        every: updates between.
        proteins: how many; 0 for all.
    """

    every: int = 2_000
    proteins: int = 0

    def __post_init__(self) -> None:
        _positive("[validation]", every=self.every)
        if self.proteins < 0:
            raise InputError("[validation] proteins: 0 for all, or how many")


@dataclass(frozen=True)
class SavePart:
    """What is kept.

    Attributes:
        every: updates between states of the run.
        keep: the last so many, and the best beside them.
    """

    every: int = 1_000
    keep: int = 2

    def __post_init__(self) -> None:
        _positive("[save]", every=self.every, keep=self.keep)


@dataclass(frozen=True)
class RunConfig:
    """One run; each part is a table of the file.

    Attributes:
        corpus: folder of the training set; relative to the file.
        seed: of weights, order, masks and dropout.
        log_every: updates between lines of the log.
        tensorboard: write TensorBoard's events besides.
    """

    model: ModelPart
    batch: BatchPart
    optimizer: OptimizerPart
    schedule: SchedulePart
    compute: ComputePart = ComputePart()
    validation: ValidationPart = ValidationPart()
    save: SavePart = SavePart()
    corpus: str = "corpus"
    seed: int = 0
    log_every: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _positive("the run", log_every=self.log_every)
        if self.seed < 0:
            raise InputError("seed: a number from 0 on")
        if self.optimizer.name == "muon" and self.compute.parallel == "fsdp":
            raise InputError('[optimizer] name = "muon" works on whole matrices: take [compute] parallel = "ddp"')
        self.rates()

    def rates(self) -> Schedule:
        """The learning rates."""
        part = self.schedule
        return Schedule(self.optimizer.rate, part.updates, part.warmup, part.shape, part.floor, part.decayed)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def with_updates(self, updates: int) -> RunConfig:
        """The same with fewer or more updates."""
        return replace(self, schedule=replace(self.schedule, updates=updates))


def read(path: Path) -> RunConfig:
    """Read a run's file.

    Raises:
        InputError: naming the file and the key, when it is no TOML, has keys or values that are not known, or
            contradicts itself.
    """
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no TOML ({error})") from error
    try:
        found: RunConfig = _build(RunConfig, raw, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    corpus = Path(found.corpus).expanduser()
    return replace(found, corpus=str(corpus if corpus.is_absolute() else path.parent / corpus))


def of_dict(raw: Mapping[str, Any]) -> RunConfig:
    """A run from what :meth:`RunConfig.as_dict` gave."""
    found: RunConfig = _build(RunConfig, raw, "")
    return found


def _build(kind: Any, raw: Mapping[str, Any], where: str) -> Any:
    """An instance of a part from a table of the file."""
    hints = get_type_hints(kind)
    for key in raw:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise InputError(f"{where}{key}: no such key; {hint}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in raw]
    if missing:
        raise InputError(f"{where}{missing[0]}: missing")
    return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of the file as its field wants it."""
    if get_origin(hint) is UnionType:
        hint = next(one for one in get_args(hint) if one is not NoneType)
        if value is None:
            return None
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{where} = {value!r}: choose {', '.join(get_args(hint))}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(get_args(hint)):
            raise InputError(f"{where}: a list of {len(get_args(hint))} numbers, not {value!r}")
        return tuple(_value(one, part, where) for one, part in zip(get_args(hint), value, strict=True))
    if hint in (int, float, str, bool):
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is not hint:
            raise InputError(f"{where} = {value!r}: {_KINDS[hint]}")
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: a table, [{where}]")
    return _build(hint, value, f"{where}.")


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
