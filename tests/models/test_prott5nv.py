"""ProtT5nv against transformers' Pegasus, the same network, on random weights; its decoder with and without memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PegasusForConditionalGeneration

from aminoglot.checkpoints import Checkpoint, pegasus
from aminoglot.models import attention
from aminoglot.models.prott5nv import SIZES, Decoding, ProtT5nv, ProtT5nvConfig
from aminoglot.packing import Packed
from aminoglot.tokens import PROTT5NV_ALPHABET
from tests.reference import randomised, unpadded

SOURCES = [
    [22, 16, 32, 6, 20, 33, 6, 16],
    list(range(5, 30)) * 12,
    [24],
    [5, 6, 7, 8],
    [8, 7, 6, 32],
]
TARGETS = [[1, 32, 12, 33, 14], [1], [1, 32], [1, 5, 6], [1, 9]]
SIZES_TO_RUN = ["prott5nv-tiny", pytest.param("prott5nv", marks=pytest.mark.slow)]


def packed(rows: Sequence[Sequence[int]]) -> Packed:
    return Packed(torch.tensor([token for row in rows for token in row]), tuple(len(row) for row in rows))


def padded(batch: Packed) -> tuple[Tensor, Tensor]:
    """Tokens and mask as every other tool sees them, [B, longest]."""
    rows = batch.tokens_T.split(batch.lengths)
    tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=3)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return tokens, mask


def oracle(checkpoint: Checkpoint, folder: Path) -> PegasusForConditionalGeneration:
    folder.mkdir()
    pegasus.write(checkpoint, folder)
    return PegasusForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


def whole(checkpoint: Checkpoint) -> ProtT5nv:
    """The network with its decoder."""
    network = checkpoint.network()
    assert isinstance(network, ProtT5nv)
    network.decoder = checkpoint.part("decoder")  # type: ignore[assignment]
    return network


def logits_and_layers(network: ProtT5nv, source: Packed, target: Packed) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what goes into each of the decoder's blocks and comes out of its last norm."""
    streams: list[Tensor] = []
    assert network.decoder is not None
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])) for block in network.decoder.layers
    ]
    hooks.append(network.decoder.final_norm.register_forward_hook(lambda *found: streams.append(found[2])))
    logits = network(source, target)
    for hook in hooks:
        hook.remove()
    return logits, streams


def assert_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Within 1e-5 of the largest value."""
    worst, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    assert ours.shape == theirs.shape, what
    assert worst <= 1e-5 * largest, f"{what}: differs by {worst:.2e}, the largest is {largest:.2e}"


@pytest.mark.parametrize("name", SIZES_TO_RUN)
@torch.inference_mode()
def test_equals_pegasus(name: str, tmp_path: Path) -> None:
    checkpoint = randomised(name)
    theirs, ours = oracle(checkpoint, tmp_path / "hf"), whole(checkpoint)
    source, target = packed(SOURCES), packed(TARGETS)
    (tokens, mask), (told, told_mask) = padded(source), padded(target)
    expected = theirs(
        input_ids=tokens, attention_mask=mask, decoder_input_ids=told, decoder_attention_mask=told_mask,
        output_hidden_states=True,
    )  # fmt: skip
    layers = range(checkpoint.config.layers + 1)
    found = ours.representations(source, layers)
    for layer in layers:
        assert_same(found[layer], unpadded(expected.encoder_hidden_states[layer], source), f"layer {layer}")
    logits, streams = logits_and_layers(ours, source, target)
    for layer, stream in enumerate(streams):
        assert_same(stream, unpadded(expected.decoder_hidden_states[layer], target), f"decoder's layer {layer}")
    assert_same(logits, unpadded(expected.logits, target), "logits")


@torch.inference_mode()
def test_greedy_tokens_equal_pegasus(tmp_path: Path) -> None:
    checkpoint = randomised("prott5nv-tiny", seed=3)
    theirs, network = oracle(checkpoint, tmp_path / "hf"), whole(checkpoint)
    source = packed(SOURCES)
    tokens, mask = padded(source)
    expected = theirs.generate(
        input_ids=tokens, attention_mask=mask, max_new_tokens=20, do_sample=False, num_beams=1, length_penalty=1.0
    )
    decoding = Decoding(network, network.representations(source, [2])[0], source)
    last, steps = [1] * 5, []
    for _ in range(20):
        last = decoding.extend(packed([[token] for token in last])).argmax(-1).tolist()
        steps.append(last)
    for row, found in zip(expected.tolist(), zip(*steps, strict=True), strict=True):
        stop = row.index(2, 1) + 1 if 2 in row[1:] else len(row)
        assert list(found)[: stop - 1] == row[1:stop]


@torch.inference_mode()
def test_memory_changes_no_logit() -> None:
    """One token at a time, several, or all at once."""
    checkpoint = randomised("prott5nv-tiny")
    network, source = whole(checkpoint), packed(SOURCES)
    rows = [[1, 32, 9, 33, 14, 34, 7], [1, 5, 5, 5, 5, 5, 5], [1, 9, 8, 7, 6, 5, 4], [1] * 7, [3, 1, 4, 1, 5, 9, 2]]
    source_TD = network.representations(source, [2])[0]
    at_once = Decoding(network, source_TD, source).extend(packed(rows)).unflatten(0, (5, 7))
    for cut in ([1] * 7, [2, 2, 3], [4, 3]):
        decoding, at = Decoding(network, source_TD, source), 0
        for step in cut:
            logits = decoding.extend(packed([row[at : at + step] for row in rows])).unflatten(0, (5, step))
            torch.testing.assert_close(logits, at_once[:, at : at + step], rtol=1e-5, atol=1e-5)
            at += step


@torch.inference_mode()
def test_alone_or_packed_is_the_same() -> None:
    checkpoint = randomised("prott5nv-tiny")
    network = whole(checkpoint)
    together = network(packed(SOURCES), packed(TARGETS)).split([len(row) for row in TARGETS])
    for source, target, expected in zip(SOURCES, TARGETS, together, strict=True):
        torch.testing.assert_close(network(packed([source]), packed([target])), expected, rtol=1e-5, atol=1e-5)


def test_parameters_are_the_specs() -> None:
    config = SIZES["prott5nv"]
    with torch.device("meta"):
        network = ProtT5nv(config)
    assert config.parameters == sum(p.numel() for p in network.parameters()) == 198_970_496
    network.decoder = None
    assert config.encoder_parameters == sum(p.numel() for p in network.parameters()) == 85_547_520
    for positions, parameters in ((256, 198_773_888), (1024, 199_363_712)):
        assert ProtT5nvConfig(12, 768, 12, positions).parameters == parameters


def test_tokens_are_the_specs() -> None:
    tokens = PROTT5NV_ALPHABET.tokens
    assert len(tokens) == 128
    assert tokens[:5] == ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
    assert [tokens[n] for n in (5, 24, 25, 29, 30, 31, 32, 127)] == [
        *("L", "W", "X", "O", "<cls>", "<sep>", "<extra_id_0>", "<extra_id_95>")
    ]
    assert PROTT5NV_ALPHABET.encode([PROTT5NV_ALPHABET.framed(b"MKTAJUZOB")]).tolist() == [
        *(22, 16, 12, 6, 25, 28, 27, 29, 26)
    ]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_to_other_sequences_equals_the_textbook(causal: bool) -> None:
    torch.manual_seed(0)
    batch, keys = packed([[1] * n for n in (3, 3, 1, 5)]), packed([[1] * n for n in (7, 7, 4, 5)])
    q, k, v = torch.randn(12, 4, 16), torch.randn(23, 4, 16), torch.randn(23, 4, 16)
    found = attention.by_runs(q, k, v, batch, keys, causal)
    torch.testing.assert_close(found, attention.reference(q, k, v, batch, keys, causal), rtol=1e-5, atol=1e-5)


def test_a_shape_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        ProtT5nvConfig(2, 30, 4)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [((1, 3), (1, 1)), ((2, 2), (1, 2))])
def test_targets_of_unequal_lengths_do_not_go_on(lengths: tuple[tuple[int, int], ...]) -> None:
    network, source = whole(randomised("prott5nv-tiny")), packed([[5, 6], [7]])
    decoding = Decoding(network, network.representations(source, [2])[0], source)
    decoding.extend(packed([[1] * length for length in lengths[0]]))
    with pytest.raises(AssertionError, match="equal length"):
        decoding.extend(packed([[1] * length for length in lengths[1]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("causal", [False, True])
def test_variable_length_attention_to_other_sequences(causal: bool) -> None:
    torch.manual_seed(0)
    batch, keys = packed([[1] * n for n in (3, 3, 1, 5)]), packed([[1] * n for n in (7, 7, 4, 5)])
    batch, keys = (Packed(one.tokens_T.cuda(), one.lengths) for one in (batch, keys))
    q, k, v = (torch.randn(n, 4, 64, device="cuda", dtype=torch.bfloat16) for n in (12, 23, 23))
    found = attention.variable_length(q, k, v, batch, keys, causal)
    torch.testing.assert_close(found, attention.reference(q, k, v, batch, keys, causal), rtol=2e-2, atol=2e-2)
