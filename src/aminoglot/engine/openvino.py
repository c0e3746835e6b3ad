"""ESM-2's encoder compiled by OpenVINO: on most CPUs the fastest way to run it, fp32 included.

OpenVINO is fed better than a converted model would be: every rectangle of equal lengths is computed without padding or
mask, each lane of the engine has a stream, and so a core, of its own, and weights come from where they are mapped.
The compiled part begins after the token embedding; that, the rotary tables and all heads are the torch network's.

Shapes: T packed tokens, C layers asked for, N sequences of equal length S, D hidden, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from aminoglot.engine.forward import is_allocation_failure
from aminoglot.engine.hardware import Hardware
from aminoglot.errors import InputError, ModelError
from aminoglot.models.esm2 import ESM2, NORM_EPSILON, Block, Rotary
from aminoglot.models.linear import Precision
from aminoglot.packing import Packed

_PRECISION = {"fp32": "f32", "bf16": "bf16"}
_STAGE_BYTES = 512 << 20
"""Weights compiled in one piece: large models are several, so that memory never holds much of them twice."""
_RECTANGLE = 2048
"""Tokens of equal length given at once: enough for full speed, few enough for the cache."""
_REMEMBERED_KERNELS = 64
_LARGEST = float(np.finfo(np.float32).max)


class OpenVINOEncoder:
    """The compiled encoder; called like :meth:`ESM2.representations`, by several threads at once.

    Args:
        network: an unprepared float32 network; it is kept, and its weights are read while compiling.
        hardware: precision, and how many lanes.
    """

    def __init__(self, network: ESM2, hardware: Hardware) -> None:
        self._network, self._hardware = network, hardware
        self._layers: tuple[int, ...] | None = None
        self._stages: list[_Stage] = []
        self._lock = Lock()

    def ready(self, layers: Sequence[int]) -> None:
        """Compile for these layers now, rather than at the first batch.

        Raises:
            ModelError: when memory does not suffice.
        """
        try:
            self._compiled(layers)
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
            raise ModelError(
                "there is not enough memory to compile this model with OpenVINO; use --backend torch"
            ) from error

    def _compiled(self, layers: Sequence[int]) -> list[_Stage]:
        """The stages up to the highest of these layers; for other layers than the last time they are compiled anew."""
        with self._lock:
            if self._layers != tuple(layers):
                self._layers, self._stages = None, []  # frees the weights of the others first
                self._stages = list(self._compile(layers))
                self._layers = tuple(layers)
            return self._stages

    def _compile(self, layers: Sequence[int]) -> Iterator[_Stage]:
        depth = max(layers)
        blocks = [cast(Block, block) for block in self._network.layers[:depth]]
        for start, stop in _stages(blocks):
            final = self._network.final_norm if stop == len(self._network.layers) else None
            wanted = [layer for layer in range(start + 1, stop + 1) if layer in layers or layer == stop]
            yield _Stage(blocks[start:stop], start, wanted, final, self._hardware)

    @torch.inference_mode()
    def representations(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        """Representations at some layers, float32 [C, T, D]; see :meth:`ESM2.representations`.

        Compiles first, where these are not the layers of the call before.
        """
        stages = self._compiled(layers)
        x_TD = self._network.embedded(batch)
        out_CTD = x_TD.new_empty(len(layers), *x_TD.shape)
        all_tables = _tables(max(batch.lengths), self._network)
        for run in batch.runs:
            tables = [table[:, :, : run.length] for table in all_tables]
            most = max(1, _RECTANGLE // run.length)
            for first in range(0, run.count, most):
                start = run.start + first * run.length
                stop = min(start + most * run.length, run.stop)
                x_NSD = x_TD[start:stop].view(-1, run.length, x_TD.shape[1])
                for index, values_NSD in enumerate(_through(stages, layers, x_NSD.numpy(), tables)):
                    out_CTD[index, start:stop] = torch.from_numpy(values_NSD).view(stop - start, -1)
        return out_CTD


class _Stage:
    """Some successive blocks, compiled; the last stage ends with the final norm."""

    def __init__(
        self, blocks: Sequence[Block], start: int, wanted: Sequence[int], final: nn.LayerNorm | None, hardware: Hardware
    ) -> None:
        import openvino

        self._wanted, self.stop = wanted, start + len(blocks)
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[hardware.precision],
            "NUM_STREAMS": hardware.lanes,
            "INFERENCE_NUM_THREADS": hardware.lanes * hardware.threads,
            "CPU_RUNTIME_CACHE_CAPACITY": _REMEMBERED_KERNELS,
        }
        model = _graph(blocks, start, wanted, final, hardware.precision)
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _PRECISION[hardware.precision]:
            raise InputError(f"OpenVINO cannot compute in {hardware.precision} here; use --backend torch")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(hardware.lanes):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, x_NSD: Any, tables: Sequence[Any]) -> dict[int, Any]:
        request = self._requests.get()
        try:
            results = request.infer([x_NSD, *tables], share_inputs=True)
            return {layer: results[index] for index, layer in enumerate(self._wanted)}
        finally:
            self._requests.put(request)


def _through(stages: Sequence[_Stage], layers: Sequence[int], x_NSD: Any, tables: Sequence[Any]) -> list[Any]:
    """One rectangle through all stages: what each of the layers asked for is, [N, S, D]."""
    found = {0: x_NSD}
    for stage in stages:
        found |= stage(x_NSD, tables)
        x_NSD = found[stage.stop]
    return [found[layer] for layer in layers]


def _tables(length: int, network: ESM2) -> list[Any]:
    """Cosines and sines of all positions, [1, 1, S, K]: for queries, scaled as attention wants them, and for keys."""
    rotary = Rotary.of(torch.arange(length), network.frequencies)
    size = network.config.head_size
    cos, sin = rotary.cos, rotary.sin.clone()
    sin[..., : size // 2] *= -1  # Rotary has the sign of the turned half in its sines, OpenVINO in the half
    return [(scale * table).view(1, 1, length, size).numpy() for scale in (size**-0.5, 1.0) for table in (cos, sin)]


def _stages(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Cut the blocks into stages of bounded size."""
    if not blocks:
        return []
    size = sum(parameter.nbytes for parameter in blocks[0].parameters())
    count = max(1, _STAGE_BYTES // size)
    return [(start, min(start + count, len(blocks))) for start in range(0, len(blocks), count)]


def _graph(
    blocks: Sequence[Block], start: int, wanted: Sequence[int], final: nn.LayerNorm | None, precision: Precision
) -> Any:
    """OpenVINO's model of some blocks: x [N, S, D] and :func:`_tables` to the layers wanted, [N, S, D] each."""
    import openvino
    from openvino import opset13 as op

    hidden, size = blocks[0].up.in_features, blocks[0].attention.shape[1]
    x = op.parameter([-1, -1, hidden], np.float32, name="x")
    tables = [op.parameter([1, 1, -1, size], np.float32) for _ in range(4)]
    inputs, outputs = [x, *tables], []
    for layer, block in enumerate(blocks, start + 1):
        x = op.add(x, _attention(op, _norm(op, x, block.attention_norm), tables, block))
        wide = op.gelu(_linear(op, _norm(op, x, block.feed_forward_norm), block.up), "erf")
        down = _linear(op, wide, block.down)
        if precision == "fp32":  # changes nothing; with it OpenVINO takes a kernel that is up to a quarter faster here
            down = op.clamp(down, -_LARGEST, _LARGEST)
        x = op.add(x, down)
        if layer in wanted:
            outputs.append(_norm(op, x, final) if final is not None and layer == start + len(blocks) else x)
    return openvino.Model(outputs, inputs, "esm2")


def _attention(op: Any, x_NSD: Any, tables: Sequence[Any], block: Block) -> Any:
    """Attention, which OpenVINO computes as one operation."""
    heads, size = block.attention.shape
    q, k, v = (
        op.transpose(op.reshape(_linear(op, x_NSD, one), np.array([0, 0, heads, size]), True), np.array([0, 2, 1, 3]))
        for one in (block.attention.query, block.attention.key, block.attention.value)
    )
    q, k = _rotated(op, q, tables[:2], size), _rotated(op, k, tables[2:], size)
    o_NHSK = op.matmul(op.softmax(op.matmul(q, k, False, True), -1), v, False, False)
    o_NSHK = op.transpose(o_NHSK, np.array([0, 2, 1, 3]))
    return _linear(op, op.reshape(o_NSHK, np.array([0, 0, heads * size]), True), block.attention.output)


def _rotated(op: Any, x_NHSK: Any, tables: Sequence[Any], size: int) -> Any:
    """Rotary positions, in the one form that OpenVINO computes as a single operation, in float32."""
    first, second = op.variadic_split(x_NHSK, 3, np.array([size // 2] * 2)).outputs()
    turned_NHSK = op.concat([op.multiply(second, np.float32(-1)), first], -1)
    return op.add(op.multiply(x_NHSK, tables[0]), op.multiply(turned_NHSK, tables[1]))


def _norm(op: Any, x: Any, norm: nn.LayerNorm) -> Any:
    scaled = op.mvn(x, np.array([-1]), True, NORM_EPSILON, "inside_sqrt")
    return op.add(op.multiply(scaled, _constant(op, norm.weight)), _constant(op, norm.bias))


def _linear(op: Any, x: Any, linear: nn.Linear) -> Any:
    return op.add(op.matmul(x, _constant(op, linear.weight), False, True), _constant(op, linear.bias))


def _constant(op: Any, tensor: Tensor) -> Any:
    return op.constant(tensor.detach().float().numpy(), shared_memory=True)
