"""Is the epsilon that a training claims the epsilon that it spent?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from audit.checks import Check
from audit.checks.privacy._ledger import ClaimedBudget, ledger_of
from audit.finding import Exact, Measurement, Metric
from audit.parameters import NotApplicable, Real

if TYPE_CHECKING:
    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

_REFUTES = (
    "noise_reproducible", "batches_too_large", "batches_not_poisson", "accountants_disagree", "clipping_none", "batch_norm",
)  # fmt: skip
"""Cautions that take the ground from under a recomputed epsilon altogether."""
_DECIDED = (*_REFUTES, "sampler_shuffle")
"""Cautions that leave no doubt: of shuffled batches the recomputed epsilon is a bound as it is."""
_EMPTY = "delta_above_1_over_n"
"""The caution that the claim, true or not, protects nobody."""


class DpAccounting(Check):
    """Recomputes epsilon from a DP-SGD training record, by RDP and by numerical composition (PRV), and compares it with the claim.

    The record says what was done: sampling rate, noise multiplier and steps of every stretch, the sampler, the number of
    examples, and, where it was kept, the size of every batch, which an exact binomial test holds against the sampling rate.
    ``epsilon`` is the smallest bound that the accountants prove; ``excess`` is that epsilon minus the claim; ``violations``
    counts what in the record contradicts its own accounting, and a delta above one over the number of examples, at which publishing
    one of them outright would pass. Where hyper-parameters were chosen among several trainings,
    ``epsilon[accountant=tuned]`` counts the choice. Shuffled batches are bounded as if their order were known, one Gaussian
    mechanism an epoch: a claim below that, made as for Poisson samples, is a violation, and undecided.

    Source: Mironov, Talwar & Zhang 2019, arXiv:1908.10530 (RDP); Gopi, Lee & Wutschitz 2021, arXiv:2106.02848 (PRV);
    Papernot & Steinke 2022, arXiv:2110.03620 (choosing hyper-parameters); Chua et al. 2024, arXiv:2403.17673 (shuffled batches).
    Blind spots: a record that lies about sigma or clipping; an implementation that adds less noise than it records: only an
    empirical audit finds those. How much less than its bound a secret shuffled order spends is not known.
    """

    controls: ClassVar = ("NIST SP 800-226", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar = (
        Metric(name="epsilon", title="recomputed epsilon", better="lower", kinds=("exact",), varies="nothing"),
        Metric(
            name="excess", title="recomputed minus claimed epsilon", better="lower", kinds=("exact",), varies="nothing"
        ),
        Metric(
            name="violations",
            title="contradictions in the training record",
            better="lower",
            kinds=("exact",),
            varies="nothing",
        ),
    )
    remedy: ClassVar = (
        "State the epsilon that the record supports, or train again with more noise or fewer steps; account with the sampling "
        "rate that was really used, and draw noise from the operating system."
    )

    record: str | dict[str, Any] | None = None
    """Path of the training record (.json or .yaml, relative to the scenario), or the record itself; without it, the ledger that
    the registry keeps with the model."""
    claim: ClaimedBudget | None = None
    """The claim to hold it against, instead of the record's own."""
    eps_error: Annotated[Real, Field(gt=0, lt=1)] = 0.01
    """Numerical error allowed to the PRV accountant; its epsilon is pessimistic by as much."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the recomputed epsilon, by accountant and overall, then what it says of the claim."""
        from audit.privacy.accounting import recompute

        record = ledger_of(model, ctx, self.record, self.claim)
        if record is None:
            raise NotApplicable(
                f"model '{model.name}' has no privacy ledger in the registry: give 'record', the file that its training wrote"
            )
        ctx.progress(0, 1, "composing")
        found = recompute(record, eps_error=self.eps_error)
        cautions = tuple(caution.message for caution in found.cautions)
        refuting = [c for c in found.cautions if c.code in _REFUTES]
        doubts = [c for c in found.cautions if c.understates and c.code not in _DECIDED]
        voids = dict.fromkeys(("epsilon", "excess"), refuting[0].message) if refuting else {}
        unbounded = found.epsilon == float("inf")
        if unbounded:
            cautions += (
                f"no finite epsilon can be proven at delta={found.delta:g}: too little noise for so many steps",
            )
        yield Measurement(
            metric="violations",
            estimate=Exact(value=sum(c.understates or c.code == _EMPTY for c in found.cautions) + unbounded),
            cautions=cautions,
            voids=voids,
        )
        doubt = f"epsilon holds only if this is mended: {doubts[0].message}" if doubts else None
        bounds = {"rdp": found.rdp.epsilon, "prv": found.prv.epsilon, "clt": found.clt.epsilon}
        if found.exact is not None:
            bounds["exact"] = found.exact
        if found.tuned is not None:
            bounds["tuned"] = found.tuned
        for name, value in bounds.items():
            note = (
                (found.clt.caution,)
                if name == "clt"
                else (found.prv.fallback,)
                if name == "prv" and found.prv.fallback
                else ()
            )
            if value != value or value == float("inf"):
                continue  # no bound: the undivided number says what is left
            yield Measurement(metric="epsilon", estimate=Exact(value=value), dims={"accountant": name}, cautions=note)
        if unbounded:
            raise ArithmeticError(cautions[-1])
        yield Measurement(metric="epsilon", estimate=Exact(value=found.epsilon), cautions=cautions, unresolved=doubt)
        if found.claim is None:
            return
        excess = found.epsilon - found.claim.epsilon
        verdict = found.claim_verdict
        if verdict == "holds":
            excess = min(excess, 0.0)
        if verdict == "undecided":
            doubt = f"the claim of {found.claim.epsilon:g} lies between what is proven spent ({found.lower:.4g}) and what is bounded ({found.epsilon:.4g})"
        yield Measurement(
            metric="excess",
            estimate=Exact(value=excess),
            cautions=cautions,
            unresolved=None if verdict == "refuted" else doubt,
        )
