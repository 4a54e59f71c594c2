"""What shows that a robustness number means nothing: the model's own answers, and methods that must not beat the attacks.

A comparison is of independent runs on the same rows. It makes the number void where an exact paired McNemar test says, at 1 %,
that the weaker method succeeds more often; short of that it is a caution.

Source: Carlini et al. 2019, arXiv:1902.06705; Croce & Hein 2020, arXiv:2003.01690 (`checks.py` of AutoAttack).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from audit.attacks import Attack, build
from audit.attacks.pgd import Pgd
from audit.checks.robustness._attacked import Outcome, Rows
from audit.checks.robustness._averaged import Averaged
from audit.names import available

if TYPE_CHECKING:
    from torch import Tensor

    from audit.finding import ThreatModel
    from audit.rng import ExampleRng

SIGNIFICANCE = 0.01
CONTROL_ROWS = 64
"""Rows that are asked about twice, and that are attacked with the whole input range allowed."""
ZERO_SHARE = 0.1
"""Share of attacked rows with no gradient to follow above which a white-box number is void (policy)."""
RANDOM_SHARE = 1e-4
"""Difference of two answers to the same rows, as a share of the largest score, that rounding does not explain (policy)."""


class Controls:
    """Judges the attacks on `rows`; what was found lies in `voids` and `cautions`.

    Args:
        scores: the model's answers to `rows` before anything was attacked, in output space.
        varied: whether the model predicts more than one class on the test rows.
    """

    def __init__(self, rows: Rows, scores: Tensor, varied: bool) -> None:
        self._rows, self._scores, self._varied = rows, scores, varied
        self.voids: list[str] = []
        self.cautions: list[str] = []

    def judge(self, outcomes: Mapping[str, Outcome], attacks: Mapping[str, Attack]) -> Tensor:
        """Run every control that applies; gives which rows some attack or control fooled, ``(N,)`` bool."""
        import torch

        rows = self._rows
        fooled = torch.zeros(len(rows), dtype=torch.bool, device=rows.x.device)
        if not len(rows):
            return fooled
        for outcome in outcomes.values():
            fooled |= outcome.success
        self.flags({name: outcomes[name] for name, attack in attacks.items() if attack.access == "white_box"}, fooled)
        found = fooled | self._black_box(outcomes, attacks)
        white = [attack for attack in attacks.values() if attack.access == "white_box" and attack.norms]
        if rows.threat.norm is None:
            return found
        rng = rows.rng("controls")
        methods: dict[str, Callable[[Rows, ExampleRng], Tensor]] = {"random noise of the same norm": noise}
        if white:
            methods["a single gradient step"] = single_step
        for name, method in methods.items():
            success = cheaply(rows, rng, method, fooled)
            self.not_weaker(name, success, fooled, "the attacks")
            found |= success
        if white and self._varied:
            self.full_range(white, rng)
        return found

    def flags(self, white: Mapping[str, Outcome], fooled: Tensor) -> None:
        """What the model's own answers show."""
        self._randomised(fooled)
        self._probabilities_for_logits()
        self._zero_gradients({name: o.stuck for name, o in white.items() if o.stuck is not None}, fooled)

    def _randomised(self, fooled: Tensor) -> None:
        """The same rows, asked about again."""
        model = self._rows.model
        one = model.one if isinstance(model, Averaged) else model
        x = self._rows.x[:CONTROL_ROWS]
        first = one.scores(x) if isinstance(model, Averaged) else self._scores[:CONTROL_ROWS]
        difference = float((one.scores(x).double() - first.double()).abs().max())
        randomised = difference > RANDOM_SHARE * float(first.double().abs().max())
        if not isinstance(model, Averaged):
            if randomised:
                self.voids.append(
                    f"randomised: two evaluations of the same {len(x)} rows differ by up to {difference:.2g}; an attack on one "
                    "draw says nothing about the next; average several: `eot: 16`"
                )
        elif randomised:
            self.cautions.append(
                f"the model is randomised: attacked and judged by the mean of {model.draws} answers (eot), another set of "
                f"them whenever it is asked; single answers to the same row differ by up to {difference:.2g}"
            )
        else:
            self.cautions.append(f"the model is not randomised: eot only made this {model.draws} times as slow")

    def _probabilities_for_logits(self) -> None:
        """A softmax declared as logits: a second one flattens the loss that attacks follow."""
        scores = self._scores.double()
        if self._rows.model.output != "logit":
            return
        if bool(((scores >= 0) & (scores <= 1)).all()) and bool(((scores.sum(dim=1) - 1).abs() <= 1e-3).all()):
            self.voids.append(
                "probabilities: the model is declared to give logits, and its scores lie in 0..1 and add up to 1; "
                "a second softmax flattens the loss that attacks follow"
            )

    def _zero_gradients(self, stuck: Mapping[str, Tensor], fooled: Tensor) -> None:
        """Whether white-box attacks had a gradient to follow."""
        n = len(fooled)
        blind = ~fooled
        for name, rows in stuck.items():
            blind = blind & rows
            if k := int((rows & ~fooled).sum()):
                self.cautions.append(
                    f"{name}: the gradient was mostly zero in every element on {k} of {n} rows that stayed right"
                )
        if stuck and int(blind.sum()) > ZERO_SHARE * n:
            self.voids.append(
                f"zero gradients: on {int(blind.sum())} of {n} rows no white-box attack had a gradient to follow (rounded inputs, "
                "a saturated loss or another mask), which is no robustness; try `loss: margin`, or black-box attacks alone"
            )

    def _black_box(self, outcomes: Mapping[str, Outcome], attacks: Mapping[str, Attack]) -> Tensor:
        """Attacks that see answers only must not beat those that see gradients; gives what they found on top, ``(N,)`` bool.

        Within a sequence the black-box attack saw only what the white-box ones had left. Where that alone could void the number, it is
        run on the others, too.
        """
        import torch

        rows = self._rows
        white = torch.zeros(len(rows), dtype=torch.bool, device=rows.x.device)
        black, tried = white.clone(), white.clone()
        late: list[Attack] = []
        any_white = False
        for name, attack in attacks.items():
            outcome, stages = outcomes[name], attack.stages(len(rows.model.classes))
            if outcome.stage is None or not stages:
                if attack.access == "white_box":
                    any_white, white = True, white | outcome.success
                else:
                    black, tried = black | outcome.success, tried | outcome.attacked
                    late.append(attack)
                continue
            for number, stage in enumerate(stages):
                part = _black_box_stage(stage)
                of_stage = outcome.success & (outcome.stage == number)
                if part is None:
                    any_white, white = True, white | of_stage
                else:
                    black = black | of_stage
                    tried = tried | (outcome.attacked & ~(outcome.success & (outcome.stage < number)))
                    late.append(part)
        if not (any_white and late):
            return black
        untried = (~tried).nonzero().flatten()
        if len(untried) and _rejects(int((black & ~white).sum()), int((white & ~black & tried).sum())):
            left = rows.take(untried)
            for attack in late:
                for index, alike in left.alike():
                    found = attack.run(alike.model, alike.x, alike.y, alike.threat, alike.rng("control black box"))
                    black[untried[index]] |= alike.confirm(found.x, attack).success
        self.not_weaker("black-box attacks", black, white, "the white-box attacks")
        return black

    def not_weaker(self, name: str, weaker: Tensor, attack: Tensor, against: str) -> None:
        """A paired comparison with a method that must not beat the attacks."""
        from audit.stats import mcnemar_exact

        only, other = int((weaker & ~attack).sum()), int((attack & ~weaker).sum())
        if not only:
            return
        p = mcnemar_exact(only, other, "greater")
        said = f"{name} fooled {only} rows that {against} did not, {other} the other way (McNemar p = {p:.2g})"
        if p <= SIGNIFICANCE:
            self.voids.append(f"{said}: {against} do not find what there is to find")
        else:
            self.cautions.append(f"{said}; the {only} count as not robust")

    def full_range(self, attacks: Sequence[Attack], rng: ExampleRng) -> None:
        """The whole input range allowed: any row may become one of another class, so every row must fall.

        That exchange is the method compared with; by the same test as elsewhere, seven rows left are more than chance leaves.
        """
        import torch

        left = torch.arange(min(len(self._rows), CONTROL_ROWS), device=self._rows.x.device)
        n, whole = len(left), whole_range(self._rows)
        everything = replace(self._rows, eps=None).within(eps=whole, queries=None)
        for attack in attacks:
            if not len(left):
                break
            rows = everything.take(left)
            found = attack.run(rows.model, rows.x, rows.y, rows.threat, rng.take(left.cpu()))
            left = left[~rows.confirm(found.x, attack).success]
        if len(left) and _rejects(len(left), 0):
            self.voids.append(
                f"full range: with eps = {whole:g}, where any input may become any other, the attacks left {len(left)} of {n} "
                "rows: they do not find what there is to find"
            )


def _black_box_stage(stage: str) -> Attack | None:
    """The attack that a stage of an ensemble runs, where it sees answers only."""
    attack = build(stage)[1] if stage in available("attacks") else None
    return None if attack is None or attack.access == "white_box" else attack


def _rejects(only: int, other: int) -> bool:
    """Whether so many pairs one way and the other are more than chance makes."""
    from audit.stats import mcnemar_exact

    return only > 0 and mcnemar_exact(only, other, "greater") <= SIGNIFICANCE


def cheaply(rows: Rows, rng: ExampleRng, method: Callable[[Rows, ExampleRng], Tensor], fooled: Tensor) -> Tensor:
    """Successes of a method, on the survivors of the attacks first: where it adds nothing there, the others cannot matter."""
    import torch

    success = torch.zeros_like(fooled)
    for index in ((~fooled).nonzero().flatten(), fooled.nonzero().flatten()):
        part = rows.take(index)
        for inside, alike in part.alike():
            at = index[inside]
            success[at] = alike.confirm(method(alike, rng.take(at.cpu()))).success
        if not bool(success.any()):
            break
    return success


def noise(rows: Rows, rng: ExampleRng) -> Tensor:
    """A random corner of the linf ball or a random point of the l2 or l1 sphere, in the box."""
    import torch

    threat: ThreatModel = rows.threat
    eps = threat.eps or 0.0
    low, high = threat.bounds or (-torch.inf, torch.inf)
    drawn = rng.normal(tuple(rows.x.shape[1:])).to(rows.x)
    if threat.norm == "linf":
        drawn = eps * drawn.sign()
    else:
        size = drawn.flatten(1).norm(p=2 if threat.norm == "l2" else 1, dim=1).clamp_min(1e-30)
        drawn = drawn * (eps / size).reshape(-1, *[1] * (drawn.dim() - 1))
    return (rows.x + drawn).clamp(low, high)


def single_step(rows: Rows, rng: ExampleRng) -> Tensor:
    """One step of the whole eps along the gradient of the margin (FGSM, Goodfellow et al. 2015, arXiv:1412.6572)."""
    step = Pgd(steps=1, step_size=1.0, random_start=False, loss="margin")
    return step.run(rows.model, rows.x, rows.y, rows.threat.model_copy(update={"queries": None}), rng).x


def whole_range(rows: Rows) -> float:
    """The eps within which any input of the box may become any other."""
    low, high = rows.threat.bounds or (0.0, 0.0)
    d = rows.x[0].numel()
    widths: dict[str, float] = {"linf": 1.0, "l2": d**0.5, "l1": float(d)}
    return (high - low) * widths[rows.threat.norm or "linf"]
