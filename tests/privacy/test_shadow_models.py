"""Shadow models: who sees what, trained as stacks to the same weights as alone, kept through a kill and for the next time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from numpy.typing import NDArray
from torch import Tensor, nn

from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError
from audit.privacy import _stacked_training
from audit.privacy._stacked import Alone, Stack
from audit.privacy.membership import confidence_scores
from audit.privacy.shadow_models import ShadowModels, halves, train_shadows
from audit.recipe import Recipe
from audit.rng import generator, key

Maker = Callable[[], nn.Module]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def normed_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def batch_normed_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(8, 8)
        self.place = nn.Parameter(0.1 * torch.randn(8, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.into(x[:, 0]) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(8, 8, batch_first=True)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.steps(x[:, 0])[0][:, -1])


def audited(maker: Maker, *, double: bool = False, recipe: Recipe | None = None, **kwargs: Any) -> AuditedModel:
    """A model that can be made anew, as a loader gives it."""

    def fresh(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = maker()
        return module.double() if double else module

    model = toys.audited(fresh(0), (1, 8, 8), 10, **kwargs)
    model.fresh, model.recipe = fresh, recipe
    if double:
        model._forward = lambda x: model.module(x.double())  # type: ignore[misc]
    return model


@cache
def rows(n: int = 84) -> tuple[NDArray[Any], NDArray[Any]]:
    members = toys.digits().train
    assert members is not None
    return members.x[:n] / 16, members.labels[:n]


def trained_alone(maker: Maker, recipe: Recipe, inside: NDArray[np.bool_], seed: int) -> list[nn.Module]:
    """Each shadow by a plain loop, on the same batches."""
    x, labels = (torch.from_numpy(part) for part in rows(inside.shape[1]))
    modules = []
    model = audited(maker, double=True)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop,
            "adafactor": torch.optim.Adafactor}[recipe.optimiser[0]]  # fmt: skip
    for shadow, own in enumerate(inside):
        assert model.fresh is not None
        module = model.fresh(key(seed, "shadow", shadow) % 2**31)
        optimiser = kind(module.parameters(), **recipe.optimiser[1])
        for epoch in range(recipe.epochs):
            order = torch.from_numpy(generator(seed, "order", shadow, epoch).permutation(np.flatnonzero(own)))
            for part in order.split(recipe.batch):
                optimiser.zero_grad()
                nn.functional.cross_entropy(module(x[part].double()), labels[part]).backward()
                optimiser.step()
        modules.append(module.eval())
    return modules


CASES: list[tuple[Maker, str, dict[str, Any]]] = [
    (mlp, "adam", {"lr": 1e-2}),
    (mlp, "adafactor", {}),
    (normed_cnn, "sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    (batch_normed_cnn, "adamw", {"lr": 1e-2}),
    (Attention, "rmsprop", {"lr": 1e-3, "momentum": 0.5}),
    (Recurrent, "sgd", {"lr": 0.1}),
]


@pytest.mark.parametrize(("maker", "name", "parameters"), CASES, ids=[f"{m.__name__}-{o}" for m, o, _ in CASES])
def test_a_stack_trains_to_the_weights_of_each_alone(
    maker: Maker, name: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    recipe = Recipe(epochs=4, batch=8, optimiser=(name, parameters))  # of 42 rows: 5 batches, and one of 2 rows
    inside = halves(84, 4, np.random.default_rng(0))
    shadows = train_shadows(
        audited(maker, double=True), *rows(), inside, recipe=recipe, seed=3, cache=tmp_path
    )  # fmt: skip
    alone = trained_alone(maker, recipe, inside, seed=3)
    x = torch.from_numpy(rows()[0]).double()
    with torch.no_grad():
        expected = torch.stack([module(x).log_softmax(dim=1) for module in alone]).numpy()
    assert np.allclose(shadows.log_probabilities(rows()[0]), expected, atol=1e-8)


def test_weights_in_single_precision_are_those_of_each_alone(tmp_path: Path) -> None:
    recipe = Recipe(epochs=4, batch=8, optimiser=("sgd", {"lr": 0.05, "momentum": 0.9}))
    inside = halves(84, 4, np.random.default_rng(0))
    train_shadows(audited(normed_cnn), *rows(), inside, recipe=recipe, seed=3, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    found = _stacked_training.StackCache(folder).read("shadows-0-3-4")
    assert found is not None
    for shadow, module in enumerate(trained_alone(normed_cnn, recipe, inside, seed=3)):
        for name, parameter in module.named_parameters():
            own = found.tensors[name][shadow].double()
            assert (own - parameter).abs().max() <= 1e-5 * parameter.abs().max()


def test_optimisers_across_a_tensor_never_see_a_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[type[Stack]] = []
    way = _stacked_training._Work.training_way.fget  # type: ignore[attr-defined]

    def noted(work: Any) -> type[Stack]:
        seen.append(way(work))
        return seen[-1]

    monkeypatch.setattr(_stacked_training._Work, "training_way", property(noted))
    inside = halves(84, 2, np.random.default_rng(0))
    for name in ("adam", "adafactor"):
        recipe = Recipe(epochs=1, batch=42, optimiser=(name, {}))
        train_shadows(audited(mlp), *rows(), inside, recipe=recipe, seed=0, cache=tmp_path)
    assert seen[0] is not Alone
    assert seen[1] is Alone


# --- who sees what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 9, 50])
def test_every_row_is_inside_half_of_the_models(n: int) -> None:
    inside = halves(n, 6, np.random.default_rng(0))
    assert (inside.sum(axis=0) == 3).all()
    assert set(inside.sum(axis=1)) <= {n // 2, n - n // 2}
    assert not np.array_equal(inside[0], inside[2]) or n == 2


@pytest.mark.parametrize(("n", "count", "word"), [(10, 3, "pairs"), (10, 0, "pairs"), (1, 2, "two rows")])
def test_halves_need_pairs_and_rows(n: int, count: int, word: str) -> None:
    with pytest.raises(UserError, match=word):
        halves(n, count, np.random.default_rng(0))


def shadows_of(
    tmp_path: Path, maker: Maker = mlp, n: int = 84, count: int = 4, *, seed: int = 0, **kwargs: Any
) -> ShadowModels:
    inside = halves(n, count, np.random.default_rng(0))
    kwargs.setdefault("recipe", Recipe(epochs=2, batch=16))
    model = kwargs.pop("model", None) or audited(maker)
    return train_shadows(model, *rows(n), inside, seed=seed, cache=tmp_path, **kwargs)


def test_odd_numbers_of_rows_make_two_stacks(tmp_path: Path) -> None:
    shadows = shadows_of(tmp_path, n=83, recipe=Recipe(epochs=40, batch=16, optimiser=("adam", {"lr": 1e-2})))
    assert (shadows.accuracy_inside > shadows.accuracy_outside).all()  # each answer stands in its own row
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 2


def test_a_batch_of_one_row_is_left_out_of_batch_normalisation(tmp_path: Path) -> None:
    shadows = shadows_of(tmp_path, batch_normed_cnn, n=34)  # 17 rows each, in batches of 16
    assert np.isfinite(shadows.pool.confidence).all()


def test_answers_are_those_of_log_probabilities(tmp_path: Path) -> None:
    shadows = shadows_of(tmp_path)
    x, labels = rows()
    whole = shadows.log_probabilities(x)
    assert whole.shape == (4, 84, 10)
    assert np.allclose(np.exp(whole).sum(axis=2), 1)
    expected = np.stack([confidence_scores(labels, logits=one) for one in whole])
    assert np.allclose(shadows.answers(x, labels).confidence, expected)
    assert np.array_equal(shadows.pool.correct, whole.argmax(axis=2) == labels)
    share = shadows.pool.correct[0][shadows.inside[0]].mean()
    assert shadows.accuracy_inside[0] == pytest.approx(share)


@pytest.mark.parametrize("output", ["margin", "probability"])
def test_margins_and_probabilities_are_trained_on_as_such(output: Any, tmp_path: Path) -> None:
    def maker() -> nn.Module:
        if output == "margin":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softmax(dim=1))

    model = audited(maker)
    model.output, model.classes = output, ("0", "1")
    x, labels = rows()
    inside = halves(84, 2, np.random.default_rng(0))
    recipe = Recipe(epochs=60, batch=16, optimiser=("adam", {"lr": 1e-2}))
    shadows = train_shadows(
        model, x, (labels > 4).astype(np.int64), inside, recipe=recipe, seed=0, cache=tmp_path
    )  # fmt: skip
    assert (shadows.accuracy_inside > 0.9).all()


# --- how they are trained -------------------------------------------------------------------------------------------


def test_a_recipe_given_goes_before_the_models_own(tmp_path: Path) -> None:
    own = audited(mlp, recipe=Recipe(epochs=3, batch=16))
    assert "own recipe: 3 epochs" in shadows_of(tmp_path, model=own, recipe=None).note
    assert "given: 1 epoch in batches of 8" in shadows_of(tmp_path, model=own, recipe=Recipe(epochs=1, batch=8)).note


def test_without_a_recipe_shadows_train_until_they_are_as_accurate(tmp_path: Path) -> None:
    little = shadows_of(tmp_path, recipe=None, reach=0.2)
    more = shadows_of(tmp_path, recipe=None, reach=0.4)
    assert "assumed" in more.note
    assert 0.2 <= little.accuracy_inside.mean() < more.accuracy_inside.mean()
    assert more.accuracy_inside.mean() >= 0.4


def test_shadows_differ_by_seed_and_from_each_other(tmp_path: Path) -> None:
    first, other = (shadows_of(tmp_path, seed=seed).pool.confidence for seed in (0, 1))
    assert not np.allclose(first, other)
    assert not np.allclose(first[0], first[1])


def test_a_stack_is_split_where_it_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shadows_of(tmp_path / "whole").pool.confidence
    monkeypatch.setattr("audit.privacy._stacked.STACK_BYTES", 10_000)
    split = shadows_of(tmp_path / "split").pool.confidence
    (folder,) = (tmp_path / "split").iterdir()
    assert len(list(folder.iterdir())) == 2
    assert np.allclose(whole, split, atol=1e-4)


def test_a_module_is_fed_through_the_model_where_that_does_more(tmp_path: Path) -> None:
    model = audited(mlp)
    assert model.module is not None
    module = model.module
    model._forward = lambda x: module(x) * 2  # something that the module alone does not do
    shadows = shadows_of(tmp_path, model=model)
    assert shadows.fresh == 4
    assert np.isfinite(shadows.pool.confidence).all()


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_made_anew_is_not_spoken_of(tmp_path: Path) -> None:
    model = audited(mlp)
    model.fresh = None
    with pytest.raises(NotApplicable, match="cannot be trained again"):
        shadows_of(tmp_path, model=model)


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        (Recipe(epochs=1, optimiser=("adm", {})), "did you mean 'adam'"),
        (Recipe(epochs=1, optimiser=("lbfgs", {})), "steps of a dense gradient"),
        (Recipe(epochs=1, optimiser=("sgd", {"speed": 1})), "optimiser 'sgd'"),
        (Recipe(epochs=3, batch=16, optimiser=("sgd", {"lr": 1e30})), "not finite"),
        (Recipe(epochs=1, loss="mse"), "numbers"),
    ],
)
def test_recipes_that_do_not_train_are_one_line(recipe: Recipe, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word) as said:
        shadows_of(tmp_path, recipe=recipe)
    assert "\n" not in str(said.value)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    x, labels = rows()
    with pytest.raises(UserError, match="who sees what"):
        train_shadows(audited(mlp), x, labels, halves(80, 2, np.random.default_rng(0)), seed=0, cache=tmp_path)
    nobody = np.zeros((2, 84), dtype=bool)
    with pytest.raises(UserError, match="no row"):
        train_shadows(audited(mlp), x, labels, nobody, seed=0, cache=tmp_path)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shadows_of(tmp_path)
    monkeypatch.setattr(_stacked_training._Training, "advance", lambda self: pytest.fail("trains"))
    second = shadows_of(tmp_path)
    assert (first.fresh, second.fresh) == (4, 0)
    assert np.array_equal(first.pool.confidence, second.pool.confidence)
    assert first.note == second.note


def test_another_training_is_another_entry(tmp_path: Path) -> None:
    shadows_of(tmp_path)
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"recipe": Recipe(epochs=2, batch=17)},
        {"maker": normed_cnn},
        {"n": 82},
        {"count": 2},
    ]
    assert [shadows_of(tmp_path, **change).fresh > 0 for change in changes] == [True] * 5
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_trained_again(tmp_path: Path, damage: str) -> None:
    first = shadows_of(tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    second = shadows_of(tmp_path)
    assert second.fresh == 4
    assert np.array_equal(first.pool.confidence, second.pool.confidence)


def test_the_cache_holds_no_rows(tmp_path: Path) -> None:
    shadows_of(tmp_path)
    x, labels = rows()
    (path,) = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    assert not any(row.tobytes() in content for row in x)
    assert labels.tobytes() not in content


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no place for shadow models"):
        shadows_of(tmp_path / "file")


def test_a_deadline_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stacked_training, "_TOLD_EVERY", 1)
    expected = shadows_of(tmp_path / "whole").pool.confidence
    steps: list[int] = []

    def late(done: int, total: int, what: str) -> None:
        steps.append(done)
        if len(steps) == 4:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        shadows_of(tmp_path / "late", progress=late)
    assert np.array_equal(shadows_of(tmp_path / "late", progress=late).pool.confidence, expected)
    assert steps == [4, 8, 12, 16, 20, 24]  # of 4 shadows that take 6 steps each: none twice


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, "tests/privacy")
    sys.path.insert(0, "tests")
    import test_shadow_models as tests
    from audit.privacy import _stacked_training as training, _stacked_cache as kept

    torch.set_num_threads({threads})
    training.CHECKPOINT_SECONDS, training._TOLD_EVERY = 0.0, 1
    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)
    if "{moment}" == "step":
        tests.shadows_of(Path(r"{folder}"), tests.batch_normed_cnn, progress=lambda done, total, what: done >= 20 and die())
    write = kept.StackCache.write
    def killed_within(self, name, entry):
        if entry.about.get("step") == 5:
            Path.replace = die
        write(self, name, entry)
    kept.StackCache.write = killed_within
    tests.shadows_of(Path(r"{folder}"), tests.batch_normed_cnn)
"""


@pytest.mark.parametrize("moment", ["step", "write"])
def test_a_kill_loses_one_checkpoint_interval_at_most(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = textwrap.dedent(KILLED).format(folder=tmp_path, moment=moment, threads=torch.get_num_threads())
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    steps: list[int] = []
    monkeypatch.setattr(_stacked_training, "_TOLD_EVERY", 1)
    resumed = shadows_of(tmp_path, batch_normed_cnn, progress=lambda done, total, what: steps.append(done))
    assert steps == [20, 24]  # the four before were not done again
    undisturbed = shadows_of(tmp_path / "undisturbed", batch_normed_cnn)
    assert np.array_equal(resumed.pool.confidence, undisturbed.pool.confidence)
