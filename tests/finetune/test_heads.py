"""Heads: what they compute, and that copies side by side know nothing of each other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from aminoglot.finetune.heads import Head, HeadName, Units, apart

LENGTHS = [5, 1, 12, 2, 7]


def features(width: int = 6, rows: int = sum(LENGTHS), seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_the_convolution_is_conv1d_of_each_protein() -> None:
    """Packed proteins never see each other; beyond their ends are zeros, in the middle layer too."""
    head = Head("convolution", 6, 3, (4, 9)).eval()
    x = features()
    found = head(x, LENGTHS)
    body = head.body
    for copy in range(2):
        for y, part in zip(found[copy].split(LENGTHS), x.split(LENGTHS), strict=True):
            h = F.relu(F.conv1d(part.t()[None], body.into[copy], body.into_bias[copy], padding=3))
            expected = F.conv1d(h, body.out[copy], body.out_bias[copy], padding=3)[0].t()
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_the_perceptron_is_two_layers() -> None:
    head = Head("perceptron", 6, 2, (3,), hidden=8).eval()
    x = features()
    body = head.body
    h = F.relu(F.linear(x, body.into.weight[0], body.into.bias[0]))
    torch.testing.assert_close(head(x)[0], F.linear(h, body.out.weight[0], body.out.bias[0]))


@pytest.mark.parametrize("name", ["linear", "perceptron", "no-context", "convolution"])
def test_copies_begin_as_each_would_alone(name: HeadName) -> None:
    """The weights of a copy depend on its seed alone, and so do its outputs."""
    together = Head(name, 6, 3, (1, 2)).eval()
    x = features()
    for place, seed in enumerate((1, 2)):
        alone = Head(name, 6, 3, (seed,)).eval()
        for key, one in alone.state_dict().items():
            if key.startswith("body."):
                assert torch.equal(one[0], together.state_dict()[key][place])
        torch.testing.assert_close(together(x, LENGTHS)[place], alone(x, LENGTHS)[0], atol=1e-6, rtol=1e-5)
    assert not torch.equal(together(x, LENGTHS)[0], together(x, LENGTHS)[1])


@pytest.mark.parametrize("name", ["linear", "perceptron", "no-context", "convolution"])
def test_dropout_is_for_training(name: HeadName) -> None:
    head, x = Head(name, 6, 3, (0,)), features()
    assert torch.equal(head.eval()(x, LENGTHS), head(x, LENGTHS))
    head.train()
    same = torch.equal(head(x, LENGTHS), head(x, LENGTHS))
    assert same == (name == "linear")


def test_numbers_come_in_the_labels_own_units() -> None:
    """A head works with labels less their mean, over their spread; constant labels are only centred."""
    units = Units()
    labels = torch.tensor([10.0, 30.0])
    units.measure(labels)
    assert units(torch.tensor([-1.0, 1.0])).tolist() == [10, 30]
    units.measure(torch.full((3,), 7.0))
    assert units(torch.zeros(1)).item() == 7
    assert units.unit.item() == 1


def test_features_are_standardised() -> None:
    """By the moments given; a feature that never varies is not blown up."""
    head = Head("linear", 3, 1)
    head.standardise.measure(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 0.0]))
    found = head.standardise(torch.tensor([[3.0, -2.0, 4.0]]))
    assert found.tolist() == [[1, -1, 1]]


def test_a_filter_reaches_over_no_gap() -> None:
    """Between two proteins there are as many zeros as a filter sees to one side."""
    rows, last = apart([2, 3], torch.device("cpu"))
    assert rows.tolist() == [3, 4, 8, 9, 10]
    assert last == 14
