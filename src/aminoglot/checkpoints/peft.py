"""LoRA adapters as the package peft lays them out: adapter_config.json beside adapter_model.safetensors.

An adapter names its base model and holds two small matrices A and B for each matrix that it adapts; merged, W becomes
W + scale * B A. peft's keys are those of the network it wrapped: for ESM-2 transformers' ``EsmForMaskedLM`` (or a
bare ``EsmModel``), for ProtT5nv ``PegasusForConditionalGeneration``.

Shapes: r rank, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aminoglot.checkpoints import huggingface, pegasus
from aminoglot.checkpoints.checkpoint import Checkpoint, shown
from aminoglot.checkpoints.keys import KeyMap
from aminoglot.errors import ModelError, listing
from aminoglot.models.esm2 import ESM2Config
from aminoglot.models.family import Config

CONFIG, WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
_MODEL = "esm."
"""Before the names of an EsmForMaskedLM's encoder, and not of a bare EsmModel's."""
_HEADS = ("classifier", "score")
"""What peft saves beside an adapter of a network with a head of its own: no part of the language model."""
_DIGEST = "base_digest"
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base model as it is; pissa, olora, corda and loftq change it."""
_MUST_BE_EMPTY = (
    *("use_dora", "use_qalora", "lora_bias", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "megatron_config"),
    *("layer_replication", "trainable_token_indices", "target_parameters", "loftq_config", "corda_config"),
    *("alora_invocation_tokens", "use_bdlora", "arrow_config", "ensure_weight_tying"),
)
"""Settings under which the matrices mean something else than B A."""
_MOST_JSON = 4 << 20


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        base: the model that it belongs to, as its owner names it.
        alpha: what B A is multiplied by, divided by r (or by its root).
        matrices: A [r, I] and B [O, r] by the name of our layer, as ``layers.0.attention.query``.
        digest: of the base model's weights, see Checkpoint.digest; empty where it is not known.
        by_root: divide by the root of r (rank-stabilised LoRA).
        notes: what the user should know.
    """

    base: str
    alpha: float
    matrices: Mapping[str, tuple[Tensor, Tensor]]
    digest: str = ""
    by_root: bool = False
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """r, the same of all matrices."""
        return len(next(iter(self.matrices.values()))[0])

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.by_root else self.rank)


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def resolved(folder: Path, name: str, resolve: Callable[[str], Checkpoint]) -> Checkpoint:
    """The base model of an adapter with the adapter merged into it.

    Args:
        folder: of the adapter.
        name: what messages call the result.
        resolve: reads the base model.

    Raises:
        ModelError: when either cannot be read, or they do not belong together.
    """
    base, settings = _base(folder)
    found = resolve(base)
    return replace(merged(found, read(folder, found.config, settings)), name=name)


def merged(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """A model with the adapter in its weights, which become float32.

    Raises:
        ModelError: when the adapter was made for other weights, or for another shape.
    """
    if adapter.digest and adapter.digest != base.digest:
        raise ModelError(
            f"{adapter.base}: not the model that the adapter was trained on, though it has its name: its weights differ"
        )
    tensors = dict(base.tensors)
    wrong = []
    for name, (a_rI, b_Or) in adapter.matrices.items():
        key = f"{name}.weight"
        weight = tensors.get(key)
        if weight is None or weight.shape != (len(b_Or), a_rI.shape[1]):
            wrong.append(f"{name}: {len(b_Or)} x {a_rI.shape[1]}")
        else:
            tensors[key] = weight.float() + adapter.scale * (b_Or.float() @ a_rI.float())
    if wrong:
        raise ModelError(f"{base.name}: the adapter has matrices that do not fit it:\n{listing(wrong)}")
    return replace(base, tensors=tensors, notes=(*base.notes, *adapter.notes))


def read(folder: Path, config: Config, settings: Mapping[str, Any] | None = None) -> Adapter:
    """Read an adapter for a model of this shape.

    Raises:
        ModelError: for another kind than plain LoRA, naming the setting; for a pickle; for files that are damaged.
    """
    raw = _settings(folder) if settings is None else settings
    _plain(folder, raw)
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / _PICKLE).is_file():
            raise ModelError(
                f"{folder / _PICKLE}: a pickle, which may run code when it is opened, so aminoglot does not. Save the "
                f"adapter again with peft (save_pretrained writes {WEIGHTS})"
            )
        raise ModelError(f"{folder}: {WEIGHTS} is missing beside {CONFIG}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            theirs = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cut short or damaged ({error}); get the file again") from error
    matrices, notes = _ours(path, theirs, config)
    return Adapter(
        str(raw["base_model_name_or_path"]),
        float(raw["lora_alpha"]),
        matrices,
        metadata.get(_DIGEST, ""),
        bool(raw.get("use_rslora")),
        notes,
    )


def _ours(
    path: Path, theirs: Mapping[str, Tensor], config: Config
) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[str, ...]]:
    """Pairs of matrices by our names, and what was not used."""
    keys = _keys(config)
    halves: dict[str, dict[str, Tensor]] = {}
    strangers, heads = [], set()
    for key, tensor in theirs.items():
        name = key.removeprefix(_PREFIX)
        if name.split(".")[0] in _HEADS:
            heads.add(name.split(".")[0])
            continue
        match = _KEY.fullmatch(name)
        ours = match and _module(keys, match["module"], config)
        if not match or not ours or tensor.dim() != 2:
            strangers.append(key)
        else:
            halves.setdefault(ours, {})[match["which"]] = tensor
    if strangers:
        raise ModelError(f"{path}: not an adapter of this model's encoder; it has\n{listing(strangers)}")
    alone = [name for name, pair in halves.items() if len(pair) < 2]
    if alone or not halves:
        raise ModelError(f"{path}: matrices are missing:\n{listing(alone or ['all of them'])}")
    ranks = {pair["A"].shape[0] for pair in halves.values()} | {pair["B"].shape[1] for pair in halves.values()}
    if len(ranks) > 1:
        raise ModelError(f"{path}: matrices of several ranks ({', '.join(map(str, sorted(ranks)))})")
    notes = tuple(f"{path.parent.name}: its {head} is no part of the model and is not used" for head in sorted(heads))
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}, notes


def _module(keys: KeyMap, module: str, config: Config) -> str | None:
    """Our name of one of their layers."""
    names = [module, _MODEL + module] if isinstance(config, ESM2Config) else [module]
    found = next((ours for name in names if (ours := keys.ours(f"{name}.weight"))), None)
    if found is None or not found.startswith("layers."):
        return None
    return found.removesuffix(".weight")


def _keys(config: Config) -> KeyMap:
    return huggingface.KEYS if isinstance(config, ESM2Config) else pegasus.KEYS


def _base(folder: Path) -> tuple[str, dict[str, Any]]:
    """The name of an adapter's base model; a path that is not absolute may start at the adapter's folder."""
    raw = _settings(folder)
    base = raw.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / CONFIG}: base_model_name_or_path is {shown(base)}: write the model's name there")
    beside = folder / base
    for path in (beside, Path(base).expanduser()):
        if path.is_dir() and is_adapter(path):
            raise ModelError(f"{folder / CONFIG}: its base {base} is an adapter too; merge that one first")
    return (str(beside) if beside.exists() else base), raw


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ModelError(f"{path}: far too long for what it is")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not an adapter's settings")
    return raw


def _plain(folder: Path, raw: Mapping[str, Any]) -> None:
    """Refuse what is not the sum of a matrix and a product."""
    path = folder / CONFIG
    if raw.get("peft_type") != "LORA":
        raise ModelError(f"{path}: an adapter of type {shown(raw.get('peft_type'))}; aminoglot reads LORA")
    for key in _MUST_BE_EMPTY:
        if raw.get(key):
            raise ModelError(f"{path}: {key} is {shown(raw[key])}, which aminoglot does not know how to apply")
    if raw.get("bias", "none") != "none":
        raise ModelError(f"{path}: bias is {shown(raw['bias'])}: biases were trained too; aminoglot reads 'none'")
    start = raw.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ModelError(f"{path}: init_lora_weights is {shown(start)}, which changes the base model")
    saved = raw.get("modules_to_save") or []
    if not isinstance(saved, list) or set(saved) - set(_HEADS):
        raise ModelError(f"{path}: modules_to_save is {saved}: whole modules of the model were trained beside LoRA")
    alpha = raw.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ModelError(f"{path}: lora_alpha is {shown(alpha)}, not a number")


def write(folder: Path, adapter: Adapter, config: Config) -> None:
    """Write an adapter that peft loads onto transformers' network of the same weights.

    Args:
        folder: an empty one.
        adapter: what to write.
        config: of its base model.
    """
    keys = _keys(config)
    tensors, modules = {}, []
    for name, (a_rI, b_Or) in adapter.matrices.items():
        theirs = keys.theirs(f"{name}.weight")
        assert theirs is not None, name
        module = theirs.removesuffix(".weight")
        modules.append(module)
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = a_rI.float().contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = b_Or.float().contiguous()
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "use_rslora": adapter.by_root,
        "target_modules": _pattern(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
    content = save(tensors, {_DIGEST: adapter.digest})  # one entry: safetensors puts several in any order
    (folder / WEIGHTS).write_bytes(content)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + os.linesep, encoding="utf-8")


def _pattern(modules: list[str]) -> str:
    """A regular expression that peft holds against the names of layers: these and no others, a decoder's among them.

    A bare EsmModel has the same layers without the first word.
    """
    kinds: dict[str, list[int]] = {}
    for module in modules:
        match = re.search(r"\.(\d+)\.", module)
        assert match is not None, module
        kinds.setdefault(f"{module[: match.start(1)]}{{}}{module[match.end(1) :]}", []).append(int(match[1]))
    choices = []
    for kind, numbers in kinds.items():
        before, after = (re.escape(part) for part in kind.removeprefix(_MODEL).split("{}"))
        choices.append(f"{before}({'|'.join(map(str, numbers))}){after}")
    start = f"({re.escape(_MODEL)})?" if any(module.startswith(_MODEL) for module in modules) else ""
    return f"{start}({'|'.join(choices)})"
