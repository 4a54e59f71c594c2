"""A converted model answers as before, and every gradient mode can take it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from train import nets

from audit.registry.loaders._group_norm import with_group_norm
from audit.train.clipping import Clipping
from audit.train.gradients.attention import LinearAttention
from audit.train.gradients.converting import converted, reverted
from audit.train.gradients.ghost import Ghost
from audit.train.gradients.hooks import Hooks
from audit.train.gradients.proving import Proof

CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lstm": (lambda: nets.Recurrent(nn.LSTM), "lstm"),
    "lstm, two ways": (lambda: nets.Recurrent(nn.LSTM, bidirectional=True, num_layers=2), "lstm"),
    "gru": (lambda: nets.Recurrent(nn.GRU, bias=False), "gru"),
    "rnn": (lambda: nets.Recurrent(nn.RNN, nonlinearity="relu"), "gru"),
    "transformer": (nets.Transformer, "transformer"),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("training", [True, False])
def test_answers_as_before(case: str, training: bool) -> None:
    torch.manual_seed(1)
    net, (x, _) = CASES[case][0]().train(training), nets.rows(CASES[case][1], 4)
    other, said = converted(net)
    assert len(said) == 1
    with torch.no_grad():
        assert torch.allclose(net(x), other(x), atol=1e-6)
    assert other is not net
    assert all(layer.training is training for layer in other.modules())
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("case", list(CASES))
def test_what_was_trained_goes_back_into_plain_layers(case: str) -> None:
    torch.manual_seed(1)
    net, (x, _) = CASES[case][0](), nets.rows(CASES[case][1], 4)
    other, _ = converted(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        back = reverted(net, other)
        assert torch.allclose(back(x), other(x), atol=1e-6)
        assert not torch.allclose(back(x), net(x), atol=1e-3)
    assert [type(layer) for layer in back.modules()] == [type(layer) for layer in net.modules()]


def test_attention_goes_back_by_itself() -> None:
    for source in (nn.MultiheadAttention(8, 2, bias=False), nn.MultiheadAttention(8, 2, kdim=5, vdim=7)):
        back = reverted(source, converted(source)[0])
        assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("case", ["lstm", "gru", "transformer"])
def test_hooks_can_take_it(case: str) -> None:
    other, _ = converted(CASES[case][0]())
    proof = Proof(other, nets.loss, Clipping(), *nets.rows(CASES[case][1], 3))
    assert proof.fault(Hooks) is None
    assert proof.fault(Ghost) is None


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 7}, {"bias": False}])
def test_attention_with_masks(batch_first: bool, sizes: dict[str, int]) -> None:
    torch.manual_seed(2)
    source = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes)  # type: ignore[arg-type]
    other = LinearAttention(source)
    shape = (3, 5) if batch_first else (5, 3)
    q, k, v = (torch.randn(*shape, sizes.get(key, 8)) for key in ("", "kdim", "vdim"))
    causal, padding = torch.ones(5, 5).triu(1).bool(), torch.arange(5)[None] >= torch.tensor([5, 4, 2])[:, None]
    each = torch.randn(6, 5, 5)  # a mask of floats for every row and head
    for options in (
        {},
        {"attn_mask": causal},
        {"key_padding_mask": padding},
        {"attn_mask": causal, "key_padding_mask": padding, "need_weights": False},
        {"attn_mask": each, "average_attn_weights": False},
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
    ):
        wanted, weights = source(q, k, v, **options)
        got, mine = other(q, k, v, **options)
        assert torch.allclose(wanted, got, atol=1e-6), options
        assert (weights is None) == (mine is None)
        if weights is not None:
            assert torch.allclose(weights, mine, atol=1e-6), options


def test_attention_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
    x = torch.randn(2, 5, 8)
    for options in ({}, {"need_weights": False}):
        assert not torch.allclose(layer.train()(x, x, x, **options)[0], layer(x, x, x, **options)[0])
        assert torch.equal(layer.eval()(x, x, x, **options)[0], layer(x, x, x, **options)[0])


def test_frozen_stays_frozen() -> None:
    net = nets.Recurrent(nn.LSTM)
    net.layer.weight_hh_l0.requires_grad_(False)
    other, _ = converted(net)
    assert [name for name, p in other.named_parameters() if not p.requires_grad] == ["layer.weight_hh_l0"]
    attention = nn.MultiheadAttention(8, 2)
    attention.in_proj_weight.requires_grad_(False)
    frozen = [name for name, p in converted(attention)[0].named_parameters() if not p.requires_grad]
    assert frozen == ["query.weight", "key.weight", "value.weight"]


def test_batch_norm_only_when_asked() -> None:
    net = nets.cnn(nn.BatchNorm2d, inplace=True)
    other, said = converted(net)
    assert isinstance(other[1], nn.BatchNorm2d)
    assert said == ["2: ReLU works on a copy"]
    other = with_group_norm(copy.deepcopy(net))
    assert isinstance(other[1], nn.GroupNorm)
    assert other[1].num_groups == 4
    proof = Proof(converted(other)[0], nets.loss, Clipping(), *nets.rows("cnn", 3))
    assert proof.fault(Hooks) is None
    assert isinstance(net[1], nn.BatchNorm2d)
    assert net[2].inplace
    assert isinstance(with_group_norm(nn.BatchNorm1d(6)), nn.GroupNorm)
    shared = nn.BatchNorm1d(6)
    two = with_group_norm(nn.Sequential(shared, shared))
    assert two[0] is two[1]


def test_one_layer_in_two_places_stays_one() -> None:
    shared = nn.LSTM(4, 4, batch_first=True)
    net = nn.ModuleDict({"a": shared, "b": shared})
    other, said = converted(net)
    assert other["a"] is other["b"]
    assert len(said) == 1


def test_what_has_no_equal_is_left() -> None:
    for layer in (nn.LSTM(4, 6, proj_size=2), nn.MultiheadAttention(8, 2, add_bias_kv=True)):
        other, said = converted(nn.Sequential(layer))
        assert type(other[0]) is type(layer)
        assert said == []


def test_dropout_between_recurrent_layers_is_spoken_of() -> None:
    _, said = converted(nets.Recurrent(nn.LSTM, num_layers=2, dropout=0.3))
    assert "in training its dropout acts on the hidden state at every step" in said[0]
