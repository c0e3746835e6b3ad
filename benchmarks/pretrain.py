"""Training ESM-2: tokens a second of our loop, beside a loop of transformers as people write it, at its best.

    pip install -c constraints.txt -e '.[corpus,benchmark]'
    aminoglot corpus build --fasta proteins.fasta --no-leak-filter -o corpus/
    python benchmarks/pretrain.py corpus/ [--size esm2-8m] [--repeats 3] [--device cpu] [--json FILE]

Both see the same masked samples, of natural lengths, and train from random weights with fused AdamW in bf16 with
float32 weights. Theirs: EsmForMaskedLM under autocast, batches grouped by length and padded, of several sizes; ours:
several sizes of what is computed at once. Our trainer tells the C library to keep freed memory, so theirs is tried with
that too; and both are tried as a process for each core, whose gradients are added up. Pads are not counted. All are
tried once, each on its own, then the best of each is repeated, in turns; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TOKENS = 16_384
"""Tokens an update, in both."""
OURS = (2_048, 4_096, 8_192, 16_384)
THEIRS = (8, 16, 32, 64)
SECONDS = 30.0
KEPT = "theirs, memory kept"
Setting = tuple[int, int]
"""How much at once, and how many processes."""

WORKER = r"""
import json, os, time
import numpy as np
import torch
from aminoglot.corpus import Corpus, ESM2Samples
from aminoglot.models.family import SIZES
from aminoglot.pretrain.batching import updates
from aminoglot.pretrain.parallel import world, wrapped
asked = json.loads(os.environ["ASKED"])
samples = ESM2Samples(Corpus(asked["corpus"]))
shape = SIZES[asked["size"]]

def ours(at_once, here):
    from aminoglot.models.linear import train_in
    from aminoglot.pretrain.ceiling import ceiling
    from aminoglot.pretrain.config import of_dict
    from aminoglot.pretrain.loop import Trainer
    from aminoglot.pretrain.objective import objective_for
    from aminoglot.pretrain.optimizer import build
    from aminoglot.pretrain.start import start
    from aminoglot.pretrain.state import Progress
    config = of_dict({"model": {"size": asked["size"]}, "batch": {"tokens": asked["tokens"], "at_once": at_once},
        "optimizer": {"rate": 4e-4}, "schedule": {"updates": 100_000, "warmup": 2_000}})
    network, _ = start(config.model, 0)
    train_in(network, "bf16")
    objective = objective_for(network).to(here.device)
    module = wrapped(objective, config.compute, here)
    trainer = Trainer(config, objective, module, build(network, config.optimizer), samples, here)
    steps = trainer.run(Progress())
    next(steps)
    peak, tokens, flops, started = ceiling(here.device, "bf16"), 0, 0.0, time.perf_counter()
    while not here.any(time.perf_counter() - started > asked["seconds"])[0]:
        _, made = next(steps)
        tokens, flops = tokens + made.tokens, flops + made.flops
    seconds = time.perf_counter() - started
    return tokens / seconds, flops / seconds / peak

def theirs(size, here):
    from transformers import EsmConfig, EsmForMaskedLM
    model = EsmForMaskedLM(EsmConfig(vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, intermediate_size=4 * shape.hidden,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, max_position_embeddings=1026, attn_implementation="sdpa"))
    model.to(here.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def padded(rows, fill):
        out = torch.full((len(rows), max(map(len, rows))), fill)
        for row, values in zip(out, rows):
            row[: len(values)] = torch.from_numpy(values.astype(np.int64))
        return out.to(here.device)

    def step(update):
        order = sorted(range(update.first, update.next), key=samples.tokens_of)
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        for group in groups[here.rank :: here.size]:
            made = [samples[number] for number in group]
            tokens = padded([one.tokens for one in made], 1)
            with torch.autocast(here.device.type, torch.bfloat16):
                loss = model(input_ids=tokens, attention_mask=(tokens != 1).long(),
                    labels=padded([one.labels for one in made], -100)).loss
            (loss / len(groups)).backward()
        if here.size > 1:
            gradients = [one.grad if one.grad is not None else torch.zeros_like(one) for one in model.parameters()]
            flat = here.sum(torch.cat([one.flatten() for one in gradients]))
            for one, part in zip(model.parameters(), flat.split([one.numel() for one in gradients])):
                one.grad = part.view_as(one)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if here.device.type == "cuda":
            torch.cuda.synchronize()

    stream = updates(samples, None, asked["tokens"])
    step(next(stream))
    tokens, started = 0, time.perf_counter()
    while not here.any(time.perf_counter() - started > asked["seconds"])[0]:
        update = next(stream)
        step(update)
        tokens += sum(update.lengths)
    return tokens / (time.perf_counter() - started), None

if asked["who"] != "theirs":
    from aminoglot.engine.hardware import keep_freed_memory
    keep_freed_memory()
with world(torch.device(asked["device"])) as here:
    rate, share = (ours if asked["who"] == "ours" else theirs)(asked["setting"], here)
    if here.leads:
        print(json.dumps({"tokens_per_second": rate, "share_of_ceiling": share}))
"""


def measured(options: argparse.Namespace, who: str, setting: Setting) -> dict[str, Any]:
    """One system at one setting."""
    at_once, processes = setting
    asked = {"who": who, "setting": at_once, "tokens": options.tokens, "seconds": options.seconds}
    asked |= {"size": options.size, "device": options.device, "corpus": str(options.corpus)}
    start, env = [sys.executable, "-W", "ignore"], {**os.environ, "ASKED": json.dumps(asked)}
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        env["OMP_NUM_THREADS"] = str(max(1, CORES // processes))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "worker.py"
        program.write_text(WORKER)
        done = subprocess.run([*start, str(program)], capture_output=True, text=True, env=env)
    if done.returncode:
        print(f"{who} {setting}: failed ({done.stderr.strip().splitlines()[-1][:100]})")
        return {"tokens_per_second": 0.0, "share_of_ceiling": None}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    share = f", {found['share_of_ceiling']:.2f} of the ceiling" if found["share_of_ceiling"] else ""
    print(f"{who:19} {said(setting):30} {found['tokens_per_second']:8,.0f} tokens/s{share}", flush=True)
    return found


def said(setting: Setting) -> str:
    at_once, processes = setting
    return f"{at_once:,} at once, {processes} process{'es' if processes > 1 else ''}"


def tried(options: argparse.Namespace, who: str, sizes: Iterable[int]) -> dict[Setting, float]:
    """Rates of one process at several sizes; then of a process for each core at the best and at half of that."""
    rates = {(size, 1): measured(options, who, (size, 1))["tokens_per_second"] for size in sizes}
    (size, _) = max(rates, key=lambda setting: rates[setting])
    for setting in [(one, options.processes) for one in (size, size // 2)] if options.processes > 1 else []:
        rates[setting] = measured(options, who, setting)["tokens_per_second"]
    return rates


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--size", default="esm2-8m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", type=int, nargs="+", default=OURS, help="tokens computed at once")
    parser.add_argument("--theirs", type=int, nargs="+", default=THEIRS, help="proteins a padded batch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processes", type=int, help="to try beside one; a core each unless said")
    options = parser.parse_args()
    if options.processes is None:
        options.processes = CORES if options.device == "cpu" else 1
    rates_of = {"ours": tried(options, "ours", options.ours), KEPT: tried(options, KEPT, options.theirs)}
    best = {who: max(found, key=lambda setting: found[setting]) for who, found in rates_of.items()}
    rates_of["theirs"] = {best[KEPT]: measured(options, "theirs", best[KEPT])["tokens_per_second"]}
    peer = max((KEPT, "theirs"), key=lambda who: rates_of[who][best[KEPT]])
    best = {"ours": best["ours"], peer: best[KEPT]}
    print(f"best: ours {said(best['ours'])}; {peer} {said(best[peer])}")
    repeats: dict[str, list[dict[str, Any]]] = {who: [] for who in best}
    for _ in range(options.repeats):
        for who, setting in best.items():
            repeats[who].append(measured(options, who, setting))
    rates = {who: statistics.median(one["tokens_per_second"] for one in found) for who, found in repeats.items()}
    share = statistics.median(one["share_of_ceiling"] for one in repeats["ours"])
    print(
        f"ours {rates['ours']:,.0f} tokens/s, {share:.2f} of the ceiling; {peer} {rates[peer]:,.0f}; "
        f"{rates['ours'] / rates[peer]:.2f}x"
    )
    if options.json:
        machine = {"processor": processor(), "threads": os.cpu_count(), "python": platform.python_version()}
        found = {"machine": machine, "size": options.size, "device": options.device, "best": best}
        found["tried"] = {who: {said(one): rate for one, rate in of.items()} for who, of in rates_of.items()}
        found |= {"rates": rates, "share_of_ceiling": share, "factor": rates["ours"] / rates[peer]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
