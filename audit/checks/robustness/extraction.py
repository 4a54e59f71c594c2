"""Extraction: how good a copy the model's answers make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from audit.attacks._surrogate import Answers, Architecture, ask, rows_to_ask, train
from audit.checks import Check
from audit.finding import Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel
    from audit.run_folder import EvidenceWriter

FROM_ANSWERS, FROM_LABELS = "trained on the model's answers", "trained on true labels"


class Extraction(Check):
    """How often a copy, trained on the model's answers to so many queries, says what the model says.

    A small network learns the answers to rows of the population or, without one, of the training set, and is compared with the model on the
    test rows, which it never saw: ``fidelity[queries=N]`` is the share on which both agree, and the undivided number is that of the most
    queries. Beside it stands what the same network reaches from the true labels of as many rows: what an adversary who never asked
    would have; only the difference is what the answers gave away. ``copy_accuracy`` is the copy's own accuracy.

    Source: Tramèr et al. 2016, arXiv:1609.02943; fidelity and accuracy told apart: Jagielski et al. 2020, arXiv:1909.01838; rows of the
    distribution: Orekondy et al. 2019, arXiv:1812.02766; ``entropy``: Pal et al. 2020, ActiveThief, AAAI 34(01):865-872.

    Blind spots: a lower bound on what can be copied: an adversary may train a better network, or one that knows the architecture; one who has no rows
    of the distribution does worse. The interval is over test rows, for the one copy trained.
    """

    controls: ClassVar = (
        "MITRE ATLAS AML.T0024.002",
        "OWASP ML05:2023",
        "NIST AI RMF MEASURE 2.7",
        "EU AI Act Art. 15(5)",
    )
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="fidelity", title="agreement of the copy with the model", better="lower", kinds=("proportion",)),
        Metric(
            name="fidelity_without_queries",
            title="agreement of a copy from true labels (baseline)",
            better="neither",
            kinds=("proportion",),
        ),
        Metric(name="copy_accuracy", title="accuracy of the copy", better="lower", kinds=("proportion",)),
    )
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Answer with labels instead of scores, cap or price queries per client, watch for clients whose queries cover the input space, and "
        "watermark the model where a copy must be recognised. Where the baseline is as high, secrecy of the answers protects nothing."
    )

    budgets: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (50, 100, 250, 500, 1000, 2000)
    """Numbers of queries; one that is more than the rows there are counts as all of them."""
    answers: Answers = "labels"
    """What the model gives away: ``labels`` or ``scores``."""
    sampling: Literal["random", "entropy"] = "random"
    """Which rows are asked about: any, or, from one budget to the next, those that the copy of the former is least sure of."""
    architecture: Architecture = "auto"
    """The copy's network: ``cnn`` for images, ``mlp`` for anything, ``auto`` for the one that fits."""
    epochs: int = Field(30, ge=1)
    """Passes over the rows asked about."""

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if list(budgets) != sorted(set(budgets)):
            raise ValueError(f"budgets must rise, got {', '.join(map(str, budgets))}")
        return budgets

    def requirements(self) -> frozenset[Capability]:
        """Labels, or scores where the copy learns from them."""
        return frozenset({Capability.PROBABILITIES if self.answers == "scores" else Capability.LABELS})

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the numbers of each budget, then the undivided ones."""
        import torch

        rows = rows_to_ask(data, "robustness.extraction")
        x, labels = model.tensor(rows), torch.as_tensor(rows.labels).to(model.device)
        truth = torch.nn.functional.one_hot(labels, len(model.classes)).float()
        test, y = model.tensor(data.test), torch.as_tensor(data.test.labels).to(model.device)
        said = model.labels_of(model.outputs(data.test))
        order = torch.from_numpy(ctx.generator("rows").permutation(len(rows))).to(model.device)
        asked, answers = order[:0], truth[:0]
        budgets = sorted({min(budget, len(rows)) for budget in self.budgets})
        cautions = self._cautions(len(rows))
        curve = ctx.evidence(
            "fidelity", "curve", x_label="queries", y_label="agreement with the model", x_scale="log",
            title="Fidelity of a stolen copy",
        )  # fmt: skip
        copy: nn.Module | None = None
        measured: list[Measurement] = []
        total = 2 * self.epochs * len(budgets)
        for number, budget in enumerate(budgets):
            done = 2 * self.epochs * number
            new = self._next(order, asked, budget - len(asked), copy, x)
            asked, answers = torch.cat([asked, new]), torch.cat([answers, ask(model, x[new], self.answers)])
            copy = self._copy(model, x[asked], answers, ctx, done, total)
            at = order[:budget]
            honest = self._copy(model, x[at], truth[at], ctx, done + self.epochs, total)
            copied, blind = (_predict(network, test, model.micro_batch) for network in (copy, honest))
            shares = {
                "fidelity": copied == said,
                "fidelity_without_queries": blind == said,
                "copy_accuracy": copied == y,
            }
            threat = ThreatModel(
                access="black_box_scores" if self.answers == "scores" else "black_box_labels",
                queries=budget,
                constraints="steals a copy; asks about rows of the distribution, all queries together",
            )
            for name, metric in ((FROM_ANSWERS, "fidelity"), (FROM_LABELS, "fidelity_without_queries")):
                _point(curve, name, budget, _share(shares[metric]))
            measured = [
                Measurement(
                    metric=metric,
                    estimate=_share(agree),
                    dims={"queries": str(budget)},
                    threat_model=threat,
                    evidence=(curve.ref,) if metric == "fidelity" else (),
                    cautions=cautions,
                )
                for metric, agree in shares.items()
            ]
            yield from measured
        outcomes = ctx.evidence("outcomes", "outcomes")
        outcomes.append(data.test.ids, value=shares["fidelity"].double())
        for one in measured:
            more = {"evidence": (outcomes.ref, curve.ref)} if one.metric == "fidelity" else {}
            yield one.model_copy(update={"dims": {}, **more})

    def _cautions(self, available: int) -> tuple[str, ...]:
        if max(self.budgets) <= available:
            return ()
        return (f"there are {available} rows to ask about, fewer than the {max(self.budgets)} queries allowed",)

    def _next(self, order: Tensor, asked: Tensor, count: int, copy: nn.Module | None, x: Tensor) -> Tensor:
        """Positions of the rows to ask about next."""
        import torch

        rest = order[~torch.isin(order, asked)]
        if self.sampling == "random" or copy is None:
            return rest[:count]
        with torch.no_grad():
            unsure = torch.cat([torch.special.entr(copy(x[at]).softmax(dim=1)).sum(dim=1) for at in _parts(rest)])
        return rest[unsure.argsort(descending=True, stable=True)[:count]]

    def _copy(self, model: AuditedModel, x: Tensor, targets: Tensor, ctx: Context, done: int, total: int) -> nn.Module:
        passed = 0

        def progress() -> None:
            nonlocal passed
            passed += 1
            ctx.progress(done + passed, total, f"a copy from {len(x)} rows")

        return train(
            model.spec, x, targets, architecture=self.architecture, epochs=self.epochs, seed=ctx.number("copy"),
            progress=progress,
        )  # fmt: skip


def _predict(network: nn.Module, x: Tensor, rows: int) -> Tensor:
    import torch

    with torch.no_grad():
        return torch.cat([network(x[at]).argmax(dim=1) for at in _parts(torch.arange(len(x)), rows)])


def _parts(index: Tensor, size: int = 1024) -> list[Tensor]:
    return [index[start : start + size] for start in range(0, len(index), size)]


def _share(agree: Tensor) -> Proportion:
    return Proportion(k=int(agree.sum()), n=len(agree))


def _point(curve: EvidenceWriter, series: str, queries: int, share: Proportion) -> None:
    import numpy as np

    low, high = share.interval()
    numbers = {"x": float(queries), "y": share.value, "low": low, "high": high}
    curve.append([f"{series}, {queries}"], series=np.array([series]), **{k: np.array([v]) for k, v in numbers.items()})
