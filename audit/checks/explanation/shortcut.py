"""Does the model lean on what it should not: a mark in a corner, the background, a proxy, a word?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from audit.checks import Check
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, build_explainer, choose, explain
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion
from audit.model import Capability
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._proxies import Told
    from audit.checks.explanation._swaps import Swapped
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

_FEW = 60
"""Of fewer rows that all say the same, up to one in twenty may say otherwise (3/n)."""


_Place = Annotated[int, Field(ge=0)]
_Length = Annotated[int, Field(ge=1)]
Region = tuple[_Place, _Place, _Length, _Length]


class Shortcut(Check):
    """What a named part of the input does to the answer, by exchanging it between rows.

    Each row takes the part — a region of an image, everything outside one, columns, words — from a random row of another class, so
    that the part speaks for one class and the rest for another; what it takes is always something that occurs in the data. The same
    is done with a random part of equal size from the same row (another place, other columns, other words), and the excess over that
    is what the named part does beyond any part of its size.

    ``follows_region``: of rows answered rightly, the share whose answer turns into the class that the part came from.
    ``conflicting_accuracy``: accuracy where part and rest disagree. ``prediction_changes``: answers that change at all;
    ``excess_changes``: less those by the random part. ``excess_shift``: likewise, mean change of the probability of the first
    answer (of the value of a regression, where donors are any rows). With an `explainer`: share of the map's size in the part, and
    that share less the part's share of the input (0 for a map that does not care where it is).

    Suits every model; every explainer for the two shares, which say where a map points. Exchanging decides: a map that shows nothing
    in a part whose exchange turns the answer hides the shortcut from its reader.

    With `group`, a protected attribute: ``proxy_auc`` says how well each column alone tells it, columns above 0.7 count as proxies
    and are exchanged, all together, with a row of another group.

    Source: Lapuschkin et al. 2019, doi 10.1038/s41467-019-08987-4 (class-coded marks); Xiao et al. 2021, arXiv:2006.09994
    (backgrounds exchanged between classes); Geirhos et al. 2020, doi 10.1038/s42256-020-00257-z (shortcuts and conflicting cues);
    Adebayo et al. 2022, arXiv:2212.04629 (attributions alone do not find unknown shortcuts).
    Blind spots: only the named part is looked at; seams of a pasted region can matter by themselves (the random region has them,
    too); a part that is a legitimate reason is found just as well: whether it may count is the reader's to say.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="follows_region", title="answers that follow the named part", better="lower", kinds=("proportion",)
        ),
        Metric(
            name="follows_random", title="answers that follow a random part", better="neither", kinds=("proportion",)
        ),
        Metric(
            name="conflicting_accuracy",
            title="accuracy where the named part speaks for another class",
            better="higher",
            kinds=("proportion",),
        ),
        Metric(name="prediction_changes", title="answers that change", better="lower", kinds=("proportion",)),
        Metric(
            name="excess_changes", title="answers that change beyond a random part", better="lower", kinds=("mean",)
        ),
        Metric(
            name="excess_shift",
            title="change of the answer's score beyond a random part",
            better="lower",
            kinds=("mean",),
        ),
        Metric(name="relevance_share", title="share of relevance in the named part", better="lower", kinds=("mean",)),
        Metric(
            name="relevance_excess", title="share of relevance beyond the part's size", better="lower", kinds=("mean",)
        ),
        Metric(name="proxy_auc", title="AUC of telling the group from a column", better="neither", kinds=("rank_auc",)),
    )
    remedy: ClassVar[str] = (
        "Take the part out of the training data or exchange it there at random between classes, train again, and measure again "
        "on rows where part and label disagree."
    )

    region: Region | None = None
    """Of images: ``[top, left, height, width]`` in pixels."""
    outside: Region | None = None
    """Of images: everything but ``[top, left, height, width]``, the background."""
    columns: tuple[str, ...] = ()
    """Of tables: columns, exchanged together."""
    words: tuple[str, ...] = ()
    """Of texts: words, whatever their case."""
    group: str | None = None
    """Of tables: a protected attribute of the data, whose proxies are sought and exchanged."""
    samples: int = Field(default=512, ge=2)
    """Test rows used."""
    explainer: str | dict[str, Any] | None = None
    """Measure the share of this explainer's relevance that lies in the part."""
    explained: int = Field(default=128, ge=2)
    """Test rows explained."""
    background: int = Field(default=100, ge=1)
    """Background rows of the explainer."""
    keep: int = Field(default=16, ge=0)
    """Exchanged rows stored as evidence, those whose answer changes first; and attributions."""

    @model_validator(mode="after")
    def _one_part(self) -> Shortcut:
        parts = ("region", "outside", "columns", "words", "group")
        named = [name for name in parts if getattr(self, name)]
        if len(named) != 1:
            raise UserError(f"shortcut needs one of {', '.join(parts)}, got {' and '.join(named) or 'none'}")
        if self.explainer is not None:
            build_explainer(self.explainer)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the explainer needs, where there is one."""
        return self.needs | (build_explainer(self.explainer)[1].needs if self.explainer is not None else frozenset())

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input has no such part.
            UserError: the region leaves the image; no column, word, group or row of another class is there.
        """
        batch = sample(data.test, self.samples, ctx)
        told: list[Told] = []
        if self.group is not None:
            told = self._told(self.group, model, data, ctx)
            yield from _proxy_measurements(told, model)
        part = self._part(model, told)
        yield from self._exchange(model, data, batch, part, ctx)
        if self.explainer is not None:
            yield from self._relevance(self.explainer, model, data, part, ctx)

    def _told(self, attribute: str, model: AuditedModel, data: AuditData, ctx: Context) -> list[Told]:
        from audit.checks.explanation._columns import column_names
        from audit.checks.explanation._proxies import proxies

        names = column_names(model, "a group's proxies")
        if attribute not in data.test.groups:
            known = ", ".join(sorted(data.test.groups)) or "none"
            raise UserError(f"data '{data.source}' has no protected attribute '{attribute}'; it has: {known}")
        x, group = data.test.x.astype("float64"), data.test.groups[attribute].astype(str)
        found = proxies(x, group, range(len(names)), ctx.number("folds"))
        if not found:
            raise UserError(f"attribute '{attribute}' has no two values in enough rows to tell them apart")
        return found

    def _part(self, model: AuditedModel, told: list[Told]) -> _Part:
        """What is exchanged, from the parameters."""
        from audit.checks.explanation._columns import column_names, column_places
        from audit.checks.explanation._swaps import box_mask, column_mask

        spec = model.spec
        if (box := self.region or self.outside) is not None:
            if spec.kind != "image" or len(spec.shape) < 2:
                raise NotApplicable(f"a region needs an image, the input of model '{model.name}' is {spec.a_kind}")
            mask = box_mask(box, spec)
            if self.outside is not None and bool(mask.all()):
                raise UserError(
                    f"outside {list(box)} there is nothing: it is the whole image of {spec.shape[-2]} x {spec.shape[-1]}"
                )
            return _Part(mask if self.region else ~mask, box=box, outside=self.region is None)
        if self.words:
            if spec.kind != "text":
                raise NotApplicable(f"words need a text, the input of model '{model.name}' is {spec.a_kind}")
            return _Part(None, words=frozenset(word.casefold() for word in self.words))
        names = column_names(model, "exchanging columns")
        places = (
            sorted({one.column for one in told if one.proxy}) if told else column_places(self.columns, names, model)
        )
        return _Part(column_mask(places, len(names)), group=self.group)

    def _exchange(
        self, model: AuditedModel, data: AuditData, batch: Batch, part: _Part, ctx: Context
    ) -> Iterator[Measurement]:
        import torch

        swapped = part.swap(model, data.test, batch, ctx)
        place = {row: i for i, row in enumerate(data.test.ids)}
        kept = batch.take(swapped.index.numpy())
        before = model.outputs(data.test)[torch.as_tensor([place[row] for row in kept.ids])]
        after = model.scores(swapped.rows)
        control = model.scores(swapped.control) if swapped.control is not None else before
        ctx.progress(len(kept), len(kept), "rows exchanged")
        cautions = tuple(self._cautions(model, batch, part, swapped))
        shift, by_chance = (_shift(model, before, scores) for scores in (after, control))
        if model.task == "regression":
            yield _paired(ctx, "excess_shift", shift - by_chance, kept.ids, cautions)
            return
        was, now, random = (model.labels_of(scores).cpu() for scores in (before, after, control))
        label = torch.as_tensor(kept.labels)
        examples = self._examples(ctx, model, kept, swapped, was, now)
        changed, changed_by_chance = now != was, random != was
        if part.group is None:
            other, right = torch.as_tensor(data.test.labels)[swapped.donor], was == label
            if bool(right.any()):
                follows = (now == other)[right]
                outcomes = ctx.evidence("follows_region", "outcomes", title="answer follows the named part")
                outcomes.append([kept.ids[i] for i in right.nonzero().flatten().tolist()], value=follows.double())
                yield _rate("follows_region", follows, cautions, (outcomes.ref, *examples))
                yield _rate("follows_random", (random == other)[right], cautions)
            yield _rate("conflicting_accuracy", now == label, cautions, examples)
        yield _rate("prediction_changes", changed, cautions, examples)
        difference = changed.double() - changed_by_chance.double()
        yield _paired(ctx, "excess_changes", difference, kept.ids, cautions, examples)
        if model.output != "label":
            yield _paired(ctx, "excess_shift", shift - by_chance, kept.ids, cautions)

    def _cautions(self, model: AuditedModel, batch: Batch, part: _Part, swapped: Swapped) -> Iterator[str]:
        if swapped.control is None:
            yield "nothing of equal size is left to exchange at random: the excess is over no exchange at all"
        if part.mask is not None and part.group is not None and not bool(part.mask.any()):
            yield f"no column tells '{part.group}': nothing was exchanged"
        if len(swapped.index) < len(batch):
            yield (
                f"{len(batch) - len(swapped.index)} of {len(batch)} rows are left out: no row of another class has the part, or "
                "the text has no room for it"
            )

    def _examples(
        self, ctx: Context, model: AuditedModel, kept: Batch, swapped: Swapped, was: Tensor, now: Tensor
    ) -> tuple[EvidenceRef, ...]:
        """Exchanged rows beside their originals, those whose answer changes first."""
        if not self.keep:
            return ()
        first = (now == was).long().argsort(stable=True)[: self.keep]
        spec = model.spec
        writer = ctx.evidence(
            "exchanged", "adversarial", attack="part of another row", by="corruption", norm=None,
            bounds=list(spec.bounds or ()), units=spec.units, classes=list(model.classes), input_kind=spec.kind,
        )  # fmt: skip
        writer.append(
            [kept.ids[i] for i in first.tolist()],
            x=model.tensor(kept)[first.to(model.device)],
            adversarial=swapped.rows[first],
            label=kept.labels[first.numpy()],
            prediction=was[first],
            adversarial_prediction=now[first],
        )
        return (writer.ref,)

    def _relevance(
        self, spec: str | dict[str, Any], model: AuditedModel, data: AuditData, part: _Part, ctx: Context
    ) -> Iterator[Measurement]:
        """Share of the map's size in the part, and what that is beyond the part's share of the input."""
        import torch

        name, explainer = build_explainer(spec)
        subject = choose(model, data, ctx, samples=self.explained, background=self.background, target="prediction")
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        shares, areas, silent = [], [], 0
        for rows, found in explain(explainer, model, subject, ctx):
            x = subject.x[rows]
            inside = part.elements(x).to(found.values.device)
            size = found.values.double().abs()
            total = size.flatten(1).sum(dim=1)
            share = (size * inside).flatten(1).sum(dim=1) / total.masked_fill(total == 0, 1.0)
            evidence.add(rows, found, relevance_share=share)
            area = inside.expand_as(size).double().flatten(1).sum(dim=1) / part.extent(x)
            told = (total > 0) & (area > 0)  # a text without the words has no share in them
            silent += int((total == 0).sum())
            shares.append(share[told].cpu())
            areas.append(area[told].cpu())
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        share, area = torch.cat(shares), torch.cat(areas)
        if not len(share):
            raise UserError(f"explainer '{name}' gave no relevance to any row that holds the named part")
        cautions = subject.cautions + ((f"{silent} maps are zero everywhere and left out",) if silent else ())
        for metric, values in (("relevance_share", share), ("relevance_excess", share - area)):
            yield Measurement(metric=metric, estimate=_mean(values), evidence=evidence.refs, cautions=cautions)


@dataclass(frozen=True)
class _Part:
    """The named part of an input.

    Args:
        mask: ``(H, W)`` or ``(F,)`` bool; None of words.
    """

    mask: Tensor | None
    box: tuple[int, int, int, int] | None = None
    outside: bool = False
    words: frozenset[str] = frozenset()
    group: str | None = None

    def elements(self, x: Tensor) -> Tensor:
        """Which elements of rows belong to it, bool; broadcasts over them."""
        from audit.checks.explanation._swaps import word_mask

        return word_mask(x, self.words) if self.mask is None else self.mask

    def extent(self, x: Tensor) -> Tensor | int:
        """How many elements a row has in all; of a text its characters."""
        return (x != 0).sum(dim=1).clamp_min(1) if self.mask is None else x[0].numel()

    def swap(self, model: AuditedModel, test: Batch, batch: Batch, ctx: Context) -> Swapped:
        """The part of rows of another class (group; any other row of a regression) in place of their own."""
        import numpy as np
        import torch

        from audit.checks.explanation._swaps import Swapped, draw_donors, other_boxes, other_columns, swap_words

        kinds = test.ids if model.task == "regression" else test.labels
        own = batch.ids if model.task == "regression" else batch.labels
        if self.group is not None:
            kinds, own = test.groups[self.group], batch.groups[self.group]
        rng = ctx.rng(batch.ids, "donors")
        fits = self._holders(model, test, batch) if self.mask is None else None
        donor = draw_donors(np.asarray(own), np.asarray(kinds), test.ids, rng, fits)
        index = (donor >= 0).nonzero().squeeze(1)
        if not len(index):
            what = "that holds one of the words" if self.words else "to exchange with"
            raise UserError(f"no row has a row of another {'group' if self.group else 'class'} {what}")
        x = model.tensor(batch)[index.to(model.device)]
        others = model.tensor(test.take(donor[index].numpy()))
        streams = ctx.rng(batch.ids, "random parts").take(index.numpy())
        if self.mask is None:
            rows, control, room = swap_words(x, others, self.words, streams)
            if not room.any():
                raise UserError("no text has room for the words of another: give the model's input a larger shape")
            roomy = torch.from_numpy(room)
            return Swapped(index[roomy], donor[index][roomy], rows[roomy], control[roomy])
        if self.box is not None:
            elsewhere = other_boxes(self.box, model.spec, streams)
            if elsewhere is not None:
                elsewhere = (elsewhere ^ self.outside).reshape(len(x), *[1] * (x.dim() - 3), *self.mask.shape)
        else:
            elsewhere = other_columns(self.mask, streams)
        beside = None if elsewhere is None else torch.where(elsewhere.to(x.device), others, x)
        return Swapped(index, donor[index], torch.where(self.mask.to(x.device), others, x), beside)

    def _holders(self, model: AuditedModel, test: Batch, batch: Batch) -> Any:
        """Which donors change anything: any of a row that holds a named word, else those that hold one."""
        import numpy as np

        from audit.checks.explanation._swaps import word_mask

        holding = word_mask(model.tensor(test), self.words).any(dim=1).numpy()
        own = word_mask(model.tensor(batch), self.words).any(dim=1).numpy()
        everyone = np.ones(len(test), dtype=bool)
        return lambda row: everyone if own[row] else holding


def _shift(model: AuditedModel, before: Tensor, after: Tensor) -> Tensor:
    """Change of the probability of the first answer, of a value or a label, ``(N,)`` float64."""
    if model.task == "regression":
        model.check_finite(after)
        return (after.reshape(len(after)).double() - before.reshape(len(before)).double()).abs().cpu()
    answer = model.labels_of(before)
    if model.output == "label":
        return (model.labels_of(after) != answer).double().cpu()
    then, now = (
        model.probabilities_of(scores).gather(1, answer[:, None]).squeeze(1).cpu() for scores in (before, after)
    )
    return (now - then).abs()


def _rate(metric: str, hits: Tensor, cautions: tuple[str, ...], evidence: tuple[EvidenceRef, ...] = ()) -> Measurement:
    return Measurement(
        metric=metric,
        estimate=Proportion(k=int(hits.sum()), n=len(hits)),
        evidence=evidence,
        cautions=cautions,
    )


def _mean(values: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.numpy())
    return Mean(value=value, se=se, n=n)


def _paired(
    ctx: Context,
    metric: str,
    difference: Tensor,
    ids: tuple[str, ...],
    cautions: tuple[str, ...],
    evidence: tuple[EvidenceRef, ...] = (),
) -> Measurement:
    """Mean of a difference between the named and the random part."""
    estimate = _mean(difference)
    outcomes = ctx.evidence(metric, "outcomes", title=metric.replace("_", " "))
    outcomes.append(ids, value=difference)
    few = f"only {estimate.n} rows, and all say the same" if estimate.se == 0 and estimate.n < _FEW else None
    return Measurement(
        metric=metric, estimate=estimate, evidence=(outcomes.ref, *evidence), cautions=cautions, unresolved=few
    )


def _proxy_measurements(told: list[Told], model: AuditedModel) -> Iterator[Measurement]:
    from audit.checks.explanation._columns import column_names

    names = column_names(model, "a group's proxies")
    several = len({one.value for one in told}) > 1
    for one in told:
        dims = {"column": names[one.column]} | ({"value": one.value} if several else {})
        yield Measurement(metric="proxy_auc", estimate=one.auc, dims=dims)
