"""Does a concept that people have words for move the model's answer?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.checks import Check
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._tables import known_rows
from audit.finding import EvidenceRef, Exact, Mean, Measurement, Metric
from audit.model import Capability
from audit.names import unknown
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.global_explanations.concepts import Directions
    from audit.model import AuditedModel

_FEWEST = 10
"""Examples of a concept, and rows of a class, below which nothing is said (policy)."""
_ALPHA = 0.05


class Concepts(Check):
    """Concept sensitivity (TCAV), tested against random concepts.

    A concept is a set of examples: an array of a file, or the rows with one value of a protected attribute or of a category. In one
    layer a linear classifier tells them from random rows; its normal is the concept's direction. The score of a class is the share of
    its test rows whose logit (of a regression: value) grows along that direction. Every concept gets many directions, each against
    other random rows, and as many directions are drawn between random rows alone. Two two-sided tests (the larger p counts, Holm-
    corrected over all concepts and classes) ask whether the scores differ from those of random directions, and whether the mean slope
    along the concept would be one more among theirs; the paper has the first alone, which calls most fixed sets of random rows a
    concept. What they cannot tell from random is marked: it decides no gate. Excess is the mean score minus that of random directions:
    0 says that the concept does nothing for the class, above 0 that it speaks for it, below 0 against it.

    Source: Kim et al. 2018, arXiv:1711.11279.
    Blind spots: shows what moves the answer along a direction, not that the model has the concept; examples that share something else
    (background, brightness) are a concept of that; other layers may say otherwise; a concept that is no single direction is missed.
    Intervals are over the random counterparts: the test rows and the examples are taken as they are.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="tcav", title="TCAV score", better="neither", kinds=("mean",), varies="seeds"),
        Metric(name="tcav_excess", title="TCAV score over random", better="neither", kinds=("mean",), varies="seeds"),
        Metric(name="p_value", title="p of no difference from random", better="neither", kinds=("exact",), varies="nothing"),
        Metric(name="separability", title="held-out accuracy of the direction", better="higher", kinds=("mean",), varies="seeds"),
    )  # fmt: skip
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LAYERS, Capability.GRADIENTS})
    remedy: ClassVar[str] = (
        "A concept that must not matter and does: look at the rows of the class with and without it, balance the training data over "
        "it, and audit again. One that should matter and does not: look into an earlier layer, and for what the model uses instead."
    )

    file: str | None = None
    """An .npz of examples: each array is a concept, ``(M, *shape)`` in the units that the model is fed."""
    concepts: tuple[str, ...] | None = Field(None, min_length=1)
    """Arrays of the file, or ``ATTRIBUTE:VALUE`` of a protected attribute or category column; None: all arrays of the file."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Classes whose logits are followed; None: all."""
    layer: str | None = None
    """The layer; None: the last convolution, else the last linear layer but one."""
    counterparts: int = Field(100, ge=5)
    """Directions of each concept, each against other random rows; and random directions."""
    examples: int = Field(60, ge=_FEWEST)
    """Most examples of a concept, and random rows, behind a direction."""
    ridge: Real = Field(0.1, gt=0)
    """Penalty of the linear classifier, relative to the mean squared length of an activation."""
    pool: int = Field(1000, ge=2 * _FEWEST)
    """Most rows that random sets are drawn from: members, else population, else test rows."""
    samples: int = Field(500, ge=_FEWEST)
    """Most test rows whose logits are followed."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            UserError: no concept, one without enough examples, or no such layer, class, attribute or array.
        """
        from audit.global_explanations.concepts import choose_layer

        known = known_rows(data)
        rows = sample(known if known is not None else data.test, self.pool, ctx)
        test = sample(data.test, self.samples, ctx)
        layer = choose_layer(model, model.tensor(test), self.layer)
        found = self._directions(model, rows, layer, ctx)
        ctx.progress(1, 2, f"directions in {layer}")
        scores = {
            (concept, target): score
            for target, score_of in self._scores(model, test, layer, found)
            for concept, score in score_of.items()
        }
        yield from self._measured(model, layer, found, scores, len(test), ctx)

    def _examples(self, model: AuditedModel, rows: Batch, ctx: Context) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each concept's name, examples ``(M, *shape)``, and which of `rows` are without it ``(P,)`` bool."""
        import torch

        arrays = self._arrays(model, ctx)
        for name in self.concepts if self.concepts is not None else tuple(arrays):
            if name in arrays:
                yield name, arrays[name], torch.ones(len(rows), dtype=torch.bool)
                continue
            inside = _with_value(model, rows, name, tuple(arrays))
            yield name, model.tensor(rows)[inside.to(model.device)], ~inside

    def _arrays(self, model: AuditedModel, ctx: Context) -> dict[str, Tensor]:
        import numpy as np
        import torch

        if self.file is None:
            if self.concepts is None:
                raise UserError(
                    "explanation.concepts needs concepts: a file of examples, or concepts as ATTRIBUTE:VALUE"
                )
            return {}
        path = ctx.base / self.file
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: np.asarray(stored[name]) for name in stored.files}
        except (OSError, ValueError) as error:
            raise UserError(
                f"concept file {path} cannot be read: {error}; it must be an .npz of plain arrays"
            ) from error
        for name, array in arrays.items():
            if array.shape[1:] != model.spec.shape:
                raise UserError(
                    f"concept '{name}' of {path} has examples of shape {array.shape[1:]}, the model takes {model.spec.shape}"
                )
        return {name: torch.from_numpy(array).to(model.input_dtype).to(model.device) for name, array in arrays.items()}

    def _directions(self, model: AuditedModel, rows: Batch, layer: str, ctx: Context) -> dict[str, Directions]:
        """Directions of every concept; random ones under ''."""
        import torch

        from audit.global_explanations.concepts import activations, directions

        examples = list(self._examples(model, rows, ctx))
        if not examples:
            raise UserError(f"concept file {self.file} holds no array")
        if few := [f"'{name}' ({len(x)})" for name, x, _ in examples if len(x) < _FEWEST]:
            raise UserError(f"a concept needs {_FEWEST} examples or more; too few: {', '.join(few)}")
        if len(rows) < 2 * _FEWEST:
            raise UserError(f"random directions need {2 * _FEWEST} rows, the data has {len(rows)}")
        pool = activations(model, model.tensor(rows), layer).cpu()
        found = {}
        for name, x, without in [("", model.tensor(rows), torch.ones(len(rows), dtype=torch.bool)), *examples]:
            own = pool if not name else torch.cat([pool, activations(model, x, layer).cpu()])
            draw = ctx.generator(f"sets {name}")
            others = without.nonzero().flatten()
            mine = others if not name else torch.arange(len(pool), len(own))
            size = min(self.examples, len(mine) if name else len(others) // 2, len(others))
            if size < _FEWEST:
                raise UserError(f"concept '{name}' leaves {len(others)} rows without it: {_FEWEST} are needed")
            orders = [others[torch.from_numpy(draw.permutation(len(others)))] for _ in range(self.counterparts)]
            negatives = torch.stack([order[-size:] for order in orders])
            if name:
                picks = [torch.from_numpy(draw.permutation(len(mine))[:size]) for _ in orders]
                positives = mine[torch.stack(picks)]
            else:
                positives = torch.stack([order[:size] for order in orders])
            found[name] = directions(own, positives, negatives, self.ridge)
        return found

    def _scores(
        self, model: AuditedModel, test: Batch, layer: str, found: Mapping[str, Directions]
    ) -> Iterator[tuple[str, dict[str, _Along]]]:
        """Per class (of a regression ''), what each concept and, under '', random directions do."""
        import torch

        from audit.global_explanations.concepts import sensitivities, slopes, tcav_scores

        def along(slope: Tensor) -> dict[str, _Along]:
            return {
                n: _Along(tcav_scores(slope, of.vectors), sensitivities(slope, of.vectors)) for n, of in found.items()
            }

        x = model.tensor(test)
        if model.task == "regression":
            yield "", along(slopes(model, x, 0, layer))
            return
        for name in self.classes or model.classes:
            if name not in model.classes:
                raise unknown("class", name, list(model.classes))
            target = model.classes.index(name)
            inside = torch.as_tensor(test.labels == target)
            if int(inside.sum()) >= _FEWEST:
                yield name, along(slopes(model, x[inside.to(x.device)], target, layer))
            elif self.classes is not None:
                raise UserError(f"class '{name}' has {int(inside.sum())} test rows: {_FEWEST} are needed")

    def _measured(
        self,
        model: AuditedModel,
        layer: str,
        found: Mapping[str, Directions],
        scores: Mapping[tuple[str, str], _Along],
        n: int,
        ctx: Context,
    ) -> Iterator[Measurement]:
        from audit.stats import holm

        tests = [
            _Test(concept, target, scores[concept, target], scores["", target]) for concept, target in scores if concept
        ]
        if not tests:
            raise UserError(f"no class has {_FEWEST} test rows")
        adjusted = holm([test.p_value for test in tests])
        evidence = (_table(ctx, layer, tests, adjusted, found),)
        separable = {name: _mean(of.accuracy) for name, of in found.items() if name}
        for name, estimate in separable.items():
            yield Measurement(metric="separability", estimate=estimate, dims={"concept": name}, evidence=evidence)
        for test, p in zip(tests, adjusted, strict=True):
            dims = {"concept": test.concept, **({"class": test.target} if test.target else {})}
            doubts = []
            if p > _ALPHA:
                doubts.append(f"it is not told from random directions (p = {p:.2g}, Holm-corrected)")
            if separable[test.concept].interval()[0] <= 0.5:
                doubts.append(
                    f"layer {layer} does not tell the concept from other rows (accuracy {separable[test.concept].value:.2f})"
                )
            why = "; ".join(doubts) or None
            shared = {"dims": dims, "evidence": evidence}
            yield Measurement(metric="tcav", estimate=_mean(test.own.score), unresolved=why, **shared)
            yield Measurement(
                metric="tcav_excess",
                estimate=test.excess,
                cautions=(why,) if why else (),
                **shared,
            )
            yield Measurement(metric="p_value", estimate=Exact(value=p, n=2 * self.counterparts), **shared)


@dataclass(frozen=True)
class _Along:
    """What a class's logit does along R directions: share of rows that it grows for, and mean slope, ``(R,)`` each."""

    score: Tensor
    slope: Tensor


@dataclass(frozen=True)
class _Test:
    """A concept and a class: what its directions do, and random ones."""

    concept: str
    target: str
    own: _Along
    random: _Along

    @property
    def p_value(self) -> float:
        """That the concept is one more random direction: the larger of both tests'."""
        from audit.global_explanations.concepts import differ, stands_out

        outside = stands_out(float(self.own.slope.mean()), self.random.slope)
        return max(differ(self.own.score, self.random.score), outside)

    @property
    def excess(self) -> Mean:
        """Mean score over that of random directions."""
        own, random = _mean(self.own.score), _mean(self.random.score)
        return Mean(value=own.value - random.value, se=(own.se**2 + random.se**2) ** 0.5, n=own.n)


def _mean(values: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.numpy())
    return Mean(value=value, se=se, n=n)


def _with_value(model: AuditedModel, rows: Batch, name: str, arrays: tuple[str, ...]) -> Tensor:
    """Which rows have one value of a protected attribute or of a category column, ``(P,)`` bool."""
    import torch

    attribute, _, value = name.partition(":")
    categories = {f.name: (j, f.categories) for j, f in enumerate(model.spec.fields) if f.kind == "category"}
    if attribute in rows.groups:
        return torch.from_numpy(rows.groups[attribute].astype(str) == value)
    if attribute in categories:
        j, known = categories[attribute]
        if value not in known:
            raise unknown(f"category of column '{attribute}'", value, list(known))
        return torch.from_numpy(rows.x[:, j] == known.index(value))
    raise unknown("concept", name, [*arrays, *(f"{a}:VALUE" for a in (*rows.groups, *categories))])


def _table(
    ctx: Context, layer: str, tests: list[_Test], adjusted: list[float], found: Mapping[str, Directions]
) -> EvidenceRef:
    writer = ctx.evidence("concepts", "table", title=f"concepts in layer {layer}")
    writer.append(
        [" for ".join(filter(None, (test.concept, test.target))) for test in tests],
        tcav=[float(test.own.score.mean()) for test in tests],
        random_directions=[float(test.random.score.mean()) for test in tests],
        slope=[float(test.own.slope.mean()) for test in tests],
        random_slopes_sd=[float(test.random.slope.std()) for test in tests],
        p_value_holm=adjusted,
        separability=[float(found[test.concept].accuracy.mean()) for test in tests],
        scores=[test.own.score.tolist() for test in tests],
        scores_of_random_directions=[test.random.score.tolist() for test in tests],
    )
    return writer.ref
