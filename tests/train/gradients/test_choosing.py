"""A way to per-example gradients is taken only where it is right; what is wrong is named with its layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from train import nets

from audit.parameters import UserError
from audit.train.clipping import Clipping
from audit.train.gradients import ClippedSum, GradientMode
from audit.train.gradients.choosing import choose
from audit.train.gradients.ghost import Ghost
from audit.train.gradients.hooks import Hooks
from audit.train.gradients.loop import Loop
from audit.train.gradients.proving import Proof


def chosen(net: nn.Module, like: str, n: int = 8, mode: str = "auto", limit: int | None = None) -> GradientMode:
    return choose(net, nets.loss, Clipping(norm=0.5), *nets.rows(like, n), mode=mode, memory_limit=limit)


class Positions(nn.Module):
    """Of everything here hooks are right but for the positions, and there without a word where the batch is as long as a row."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.position = nn.Embedding(nets.VOCABULARY, 8), nn.Embedding(nets.LENGTH, 8)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, nets.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.tokens(x) + self.position(torch.arange(x.shape[1])))).mean(dim=1))


@pytest.mark.parametrize("mode", [Hooks, Ghost])
def test_hooks_are_silently_wrong_where_the_batch_is_as_long_as_a_row(mode: type[GradientMode]) -> None:
    net, (x, y) = Positions(), nets.rows("transformer", nets.LENGTH)
    clipping = Clipping(norm=0.05)
    way = mode(net, nets.loss, clipping)
    got = way.clipped_sum(x, y)
    way.close()
    truth = Loop(net, nets.loss, clipping).clipped_sum(x, y)
    assert not all(torch.allclose(a, b, rtol=1e-2) for a, b in zip(got.gradients, truth.gradients, strict=True))
    proof = Proof(net, nets.loss, clipping, x, y)
    assert "'position' (Embedding) gets an input of leading size 5" in str(proof.fault(mode))
    assert "wrong" in str(proof._wrong(mode, nets.LENGTH))  # no error: found by its figures alone


@pytest.mark.parametrize("n", [nets.LENGTH, 8])
def test_auto_takes_another_way_there(n: int) -> None:
    way = chosen(Positions(), "transformer", n)
    assert way.name == "functorch"
    assert sorted(remark.split(":")[0] for remark in way.remarks) == ["functorch", "ghost", "hooks"]
    assert all("'position'" in remark for remark in way.remarks[1:])


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_fixed_way_that_is_wrong_is_refused(mode: str) -> None:
    with pytest.raises(UserError, match=rf"^gradients: {mode}: .*layer 'position' \(Embedding\).*take functorch$"):
        chosen(Positions(), "transformer", mode=mode)


def test_a_mixed_layout_is_named() -> None:
    with pytest.raises(
        UserError, match=r"layer 'mixed' \(Linear\) gets an input of leading size 5 .* put the batch first"
    ):
        chosen(nets.SequenceFirst(), "sequence", mode="hooks")
    assert chosen(nets.SequenceFirst(), "sequence").name == "functorch"


@pytest.mark.parametrize(("name", "kind"), [*((name, "flat") for name in nets.MAKERS), ("cnn", "per_layer")])
def test_auto_is_right(name: str, kind: str) -> None:
    net, (x, y) = nets.net(name), nets.rows(name, 6)
    clipping = Clipping(kind, norm=0.3)  # type: ignore[arg-type]
    before = torch.random.get_rng_state()
    way = choose(net, nets.loss, clipping, x, y)
    assert torch.equal(before, torch.random.get_rng_state())
    assert way.module is net
    got = way.clipped_sum(x, y)
    way.close()
    truth = Loop(net, nets.loss, clipping).clipped_sum(x, y)
    assert all(torch.allclose(a, b, atol=2e-6) for a, b in zip(got.gradients, truth.gradients, strict=True))


def test_batch_norm_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^layer '1' \(BatchNorm2d\) mixes .* change the factory to nn\.GroupNorm\(4, 4\)"
    ):
        chosen(nets.cnn(nn.BatchNorm2d), "cnn")


@pytest.mark.parametrize(
    ("value", "what"), [(float("nan"), "loss .* is nan"), (1e38, "(loss|gradient) .* is (inf|nan)")]
)
def test_what_is_not_finite_is_said_so(value: float, what: str) -> None:
    x, y = nets.rows("mlp", 4)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, nets.CLASSES))
    with pytest.raises(UserError, match=rf"^the {what} before the first step: look for missing"):
        choose(net, nets.loss, Clipping(), torch.full_like(x, value), y)


def test_a_sequence_layer_that_takes_the_batch_for_the_sequence_is_named() -> None:
    net = nets.Recurrent(nn.LSTM)
    net.layer.batch_first = False
    with pytest.raises(UserError, match=r"^layer 'layer' \(LSTM\) mixes the examples .* batch_first=True"):
        chosen(net, "lstm")


def test_a_layer_that_mixes_is_found_without_a_list() -> None:
    with pytest.raises(UserError, match=r"^layer '1' \(Centred\) mixes the examples"):
        chosen(nn.Sequential(nn.Linear(6, 5), nets.Centred(), nn.Linear(5, 3)), "mlp")


def test_a_buffer_that_learns_is_refused() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten(), nn.Linear(144, 3)
    )
    with pytest.raises(
        UserError, match=r"^layer '1' \(InstanceNorm2d\) writes .* buffer 'running_mean', which no noise covers"
    ):
        chosen(net, "cnn")


def test_layers_in_place() -> None:
    net = nets.cnn(inplace=True)
    net[1] = nn.Identity()
    with pytest.raises(UserError, match=r"layer '2' \(ReLU\) works in place; set inplace=False"):
        chosen(net, "cnn", mode="hooks")
    assert chosen(net, "cnn").name == "functorch"


def test_losses_that_were_averaged_are_refused() -> None:
    with pytest.raises(UserError, match="one per row"):
        choose(nets.mlp(), nn.CrossEntropyLoss(), Clipping(), *nets.rows("mlp", 4))


def test_nothing_to_train_and_nothing_to_prove_with() -> None:
    with pytest.raises(UserError, match="nothing to learn"):
        chosen(nets.mlp().requires_grad_(False), "mlp")
    with pytest.raises(UserError, match="there are none"):
        chosen(nets.mlp(), "mlp", n=0)
    with pytest.raises(UserError, match="there are auto, hooks, ghost, functorch, loop"):
        chosen(nets.mlp(), "mlp", mode="magic")


def test_dropout_and_noise_do_not_stand_in_the_way() -> None:
    net = nn.Sequential(nets.mlp(dropout=0.5), nets.Chancy())
    assert len(chosen(net, "mlp").remarks) == 3
    assert (
        chosen(nets.Transformer(dropout=0.5), "transformer").name == "functorch"
    )  # hooks run the whole module anew: other dropout


def test_chance_that_cannot_be_held_still_leaves_the_loop() -> None:
    class Drawn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.empty_like(x).normal_()

    way = chosen(nn.Sequential(nets.mlp(), Drawn()), "mlp")
    assert way.name == "loop"
    assert "random numbers of its own" in way.remarks[1]


class FirstForgotten(Loop):
    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor) -> ClippedSum:
        got = super().clipped_sum(x, y)
        return ClippedSum((0 * got.gradients[0], *got.gradients[1:]), got.norms, got.losses)


class WrongAtLength(Loop):
    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor) -> ClippedSum:
        got = super().clipped_sum(x, y)
        factor = 2 if len(x) == nets.LENGTH else 1
        return ClippedSum(tuple(factor * g for g in got.gradients), got.norms, got.losses)


def test_layers_that_start_at_zero_hide_nothing() -> None:
    net = nets.net("mlp")
    nn.init.zeros_(net[3].weight)  # no gradient goes beyond it at the first step
    fault = Proof(net, nets.loss, Clipping(), *nets.rows("mlp", 3)).fault(FirstForgotten)
    assert "wrong gradient without a word" in str(fault)
    assert "layer '0' (Linear)" in str(fault)


def test_a_batch_as_long_as_a_row_is_tried() -> None:
    fault = Proof(nets.net("tied"), nets.loss, Clipping(), *nets.rows("tied", 3)).fault(WrongAtLength)
    assert f"(batch of {nets.LENGTH})" in str(fault)


def test_memory_decides() -> None:
    net, (x, y) = (
        nn.Sequential(nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 3)),
        (torch.randn(64, 200), torch.zeros(64).long()),
    )
    gradients = 64 * 200 * 200 * 4  # of one example each
    way = choose(net, nets.loss, Clipping(), x, y, memory_limit=gradients // 2)
    rows = {remark.split(":")[0]: int(remark.split(" s a batch, ")[1].split()[0]) for remark in way.remarks}
    assert rows["ghost"] == 64
    assert rows["hooks"] < 32, "what does not fit is halved"
    assert way.rows == rows[way.name]
    assert choose(net, nets.loss, Clipping(), x, y, mode="hooks").rows is None
    assert choose(net, nets.loss, Clipping(), x, y, mode="hooks", memory_limit=gradients // 2).rows == rows["hooks"]
    with pytest.raises(UserError, match=r"hooks: a single row holds .* MB at once, more than the 0\.001 MB allowed"):
        choose(net, nets.loss, Clipping(), x, y, mode="hooks", memory_limit=1000)
    with pytest.raises(UserError, match=r"no way .* serves this module; .*loop: a single row holds"):
        choose(net, nets.loss, Clipping(), x, y, memory_limit=1000)
