"""Does an explanation point to where the reason is known to be?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.checks.explanation._masks import Mark
from audit.checks.explanation._per_row import kept_rows, outcomes, row_mean
from audit.finding import Measurement, Metric, Proportion
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers._features import Features
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_SOURCES = ("region", "columns", "words", "masks", "plant")


class Localisation(ExplanationCheck):
    """How much of an attribution lies inside a mask that is known to hold what decides.

    Relevance mass accuracy: the share of the relevance inside. Relevance rank accuracy: of the K most relevant features, K being as
    many as the mask has, the share inside. Pointing game: the rows whose most relevant feature is inside, ties broken at random.
    Both shares have a gain over the mask's share of the features, which is what a random map gets and what a map of zeros is
    counted as. Relevance is what speaks for the class, or the size either way; features are pixels across channels, words,
    columns, single values, and belong to the mask where more than half of them does.

    The mask is a `region` of an image or a stretch of a series, `columns` of a table, `words` of texts, a file of `masks`, or the
    place of a mark that is put on the test images (`plant`), for a model that was trained to look for it.

    For every explainer, where it is known what the model looks at: data with planted features. A map that points elsewhere sends
    its reader to the wrong place.

    Source: Arras et al. 2022, doi 10.1016/j.inffus.2021.11.008 (mass and rank accuracy); Zhang et al. 2018, arXiv:1608.00507
    (pointing game).
    Blind spots: measures model and explainer together: a low gain may be a model that looks elsewhere, and a mask drawn by hand says
    where a person would look. Of a mark that lies on strokes of the image, these may matter to the answer too.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="relevance_mass", title="relevance inside the mask", better="higher", kinds=("mean",)),
        Metric(
            name="relevance_mass_gain", title="relevance inside the mask above a random map's", better="higher",
            kinds=("mean",),
        ),
        Metric(name="relevance_rank", title="top features inside the mask", better="higher", kinds=("mean",)),
        Metric(
            name="relevance_rank_gain", title="top features inside the mask above a random map's", better="higher",
            kinds=("mean",),
        ),
        Metric(
            name="pointing_game", title="most relevant feature inside the mask", better="higher", kinds=("proportion",)
        ),
        Metric(name="mask_area", title="share of features in the mask", better="neither", kinds=("mean",)),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "See explanation.shortcut for whether the model itself looks there: if it does, take another explainer; if it does not, the "
        "model is what needs mending."
    )

    region: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Of images: ``[top, left, height, width]`` in pixels; of series: ``[start, length]`` in steps."""
    columns: tuple[str, ...] = ()
    """Of tables: names of columns."""
    words: tuple[str, ...] = ()
    """Of texts: words, whatever their case."""
    masks: Path | None = None
    """An ``.npz`` file with arrays `masks` ``(K, H, W)`` or ``(K, *shape)`` and `ids` ``(K,)``, the test rows' names as evidence shows
    them; a relative path starts from the scenario's folder."""
    plant: Mark | None = None
    """A mark that is put on each image: ``{size: 2, place: random, value: 16}``; a corner (top_left …) or random, the upper bound by
    default."""
    relevance: Literal["positive", "absolute"] = "positive"
    """What of a value counts: where it speaks for the class, or its size."""

    @model_validator(mode="after")
    def _one_mask(self) -> Localisation:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise UserError(f"localisation needs one of {', '.join(_SOURCES)}, got {' and '.join(given) or 'none'}")
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is of another kind than the mask.
            UserError: the mask does not fit the input.
        """
        import torch

        from audit.explainers._features import features_of

        name, explainer = build_explainer(self.explainer)
        subject, mask, cautions = self._masked(model, self.subject(model, data, ctx), ctx)
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        parts: list[dict[str, Tensor]] = []
        for rows, found in explain(explainer, model, subject, ctx):
            features = features_of(subject.x[rows], model.spec)
            ties = ctx.rng(subject.batch.ids[rows], "ties of the most relevant")
            parts.append(self._inside(features, found.values, mask[rows], ties))
            evidence.add(rows, found, relevance_mass=parts[-1]["relevance_mass"], mask_area=parts[-1]["mask_area"])
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        numbers = {metric: torch.cat([part[metric] for part in parts]).cpu() for metric in parts[0]}
        area = numbers["mask_area"]
        places, ids, left_out = kept_rows(
            (area > 0) & (area < 1), subject.batch.ids, "have a mask of nothing or of all"
        )
        cautions = (*cautions, *left_out, *_without_relevance(numbers.pop("nothing")[places]))
        for metric, values in numbers.items():
            chosen = values[places]
            if metric == "pointing_game":
                yield Measurement(
                    metric=metric,
                    estimate=Proportion(k=int(chosen.sum()), n=len(chosen)),
                    evidence=(outcomes(ctx, metric, chosen, ids),),
                    cautions=cautions,
                )
            else:
                yield row_mean(ctx, metric, chosen, ids, cautions=cautions, shown=evidence.refs)

    def _masked(self, model: AuditedModel, subject: Subject, ctx: Context) -> tuple[Subject, Tensor, tuple[str, ...]]:
        """The rows that are explained, their masks ``(N, *shape)`` bool, and what a reader must know."""
        from audit.checks.explanation._masks import from_file, marked, named_columns, placed
        from audit.checks.explanation._swaps import word_mask

        spec, cautions = model.spec, subject.cautions
        if self.plant is not None:
            return *marked(self.plant, subject, model, self.target, ctx), cautions
        if self.masks is not None:
            subject, mask, left_out = from_file(ctx.base / self.masks, subject, spec)
            return subject, mask, (*cautions, *left_out)
        if self.region is not None:
            return subject, placed(self.region, subject.x, spec), cautions
        if self.columns:
            return subject, named_columns(self.columns, subject.x, spec), cautions
        if spec.kind != "text":
            raise NotApplicable(f"words are of a text, the input is {spec.a_kind}")
        return subject, word_mask(subject.x, frozenset(word.casefold() for word in self.words)), cautions

    def _inside(self, features: Features, values: Tensor, mask: Tensor, ties: ExampleRng) -> dict[str, Tensor]:
        """Each metric's number of each row, ``(N,)`` float64, and whether the row has no relevance at all (`nothing`)."""
        import torch

        from audit.checks.explanation._correlation import in_top

        known = features.known()
        inside = features.total(mask.double()) > features.total(torch.ones_like(mask, dtype=torch.float64)) / 2
        area = inside.sum(dim=1) / features.count.clamp_min(1).double()
        total = features.total(values.to(mask.device))
        relevance = total.clamp_min(0) if self.relevance == "positive" else total.abs()
        everything = relevance.sum(dim=1)
        mass = torch.where(everything > 0, (relevance * inside).sum(dim=1) / everything, area)
        size = inside.sum(dim=1)
        rank = (in_top(relevance, known, size) * inside).sum(dim=1) / size
        chance = (in_top(relevance, known, torch.ones_like(size)) * inside).sum(dim=1)
        return {
            "relevance_mass": mass,
            "relevance_mass_gain": mass - area,
            "relevance_rank": rank,
            "relevance_rank_gain": rank - area,
            "pointing_game": (ties.uniform(()).to(chance) < chance).double(),
            "mask_area": area,
            "nothing": everything == 0,
        }


def _without_relevance(nothing: Tensor) -> Iterator[str]:
    if count := int(nothing.sum()):
        yield f"{count} of {len(nothing)} maps have no relevance anywhere, and count as a random map's"
