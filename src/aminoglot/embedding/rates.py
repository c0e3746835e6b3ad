"""How fast a worker is: measured on this machine, given by the user, or assumed for a GPU that is not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from aminoglot.checkpoints import BUNDLED, KNOWN, Known, hub, resolve
from aminoglot.checkpoints.registry import find
from aminoglot.embedding.estimate import Timed, extrapolated
from aminoglot.embedding.lengths import Lengths
from aminoglot.embedding.places import available_memory, memory_of
from aminoglot.embedding.plan_options import PlanOptions
from aminoglot.embedding.report import size
from aminoglot.embedding.task import EmbeddingTask
from aminoglot.engine import Hardware, Model, choose
from aminoglot.errors import InputError, is_allocation_failure, plural
from aminoglot.screen import Screen

SHARE = 0.4
"""Of its peak that a GPU is assumed to reach where it cannot be measured."""
_RANDOM = "random:"
_DRAWN = 4.0
"""Bytes of memory that a parameter takes which is drawn by chance, not mapped from a file."""


@dataclass(frozen=True)
class Device:
    """A GPU that can be planned for though it is not here.

    Attributes:
        name: as its maker writes it.
        peaks: floating-point operations a second, dense (without sparsity), by precision, from NVIDIA's data sheets;
            the first precision is what ``auto`` takes there.
    """

    name: str
    peaks: Mapping[Literal["bf16", "fp16"], float]


DEVICES = {
    "v100": Device("V100 SXM2", {"fp16": 125e12}),
    "a100": Device("A100", {"bf16": 312e12, "fp16": 312e12}),
    "l4": Device("L4", {"bf16": 121e12, "fp16": 121e12}),
    "l40s": Device("L40S", {"bf16": 362e12, "fp16": 362e12}),
    "h100": Device("H100 SXM", {"bf16": 989e12, "fp16": 989e12}),
    "h200": Device("H200 SXM", {"bf16": 989e12, "fp16": 989e12}),
    "b200": Device("B200", {"bf16": 2250e12, "fp16": 2250e12}),
}
"""By what a user calls them."""


@dataclass(frozen=True)
class Rate:
    """How fast one worker, a process with a device of its own, computes; and where that is known from.

    Attributes:
        a_second: how much of ``unit``.
        unit: which amount of an estimate that is: ``tokens``, ``operations`` (floating-point), or ``cost``, as
            :meth:`EmbeddingTask.cost` counts it.
        source: ``measured`` on this machine, ``given`` by the user, or ``assumed``.
        words: where it is from, for the screen.
    """

    a_second: float
    unit: Literal["tokens", "operations", "cost"]
    source: Literal["measured", "given", "assumed"]
    words: str

    @classmethod
    def given(cls, tokens: float) -> Rate:
        """So many tokens a second, as a user says."""
        return cls(tokens, "tokens", "given", "as given by --rate")

    @classmethod
    def assumed(cls, device: Device, hardware: Hardware) -> Rate:
        """A share of a GPU's published peak."""
        peak = next(peak for precision, peak in device.peaks.items() if precision == hardware.precision)
        words = (
            f"assumed, not measured: {100 * SHARE:.0f} % of the {peak / 1e12:,.0f} TFLOPS that NVIDIA publishes for "
            f"{device.name} in {hardware.precision}"
        )
        return cls(peak * SHARE, "operations", "assumed", words)


def known(name: str) -> Known | None:
    """The model of a known name, trained or ``random:``, whose shape is known without any file."""
    return KNOWN.get(name.removeprefix(_RANDOM)) if name.startswith(_RANDOM) else find(name)


def hardware_for(options: PlanOptions) -> Hardware:
    """What would compute, be it here or not; a GPU's name means that GPU here, where there is one.

    Raises:
        InputError: for a device that is neither here nor known, or what it does not have.
    """
    away = _away(options.device)
    if away is None:
        if options.device.lower() not in DEVICES and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", options.device):
            raise InputError(
                f"device {options.device!r}: choose auto, cpu, cuda, cuda:N or mps; or plan for one that is not here: "
                f"{', '.join(DEVICES)}"
            )
        return choose(_here(options.device) or options.device, options.precision, options.backend)
    if options.backend == "openvino":
        raise InputError(f"backend openvino computes on the CPU, not on {away.name}")
    precision = next((one for one in away.peaks if options.precision in ("auto", one)), None)
    if precision is None:
        raise InputError(
            f"precision {options.precision}: for {away.name} a peak is known only in {' and '.join(away.peaks)}; leave "
            "--precision out, or run this on such a machine with --device cuda"
        )
    return Hardware(torch.device("cuda"), precision, f"{away.name}, which is not here", lanes=2)


def _here(device: str) -> str | None:
    """What torch calls the first GPU of this machine that has such a name."""
    if device.lower() not in DEVICES or not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    alike = (number for number, name in enumerate(names) if re.search(rf"\b{device}\b", name, re.IGNORECASE))
    return next((f"cuda:{number}" for number in alike), None)


def _away(device: str) -> Device | None:
    """The GPU of that name, where it is not here."""
    return DEVICES.get(device.lower()) if _here(device) is None else None


def rate_for(lengths: Lengths, task: EmbeddingTask, options: PlanOptions, screen: Screen) -> Rate | None:
    """The rate of one worker: measured where the device is here and memory suffices, assumed where it is not here.

    Returns:
        None where it cannot be measured; the screen was told why, and what to do.
    """
    away = _away(options.device)
    if away is not None:
        return Rate.assumed(away, task.model.hardware)
    model = task.model
    weights, drawn = _weights(model.name)
    why = _short_of_memory(model, drawn)
    if why is None:
        with screen.waiting(f"measuring {model.name} in {model.hardware.precision} on {model.hardware.device}"):
            rate = _with_weights(lengths, task, weights)
        if rate is not None:
            return rate
        why = "memory did not suffice"
    screen.note(
        f"{model.name} was not measured here: {why}; so how long it takes is not known. Give a rate with --rate, or "
        f"plan for a device with --device: {', '.join(DEVICES)}"
    )
    return None


def _weights(name: str) -> tuple[str, bool]:
    """What to measure with: the model where its weights are here, else its shape with weights drawn by chance."""
    found = known(name)
    if found is None:
        return name, name.startswith(_RANDOM)
    here = found.name == BUNDLED or (found.repository and hub.cached(found.repository)) or hub.torch_hub(found)
    return (name, False) if here and not name.startswith(_RANDOM) else (f"{_RANDOM}{found.name}", True)


def _short_of_memory(model: Model, drawn: bool) -> str | None:
    """Why a model does not fit here, in words; None where it does."""
    need, weights = memory_of(model), _DRAWN * model.config.parameters * drawn
    if model.hardware.kind == "cuda":
        there = float(torch.cuda.mem_get_info(model.hardware.device)[0])
        if need > there:
            return f"it takes about {size(need)} of the GPU's memory, and {size(there)} are free"
    free = available_memory()
    if free is not None and need + weights > free:
        return f"it takes about {size(need + weights)} of memory, and {size(free)} are free"
    return None


def _with_weights(lengths: Lengths, task: EmbeddingTask, weights: str) -> Rate | None:
    """Measured by a model with weights; None where memory did not suffice."""
    try:
        model = Model(resolve(weights), task.model.hardware, lazily=True)
        return measured(lengths, EmbeddingTask(model, task.request, task.dtype))
    except (MemoryError, RuntimeError) as error:
        if not is_allocation_failure(error):
            raise
        return None


def measured(lengths: Lengths, task: EmbeddingTask, timed: Timed | None = None) -> Rate | None:
    """The rate at which this machine computes proteins of these lengths, from a few batches; see `estimate`.

    Args:
        lengths: of the proteins; those that get no embedding do not count.
        task: what computes them.
        timed: a stopwatch to use instead of the model (tests).

    Returns:
        None where memory did not suffice for a batch.
    """
    kept = task.request.embedded(lengths.residues) > 0
    residues, counts = lengths.residues[kept][::-1], lengths.counts[kept][::-1]
    seconds = extrapolated(residues, counts, task, timed)
    if seconds is None:
        return None
    hardware = task.model.hardware
    cores = f" with {plural(hardware.lanes * hardware.threads, 'core')}" if hardware.kind == "cpu" else ""
    words = f"measured here: a few batches of made-up proteins on {hardware.device}{cores}"
    return Rate(float(task.cost(residues) @ counts) / seconds, "cost", "measured", words)
