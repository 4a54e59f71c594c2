"""One small model of each family that the field's introductions start with, and the scenario that asks whether it can be explained.

All are trained on real data that packages carry, in a minute, to the same weights every time, and stored in the format that their
family is kept in: weights beside a factory, skops, the boosters' own files, a folder of Hugging Face's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.demo.tour import Exhibit, trained_on

if TYPE_CHECKING:
    from torch import nn

    from audit.data import Batch
    from audit.plan import Plan
    from audit.registry.store import Registry

_NETS = "audit.demo._families_nets"


def _add_net(registry: Registry, plan: Plan, name: str, factory: str, net: nn.Module, **kwargs: Any) -> None:
    """Register a net's weights beside the factory that makes it."""
    from safetensors.torch import save_file

    members, spec, classes = trained_on(plan)
    registry.trust.allow_package("audit.demo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        save_file(net.state_dict(), path)
        registry.add(
            name, path, loader="state_dict", parameters={"factory": f"{_NETS}:{factory}", "kwargs": kwargs},
            task="classification" if classes else "regression", classes=classes or None, spec=spec,
            output="logit" if classes else "value", members=members.ids, tags=["demo", "families"],
        )  # fmt: skip


def _prepare_net(name: str, factory: str, train: str, registry: Registry, plan: Plan) -> None:
    """Train a net on the members and register it."""
    from audit.demo import _families_training

    members, _, _ = trained_on(plan)
    _add_net(registry, plan, name, factory, getattr(_families_training, train)(members))


def _prepare_recommender(registry: Registry, plan: Plan) -> None:
    """Factorise the members' scores and register user, item and side features."""
    from audit.demo import _families_training

    members, spec, _ = trained_on(plan)
    users, items = (int(field.bounds[1]) + 1 for field in spec.fields[:2] if field.bounds is not None)
    groups = len(spec.fields[5].categories)
    net = _families_training.recommender(members, users, items, groups)
    _add_net(registry, plan, "recommender-mf", "Recommender", net, users=users, items=items, groups=groups)


def _add_file(
    registry: Registry,
    plan: Plan,
    name: str,
    file: str,
    save: Callable[[Any, Path], None],
    model: Any,
    trusted_types: tuple[str, ...] = (),
) -> None:
    """Register a model that says itself what it is."""
    members, spec, classes = trained_on(plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        save(model, path)
        registry.add(
            name, path, parameters={"trusted_types": trusted_types} if trusted_types else {},
            task="classification" if classes else "regression", classes=classes or None, spec=spec, members=members.ids,
            tags=["demo", "families"],
        )  # fmt: skip


def _as_skops(model: Any, path: Path) -> None:
    import skops.io

    skops.io.dump(model, path)


def _prepare_linear(registry: Registry, plan: Plan) -> None:
    """Fit a linear regression to the members."""
    from audit.demo._families_training import linear

    _add_file(registry, plan, "linear-ridge", "linear.skops", _as_skops, linear(trained_on(plan)[0]))


def _prepare_trees(registry: Registry, plan: Plan) -> None:
    """Fit a forest and two boosters to the members."""
    from audit.demo import _families_training as training

    members: Batch = trained_on(plan)[0]
    _add_file(
        registry, plan, "trees-forest", "forest.skops", _as_skops, training.forest(members),
        trusted_types=("sklearn.tree._tree.Tree",),
    )  # fmt: skip
    _add_file(
        registry, plan, "trees-xgboost", "xgboost.json", lambda model, path: model.save_model(path),
        training.xgboost(members),
    )  # fmt: skip
    _add_file(
        registry, plan, "trees-lightgbm", "lightgbm.txt", lambda model, path: model.booster_.save_model(path),
        training.lightgbm(members),
    )  # fmt: skip


def _prepare_text(registry: Registry, plan: Plan) -> None:
    """Train a small BERT and its tokenizer on the members and register the folder they are kept in."""
    from audit.demo._families_training import text_classifier, without_bars

    members, spec, classes = trained_on(plan)
    model, tokenizer = text_classifier(members, classes)
    with tempfile.TemporaryDirectory() as folder, without_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        registry.add(
            "tweets-bert", Path(folder), loader="huggingface", spec=spec, members=members.ids, tags=["demo", "families"]
        )


def _net(file: str, name: str, factory: str, train: str, expected: str) -> Exhibit:
    return Exhibit(file, (name,), expected, partial(_prepare_net, name, factory, train))


FAMILIES = (
    Exhibit("explain-linear.yaml", ("linear-ridge",), "pass", _prepare_linear),
    _net("explain-logistic.yaml", "mnist-logistic", "Logistic", "logistic", "pass"),
    _net("explain-mlp.yaml", "mnist-mlp", "Mlp", "mlp", "pass"),
    _net("explain-cnn.yaml", "mnist-cnn", "Cnn", "cnn", "pass"),
    _net("explain-lstm.yaml", "mnist-lstm", "Lstm", "lstm", "pass"),
    _net("explain-transformer.yaml", "mnist-transformer", "Transformer", "transformer", "pass"),
    Exhibit("explain-trees.yaml", ("trees-forest", "trees-xgboost", "trees-lightgbm"), "pass", _prepare_trees),
    Exhibit("explain-text.yaml", ("tweets-bert",), "pass", _prepare_text),
    Exhibit("explain-recommender.yaml", ("recommender-mf",), "pass", _prepare_recommender),
    _net("explain-series.yaml", "gunpoint-cnn", "SeriesCnn", "series_cnn", "pass"),
)
