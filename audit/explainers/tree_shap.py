"""Shapley values of tree ensembles, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.explainers import Attribution, Explainer
from audit.explainers._completeness import completeness_gap
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class TreeShap(Explainer):
    """Exact Shapley values of a tree ensemble (scikit-learn, XGBoost, LightGBM), in the space in which its trees add up: the margin or
    logit of a booster, the probability of a forest.

    *Interventional* values tell what the model does, and may rest on rows that do not occur; *path-dependent* values follow the
    training rows down the trees, so that a column the model never uses still gets 0, but correlated columns share credit by the
    trees' own shape. Do not compare one with the other. `error` is the gap between the sum and the library's own prediction.

    Source: Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = True

    perturbation: Literal["interventional", "path_dependent"] = "interventional"
    """Absent features take background values, or follow the training rows' shares down the trees."""
    background: int = Field(default=32, ge=1)
    """Background rows used, the first ones given; by the interventional values alone."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            NoClosedForm: the model is no tree ensemble, or does more than its trees.
            UserError: interventional, and the data gave no background rows.
        """
        import torch

        from audit.bridges.shap_trees import tree_shap

        background = background[: self.background]
        if self.perturbation == "interventional" and not len(background):
            raise UserError(
                "tree_shap needs background rows, and the data gave none: set perturbation to path_dependent"
            )
        rows, aims, others = (part.detach().cpu().numpy() for part in (x, target, background))
        found = tree_shap(model, rows, aims, others, self.perturbation)
        values, base, score = (
            torch.tensor(part, dtype=torch.float64, device=x.device)
            for part in (found.values, found.base_value, found.score)
        )
        how = f", {len(background)} background rows" if self.perturbation == "interventional" else ""
        return Attribution(
            values.reshape(x.shape), target, found.space, base_value=base, score=score,
            error=completeness_gap(values, score, base), method=f"Tree SHAP, {self.perturbation}{how}",
        )  # fmt: skip
