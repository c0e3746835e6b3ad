"""Model: what ``load()`` returns, whatever the family.

Shapes: N proteins, L_i residues of protein i, D hidden, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from os import PathLike
from threading import Lock
from typing import Literal, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aminoglot.checkpoints import BUNDLED, Checkpoint, missing, resolve, worth_saying
from aminoglot.engine.cleaning import cleaned
from aminoglot.engine.embed import NOT_FINITE, Embedded, embed, not_finite
from aminoglot.engine.forward import LEAST_TOKENS, Forward
from aminoglot.engine.hardware import NARROW, Hardware, choose
from aminoglot.engine.pieces import Piece
from aminoglot.engine.writing import SENTINEL_NOTES, Infilled, Sentinels, Writer, opened
from aminoglot.errors import AminoglotWarning, InputError, ModelError, listing, plural
from aminoglot.models.esm2 import ESM2
from aminoglot.models.family import Config, Family, Network, family_of
from aminoglot.models.linear import prepare
from aminoglot.models.prott5nv import ProtT5nv
from aminoglot.packing import Packed
from aminoglot.settings import BackendChoice, Layer, Long, Per, Pool, PrecisionChoice, Request, resolve_layers

Array = NDArray[np.float32]

_LAYERS = 4
"""Batches become smaller where more layers than these are asked for: what they hold grows with them."""


class Encoder(Protocol):
    """What a backend is to the engine."""

    def representations(self, batch: Packed, layers: Sequence[int]) -> Tensor:
        """float32 [layers, T, D]; called by several threads at once."""
        ...


class Embeddings(NamedTuple):
    """Both kinds at once: ``protein`` [N, D], and ``residue``, a list of [L_i, D]."""

    protein: Array
    residue: list[Array]


def load(
    model: str | PathLike[str] = BUNDLED,
    *,
    device: str = "auto",
    precision: PrecisionChoice = "auto",
    backend: BackendChoice = "auto",
) -> Model:
    """Load a model.

    Args:
        model: ``esm2-8m`` ... ``esm2-15b``, a Hugging Face id, a folder or file in any format that docs/checkpoints.md
            lists (a ``.pt``, a ``.nemo``), or ``random:esm2-8m``; unless named the small one that comes with aminoglot.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto`` (bf16 where the device multiplies it natively, else fp32), ``fp32`` or ``bf16``; on CUDA
            also ``fp16`` (what auto takes on Volta) and ``fp8`` (Hopper).
        backend: ``auto`` (OpenVINO on a CPU where it is installed, else torch), ``torch`` or ``openvino``.

    Raises:
        ModelError: when there is no such model, or its files are not here and cannot be fetched.
        InputError: for a device, precision or backend that is not available.
    """
    hardware = choose(device, precision, backend)
    checkpoint = resolve(model)
    for note in worth_saying(checkpoint.notes):
        warnings.warn(note, AminoglotWarning, stacklevel=2)
    return Model(checkpoint, hardware)


class Model:
    """A protein language model on a device, ready for sequences.

    Attributes:
        name: what it was loaded as.
        config: the network's shape.
        family: what all sizes of its kind have in common.
        hardware: device and precision, and why.
        alphabet: its vocabulary.
        limit: the longest protein of its model card, in residues.

    Args:
        checkpoint: its weights.
        hardware: see :func:`aminoglot.engine.choose`.
        lazily: whether weights are left alone until something is computed: who only plans needs none.
    """

    def __init__(self, checkpoint: Checkpoint, hardware: Hardware, lazily: bool = False) -> None:
        self.name = checkpoint.name
        self.config = checkpoint.config
        self.family: Family = family_of(self.config)
        self.hardware = hardware.fitted(self.config.hidden)
        self.alphabet = self.family.alphabet
        self.limit = self.config.longest
        self._checkpoint, self._notes = checkpoint, checkpoint.notes
        self._ready: Callable[[Sequence[int]], None] = lambda _: None
        self._opened: Writer | None = None
        self._opening = Lock()
        self.budget = token_budget(self.config, self.hardware)
        if not lazily:
            self.prepare()

    def prepare(self) -> None:
        """Read and convert the weights, where that was not done yet."""
        assert self._prepared

    @cached_property
    def _prepared(self) -> tuple[Network, Encoder]:
        """The network and what computes representations; under OpenVINO torch's stays for the heads, in fp32."""
        network = self._checkpoint.network()
        if self.hardware.backend == "openvino":
            from aminoglot.engine.openvino import OpenVINOEncoder

            prepare(network, "fp32")
            encoder = OpenVINOEncoder(network, self.hardware)
            self._ready = encoder.ready
            return network, encoder
        prepare(network, self.hardware.precision)
        return network, network.to(self.hardware.device)

    @property
    def _network(self) -> Network:
        return self._prepared[0]

    @property
    def _encoder(self) -> Encoder:
        return self._prepared[1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoder's weights, the same in every file format; see Checkpoint.digest."""
        digest = self._checkpoint.digest
        # What was read, not mapped, would lie beside the narrowed weights.
        self._checkpoint = self._checkpoint.only(self.family.on_demand)
        return digest

    def __repr__(self) -> str:
        hardware = self.hardware
        return f"<aminoglot.Model {self.name}: {hardware.precision} on {hardware.device} by {hardware.backend}>"

    def request(self, per: Per, layer: Layer, pool: Pool, long: Long) -> Request:
        """Check and resolve what a user asks for."""
        for option, value in (("pool", pool), ("long", long)):
            reason = self.family.refused.get((option, value))
            if reason:
                raise InputError(f"{option} {value}: {reason}")
        layers, several = resolve_layers(layer, self.config.layers)
        return Request(per, layers, several, pool, long, self.limit)

    def embed_cleaned(
        self,
        texts: Sequence[bytes],
        request: Request,
        done: Callable[[int], None] = lambda _: None,
        full_batches: bool = False,
        lone: bool = False,
    ) -> Embedded:
        """Embed sequences that are clean already; jobs call this. Sorted by length they compute fastest.

        Args:
            texts: residues of each.
            request: what is wanted.
            done: told after each batch how many residues it held.
            full_batches: few sequences too go in batches as large as those of a long job, as when that is estimated.
            lone: a batch that is the only one has all cores, at the price of last digits that depend on their number.
        """
        budget = self.budget * _LAYERS // max(_LAYERS, len(request.layers))
        forward = Forward(self.alphabet, self.hardware, budget, budget if full_batches else LEAST_TOKENS, lone)
        shape = (len(request.layers), self.config.hidden)
        self.prepare()
        self._ready(request.layers)
        found = embed(
            forward, texts, request, shape, lambda batch: self._encoder.representations(batch, request.layers), done
        )
        if NOT_FINITE in found.failed.values() and self._not_finite:
            why = f"{NOT_FINITE}, for {self._not_finite} in {self.name} is not"
            found.failed.update({owner: why for owner, said in found.failed.items() if said == NOT_FINITE})
        return found

    @cached_property
    def _not_finite(self) -> str | None:
        return not_finite(self._network)

    @overload
    def embed(
        self,
        sequences: Iterable[str],
        *,
        per: Literal["protein"] = "protein",
        layer: Layer = -1,
        pool: Pool = "mean",
        long: Long = "truncate",
    ) -> Array: ...
    @overload
    def embed(
        self,
        sequences: Iterable[str],
        *,
        per: Literal["residue"],
        layer: Layer = -1,
        pool: Pool = "mean",
        long: Long = "truncate",
    ) -> list[Array]: ...
    @overload
    def embed(
        self,
        sequences: Iterable[str],
        *,
        per: Literal["both"],
        layer: Layer = -1,
        pool: Pool = "mean",
        long: Long = "truncate",
    ) -> Embeddings: ...
    def embed(
        self,
        sequences: Iterable[str],
        *,
        per: Per = "protein",
        layer: Layer = -1,
        pool: Pool = "mean",
        long: Long = "truncate",
    ) -> Array | list[Array] | Embeddings:
        """Embed proteins; results come in the order of ``sequences``.

        Args:
            sequences: residues as letters; what may be in them is said in :mod:`aminoglot.sequences.letters`.
            per: ``protein``, ``residue`` or ``both``.
            layer: a number (0 is the embedding, -1 the last layer, after its norm), several, or ``all``.
            pool: ``mean`` over residues, ``max``, or ``cls``; special tokens are in neither mean nor max.
            long: for proteins over the model's limit: ``truncate`` (with a warning), ``window``, ``full``, ``error``.

        Returns:
            For ``protein`` float32 [N, D]; for ``residue`` a list of float32 [L_i, D], row i is residue i; for ``both``
            the two. Several layers are a leading axis of each protein: [N, layers, D], [layers, L_i, D].

        Raises:
            InputError: for a sequence with anything but residues, by its position in ``sequences``; with
                ``long="error"`` for long ones.
            ModelError: when memory does not suffice for a protein even alone.
        """
        texts = cleaned(sequences)
        request = self.request(per, layer, pool, long)
        self._mind_length(texts, request)
        result, back = self._in_order(texts, lambda ordered: self.embed_cleaned(ordered, request, lone=True))
        protein = None if result.protein is None else result.protein[back]
        residue = None if result.residue is None else [result.residues_of(i) for i in back]
        if not request.several:
            protein = None if protein is None else protein[:, 0]
            residue = None if residue is None else [rows[0] for rows in residue]
        if protein is not None and residue is not None:
            return Embeddings(protein, residue)
        return protein if residue is None else residue  # type: ignore[return-value]

    def logits(self, sequences: Iterable[str], *, long: Long = "truncate") -> list[Array]:
        """The language model's logits for every residue.

        Args:
            sequences: residues as letters; ``<mask>`` hides one residue.
            long: as in :meth:`embed`.

        Returns:
            A list of float32 [L_i, V]; columns are ``model.alphabet.tokens``.

        Raises:
            ModelError: when the checkpoint has no language-model head.
        """
        network = self._esm2("lm_head", "logits")
        texts = cleaned(sequences, masks=True)
        request = self.request("residue", -1, "mean", long)
        self._mind_length(texts, request)
        forward = Forward(self.alphabet, self.hardware, self.budget)
        shape = (1, len(self.alphabet.tokens))
        last = [self.config.layers]
        self._ready(last)

        def compute(batch: Packed) -> Tensor:
            return network.logits(self._encoder.representations(batch, last)[0])[None]

        result, back = self._in_order(texts, lambda ordered: embed(forward, ordered, request, shape, compute))
        return [result.residues_of(i)[0] for i in back]

    def contacts(
        self, sequences: Iterable[str], *, long: Literal["truncate", "full", "error"] = "truncate"
    ) -> list[Array]:
        """The probability that two residues touch (Cb within 8 Angstrom), for every pair.

        Memory grows with the square of the length: heads x L_i x L_i float32 values a layer.

        Returns:
            A list of symmetric float32 [L_i, L_i].

        Raises:
            ModelError: when the checkpoint has no contact head.
            InputError: for ``long="window"`` or ``"skip"``, which no map can be put together from.
        """
        network = self._esm2("contact_head", "contacts")
        if long not in ("truncate", "full", "error"):
            raise InputError(f"contacts with long={long!r}: a map needs the protein whole; use truncate, full or error")
        texts = cleaned(sequences)
        request = self.request("residue", -1, "mean", long)
        self._mind_length(texts, request)
        forward = Forward(self.alphabet, self.hardware, self.budget)
        maps: list[Array] = []
        residues = request.embedded(np.array([len(text) for text in texts]))
        for index, (text, stop) in enumerate(zip(texts, residues.tolist(), strict=True)):
            piece = Piece(index, 0, stop)
            outcome = next(forward([piece], texts, lambda _, batch: network.contacts(batch)[0]))
            if outcome.values is None:
                raise ModelError(f"sequence {index}: not enough memory for its contact map ({len(text):,} residues)")
            contacts = outcome.values.float().cpu().numpy()
            if not np.isfinite(contacts).all():
                raise ModelError(f"sequence {index}: {NOT_FINITE}")
            maps.append(contacts)
        return maps

    def infill(self, sequence: str) -> Infilled:
        """Write the hidden residues of a protein (ProtT5nv).

        Args:
            sequence: residues as letters; ``<mask>`` hides one, at most 76 of them.

        Returns:
            ``sequence`` with the likeliest amino acid at every mask, and ``probabilities`` float32 [masks, 20], columns
            ACDEFGHIKLMNPQRSTVWY. Masks are written from left to right; each depends on those before it.

        Raises:
            InputError: for a sequence without masks, with more than 76, or of more than 512 residues.
            ModelError: when the checkpoint has no decoder.
        """
        if not isinstance(sequence, str):
            raise InputError("infill takes one sequence, as text")
        return self._writer().infill(cleaned([sequence], masks=True)[0])

    def distributions(self, sequences: Iterable[str]) -> list[Array]:
        """What the model expects at every residue, when that one alone is hidden (ProtT5nv).

        Returns:
            A list of float32 [L_i, 20], rows summing to one, columns ACDEFGHIKLMNPQRSTVWY.

        Raises:
            InputError: for a sequence of more than 512 residues.
            ModelError: when the checkpoint has no decoder.
        """
        writer = self._writer()
        return [writer.distributions(text) for text in cleaned(sequences)]

    def forced_logits(self, sequences: Iterable[str], targets: Iterable[str]) -> list[Array]:
        """The decoder's logits when it is told what to write (ProtT5nv): teacher forcing.

        Args:
            sequences: what the encoder sees; the k-th ``<mask>`` of each becomes the sentinel ``<extra_id_k>``.
            targets: for each sequence tokens as text, ``"<extra_id_0>A<extra_id_1>G"``. ``<s>`` is put before them.

        Returns:
            A list of float32 [1 + tokens, V]; row u is what may follow the first u tokens. Columns are
            ``model.alphabet.tokens``.
        """
        if isinstance(targets, str):
            raise InputError("one string was given where a list of targets is expected; write [target]")
        return self._writer().forced(cleaned(sequences, masks=True), list(targets))

    def generate(
        self,
        sequences: Iterable[str],
        *,
        most: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Let the decoder write what it will (ProtT5nv).

        Args:
            sequences: what the encoder sees; the k-th ``<mask>`` of each becomes the sentinel ``<extra_id_k>``.
            most: tokens a protein, 256 unless told; writing stops at the model's own end, or there.
            top_p: draw from the fewest tokens that together have this probability; None takes the likeliest.
            temperature: logits are divided by it before drawing.
            seed: the same seed, model and sequence give the same tokens (but for rounding, in half precision), whatever
                else is in the list. A sequence that is in it several times is written in several ways.

        Returns:
            For each sequence tokens as text, ``"<extra_id_0>A<extra_id_1>G"``, without ``<s>`` and ``</s>``.
        """
        return self._writer().generate(cleaned(sequences, masks=True), most, top_p, temperature, seed)

    @property
    def network(self) -> Network:
        """The torch network; a decoder is part of it once something was written."""
        return self._network

    @property
    def sentinels(self) -> Sentinels:
        """How residues were hidden in a ProtT5nv's training, as far as a probe of its decoder tells.

        ``proper``: as ``<extra_id_0>``, ``<extra_id_1>`` and so on; ``collapsed``: as ``<unk>``, all of them;
        ``unknown``: it cannot be told.
        """
        return self._writer().sentinels

    def _writer(self) -> Writer:
        """The decoder, loaded when first asked for."""
        network = self._network
        if not isinstance(network, ProtT5nv):
            raise InputError(
                f"{self.name} is an {self.family.name}, which has no decoder: it embeds, but does not write"
            )
        last = [self.config.layers]
        self._ready(last)
        with self._opening:
            if self._opened is None:
                self._opened = opened(
                    self.name,
                    network,
                    self._checkpoint,
                    lambda batch: self._encoder.representations(batch, last)[0],
                    self.hardware,
                    self.budget,
                )
                note = SENTINEL_NOTES.get(self._opened.sentinels)
                if note:
                    warnings.warn(f"{self.name}: {note}", AminoglotWarning, stacklevel=3)
            return self._opened

    def _esm2(self, head: str, what: str) -> ESM2:
        """The network, with a head of ESM-2's."""
        if not isinstance(self._network, ESM2):
            raise InputError(
                f"{what} are ESM-2's, and {self.name} is a {self.family.name}; it has distributions and forced_logits"
            )
        if getattr(self._network, head) is None:
            raise ModelError(f"{self.name}: {missing(head, self._notes)}")
        return self._network

    def _mind_length(self, texts: Sequence[bytes], request: Request) -> None:
        long = [i for i, text in enumerate(texts) if len(text) > request.limit]
        if not long:
            return
        if request.long == "skip":
            raise InputError("long='skip' is for jobs; leave the long sequences out of the list instead")
        if request.long == "error":
            named = [f"sequence {i}: {len(texts[i]):,} residues" for i in long]
            raise InputError(f"{plural(len(long), 'sequence')} over {request.limit:,} residues:\n{listing(named)}")
        if request.long == "truncate":
            warnings.warn(
                f"{len(long):,} of {len(texts):,} sequences have more than {request.limit:,} residues and were "
                f"truncated (long='window' embeds all residues); the first is sequence {long[0]}",
                AminoglotWarning,
                stacklevel=3,
            )

    def _in_order(self, texts: Sequence[bytes], run: Callable[[list[bytes]], Embedded]) -> tuple[Embedded, list[int]]:
        """Run with the texts sorted by length; also where each text's result then lies."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        result = run([texts[i] for i in order])
        if result.failed:
            first, reason = min(result.failed.items())
            raise ModelError(f"sequence {order[first]}: {reason}")
        back = [0] * len(texts)
        for place, index in enumerate(order):
            back[index] = place
        return result, back


def token_budget(config: Config, hardware: Hardware) -> int:
    """Tokens a batch, fixed by the network's width and the kind of device, so that a rerun is identical.

    Batches on a CPU are small, the smaller the wider the network, so that they stay in a core's cache and lanes end
    together; but not so small that Python would be heard, or the reading of the weights. GPUs want large ones.
    """
    if hardware.kind != "cpu":
        return 32768
    return 16384 if config.hidden < NARROW else max(256, 1024 * 320**2 // config.hidden**2)


__all__ = ["Embeddings", "Model", "load", "token_budget"]
