"""The demo's models and scenarios, and the verdict each is there to show."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.data import Batch
    from audit.model import InputSpec
    from audit.plan import Plan
    from audit.registry.store import Registry

_IMAGE = "image"


@dataclass(frozen=True)
class Exhibit:
    """One scenario of the demo.

    Args:
        file: name of the scenario file.
        models: names that they are registered under.
        expected: the verdict's word.
        prepare: makes and registers them.
        overrides: of the scenario, as ``--set``.
    """

    file: str
    models: tuple[str, ...]
    expected: str
    prepare: Callable[[Registry, Plan], None]
    overrides: tuple[str, ...] = ()


def trained_on(plan: Plan) -> tuple[Batch, InputSpec, tuple[str, ...]]:
    """The rows that the scenario's own split calls members."""
    data = plan.source.load(plan.file.base, str(plan.scenario.data["source"]))
    if data.train is None:
        raise UserError(f"{plan.file.origin}: the data has no split, so there is nothing to train on")
    return data.train, data.spec, data.classes


def prepare_digits(registry: Registry, plan: Plan) -> None:
    """Train the CNN adversarially on the members and register its weights."""
    from safetensors.torch import save_file

    from audit.demo.digits import train

    members, spec, classes = trained_on(plan)
    model = train(members, eps=1.6)
    registry.trust.allow_package("audit.demo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits-cnn.safetensors"
        save_file(model.state_dict(), path)
        registry.add(
            "digits-cnn", path, loader="state_dict", parameters={"factory": "audit.demo.digits:cnn"}, task="classification",
            classes=classes, spec=spec, output="logit", members=members.ids, tags=["demo"],
        )  # fmt: skip


def prepare_imagenet(registry: Registry, plan: Plan) -> None:
    """Register the published weights."""
    from safetensors.torch import save_file

    from audit.demo.imagenet import NAMES, published_weights
    from audit.model import Field, InputSpec

    spec = InputSpec(
        fields=(Field(name=_IMAGE, kind="image", shape=(3, 224, 224), bounds=(0.0, 255.0), units="pixel value"),),
        preprocessing="(x − 127) / 128",
    )
    registry.trust.allow_package("audit.demo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "efficientnet-lite0.safetensors"
        save_file(published_weights(), path)
        registry.add(
            "efficientnet-lite0", path, loader="state_dict",
            parameters={"factory": "audit.demo.imagenet:efficientnet_lite0", "micro_batch": 10}, task="classification",
            classes=[NAMES.get(i, str(i)) for i in range(1000)], spec=spec, output="logit", tags=["demo"],
        )  # fmt: skip


def prepare_loans(registry: Registry, plan: Plan) -> None:
    """Train the trees on the members and register the booster's native file."""
    from audit.demo.loans import train

    members, spec, classes = trained_on(plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loans.json"
        train(members).save_model(path)
        registry.add(
            "loans-xgb", path, task="classification", classes=classes, spec=spec, members=members.ids, tags=["demo"]
        )


def prepare_tweets(registry: Registry, plan: Plan) -> None:
    """Train the word model on the members and register it as a skops file."""
    import skops.io

    from audit.demo.tweets import train

    members, spec, classes = trained_on(plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tweets-tfidf.skops"
        skops.io.dump(train(members), path)
        registry.add(
            "tweets-tfidf", path, task="classification", classes=classes, spec=spec, members=members.ids, tags=["demo"]
        )


EXHIBITS = (
    Exhibit("digits.yaml", ("digits-cnn",), "pass", prepare_digits),
    Exhibit("imagenet.yaml", ("efficientnet-lite0",), "fail", prepare_imagenet),
    Exhibit("loans.yaml", ("loans-xgb",), "inconclusive", prepare_loans),
    Exhibit("tweets.yaml", ("tweets-tfidf",), "fail", prepare_tweets),
)
