"""Shapley values, by the way that suits the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from audit.explainers._completeness import TOLERANCE, relative_gap
from audit.explainers._game import GameExplainer, Round, Solution
from audit.explainers.exact_shap import LARGEST, every_coalition
from audit.explainers.linear_shap import LinearShap
from audit.explainers.permutation_shap import random_orders
from audit.explainers.tree_shap import TreeShap

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers import Attribution, Explainer
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class ShapValues(GameExplainer):
    """What each feature adds to the score on average over all orders in which features join, absent ones taking the values of
    background rows (*interventional*: features are changed one without the other, also where they go together in the data).

    By `tree_shap` where the model is a tree ensemble and its values add up; else by `linear_shap` where it is linear; else by
    `exact_shap` where every coalition costs no more than sampling; else by `permutation_shap`. What was done is stated with the
    values, and `error` is that explainer's.

    Source: Lundberg & Lee 2017, arXiv:1705.07874; Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    """

    permutations: int = Field(default=10, ge=2)
    """Random orders per row, each walked both ways: about 2 M coalitions of M features, and one model row per coalition and
    background row."""
    perturbation: Literal["interventional", "path_dependent"] = "interventional"
    """Of trees: absent features take background values, or follow the training rows' shares down the trees."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `GameExplainer.run`."""
        from audit.bridges.native_models import NoClosedForm

        for explainer in self._closed_forms(model):
            try:
                found = explainer.run(model, x, target, background, rng)
            except NoClosedForm:
                continue
            if _adds_up(found):
                return found
        return super().run(model, x, target, background, rng)

    def _closed_forms(self, model: AuditedModel) -> list[Explainer]:
        """Those that could answer what is asked: values of single elements, from background rows."""
        found: list[Explainer] = []
        single = self.unit in ("auto", "element")
        if single and model.native is not None and self.absence(model.spec) == "background":
            found.append(TreeShap(perturbation=self.perturbation, background=self.background))
        if single:
            found.append(LinearShap(absent=self.absent, background=self.background))
        return found

    def solve(self, played: Round, rng: ExampleRng) -> Solution:
        """See `GameExplainer.solve`."""
        sampled = 2 * played.players * self.permutations
        if played.players <= LARGEST and 2**played.players - 2 <= sampled:
            return every_coalition(played)
        return random_orders(played, rng, self.permutations)


def _adds_up(found: Attribution) -> bool:
    if found.error is None or found.score is None or found.base_value is None:
        return False
    return bool((relative_gap(found.error, found.score, found.base_value) <= TOLERANCE).all())
