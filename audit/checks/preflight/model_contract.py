"""Does the model keep to what is declared of it? Found by its answers, before any other number is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from audit.bridges.global_generators import seeded
from audit.checks import Check
from audit.checks.preflight._behaviour import ask_in_company, observe
from audit.checks.preflight._chance import Relation, of_classes, of_values
from audit.checks.preflight._gradients import count_zero
from audit.checks.preflight._output_space import observe_space, shape_fits
from audit.checks.preflight._ranges import extremes, fit_of
from audit.finding import Exact, Measurement, Metric, Proportion
from audit.model import Capability
from audit.names import available
from audit.parameters import Real

if TYPE_CHECKING:
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

MODEL_FREE = frozenset({"privacy.dp_accounting"})
"""Checks that never ask the model: nothing it does makes their numbers meaningless."""
OF_LABELS = frozenset({"performance", "fairness"})
"""Families that need right labels alone, and are right on average for a randomised model."""


def _flag(name: str, title: str) -> Metric:
    return Metric(name=name, title=title, better="higher", kinds=("exact",), varies="nothing")


class ModelContract(Check):
    """What is declared of a model, held against its answers: output space, determinism, independence of the batch and of earlier calls,
    finite answers, live gradients, and inputs on the scale that the model wants.

    Every point is 1 (kept) or 0 (broken); `violations` counts the broken ones. Where a broken point takes the meaning from other
    checks' numbers, those become void: all of them where answers are not finite, depend on the batch or on earlier calls;
    robustness and explanation where they are random; all that read scores where those are not what is declared; robustness where the data
    does not fit the bounds; all but performance where answers have nothing to do with the labels.

    Scores are compared to within `tolerance` times the largest score (kernels sum in another order for another batch size); a label that flips
    always counts. Answers are held against labels by a permutation test, 999 permutations at 1 %, on the test rows and then on the members.
    `bounds_fit` is not measured for a table without bounds and categories.

    Source: the flags of auto-attack's checks.py, Croce & Hein 2020, arXiv:2003.01690; Athalye, Carlini & Wagner 2018, arXiv:1802.00420.

    Blind spots: state that shows only after more calls than are made here, a trigger, an input scale whose answers are still related to the
    labels and whose range is that of the bounds, a head that squashes scores without leaving 0..1 or exact zeros.
    """

    controls: ClassVar = ("NIST AI RMF MEASURE 2.5",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="violations", title="broken points of the contract", better="lower", kinds=("exact",), varies="nothing"
        ),
        _flag("finite", "answers are finite"),
        _flag("output_space_fits", "scores are what is declared"),
        _flag("deterministic", "the same question gets the same answer"),
        _flag("stateless", "earlier calls leave no trace"),
        _flag("batch_independent", "a row's answer is its own"),
        _flag("bounds_fit", "data and declared bounds fit"),
        _flag("beats_chance", "answers are related to the labels"),
        Metric(name="zero_gradient_rate", title="inputs with a zero gradient", better="lower", kinds=("proportion",)),
    )
    remedy: ClassVar[str] = (
        "Mend what the cautions name: put the model into eval mode, declare the output space and bounds that it has, feed it the range it was trained on."
    )

    samples: Annotated[int, Field(ge=1)] = 64
    """Test rows that are asked again and again; finiteness and the relation to the labels are seen on all."""
    tolerance: Annotated[Real, Field(gt=0, lt=1)] = 1e-4
    """Largest difference between answers that counts as rounding, as a share of the largest score."""
    zero_gradients: Annotated[Real, Field(ge=0, le=1)] = 0.1
    """Share of examples with a zero gradient from which on it is a violation; dead units give a few to many a net."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        seed = ctx.number("global generators")
        with seeded(seed):
            asked = _Asked(self, model, data, ctx)
        points: list[tuple[str, Callable[[], Iterator[Measurement]]]] = [
            ("answers to all rows", asked.finite),
            ("output space", asked.output_space),
            ("repeated calls", asked.behaviour),
            ("company in the batch", asked.company),
            ("bounds", asked.bounds),
            ("labels", asked.labels),
            ("gradients", asked.gradients),
        ]
        for done, (what, point) in enumerate(points):
            ctx.progress(done, len(points), what)
            # A randomised model is asked the same way in every run, and leaves nothing to other checks.
            with seeded(seed):
                found = list(point())
            yield from found
        undecided = f"no point is broken, but undecided: {', '.join(asked.undecided)}" if asked.undecided else None
        yield Measurement(
            metric="violations",
            estimate=Exact(value=len(asked.broken), n=len(data.test)),
            cautions=tuple(asked.broken),
            unresolved=None if asked.broken else undecided,
        )


class _Asked:
    """One model under question; collects what is broken or undecided on the way."""

    def __init__(self, check: ModelContract, model: AuditedModel, data: AuditData, ctx: Context) -> None:
        import numpy as np
        import torch

        self.check, self.model, self.data, self.ctx = check, model, data, ctx
        n = min(check.samples, len(data.test))
        self.probe = data.test.take(np.arange(n))
        self.x = model.tensor(self.probe)
        corners = extremes(model.spec, self.x)
        rest = model.tensor(data.test.take(np.arange(n, min(2 * n, len(data.test)))))
        self.corners = corners
        self.others = torch.cat([part for part in (rest, corners, self.x.flip(0)) if part is not None])
        self.one_row = bool((self.others == self.x[:1]).all())
        self.scores = model.outputs(data.test)
        self.steady: bool | None = None
        self.broken: list[str] = []
        self.undecided: list[str] = []

    def _point(
        self,
        metric: str,
        kept: bool | None,
        said: str = "",
        notes: tuple[str, ...] = (),
        voids: dict[str, str] | None = None,
        counts: bool = True,
    ) -> Measurement:
        """One point of the contract; `kept` is None where it cannot be decided, which leaves `violations` undecided if it `counts`."""
        if kept is None and counts:
            self.undecided.append(metric)
        if kept is False:
            self.broken.append(f"{metric}: {said}")
        return Measurement(
            metric=metric,
            estimate=Exact(value=float(kept is True), n=len(self.data.test)),
            cautions=(*([said] if said else []), *notes),
            voids=voids or {},
            unresolved=said if kept is None else None,
        )

    def finite(self) -> Iterator[Measurement]:
        rows = self.scores.reshape(len(self.scores), -1)
        bad = int((~rows.isfinite()).any(dim=1).sum())
        if bad:
            why = f"{bad} of {len(rows)} answers are NaN or infinite"
            yield self._point("finite", False, why, voids=_voids(_every, why))
            return
        if self.corners is not None:
            answers = self.model.scores(self.corners).reshape(len(self.corners), -1).isfinite().all(dim=1).tolist()
            names = ("all-low", "all-middle", "all-high")
            if wrong := [name for name, fine in zip(names, answers, strict=True) if not fine]:
                yield self._point(
                    "finite",
                    False,
                    f"the {' and '.join(wrong)} input, valid by the bounds, gets an answer that is NaN or infinite",
                )
                return
        yield self._point("finite", True)

    def output_space(self) -> Iterator[Measurement]:
        seen = observe_space(self.model, self.scores)
        if seen is None:
            yield self._point("output_space_fits", None, "no finite scores to look at")
        elif seen.fault:
            who = _beyond_labels if seen.labels_hold else _every
            yield self._point("output_space_fits", False, seen.fault, voids=_voids(who, seen.fault))
        else:
            yield self._point("output_space_fits", True, notes=(seen.note,) if seen.note else ())

    def behaviour(self) -> Iterator[Measurement]:
        seen = observe(self.model, self.x, self.others, self.check.tolerance, self.ctx.number("repeated calls"))
        self.steady = seen.deterministic and seen.stateless
        if seen.deterministic:
            small = seen.repeated.largest
            note = (f"repeated answers differ by up to {small:.2g} of the largest score, within the tolerance",)
            yield self._point("deterministic", True, notes=note if small else ())
        else:
            why = f"the model is randomised: asked the same again, {seen.repeated}"
            if seen.restored:
                why = f"answers change from call to call, by hidden state or by randomness of the model's own: {seen.repeated}"
            yield self._point("deterministic", False, why, voids=_voids(_of_single_answers, why))
        if seen.stateless:
            alone = "the data holds one row alone: there is no other question to ask in between"
            yield self._point("stateless", None if self.one_row else True, alone if self.one_row else "")
            return
        why = (
            f"answers change although the global generators are put back before each call: hidden state, or randomness of the model's own: {seen.restored}"
            if seen.restored
            else f"answers depend on earlier calls (hidden state): after other questions, {seen.interrupted}"
        )
        yield self._point("stateless", False, why, voids=_voids(_every, why))

    def company(self) -> Iterator[Measurement]:
        if not self.steady:
            why = "answers change from call to call anyway, so what the batch does to them cannot be seen"
            yield self._point("batch_independent", None, why)
            return
        if self.one_row:
            yield self._point(
                "batch_independent", None, "the data holds one row alone: there is no other company to ask it in"
            )
            return
        seen = ask_in_company(self.model, self.x, self.others, self.check.tolerance)
        if seen.independent:
            yield self._point("batch_independent", True)
            return
        said = [f"asked {seen.way}, {seen.worst}"] if seen.worst else []
        said += [f"refused {refusal}" for refusal in seen.refused]
        why = f"answers depend on the rest of the batch: {'; '.join(said)}"
        yield self._point("batch_independent", False, why, voids=_voids(_every, why))

    def bounds(self) -> Iterator[Measurement]:
        parts = [part for part in (self.data.test, self.data.train, self.data.population) if part is not None]
        fit = fit_of(self.model.spec, parts)
        if not fit.declared:
            if fit.notes:
                yield self._point("bounds_fit", None, fit.notes[0], counts=False)
        elif fit.faults:
            why = "; ".join(fit.faults[:5])
            yield self._point(
                "bounds_fit", False, why, fit.notes, _voids(_robustness, f"data and declared bounds do not fit: {why}")
            )
        else:
            yield self._point("bounds_fit", True, notes=fit.notes)

    def labels(self) -> Iterator[Measurement]:
        on_test = self._relation(self.data.test)
        if on_test is None:
            yield self._point(
                "beats_chance", None, "the model gives no classes or values that could be held against labels"
            )
            return
        related, said = on_test.related, on_test.said
        if related is not True and self.data.train is not None:
            # A model that only knows its members was fed what it wants all the same.
            on_train = self._relation(self.data.train)
            if on_train is not None and on_train.related:
                related, said = True, f"on the test rows {said}; on the members {on_train.said}"
        if related is False:
            why = f"answers have nothing to do with the labels: {said}; the input's scale, the preprocessing or the order of the classes is not what the model wants"
            yield self._point("beats_chance", False, why, voids=_voids(_beyond_labels, why))
        else:
            too_few = f"too few rows to tell: {said}"
            yield self._point(
                "beats_chance", related, too_few if related is None else "", () if related is None else (said,)
            )

    def _relation(self, batch: Batch) -> Relation | None:
        import numpy as np

        model, rng = self.model, self.ctx.generator(f"chance/{batch.digest}")
        scores = model.outputs(batch)
        if model.output == "tokens" or not shape_fits(model, scores):
            return None
        fine = scores.reshape(len(scores), -1).isfinite().all(dim=1)
        if not bool(fine.any()):
            return None
        labels = np.asarray(batch.labels)[fine.cpu().numpy()]
        if model.task == "regression":
            return of_values(scores[fine].reshape(-1).double().cpu().numpy(), labels.astype(np.float64), rng)
        return of_classes(model.labels_of(scores[fine]).cpu().numpy(), labels, len(model.classes), rng)

    def gradients(self) -> Iterator[Measurement]:
        import torch

        offered = {Capability.GRADIENTS, Capability.PROBABILITIES} <= self.model.capabilities
        if not offered or not shape_fits(self.model, self.scores):
            return
        labels = torch.as_tensor(self.probe.labels, device=self.x.device)
        seen = count_zero(self.model, self.x, labels)
        cautions = (
            [] if seen.connected else ["the scores are cut off from the input: autograd finds no path back to it"]
        )
        if seen.broken:
            cautions.append(f"{seen.broken} of {seen.n} gradients hold NaN or infinity")
        zero = max(seen.zero_margin, seen.zero_loss)
        if zero > self.check.zero_gradients * seen.n:
            loss = "margin" if seen.zero_margin == zero else "cross-entropy"
            why = f"the {loss} has a gradient of exactly zero in {zero} of {seen.n} examples: what follows gradients sees nothing there"
            self.broken.append(f"zero_gradient_rate: {why}")
            cautions.append(why)
        yield self._rate(zero, seen.n, {}, tuple(cautions))
        yield self._rate(seen.zero_margin, seen.n, {"loss": "margin"})
        yield self._rate(seen.zero_loss, seen.n, {"loss": "cross_entropy"})

    def _rate(self, k: int, n: int, dims: dict[str, str], cautions: tuple[str, ...] = ()) -> Measurement:
        return Measurement(metric="zero_gradient_rate", estimate=Proportion(k=k, n=n), dims=dims, cautions=cautions)


# --- which numbers mean nothing ----------------------------------------------------------------------------------


def _voids(whom: Callable[[str], bool], why: str) -> dict[str, str]:
    """Every metric of the checks that are meant, with the reason."""
    asking = [name for name in available("checks") if not name.startswith("preflight.") and name not in MODEL_FREE]
    return {f"{name}:*": why for name in asking if whom(name.split(".")[0])}


def _every(family: str) -> bool:
    return True


def _beyond_labels(family: str) -> bool:
    """How right the labels are is a number of its own; what is read from scores, or lies behind labels, is not worth one."""
    return family not in OF_LABELS


def _of_single_answers(family: str) -> bool:
    """An attack must expect other answers than it was given, a map explains an answer that will not come again."""
    return family in ("robustness", "explanation")


def _robustness(family: str) -> bool:
    """eps and the box are in units that the data does not have."""
    return family == "robustness"
