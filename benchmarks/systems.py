"""One system, one pass over some proteins, in a process of its own: what embed_cpu.py and embed_gpu.py run.

Reads a JSON request from standard input, writes seconds and peak memory to standard output, and mean vectors to a
file, so that the systems can be held against each other. Loading, compiling and a warm-up are not timed; from strings
to mean vectors in memory everything is. The warm-up's proteins are a residue shorter than the sample's, so that hardly
a length was met before.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Embed = Callable[[Sequence[str]], Array]


def aminoglot_embed(weights: str, options: dict[str, Any]) -> Embed:
    import aminoglot

    device = options.get("device", "cpu")
    model = aminoglot.load(weights, device=device, precision=options["precision"], backend=options["backend"])
    return lambda sequences: model.embed(sequences)


class Peer(NamedTuple):
    """transformers' network of a folder.

    Attributes:
        network: loads it.
        hidden: its width.
        tokenise: makes its inputs, numpy arrays.
        prefix: how many tokens there are before the first residue.
    """

    network: Callable[..., Any]
    hidden: int
    tokenise: Callable[[list[str]], dict[str, NDArray[np.int64]]]
    prefix: int


def _peer(weights: str) -> Peer:
    """EsmModel and its tokeniser; or the encoder of a Pegasus, which is ProtT5nv's, and its vocabulary as a table."""
    from transformers import AutoConfig, AutoTokenizer, EsmModel, PegasusModel

    config = AutoConfig.from_pretrained(weights)
    if config.model_type == "pegasus":
        load = lambda **options: PegasusModel.from_pretrained(weights, **options).encoder.eval()  # noqa: E731
        return Peer(load, config.d_model, _prott5nv_tokens, 0)
    load = lambda **options: EsmModel.from_pretrained(weights, add_pooling_layer=False, **options).eval()  # noqa: E731
    tokenizer = AutoTokenizer.from_pretrained(weights)

    def tokenise(sequences: list[str]) -> dict[str, NDArray[np.int64]]:
        batch = tokenizer(sequences, return_tensors="np", padding=True)
        return {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    return Peer(load, config.hidden_size, tokenise, 1)


def _prott5nv_tokens(sequences: list[str]) -> dict[str, NDArray[np.int64]]:
    """transformers has no tokeniser for ProtT5nv: a residue is a token, 3 fills up."""
    table = {letter: number for number, letter in enumerate("LASGVERTDIPKNFQYHMCWXBZUO", 5)}
    ids = np.full((len(sequences), max(map(len, sequences))), 3, np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = [table.get(letter, table["X"]) for letter in sequence]
    return {"input_ids": ids, "attention_mask": (ids != 3).astype(np.int64)}


def transformers_embed(weights: str, options: dict[str, Any]) -> Embed:
    """Padded batches with a mask, fp32 or bf16 weights, SDPA (the default), perhaps compiled."""
    dtype = DTYPES[options["precision"]]
    device = options.get("device", "cpu")
    load, hidden_size, tokenise, prefix = _peer(weights)
    model = load(dtype=dtype).to(device)
    call = torch.compile(model, dynamic=True) if options.get("compiled") else model

    def embed(sequences: Sequence[str]) -> Array:
        found = np.empty((len(sequences), hidden_size), np.float32)

        @torch.inference_mode()
        def one(chosen: list[int]) -> None:
            inputs = tokenise([sequences[i] for i in chosen])
            batch = {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
            if len(chosen) == 1:  # nothing is padded: without a mask attention takes its fastest way
                hidden = call(input_ids=batch["input_ids"]).last_hidden_state[0].float()
                found[chosen] = hidden[prefix : prefix + len(sequences[chosen[0]])].mean(0).cpu()
                return
            hidden = call(**batch).last_hidden_state.float()  # means where it was computed: one vector leaves a GPU
            lengths = torch.tensor([len(sequences[i]) for i in chosen], device=device)[:, None]
            place = torch.arange(hidden.shape[1], device=device)[None] - prefix
            residues = ((place >= 0) & (place < lengths))[:, :, None]
            found[chosen] = ((hidden * residues).sum(1) / lengths).cpu()

        _work(one, _batches(sequences, options), options)
        return found

    return embed


def openvino_embed(weights: str, options: dict[str, Any]) -> Embed:
    """The transformers model converted by OpenVINO with dynamic shapes, as its users convert it.

    ``streams`` above one is OpenVINO's throughput mode: as many requests at once.
    """
    import openvino

    load, hidden_size, tokenise, prefix = _peer(weights)
    converted = Path(weights) / "openvino.xml"
    if not converted.exists():
        example = {"input_ids": torch.full((2, 16), 5), "attention_mask": torch.ones(2, 16, dtype=torch.int64)}
        openvino.save_model(openvino.convert_model(load(), example_input=example), converted, compress_to_fp16=False)
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[options["precision"]],
        "PERFORMANCE_HINT": "LATENCY" if options["streams"] == 1 else "THROUGHPUT",
        "NUM_STREAMS": options["streams"],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(openvino.Core().read_model(converted), "CPU", settings)

    def embed(sequences: Sequence[str]) -> Array:
        found = np.empty((len(sequences), hidden_size), np.float32)
        queue = openvino.AsyncInferQueue(compiled, options["streams"])
        queue.set_callback(
            lambda request, chosen: _means(found, chosen, request.get_output_tensor(0).data, sequences, prefix)
        )
        for chosen in _batches(sequences, options):
            queue.start_async(tokenise([sequences[i] for i in chosen]), chosen)
        queue.wait_all()
        return found

    return embed


def onnxruntime_embed(weights: str, options: dict[str, Any]) -> Embed:
    """The transformers model exported to ONNX with dynamic shapes; fp32 only, for its CPU kernels have no bf16."""
    import onnxruntime

    load, hidden_size, tokenise, prefix = _peer(weights)
    path = Path(weights) / "model.onnx"
    if not path.exists():
        example = (torch.full((2, 16), 5), torch.ones(2, 16, dtype=torch.int64))
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        shapes = {"input_ids": axes, "attention_mask": axes}
        network = load(attn_implementation="eager")
        torch.onnx.export(network, example, str(path), input_names=list(shapes), dynamic_shapes=shapes, dynamo=True)
        del network
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads() // options.get("workers", 1)
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def embed(sequences: Sequence[str]) -> Array:
        found = np.empty((len(sequences), hidden_size), np.float32)

        def one(chosen: list[int]) -> None:
            _means(found, chosen, session.run(None, tokenise([sequences[i] for i in chosen]))[0], sequences, prefix)

        _work(one, _batches(sequences, options), options)
        return found

    return embed


def ceiling(width: int, precision: str, device: str = "cpu", rows: int = 2048, repeats: int = 30) -> float:
    """GFLOP/s of one Linear, width to four times the width, the whole device: the median of many."""
    dtype = DTYPES[precision]
    x, weight = (torch.randn(n, width, dtype=dtype, device=device) for n in (rows, 4 * width))
    seconds = []
    at_once = 1 if device == "cpu" else 20  # waiting for a GPU after every product would count too
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(at_once):
            torch.nn.functional.linear(x, weight)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / at_once)
    return 2 * rows * width * 4 * width / float(np.median(seconds[5:])) / 1e9


def _work(one: Callable[[list[int]], None], batches: Iterator[list[int]], options: dict[str, Any]) -> None:
    """All batches one after the other, or by several workers that share the cores."""
    workers = options.get("workers", 1)
    if workers == 1:
        for chosen in batches:
            one(chosen)
        return
    threads = max(1, torch.get_num_threads() // workers)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        list(pool.map(one, list(batches)))


def _batches(sequences: Sequence[str], options: dict[str, Any]) -> Iterator[list[int]]:
    order = list(range(len(sequences)))
    if options.get("sorted", True):
        order.sort(key=lambda i: -len(sequences[i]))
    for start in range(0, len(order), options["batch"]):
        yield order[start : start + options["batch"]]


def _means(into: Array, chosen: Sequence[int], hidden: Array, sequences: Sequence[str], prefix: int) -> None:
    for row, index in enumerate(chosen):
        into[index] = hidden[row, prefix : prefix + len(sequences[index])].mean(0)


WARM_UP = 8
SYSTEMS = {
    "aminoglot": aminoglot_embed,
    "transformers": transformers_embed,
    "openvino": openvino_embed,
    "onnxruntime": onnxruntime_embed,
}


def main() -> None:
    request = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    if request["system"] == "ceiling":
        print(json.dumps({"gflops": ceiling(**request["options"])}))
        return
    embed = SYSTEMS[request["system"]](request["weights"], request["options"])
    sequences = request["sequences"]
    embed([sequence[:-1] for sequence in sequences[:: -(-len(sequences) // WARM_UP)]])
    started = time.perf_counter()
    means = embed(sequences)
    seconds = time.perf_counter() - started
    np.save(request["means"], means)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "gpu_peak_mb": gpu}))


if __name__ == "__main__":
    main()
