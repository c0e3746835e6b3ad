"""Encoders compiled by OpenVINO: on most CPUs the fastest way to run them, fp32 included.

OpenVINO is fed better than a converted model would be: proteins are never padded to their neighbours' length, and
only in narrow networks to the width of the processor's registers; each lane of the engine has a stream, and so a core,
of its own; weights come from where they are mapped. The compiled part begins after the token embedding; that, the
rotary tables, all heads and decoders are the torch network's.

Shapes: T packed tokens, C layers asked for, N sequences of S tokens, fillers included, D hidden, H heads, K head size.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from queue import SimpleQueue
from threading import Lock
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from aminoglot.engine.hardware import Hardware
from aminoglot.errors import InputError, ModelError, is_allocation_failure
from aminoglot.models.esm2 import ESM2, NORM_EPSILON, Block, Rotary
from aminoglot.models.family import Network
from aminoglot.models.linear import Precision
from aminoglot.packing import Packed

_PRECISION = {"fp32": "f32", "bf16": "bf16"}
_RECTANGLE = 2048
"""Tokens given at once: enough for full speed, few enough for the cache."""
_REGISTER = 16
"""Scores in a register; OpenVINO computes those that do not fill one one by one."""
_FILLED = 512
"""Networks narrower than this get sequences filled up to whole registers, which also makes more of them equally long.
In wider ones the fillers' linear layers cost more than that saves."""
_MASKED = -1e9
_REMEMBERED_KERNELS = 64
_DEEP = 4096
"""Sums as long as this are slow in the kernel that OpenVINO prefers in fp32; it leaves them to another if clamped."""


class OpenVINOEncoder:
    """The compiled encoder; called like :meth:`ESM2.representations`, by several threads at once.

    Args:
        network: an unprepared float32 network; it is kept, and its weights are read while compiling.
        hardware: precision, and how many lanes.
    """

    def __init__(self, network: Network, hardware: Hardware) -> None:
        self._network, self._hardware = network, hardware
        self._layers: tuple[int, ...] | None = None
        self._requests: SimpleQueue[Any] = SimpleQueue()
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

    def _compiled(self, layers: Sequence[int]) -> SimpleQueue[Any]:
        """Idle requests, one a lane; for other layers than the last time the network is compiled anew."""
        with self._lock:
            if self._layers != tuple(layers):
                self._layers, self._requests = None, SimpleQueue()  # frees the weights of the other first
                for request in self._compile(layers):
                    self._requests.put(request)
                self._layers = tuple(layers)
            return self._requests

    def _compile(self, layers: Sequence[int]) -> list[Any]:
        with uninterrupted():
            import openvino

        precision, lanes = self._hardware.precision, self._hardware.lanes
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[precision],
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": lanes * self._hardware.threads,
            "CPU_RUNTIME_CACHE_CAPACITY": _REMEMBERED_KERNELS,
        }
        compiled = openvino.Core().compile_model(_graph(self._network, layers, precision), "CPU", settings)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _PRECISION[precision]:
            raise InputError(f"OpenVINO cannot compute in {precision} here; use --backend torch")
        requests = [compiled.create_infer_request() for _ in range(lanes)]
        two = [torch.zeros(1, 2, self._network.config.hidden), *_tables(2, self._network), torch.zeros(1, 1, 1, 2)]
        inputs = [one.numpy() for one in two][: len(compiled.inputs)]
        requests[0].infer(inputs)  # only now are the weights arranged, once for all lanes
        return requests

    @torch.inference_mode()
    def representations(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        """Representations at some layers, float32 [C, T, D]; see :meth:`ESM2.representations`.

        Compiles first, where these are not the layers of the call before.
        """
        requests = self._compiled(layers)
        x_TD = self._network.embedded(batch)
        out_CTD = x_TD.new_empty(len(layers), *x_TD.shape)
        step = _step(self._network)
        all_tables = _tables(-(-max(batch.lengths) // step) * step, self._network)
        request = requests.get()
        try:
            for width, rows in _rectangles(batch.lengths, step):
                if width == 1:  # after such a one OpenVINO 2026.4 computes longer ones wrongly
                    whole = slice(rows[0].start, rows[-1].stop)
                    out_CTD[:, whole] = self._by_torch(batch.tokens_T[whole], layers)
                    continue
                inputs = [_rectangle(x_TD, rows, width), *(table[:, :, :width] for table in all_tables)]
                if step > 1:
                    inputs.append(_mask(rows, width))
                results = request.infer([one.numpy() for one in inputs], share_inputs=True, share_outputs=True)
                for index, values_NSD in enumerate(results.values()):
                    for values_SD, row in zip(torch.from_numpy(values_NSD), rows, strict=True):
                        out_CTD[index, row] = values_SD[: row.stop - row.start]
        finally:
            requests.put(request)
        return out_CTD

    def _by_torch(self, tokens_N: Tensor, layers: Sequence[int]) -> Tensor:
        """Sequences of one token each, float32 [C, N, D]."""
        return self._network.representations(Packed(tokens_N, (1,) * len(tokens_N)), layers)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait: while a native module starts it would become an ImportError, or be lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *given: waiting.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    for given in waiting:
        handler(*given)


def _step(network: Network) -> int:
    """Sequences are filled up to a multiple of this."""
    return _REGISTER if network.config.hidden < _FILLED else 1


def _rectangles(lengths: Sequence[int], step: int) -> Iterator[tuple[int, list[slice]]]:
    """Neighbours of one width, at most :data:`_RECTANGLE` tokens of them: their width, and their rows in the batch."""
    start = 0
    for width, group in groupby(lengths, lambda length: -(-length // step) * step):
        rows: list[slice] = []
        for length in group:
            if rows and (len(rows) + 1) * width > _RECTANGLE:
                yield width, rows
                rows = []
            rows.append(slice(start, start + length))
            start += length
        yield width, rows


def _rectangle(x_TD: Tensor, rows: Sequence[slice], width: int) -> Tensor:
    """Neighbouring sequences as [N, S, D], fillers at their ends."""
    whole = x_TD[rows[0].start : rows[-1].stop]
    if len(whole) == len(rows) * width:
        return whole.view(len(rows), width, -1)
    x_NSD = x_TD.new_zeros(len(rows), width, x_TD.shape[1])
    for x_SD, row in zip(x_NSD, rows, strict=True):
        x_SD[: row.stop - row.start] = x_TD[row]
    return x_NSD


def _mask(rows: Sequence[slice], width: int) -> Tensor:
    """What to add to the scores of keys, so that fillers get none of the attention: [N, 1, 1, S]."""
    lengths_N = torch.tensor([row.stop - row.start for row in rows])
    filler_NS = torch.arange(width) >= lengths_N[:, None]
    return (filler_NS * _MASKED)[:, None, None]


def _tables(length: int, network: Network) -> list[Tensor]:
    """Cosines and sines of all positions, [1, 1, S, K]: for queries, scaled as attention wants them, and for keys.

    None for a network whose positions are in its embeddings.
    """
    if not isinstance(network, ESM2):
        return []
    rotary = Rotary.of(torch.arange(length), network.frequencies)
    size = network.config.head_size
    cos, sin = rotary.cos, rotary.sin.clone()
    sin[..., : size // 2] *= -1  # Rotary has the sign of the turned half in its sines, OpenVINO in the half
    return [(scale * table).view(1, 1, length, size) for scale in (size**-0.5, 1.0) for table in (cos, sin)]


def _graph(network: Network, layers: Sequence[int], precision: Precision) -> Any:
    """OpenVINO's model of the encoder: x [N, S, D], :func:`_tables` and perhaps a mask in, these layers out."""
    import openvino
    from openvino import opset13 as op

    config = network.config
    x = op.parameter([-1, -1, config.hidden], np.float32)
    rotary = isinstance(network, ESM2)
    tables = [op.parameter([1, 1, -1, config.head_size], np.float32) for _ in range(4 if rotary else 0)]
    mask = op.parameter([-1, 1, 1, -1], np.float32) if _step(network) > 1 else None
    inputs, found = [x, *tables, *([mask] if mask else [])], {0: x}
    for layer in range(1, max(layers) + 1):
        x = _block(op, x, mask, tables, cast(Block, network.layers[layer - 1]), precision)
        found[layer] = _norm(op, x, network.final_norm) if layer == config.layers else x
    return openvino.Model([found[layer] for layer in layers], inputs, "encoder")


def _block(op: Any, x_NSD: Any, mask: Any, tables: Sequence[Any], block: Block, precision: Precision) -> Any:
    x_NSD = op.add(x_NSD, _attention(op, _norm(op, x_NSD, block.attention_norm), mask, tables, block))
    wide = op.gelu(_linear(op, _norm(op, x_NSD, block.feed_forward_norm), block.up), "erf" if tables else "tanh")
    down_NSD = _linear(op, wide, block.down)
    if precision == "fp32" and block.down.in_features >= _DEEP:  # changes nothing, but OpenVINO takes a faster kernel
        down_NSD = op.clamp(down_NSD, -np.inf, np.inf)  # not a finite bound, which would hide what is not finite
    return op.add(x_NSD, down_NSD)


def _attention(op: Any, x_NSD: Any, mask: Any, tables: Sequence[Any], block: Block) -> Any:
    """Attention, which OpenVINO computes as one operation."""
    heads, size = block.attention.shape
    q, k, v = (
        op.transpose(op.reshape(_linear(op, x_NSD, one), np.array([0, 0, heads, size]), True), np.array([0, 2, 1, 3]))
        for one in (block.attention.query, block.attention.key, block.attention.value)
    )
    if tables:
        q, k = _rotated(op, q, tables[:2], size), _rotated(op, k, tables[2:], size)
    else:
        q = op.multiply(q, np.float32(size**-0.5))
    scores_NHSS = op.matmul(q, k, False, True)
    if mask:
        scores_NHSS = op.add(scores_NHSS, mask)
    o_NHSK = op.matmul(op.softmax(scores_NHSS, -1), v, False, False)
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
